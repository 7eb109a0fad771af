//! What the host versions of a kernel see: typed slices in binding order, parameters, constants.

use crate::dtype::DType;
use bytemuck::Pod;

/// The arithmetic of a reference: f64 defines an op, f32 is the naive computation that tolerances
/// are measured with.
pub trait Real:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::iter::Sum
    + std::fmt::Debug
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Rounds from f64.
    fn from_f64(value: f64) -> Self;
    /// Widens to f64.
    fn to_f64(self) -> f64;
    /// e^x.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// The larger of the two.
    fn max(self, other: Self) -> Self;
}

macro_rules! impl_real {
    ($t:ty) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn from_f64(value: f64) -> Self {
                value as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            fn max(self, other: Self) -> Self {
                <$t>::max(self, other)
            }
        }
    };
}
impl_real!(f32);
impl_real!(f64);

/// One argument of a reference call.
pub enum RefArg<'a, F> {
    /// Floats, read.
    Float(&'a [F]),
    /// Floats, written.
    FloatMut(&'a mut [F]),
    /// Integers, read.
    U32(&'a [u32]),
    /// Integers, written.
    U32Mut(&'a mut [u32]),
    /// Bytes, read.
    U8(&'a [u8]),
    /// Bytes, written.
    U8Mut(&'a mut [u8]),
    /// An output that the function has taken.
    Taken,
}

/// The arguments of a kernel's `reference`: every float buffer is a slice of `F`.
///
/// Asking for a binding as something else than its spec says is a bug in the op, and panics.
pub struct RefCall<'a, F> {
    pub(crate) args: Vec<RefArg<'a, F>>,
    pub(crate) dtypes: Vec<DType>,
    pub(crate) params: &'a [u8],
    pub(crate) constants: &'a [(&'static str, u32)],
}

impl<'a, F: Real> RefCall<'a, F> {
    /// The floats of a binding that is read.
    pub fn input(&self, index: usize) -> &'a [F] {
        match self.args[index] {
            RefArg::Float(slice) => slice,
            _ => panic!("binding {index} is not a float input"),
        }
    }
    /// The integers of a binding that is read.
    pub fn input_u32(&self, index: usize) -> &'a [u32] {
        match self.args[index] {
            RefArg::U32(slice) => slice,
            _ => panic!("binding {index} is not a u32 input"),
        }
    }
    /// The bytes of a binding that is read.
    pub fn input_u8(&self, index: usize) -> &'a [u8] {
        match self.args[index] {
            RefArg::U8(slice) => slice,
            _ => panic!("binding {index} is not a byte input"),
        }
    }
    /// The floats of a binding that is written; can be taken once.
    pub fn output(&mut self, index: usize) -> &'a mut [F] {
        match std::mem::replace(&mut self.args[index], RefArg::Taken) {
            RefArg::FloatMut(slice) => slice,
            _ => panic!("binding {index} is not a float output, or was taken"),
        }
    }
    /// The integers of a binding that is written; can be taken once.
    pub fn output_u32(&mut self, index: usize) -> &'a mut [u32] {
        match std::mem::replace(&mut self.args[index], RefArg::Taken) {
            RefArg::U32Mut(slice) => slice,
            _ => panic!("binding {index} is not a u32 output, or was taken"),
        }
    }
    /// The bytes of a binding that is written; can be taken once.
    pub fn output_u8(&mut self, index: usize) -> &'a mut [u8] {
        match std::mem::replace(&mut self.args[index], RefArg::Taken) {
            RefArg::U8Mut(slice) => slice,
            _ => panic!("binding {index} is not a byte output, or was taken"),
        }
    }
    /// The declared dtype of a binding, for ops whose definition rounds to it.
    pub fn dtype(&self, index: usize) -> DType {
        self.dtypes[index]
    }
    /// The parameter block.
    pub fn params<P: Pod>(&self) -> P {
        bytemuck::pod_read_unaligned(self.params)
    }
    /// A compile-time constant by name.
    pub fn constant(&self, name: &str) -> u32 {
        find_constant(self.constants, name)
    }
}

/// One argument of a CPU call: bytes of the binding's dtype.
pub enum HostArg<'a> {
    /// Read.
    Read(&'a [u8]),
    /// Written.
    Write(&'a mut [u8]),
    /// An output that the function has taken.
    Taken,
}

/// The arguments of a kernel's `cpu` function. Buffers are 64-byte aligned, so a typed view of one
/// always succeeds.
pub struct HostCall<'a> {
    pub(crate) args: Vec<HostArg<'a>>,
    pub(crate) dtypes: Vec<DType>,
    pub(crate) params: &'a [u8],
    pub(crate) constants: &'a [(&'static str, u32)],
}

impl<'a> HostCall<'a> {
    /// The elements of a binding that is read.
    pub fn input<T: Pod>(&self, index: usize) -> &'a [T] {
        match &self.args[index] {
            HostArg::Read(bytes) => bytemuck::cast_slice(bytes),
            _ => panic!("binding {index} is not an input"),
        }
    }
    /// The elements of a binding that is written; can be taken once.
    pub fn output<T: Pod>(&mut self, index: usize) -> &'a mut [T] {
        match std::mem::replace(&mut self.args[index], HostArg::Taken) {
            HostArg::Write(bytes) => bytemuck::cast_slice_mut(bytes),
            _ => panic!("binding {index} is not an output, or was taken"),
        }
    }
    /// The dtype of a binding.
    pub fn dtype(&self, index: usize) -> DType {
        self.dtypes[index]
    }
    /// The parameter block.
    pub fn params<P: Pod>(&self) -> P {
        bytemuck::pod_read_unaligned(self.params)
    }
    /// A compile-time constant by name.
    pub fn constant(&self, name: &str) -> u32 {
        find_constant(self.constants, name)
    }
}

fn find_constant(constants: &[(&'static str, u32)], name: &str) -> u32 {
    match constants.iter().find(|(key, _)| *key == name) {
        Some((_, value)) => *value,
        None => panic!("constant {name} was not given"),
    }
}

//! What a kernel is: its spec, its text in WGSL and CUDA, and its two host functions.
//!
//! A [`KernelSpec`] says everything a backend needs to run a kernel and everything a checker needs
//! to refuse a wrong launch. The ops own the specs (one `static` per kernel, in the op's file); this
//! module knows no op by name.

mod host;
pub mod slots;
mod source;

pub use host::{HostArg, HostCall, Real, RefArg, RefCall};
pub use source::{BOX_WIDTH, Constants, Header, KernelText, MMA, SLAB_K, Texts, WGMMA};

/// What a kernel does to a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only; several bindings of one call may read the same buffer.
    Read,
    /// Writes every element of the view; what was there before does not matter.
    Write,
    /// Reads and writes, or writes only a part.
    ReadWrite,
}

/// What the elements of a binding may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any float dtype; the kernel gets a `DT_<NAME>` constant that says which.
    Float,
    /// f32 whatever the model's dtype: statistics, optimizer state, gradients of parameters.
    F32,
    /// u32: indices, positions, bounds.
    U32,
    /// Bytes; WGSL sees little-endian u32 words.
    U8,
}

/// One buffer argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The name in both kernel texts.
    pub name: &'static str,
    /// What the kernel does to it.
    pub access: Access,
    /// What its elements may be.
    pub kind: Kind,
}

impl Binding {
    /// A binding that is only read.
    pub const fn read(name: &'static str, kind: Kind) -> Self {
        Self { name, access: Access::Read, kind }
    }
    /// A binding that is wholly written.
    pub const fn write(name: &'static str, kind: Kind) -> Self {
        Self { name, access: Access::Write, kind }
    }
    /// A binding that is read and written.
    pub const fn update(name: &'static str, kind: Kind) -> Self {
        Self { name, access: Access::ReadWrite, kind }
    }
}

/// Compute capability, times ten, from which kernels may use `mma.sync` on 16-bit operands.
pub const TENSOR_CORES: u32 = 80;

/// Hopper's compute capability, times ten.
pub const HOPPER: u32 = 90;

/// What a device must have to run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requires {
    /// WebGPU's default limits: every backend runs it.
    Portable,
    /// An NVIDIA GPU of at least this compute capability (80 = sm_80); CUDA text only.
    Sm(u32),
    /// Hopper itself (sm_90a), whose matrix and copy instructions no other GPU has; CUDA text only.
    Hopper,
}

/// Everything there is to know about a kernel but its arguments.
pub struct KernelSpec {
    /// Entry point, the same in both texts.
    pub name: &'static str,
    /// The file it is in.
    pub text: &'static KernelText,
    /// Buffer arguments in order: WGSL binding numbers, CUDA parameters.
    pub bindings: &'static [Binding],
    /// Names of the compile-time constants the text expects besides the `DT_*` ones.
    pub constants: &'static [&'static str],
    /// Threads of a block; WGSL's `@workgroup_size` must say the same (a test compares them).
    pub block: [u32; 3],
    /// What the device must have.
    pub requires: Requires,
    /// The definition of the kernel: naive loops in f32 ...
    pub reference_f32: fn(&mut RefCall<f32>),
    /// ... and in f64, from the same generic function.
    pub reference_f64: fn(&mut RefCall<f64>),
    /// The fast version on the CPU.
    pub cpu: fn(&mut HostCall),
}

/// The number of blocks of `block` threads that cover `count` items, split over x and y so that
/// neither passes WebGPU's 65,535. Kernels number their block as `y * grid_x + x`.
pub fn grid_1d(count: usize, block: usize) -> [u32; 3] {
    let blocks = count.div_ceil(block);
    if blocks <= 65_535 {
        return [blocks as u32, 1, 1];
    }
    let rows = blocks.div_ceil(65_535);
    [blocks.div_ceil(rows) as u32, rows as u32, 1]
}

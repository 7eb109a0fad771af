//! The case table: one function per op, called with the shapes and dtypes to try. It drives the
//! cross-backend tests, gradcheck, `verify` and the benches, so that no op can be tested less than
//! another.

mod attention;
mod basic;
mod large;
mod linear;
mod loss;
mod optimizer;
mod transformer;

pub use large::{LargeCase, large_cases};

use crate::dtype::DType;
use crate::error::Result;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// How an input is filled.
#[derive(Clone, Debug)]
pub enum Values {
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Normal with mean 1 and this standard deviation, for norm weights.
    AroundOne(f32),
    /// These floats.
    Floats(Vec<f32>),
    /// These integers (dtype u32).
    Integers(Vec<u32>),
    /// These bytes (dtype u8).
    Bytes(Vec<u8>),
}

/// One input of a case.
#[derive(Clone, Debug)]
pub struct Input {
    /// Name, for messages.
    pub name: &'static str,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// Contents.
    pub values: Values,
    /// The dtype of the gradient that the case asks for, if any.
    pub grad: Option<DType>,
}

impl Input {
    /// A float input of standard normal values without a gradient.
    pub fn new(name: &'static str, shape: &[usize], dtype: DType) -> Self {
        Self { name, shape: shape.to_vec(), dtype, values: Values::Normal(1.0), grad: None }
    }
    /// A u32 input.
    pub fn integers(name: &'static str, values: Vec<u32>) -> Self {
        let values_len = values.len();
        Self { values: Values::Integers(values), ..Self::new(name, &[values_len], DType::U32) }
    }
    /// With other contents.
    pub fn values(self, values: Values) -> Self {
        Self { values, ..self }
    }
    /// With a gradient of the input's own dtype (activations).
    pub fn grad(self) -> Self {
        Self { grad: Some(self.dtype), ..self }
    }
    /// With an f32 gradient (parameters).
    pub fn grad_f32(self) -> Self {
        Self { grad: Some(DType::F32), ..self }
    }
}

/// How far a backend may be from the f64 reference, and why.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Copies and codes: not at all.
    Exact,
    /// A few roundings per element: 1.3e-6 relative plus 1e-5 of the tensor's rms.
    Elementwise,
    /// Sums of K products: 4 sqrt(K) 2^-24 sum |a||b|, K for each output and then each gradient.
    /// The sums of magnitudes come from the reference run on absolute values.
    Reduction(Vec<usize>),
    /// The naive computation in the same dtype errs by e at most: 2e forward, 3e backward. What
    /// every case of a 16-bit dtype is held to.
    Naive,
}

type Run = Box<dyn Fn(&Tape, &[Tensor]) -> Result<Vec<Tensor>>>;

/// An op with its inputs and its tolerance.
pub struct Case {
    /// The op.
    pub op: &'static str,
    /// Shapes, dtype, version.
    pub variant: String,
    /// Inputs, in the order that `run` gets them.
    pub inputs: Vec<Input>,
    /// Tolerance of f32 cases.
    pub rule: Rule,
    /// Bytes that must be moved and FLOPs that must be done, for the bench.
    pub cost: (f64, f64),
    /// Runs the op; gradients are taken of the first output.
    pub run: Run,
}

/// Every case that is checked.
pub fn cases() -> Vec<Case> {
    [
        attention::cases(),
        basic::cases(),
        linear::cases(),
        loss::cases(),
        optimizer::cases(),
        transformer::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The cases at training shapes that are timed.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    [
        attention::bench_cases(dtype),
        basic::bench_cases(dtype),
        linear::bench_cases(dtype),
        loss::bench_cases(dtype),
        optimizer::bench_cases(),
        transformer::bench_cases(dtype),
    ]
    .into_iter()
    .flatten()
    .collect()
}

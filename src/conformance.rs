//! What kernels and devices are held to: the table of cases, the comparison with each op's definition, and
//! the devices that this takes. For who writes a backend or a kernel; training needs none of it.
//!
//! ```
//! use tunesmith::{Device, conformance};
//!
//! let device = Device::open("cpu")?;
//! let case = &conformance::cases()[0];
//! let comparisons = conformance::verify(case, &device)?;
//! assert!(comparisons.iter().all(|found| found.passed()));
//! # Ok::<(), tunesmith::Error>(())
//! ```

#[cfg(feature = "cudarc")]
pub use crate::backend::cuda::assembly::{Assembled, Resources, assemble, stand_in};
pub use crate::backend::dry::{Counts, Dry, Launch};
pub use crate::backend::reference::Reference;
pub use crate::kernels::Texts;
pub use crate::ops::cases::{
    Case, Input, LargeCase, Rule, Values, bench_cases, cases, large_cases,
};
pub use crate::ops::kernels;
pub use crate::ops::verify::{
    Comparison, gradcheck_case, inputs, inputs_for_timing, launches, launches_of, verify,
};

//! Devices: allocate, upload, download, launch, synchronize. Nothing else.
//!
//! A backend never sees a tensor, a gradient or an op: it runs [`KernelCall`]s, which are data. The
//! same call runs on every backend, and [`Device::run`] checks it against its spec first, so that a
//! wrong launch is an error and not a corruption.

pub(crate) mod arena;
mod buffer;
mod call;
pub mod cpu;
#[cfg(feature = "cudarc")]
pub mod cuda;
pub(crate) mod dry;
pub(crate) mod machine;
mod open;
pub(crate) mod reference;
mod spec;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use buffer::{Buffer, View};
pub use call::{KernelCall, TensorMap};
pub use spec::DeviceSpec;

use crate::dtype::{DType, bytes_to_f32, f32_to_bytes};
use crate::error::{Error, Result};
use crate::kernels::{HOPPER, TENSOR_CORES};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// A future of one thread. Reading back is the only thing that waits, and in a browser it may not
/// block; the native backends finish inside the first poll.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a device can do, for ops that choose among versions of a kernel and for `--device auto`.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// What the user sees: `cpu (2 threads)`, `wgpu:0 (llvmpipe, Vulkan)`.
    pub description: String,
    /// bf16 arithmetic is at least as fast as f32: `dtype = "auto"` picks it.
    pub fast_bf16: bool,
    /// Hundreds of blocks run at a time, as on GPUs: a product of few tiles is split along K, so that
    /// all have something to do.
    pub many_blocks: bool,
    /// CUDA compute capability times ten (90 for sm_90); `None` elsewhere.
    pub compute_capability: Option<u32>,
    /// Multiprocessors of an NVIDIA GPU: the blocks of a persistent kernel. 1 elsewhere.
    pub multiprocessors: u32,
    /// The largest single binding in bytes; larger tensors are worked on by slices.
    pub max_binding_bytes: usize,
    /// Its buffers lie in one arena, which a plan can follow to the byte; else in a pool that keeps
    /// what is free by its size.
    pub arena: bool,
    /// Bytes behind each buffer that tests look after.
    pub guard_bytes: u64,
    /// The memory that a run may use, where the device tells.
    pub memory_bytes: Option<u64>,
}

impl Capabilities {
    /// Whether there are tensor cores that the kernels can use (`mma.sync` on 16-bit operands).
    pub fn has_tensor_cores(&self) -> bool {
        self.compute_capability >= Some(TENSOR_CORES)
    }

    /// Whether this is Hopper itself, with `wgmma` and TMA.
    pub fn is_hopper(&self) -> bool {
        self.compute_capability == Some(HOPPER)
    }
}

/// Bytes in use by buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Held by live buffers now.
    pub in_use: u64,
    /// The most that was ever held at once, the pool's free buffers included.
    pub peak: u64,
}

/// A place that stores buffers and runs kernels.
pub trait Backend {
    /// What this device can do.
    fn capabilities(&self) -> &Capabilities;

    /// A buffer of `len` elements with undefined contents.
    ///
    /// # Errors
    /// `Error::OutOfMemory` when the device has not that much memory left.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer>;

    /// Copies `bytes` (of the view's dtype) into the view, after all kernels launched before.
    fn upload(&self, view: &View, bytes: &[u8]) -> Result<()>;

    /// The bytes of the view, after all kernels launched before.
    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>>;

    /// Starts a call that [`KernelCall::check`] has passed and whose grid is not empty.
    fn launch(&self, call: &KernelCall) -> Result<()>;

    /// Waits for everything launched so far and reports what went wrong in it.
    fn synchronize(&self) -> LocalFuture<'_, Result<()>>;

    /// Bytes in use.
    fn memory(&self) -> MemoryUse;

    /// What the compiler of kernels warned of since the last call. They are meant to give no cause.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Like `upload`, from f64: the reference device keeps all digits.
    fn upload_f64(&self, view: &View, values: &[f64]) -> Result<()> {
        let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        self.upload(view, &f32_to_bytes(&values, view.dtype()))
    }

    /// Like `download`, to f64: the reference device gives all digits.
    fn download_f64<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<f64>>> {
        Box::pin(async move {
            let bytes = self.download(view).await?;
            Ok(bytes_to_f32(&bytes, view.dtype()).into_iter().map(f64::from).collect())
        })
    }

    /// Whether kernels run; else only memory is counted, and what is uploaded is never read.
    fn computes(&self) -> bool {
        true
    }

    /// Whether nothing was written just behind the buffer; only devices opened for tests, which
    /// also fill new buffers with NaN, really look.
    fn guard_intact(&self, _buffer: &Buffer) -> Result<bool> {
        Ok(true)
    }
}

/// A handle on a backend that checks what it is asked to run.
#[derive(Clone)]
pub struct Device(Rc<dyn Backend>);

impl Device {
    /// Wraps a backend.
    pub fn new(backend: impl Backend + 'static) -> Self {
        Self(Rc::new(backend))
    }

    /// Checks `call` against its spec and launches it. An empty grid is nothing to do.
    ///
    /// # Errors
    /// `Error::Internal` when the call breaks its spec, `Error::Unsupported` for a buffer larger than
    /// the device binds, or what the backend reports.
    pub fn run(&self, call: &KernelCall) -> Result<()> {
        call.check()?;
        if call.grid.contains(&0) {
            return Ok(());
        }
        let limit = self.0.capabilities().max_binding_bytes;
        let bindings = call.spec.bindings.iter().zip(&call.views);
        if let Some((binding, view)) =
            bindings.into_iter().find(|(_, view)| view.byte_len() > limit)
        {
            return Err(Error::Unsupported {
                op: call.spec.name,
                backend: self.0.capabilities().description.clone(),
                why: format!(
                    "{} has {} MiB, and this device takes {} MiB in one piece; lower \
                     per_device_train_batch_size or max_length if it grows with them, else use \
                     another device",
                    binding.name,
                    view.byte_len().div_ceil(1 << 20),
                    limit >> 20
                ),
            });
        }
        self.0.launch(call)
    }

    /// Whether both handles are of one device.
    pub fn same(&self, other: &Device) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl std::ops::Deref for Device {
    type Target = dyn Backend;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

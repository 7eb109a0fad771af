//! NVIDIA GPUs through the CUDA driver, and the same kernels on the PTX emulator.
//!
//! Both compile `kernels-cuda/*.cu` with NVRTC when a kernel is first used, keep the result on disk,
//! and share everything here but a handful of calls, `Driver`. Nothing of CUDA is linked: the
//! driver and NVRTC are looked for when a device is opened.

pub(crate) mod assembly;
mod cache;
mod compiler;
#[cfg(feature = "cuda-emulated")]
mod emulated;
mod gpu;
mod library;
mod nvrtc;
mod tensor_map;

pub use compiler::Compiler;
#[cfg(feature = "cuda-emulated")]
pub use emulated::Options as EmulatedOptions;
pub use gpu::devices;
pub use nvrtc::{Image, Nvrtc, Output, warnings};

use super::{Backend, Buffer, Capabilities, Device, KernelCall, LocalFuture, MemoryUse, View};
use crate::dtype::DType;
use crate::error::{Error, Result};
#[cfg(feature = "cuda-emulated")]
use crate::kernels::Texts;
use crate::kernels::{HOPPER, Requires};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes behind every buffer of a strict device that no kernel may write.
const GUARD_BYTES: usize = 256;
/// What they hold.
const GUARD: u8 = 0xa5;
/// What the elements of a new buffer of a strict device hold: NaN in every float dtype.
const POISON: u8 = 0xff;

/// How a GPU is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// For tests: new buffers are filled with NaN and followed by guard bytes.
    pub strict: bool,
}

/// Opens GPU number `index`, as CUDA counts them.
///
/// # Errors
/// `Error::Device` that says what is missing (a driver, a newer driver, a GPU, the compiler) and where
/// to get it; where there is no GPU of that number, it lists those that there are.
pub fn open(index: usize, options: Options) -> Result<Device> {
    let gpu = gpu::Gpu::open(index)?;
    let compiler = Compiler::find(gpu.cuda_major())?;
    let target = gpu.target(&compiler)?;
    let capabilities = gpu.capabilities(index, &target)?;
    Ok(Device::new(Cuda::new(gpu, compiler, target, capabilities, options.strict)))
}

/// Opens the emulator: the CUDA kernels run on the CPU, and every access is checked.
///
/// # Errors
/// `Error::Device` where NVRTC is missing.
#[cfg(feature = "cuda-emulated")]
pub fn open_emulated(options: EmulatedOptions) -> Result<Device> {
    open_emulated_reading(Texts::default(), options)
}

/// [`open_emulated`], of kernels whose text is `texts`.
///
/// # Errors
/// As [`open_emulated`].
#[cfg(feature = "cuda-emulated")]
pub fn open_emulated_reading(texts: Texts, options: EmulatedOptions) -> Result<Device> {
    // No driver limits which version may compile.
    let compiler = Compiler::find(u32::MAX)?.reading(texts);
    let (target, capabilities) = (emulated::target(options), emulated::capabilities(options));
    let driver = emulated::Emulator::new(options);
    // The emulator poisons new memory and checks every bound itself.
    Ok(Device::new(Cuda::new(driver, compiler, target, capabilities, false)))
}

/// What kernels are compiled for.
#[derive(Clone, Debug)]
struct Target {
    /// `sm_90a`, `compute_80`.
    arch: String,
    output: Output,
    /// Compute capability times ten.
    capability: u32,
}

/// What follows the number of an architecture: instructions of Hopper alone are behind an `a`.
fn arch_suffix(capability: u32) -> &'static str {
    if capability == HOPPER { "a" } else { "" }
}

/// What a GPU and the emulator do each in its own way. Addresses are device addresses.
trait Driver {
    /// A loaded kernel.
    type Kernel;
    /// New memory with undefined contents.
    fn alloc(&self, bytes: usize) -> Result<u64>;
    /// Gives memory back, after everything launched before.
    fn free(&self, address: u64);
    /// Fills memory, after everything launched before.
    fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()>;
    /// Copies to the device, after everything launched before.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<()>;
    /// Copies from the device, after everything launched before.
    fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>>;
    /// Makes an image ready to run.
    fn load(&self, image: &Image, name: &'static str) -> Result<Self::Kernel>;
    /// Starts a kernel; `pointers` are the buffer arguments.
    fn launch(&self, kernel: &Self::Kernel, call: &KernelCall, pointers: &[u64]) -> Result<()>;
    /// Waits for everything and reports what went wrong in it.
    fn synchronize(&self) -> Result<()>;
    /// The most memory that was held at once, where the driver keeps a pool of its own.
    fn peak(&self) -> Option<u64>;
}

/// Constants and kernel of each version that was loaded.
type Versions<K> = Vec<(Vec<(&'static str, u32)>, Rc<K>)>;

struct Cuda<D: Driver> {
    driver: Rc<D>,
    compiler: Compiler,
    target: Target,
    capabilities: Capabilities,
    strict: bool,
    kernels: RefCell<HashMap<&'static str, Versions<D::Kernel>>>,
    memory: Rc<Count>,
}

#[derive(Default)]
struct Count {
    in_use: Cell<u64>,
    peak: Cell<u64>,
}

/// The memory of one buffer.
struct Memory<D: Driver> {
    driver: Rc<D>,
    count: Rc<Count>,
    address: u64,
    /// For the elements.
    usable: usize,
}

impl<D: Driver> Drop for Memory<D> {
    fn drop(&mut self) {
        self.count.in_use.set(self.count.in_use.get() - self.usable as u64);
        self.driver.free(self.address);
    }
}

impl<D: Driver + 'static> Cuda<D> {
    fn new(
        driver: D,
        compiler: Compiler,
        target: Target,
        capabilities: Capabilities,
        strict: bool,
    ) -> Self {
        Self {
            driver: Rc::new(driver),
            compiler,
            target,
            capabilities,
            strict,
            kernels: RefCell::default(),
            memory: Rc::default(),
        }
    }

    /// The kernel of a call, compiled and loaded when it is first used.
    fn kernel(&self, call: &KernelCall) -> Result<Rc<D::Kernel>> {
        let name = call.spec.name;
        let known = self.kernels.borrow().get(name).and_then(|versions| {
            let version = versions.iter().find(|(constants, _)| *constants == call.constants);
            version.map(|(_, kernel)| kernel.clone())
        });
        if let Some(kernel) = known {
            return Ok(kernel);
        }
        self.check_target(call)?;
        let Target { arch, output, .. } = &self.target;
        let image = self.compiler.compile(call.spec, &call.constants, arch, *output)?;
        let kernel = Rc::new(self.driver.load(&image, name)?);
        let mut kernels = self.kernels.borrow_mut();
        kernels.entry(name).or_default().push((call.constants.clone(), kernel.clone()));
        Ok(kernel)
    }

    fn check_target(&self, call: &KernelCall) -> Result<()> {
        let capability = self.target.capability;
        let unsupported = |why: String| {
            let backend = self.capabilities.description.clone();
            Err(Error::Unsupported { op: call.spec.name, backend, why })
        };
        if let Requires::Sm(needed) = call.spec.requires
            && capability < needed
        {
            return unsupported(format!("it needs sm_{needed}, this is sm_{capability}"));
        }
        if call.spec.requires == Requires::Hopper && capability != HOPPER {
            return unsupported(format!("it needs sm_{HOPPER}, this is sm_{capability}"));
        }
        if capability < 80 && call.views.iter().any(|view| view.dtype() == DType::BF16) {
            return unsupported(format!(
                "bfloat16 needs sm_80 or newer, this is sm_{capability}; use float16 or float32"
            ));
        }
        Ok(())
    }

    fn memory_of<'a>(&self, buffer: &'a Buffer) -> Result<&'a Memory<D>> {
        buffer.memory().ok_or_else(|| Error::internal("cuda", "a buffer of another device"))
    }

    fn address(&self, view: &View) -> Result<u64> {
        Ok(self.memory_of(&view.buffer)?.address + view.byte_offset() as u64)
    }
}

impl<D: Driver + 'static> Backend for Cuda<D> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let usable = (len * dtype.size()).max(1);
        let guard = if self.strict { GUARD_BYTES } else { 0 };
        let address = self.driver.alloc(usable + guard)?;
        let count = self.memory.clone();
        count.in_use.set(count.in_use.get() + usable as u64);
        count.peak.set(count.peak.get().max(count.in_use.get()));
        let memory = Memory { driver: self.driver.clone(), count, address, usable };
        if self.strict {
            self.driver.fill(address, usable, POISON)?;
            self.driver.fill(address + usable as u64, guard, GUARD)?;
        }
        Ok(Buffer::new(memory, dtype, len))
    }

    fn upload(&self, view: &View, bytes: &[u8]) -> Result<()> {
        if bytes.len() != view.byte_len() || view.offset + view.len > view.buffer.len() {
            let what = format!("{} bytes to a view of {}", bytes.len(), view.byte_len());
            return Err(Error::internal("upload", what));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.driver.write(self.address(view)?, bytes)
    }

    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            match view.len {
                0 => Ok(Vec::new()),
                _ => self.driver.read(self.address(view)?, view.byte_len()),
            }
        })
    }

    fn launch(&self, call: &KernelCall) -> Result<()> {
        // Kernels count elements in 32 bits.
        if let Some(view) = call.views.iter().find(|view| view.len > u32::MAX as usize) {
            return Err(Error::internal(call.spec.name, format!("{} elements", view.len)));
        }
        let kernel = self.kernel(call)?;
        let pointers =
            call.views.iter().map(|view| self.address(view)).collect::<Result<Vec<_>>>()?;
        self.driver.launch(&kernel, call, &pointers)
    }

    fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move { self.driver.synchronize() })
    }

    fn memory(&self) -> MemoryUse {
        let peak = self.driver.peak().unwrap_or(self.memory.peak.get());
        MemoryUse { in_use: self.memory.in_use.get(), peak }
    }

    fn warnings(&self) -> Vec<String> {
        self.compiler.take_warnings()
    }

    fn guard_intact(&self, buffer: &Buffer) -> Result<bool> {
        if !self.strict {
            return Ok(true);
        }
        let memory = self.memory_of(buffer)?;
        let guard = self.driver.read(memory.address + memory.usable as u64, GUARD_BYTES)?;
        Ok(guard.iter().all(|&byte| byte == GUARD))
    }
}

#[cfg(all(test, feature = "cuda-emulated"))]
mod tests;

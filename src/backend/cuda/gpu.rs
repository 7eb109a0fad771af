//! A real GPU: the CUDA driver, called through cudarc's plain bindings.
//!
//! One stream, in order; memory comes from the driver's stream-ordered pool, which keeps what is
//! freed, so that steps of equal shape ask the system for nothing. The bindings end the process
//! where the driver's library is missing, so it is looked for before anything else is called.

use super::{Compiler, Driver, Image, Output, Target, tensor_map};
use crate::backend::{Capabilities, KernelCall};
use crate::error::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUmemPool_attribute as Pool};
use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};
use std::fmt;

/// Kernels count elements in 32 bits; a view of bytes may have no more than this.
pub(super) const MAX_BINDING_BYTES: usize = u32::MAX as usize;
/// Dynamic shared memory in bytes that a kernel may use without asking.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;
/// The oldest driver, by the CUDA version that it takes.
const MIN_CUDA_MAJOR: u32 = 12;
/// What to do about the driver.
const UPDATE: &str = "see https://www.nvidia.com/drivers, or use --device wgpu or --device cpu";

/// The GPUs of this machine in words, in the order that `cuda:<index>` counts; none without a
/// driver.
pub fn devices() -> Vec<String> {
    list().map(|(_, devices)| devices).unwrap_or_default()
}

/// CUDA's major version of the driver, and the GPUs.
fn list() -> Result<(u32, Vec<String>)> {
    // SAFETY: loading the driver's library runs its initialisers, which have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::device(format!(
            "no NVIDIA driver was found (libcuda); install one ({UPDATE})"
        )));
    }
    let mut version = 0;
    // SAFETY: the version is written to a valid place; this may be called before `cuInit`.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    asked.and_then(|()| result::init()).map_err(|error| {
        Error::device(format!("the NVIDIA driver does not start: {}; {UPDATE}", words(error)))
    })?;
    let major = major_version(version)?;
    let failed = |error| Error::device(format!("listing the GPUs: {}", words(error)));
    let mut devices = Vec::new();
    for index in 0..result::device::get_count().map_err(failed)? {
        let device = result::device::get(index).map_err(failed)?;
        let name = result::device::get_name(device).map_err(failed)?;
        let capability = capability(device).map_err(failed)?;
        devices.push(format!("cuda:{index} ({name}, sm_{capability})"));
    }
    Ok((major, devices))
}

/// CUDA's major version, of the version as the driver writes it (12040 is 12.4).
pub(super) fn major_version(version: c_int) -> Result<u32> {
    let (major, minor) = (version as u32 / 1000, version as u32 % 1000 / 10);
    if major < MIN_CUDA_MAJOR {
        return Err(Error::device(format!(
            "the NVIDIA driver is too old: it takes CUDA {major}.{minor}, and {MIN_CUDA_MAJOR}.0 \
             is needed; update it ({UPDATE})"
        )));
    }
    Ok(major)
}

/// Compute capability times ten.
fn capability(device: sys::CUdevice) -> Result<u32, DriverError> {
    use Attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: the device comes from the driver's list.
    unsafe {
        let major = result::device::get_attribute(device, MAJOR)?;
        let minor = result::device::get_attribute(device, MINOR)?;
        Ok((major * 10 + minor) as u32)
    }
}

/// `CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)`.
fn words(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{:?} ({})", error.0, text.to_string_lossy()),
        Err(_) => format!("{:?}", error.0),
    }
}

/// An open GPU. Its context is current on the thread that opened it, and handles stay there.
pub(super) struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// The driver's pool; `None` on systems without one, where memory is allocated one by one.
    pool: Option<sys::CUmemoryPool>,
    cuda_major: u32,
    /// `CUDA_LAUNCH_BLOCKING=1`: wait after each launch, to know which kernel failed.
    blocking: bool,
    last_kernel: Cell<&'static str>,
}

/// A kernel of a loaded module; the module lives as long as the context.
pub(super) struct Kernel {
    function: sys::CUfunction,
    /// Dynamic shared memory that was asked for so far.
    shared_bytes: Cell<u32>,
}

impl Gpu {
    pub(super) fn open(index: usize) -> Result<Self> {
        let (cuda_major, devices) = list()?;
        if index >= devices.len() {
            return Err(Error::device(match devices.is_empty() {
                true => "the NVIDIA driver finds no GPU (CUDA_VISIBLE_DEVICES may hide it)".into(),
                false => format!("there is no cuda:{index}; there are {}", devices.join(", ")),
            }));
        }
        let open = || {
            let device = result::device::get(index as c_int)?;
            // SAFETY: the device comes from the driver; the context is released in `drop`, after
            // everything that was made in it.
            unsafe {
                let context = result::primary_ctx::retain(device)?;
                result::ctx::set_current(context)?;
                Ok(Self {
                    device,
                    context,
                    stream: result::stream::create(result::stream::StreamKind::NonBlocking)?,
                    pool: pool(device)?,
                    cuda_major,
                    blocking: std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|v| v == "1"),
                    last_kernel: Cell::new(""),
                })
            }
        };
        open().map_err(|e| {
            Error::device(format!("{} cannot be opened: {}", devices[index], words(e)))
        })
    }

    /// The newest major version of CUDA whose machine code the driver takes.
    pub(super) fn cuda_major(&self) -> u32 {
        self.cuda_major
    }

    /// Machine code for this very GPU; for one that is newer than the compiler, PTX of the newest
    /// architecture that it knows, which the driver compiles further.
    pub(super) fn target(&self, compiler: &Compiler) -> Result<Target> {
        let capability = self.call(format_args!("telling its kind"), || capability(self.device))?;
        let known = compiler.nvrtc().architectures();
        if known.contains(&capability) {
            let arch = format!("sm_{capability}{}", super::arch_suffix(capability));
            return Ok(Target { arch, output: Output::Cubin, capability });
        }
        match known.iter().filter(|&&sm| sm < capability).max() {
            Some(newest) => {
                Ok(Target { arch: format!("compute_{newest}"), output: Output::Ptx, capability })
            }
            None => Err(Error::device(format!(
                "this GPU (sm_{capability}) is too old for the compiler, which starts at sm_{}; \
                 use --device wgpu",
                known.iter().min().copied().unwrap_or(0)
            ))),
        }
    }

    pub(super) fn capabilities(&self, index: usize, target: &Target) -> Result<Capabilities> {
        let (name, (free, _), multiprocessors) =
            self.call(format_args!("telling its name and memory"), || {
                let count = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
                // SAFETY: the device comes from the driver.
                let multiprocessors = unsafe { result::device::get_attribute(self.device, count)? };
                let name = result::device::get_name(self.device)?;
                Ok((name, result::mem_get_info()?, multiprocessors))
            })?;
        let capability = target.capability;
        Ok(Capabilities {
            description: format!("cuda:{index} ({name}, sm_{capability})"),
            fast_bf16: capability >= 80,
            many_blocks: true,
            compute_capability: Some(capability),
            multiprocessors: multiprocessors as u32,
            max_binding_bytes: MAX_BINDING_BYTES,
            arena: false,
            guard_bytes: 0,
            memory_bytes: Some(free as u64),
        })
    }

    /// Does `work` in this GPU's context and names what failed. The fault of a kernel appears at
    /// some later call, so the last kernel is told too.
    fn call<T>(
        &self,
        doing: fmt::Arguments<'_>,
        work: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T> {
        self.enter().and_then(|()| work()).map_err(|error| {
            let kernel = self.last_kernel.get();
            let after = match (kernel, self.blocking) {
                ("", _) => String::new(),
                (_, true) => format!("; it was kernel {kernel}"),
                (_, false) => format!(
                    "; the last kernel launched was {kernel}, run again with \
                     CUDA_LAUNCH_BLOCKING=1 to learn which one failed"
                ),
            };
            Error::device(format!("the GPU reports {} while {doing}{after}", words(error)))
        })
    }

    /// Makes this GPU the one that the thread's calls are about.
    fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }
    }

    fn try_alloc(&self, bytes: usize) -> Result<u64, DriverError> {
        // SAFETY: the stream is alive, and `free` gives the memory back the same way.
        unsafe {
            match self.pool {
                Some(_) => result::malloc_async(self.stream, bytes),
                None => result::malloc_sync(bytes),
            }
        }
    }

    /// Lets the pool give back to the system what is free.
    fn trim(&self) -> Result<(), DriverError> {
        // SAFETY: stream and pool are alive.
        unsafe {
            result::stream::synchronize(self.stream)?;
            match self.pool {
                Some(pool) => sys::cuMemPoolTrimTo(pool, 0).result(),
                None => Ok(()),
            }
        }
    }
}

/// The device's pool, told to keep what is freed.
///
/// # Safety
/// The device must come from the driver, and its context must be current.
unsafe fn pool(device: sys::CUdevice) -> Result<Option<sys::CUmemoryPool>, DriverError> {
    let supported = Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
    // SAFETY: by the caller; the threshold is a 64-bit number that outlives the call.
    unsafe {
        if result::device::get_attribute(device, supported)? == 0 {
            return Ok(None);
        }
        let pool = result::device::get_default_mem_pool(device)?;
        let mut everything = u64::MAX;
        let threshold = Pool::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut everything).cast()).result()?;
        Ok(Some(pool))
    }
}

impl Driver for Gpu {
    type Kernel = Kernel;

    fn alloc(&self, bytes: usize) -> Result<u64> {
        let full = |error: &DriverError| error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        // The outer result is of the device, the inner one of the search for room.
        let room = self.call(format_args!("allocating memory"), || {
            let mut found = self.try_alloc(bytes);
            if found.as_ref().is_err_and(full) {
                self.trim()?;
                found = self.try_alloc(bytes);
            }
            match found {
                Err(error) if full(&error) => Ok(None),
                found => found.map(Some),
            }
        })?;
        room.ok_or_else(|| {
            let message = format!(
                "the GPU has no room for a buffer of {} MiB; lower per_device_train_batch_size or \
                 max_length, or turn on gradient_checkpointing",
                bytes >> 20
            );
            Error::OutOfMemory { message, bytes: bytes as u64 }
        })
    }

    fn free(&self, address: u64) {
        // SAFETY: `alloc` made it, and its only owner gives it back once. The pool's order is the
        // stream's; without a pool the driver waits. A device that failed reports it elsewhere.
        let _ = self.enter().and_then(|()| unsafe {
            match self.pool {
                Some(_) => result::free_async(address, self.stream),
                None => result::free_sync(address),
            }
        });
    }

    fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()> {
        // SAFETY: the caller names memory of a live buffer.
        self.call(format_args!("filling memory"), || unsafe {
            result::memset_d8_async(address, value, bytes, self.stream)
        })
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller names memory of a live buffer; from pageable memory, the driver has
        // copied the bytes when this returns.
        self.call(format_args!("taking data"), || unsafe {
            result::memcpy_htod_async(address, bytes, self.stream)
        })
    }

    fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut host = vec![0; bytes];
        // SAFETY: the caller names memory of a live buffer; the copy has ended before `host` goes.
        self.call(format_args!("giving data back"), || unsafe {
            let copied = result::memcpy_dtoh_async(&mut host, address, self.stream);
            result::stream::synchronize(self.stream).and(copied)
        })?;
        Ok(host)
    }

    fn load(&self, image: &Image, name: &'static str) -> Result<Kernel> {
        let entry = CString::new(name).map_err(|_| Error::internal(name, "a zero in its name"))?;
        // PTX is read up to a zero byte.
        let bytes = [image.bytes.as_slice(), &[0]].concat();
        // SAFETY: the image is a cubin or a text with its zero, and the module is never unloaded.
        let function = self.call(format_args!("loading kernel {name}"), || unsafe {
            let module = result::module::load_data(bytes.as_ptr().cast())?;
            result::module::get_function(module, entry)
        })?;
        Ok(Kernel { function, shared_bytes: Cell::new(DEFAULT_SHARED_BYTES) })
    }

    fn launch(&self, kernel: &Kernel, call: &KernelCall, pointers: &[u64]) -> Result<()> {
        let name = call.spec.name;
        let shared = call.shared_bytes;
        if shared > kernel.shared_bytes.get() {
            let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a loaded module.
            self.call(format_args!("giving {name} {shared} bytes of shared memory"), || unsafe {
                result::function::set_function_attribute(kernel.function, limit, shared as i32)
            })?;
            kernel.shared_bytes.set(shared);
        }
        let mut arguments: Vec<*mut c_void> =
            pointers.iter().map(|pointer| (&raw const *pointer).cast_mut().cast()).collect();
        let maps = self.call(format_args!("describing the matrices of {name}"), || {
            call.maps.iter().map(|map| tensor_map::of_driver(call, map, pointers)).collect()
        });
        let maps: Vec<sys::CUtensorMap> = maps?;
        arguments.extend(maps.iter().map(|map| (&raw const *map).cast_mut().cast::<c_void>()));
        if !call.params.is_empty() {
            arguments.push(call.params.as_ptr().cast_mut().cast());
        }
        let (grid, block) = (call.grid.into(), call.spec.block.into());
        // SAFETY: the call was checked against its spec, so the arguments are those of the kernel:
        // the driver copies each before this returns, and writes to none.
        self.call(format_args!("launching kernel {name}"), || unsafe {
            let (function, stream) = (kernel.function, self.stream);
            result::launch_kernel(function, grid, block, shared, stream, &mut arguments)
        })?;
        self.last_kernel.set(name);
        match self.blocking {
            true => self.synchronize(),
            false => Ok(()),
        }
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        self.call(format_args!("finishing its work"), || unsafe {
            result::stream::synchronize(self.stream)
        })
    }

    fn peak(&self) -> Option<u64> {
        let mut peak = 0u64;
        let high = Pool::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH;
        // SAFETY: the attribute is a 64-bit number.
        let asked = unsafe { sys::cuMemPoolGetAttribute(self.pool?, high, (&raw mut peak).cast()) };
        asked.result().is_ok().then_some(peak)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: every buffer holds the `Gpu`, so nothing of the context is used any more.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

//! Any GPU, through WebGPU: Vulkan, Metal, DirectX 12, and in tests Mesa's software Vulkan.
//!
//! Launches are recorded into one compute pass, which is submitted after about 100 ms of estimated
//! work (GPU watchdogs kill longer submissions) or when somebody reads back. WebGPU orders the
//! launches of a pass by itself.

mod adapters;
mod memory;
mod pipeline;
mod recorder;

pub use adapters::{AdapterSummary, adapters};

use super::{Backend, Buffer, Capabilities, KernelCall, LocalFuture, MemoryUse, View};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::Texts;
use memory::{GUARD_BYTES, GUARD_WORD, Memory, Pool};
use pipeline::Pipelines;
use recorder::Recorder;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// For tests: exactly WebGPU's default limits, run-time checks in shaders, new buffers filled
    /// with NaN and followed by guard words.
    pub strict: bool,
}

/// A WebGPU device.
pub struct Wgpu {
    capabilities: Capabilities,
    gpu: Rc<Gpu>,
    pool: Rc<Pool>,
    pipelines: Pipelines,
    recorder: Recorder,
}

/// The device, its queue, and what went wrong on it outside any error scope.
struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    fault: Arc<Mutex<Option<String>>>,
    strict: bool,
}

impl Gpu {
    /// Runs `work` and turns what it did wrong into an error made by `report`.
    fn scoped<T>(&self, work: impl FnOnce() -> T, report: impl Fn(String) -> Error) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let result = work();
        let errors = [pollster::block_on(validation.pop()), pollster::block_on(memory.pop())];
        match errors.into_iter().flatten().next() {
            None => Ok(result),
            Some(error) => Err(report(error.to_string())),
        }
    }

    /// The first fault that nobody has seen yet.
    fn check(&self) -> Result<()> {
        let fault = self.fault.lock().ok().and_then(|mut fault| fault.take());
        fault.map_or(Ok(()), |fault| Err(Error::device(format!("the GPU reports: {fault}"))))
    }

    /// Waits for everything submitted so far.
    fn wait(&self) -> Result<()> {
        let result = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        result.map(|_| ()).map_err(|error| Error::device(format!("the GPU was lost: {error}")))
    }
}

impl Wgpu {
    /// Opens adapter number `index` of [`adapters`].
    ///
    /// # Errors
    /// `Error::Device` that lists the adapters when there is none of that number, or says why the
    /// device cannot be opened.
    pub fn open(index: usize, options: Options) -> Result<Self> {
        let (adapter, summary) = adapters::find(index)?;
        let defaults = wgpu::Limits::default();
        let limits = match options.strict {
            true => defaults,
            false => {
                let available = adapter.limits();
                wgpu::Limits {
                    max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
                    max_buffer_size: available.max_buffer_size,
                    ..defaults
                }
            }
        };
        let max_binding_bytes = limits.max_storage_buffer_binding_size as usize;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("tunesmith"),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|error| Error::device(format!("{}: {error}", summary.description)))?;

        let fault = Arc::new(Mutex::new(None));
        let record = |slot: &Arc<Mutex<Option<String>>>| {
            let slot = slot.clone();
            move |message: String| {
                if let Ok(mut slot) = slot.lock() {
                    slot.get_or_insert(message);
                }
            }
        };
        let on_error = record(&fault);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| on_error(error.to_string())));
        let on_lost = record(&fault);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                on_lost(format!("device lost: {message}"));
            }
        });

        let gpu = Rc::new(Gpu { device, queue, fault, strict: options.strict });
        Ok(Self {
            capabilities: Capabilities {
                description: summary.description,
                fast_bf16: false,
                many_blocks: true,
                compute_capability: None,
                multiprocessors: 1,
                max_binding_bytes,
                arena: false,
                guard_bytes: 0,
                memory_bytes: None,
            },
            pool: Pool::new(gpu.clone()),
            pipelines: Pipelines::new(gpu.clone(), Texts::default()),
            recorder: Recorder::new(gpu.clone()),
            gpu,
        })
    }

    /// The same device, of kernels whose text is `texts`.
    pub fn reading(self, texts: Texts) -> Self {
        Self { pipelines: Pipelines::new(self.gpu.clone(), texts), ..self }
    }

    async fn read(&self, buffer: &wgpu::Buffer, start: u64, byte_len: usize) -> Result<Vec<u8>> {
        // Copies move whole words; the surplus is cut off below.
        let size = (byte_len as u64).next_multiple_of(4);
        let staging = self.gpu.scoped(
            || {
                self.gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("read back"),
                    size,
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            },
            |error| {
                let message = format!("no memory to read {size} bytes back: {error}");
                Error::OutOfMemory { message, bytes: size }
            },
        )?;
        self.recorder.copy(buffer, start, &staging, size);
        self.recorder.submit();
        let failure = Arc::new(Mutex::new(None));
        let slot = failure.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            if let (Err(error), Ok(mut slot)) = (result, slot.lock()) {
                *slot = Some(error.to_string());
            }
        });
        self.gpu.wait()?;
        if let Some(error) = failure.lock().ok().and_then(|mut failure| failure.take()) {
            return Err(Error::device(format!("reading back from the GPU: {error}")));
        }
        let mapped = staging
            .get_mapped_range(..)
            .map_err(|error| Error::device(format!("reading back from the GPU: {error}")))?;
        Ok(mapped[..byte_len].to_vec())
    }
}

fn memory_of(buffer: &Buffer) -> Result<&Memory> {
    buffer.memory().ok_or_else(|| Error::internal("wgpu", "a buffer of another device"))
}

impl Backend for Wgpu {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let memory = self.pool.take(len * dtype.size())?;
        if self.gpu.strict {
            // A recycled buffer may still be read by launches that are only recorded.
            self.recorder.submit();
            self.gpu.queue.write_buffer(&memory.buffer, 0, &memory.poison());
        }
        Ok(Buffer::new(memory, dtype, len))
    }

    fn upload(&self, view: &View, bytes: &[u8]) -> Result<()> {
        let end = view.byte_offset() + view.byte_len();
        let ends_buffer = view.offset + view.len == view.buffer.len();
        if bytes.len() != view.byte_len() || !(end.is_multiple_of(4) || ends_buffer) {
            let what = format!("{} bytes to bytes {}..{end}", bytes.len(), view.byte_offset());
            return Err(Error::internal("upload", what));
        }
        let memory = memory_of(&view.buffer)?;
        // A write takes effect before the next submission, so what is recorded must go first.
        self.recorder.submit();
        let (whole, tail) = bytes.split_at(bytes.len() / 4 * 4);
        let start = view.byte_offset() as u64;
        self.gpu.queue.write_buffer(&memory.buffer, start, whole);
        if !tail.is_empty() {
            let mut word = [0xff; 4];
            word[..tail.len()].copy_from_slice(tail);
            self.gpu.queue.write_buffer(&memory.buffer, start + whole.len() as u64, &word);
        }
        self.gpu.check()
    }

    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            if view.len == 0 {
                return Ok(Vec::new());
            }
            let memory = memory_of(&view.buffer)?;
            self.read(&memory.buffer, view.byte_offset() as u64, view.byte_len()).await
        })
    }

    fn launch(&self, call: &KernelCall) -> Result<()> {
        let pipeline = self.pipelines.get(call)?;
        let memories =
            call.views.iter().map(|view| memory_of(&view.buffer)).collect::<Result<Vec<_>>>()?;
        let bind_group = self.pipelines.bind(&pipeline, call, &memories, self.pool.trims())?;
        self.recorder.launch(&pipeline.pipeline, &bind_group, call)?;
        self.gpu.check()
    }

    fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(async move {
            self.recorder.submit();
            self.gpu.wait()
        })
    }

    fn memory(&self) -> MemoryUse {
        self.pool.memory_use()
    }

    fn guard_intact(&self, buffer: &Buffer) -> Result<bool> {
        if !self.gpu.strict {
            return Ok(true);
        }
        let memory = memory_of(buffer)?;
        let start = memory.buffer.size() - GUARD_BYTES;
        let guard = pollster::block_on(self.read(&memory.buffer, start, GUARD_BYTES as usize))?;
        Ok(guard.chunks_exact(4).all(|word| word == GUARD_WORD))
    }
}

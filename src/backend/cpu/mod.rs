//! The CPU: memory is host memory, a launch calls the spec's `cpu` function, which spreads its work
//! over threads itself. Also the embedded default: always there.

mod memory;

use super::arena::LINE;
use super::{Backend, Buffer, Capabilities, KernelCall, LocalFuture, MemoryUse, View};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernels::HostArg;
use crate::kernels::{Access, HostCall};
use memory::{Memory, Pool};
use std::rc::Rc;

/// The CPU backend.
pub struct Cpu {
    capabilities: Capabilities,
    pool: Rc<Pool>,
}

impl Cpu {
    /// The CPU with all of its threads.
    pub fn new() -> Self {
        Self::with_poison(false)
    }

    /// For tests: new buffers are filled with NaN and followed by guard words.
    pub fn poisoned() -> Self {
        Self::with_poison(true)
    }

    fn with_poison(poison: bool) -> Self {
        let threads = rayon::current_num_threads();
        let capabilities = Capabilities {
            description: format!("cpu ({threads} threads)"),
            fast_bf16: false,
            many_blocks: false,
            compute_capability: None,
            multiprocessors: 1,
            max_binding_bytes: usize::MAX,
            arena: true,
            guard_bytes: if poison { LINE } else { 0 },
            memory_bytes: super::machine::available(),
        };
        Self { capabilities, pool: Pool::new(poison) }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

fn memory_of(buffer: &Buffer) -> Result<&Memory> {
    buffer.memory().ok_or_else(|| Error::internal("cpu", "a buffer of another device"))
}

impl Backend for Cpu {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Ok(Buffer::new(self.pool.take(len * dtype.size())?, dtype, len))
    }

    fn upload(&self, view: &View, bytes: &[u8]) -> Result<()> {
        if bytes.len() != view.byte_len() {
            let what = format!("{} bytes for a view of {}", bytes.len(), view.byte_len());
            return Err(Error::internal("upload", what));
        }
        // SAFETY: no slice of this buffer is alive, as launches finish before they return.
        let target = unsafe { memory_of(&view.buffer)?.bytes_mut() };
        target[view.byte_offset()..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            // SAFETY: as in `upload`.
            let source = unsafe { memory_of(&view.buffer)?.bytes() };
            Ok(source[view.byte_offset()..][..view.byte_len()].to_vec())
        })
    }

    fn launch(&self, call: &KernelCall) -> Result<()> {
        let mut args = Vec::with_capacity(call.views.len());
        for (view, binding) in call.views.iter().zip(call.spec.bindings) {
            let memory = memory_of(&view.buffer)?;
            let range = view.byte_offset()..view.byte_offset() + view.byte_len();
            // SAFETY: `KernelCall::check` refuses calls in which a written buffer is bound twice,
            // and the slices end with this function.
            args.push(match binding.access {
                Access::Read => HostArg::Read(unsafe { &memory.bytes()[range] }),
                _ => HostArg::Write(unsafe { &mut memory.bytes_mut()[range] }),
            });
        }
        let dtypes = call.views.iter().map(View::dtype).collect();
        let mut host_call =
            HostCall { args, dtypes, params: &call.params, constants: &call.constants };
        (call.spec.cpu)(&mut host_call);
        Ok(())
    }

    fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn memory(&self) -> MemoryUse {
        self.pool.memory_use()
    }

    fn guard_intact(&self, buffer: &Buffer) -> Result<bool> {
        Ok(memory_of(buffer)?.guard_intact())
    }
}

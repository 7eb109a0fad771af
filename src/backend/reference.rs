//! The reference device: runs the naive `reference` of every kernel, in f64 or in f32.
//!
//! In f64 it defines what an op computes: gradcheck, `verify` and tolerances compare with it. In f32
//! it rounds every result to the buffer's declared dtype, which makes it the naive computation in
//! that dtype: the yardstick for how far a fast kernel may be off.

use super::{Backend, Buffer, Capabilities, KernelCall, LocalFuture, MemoryUse, View};
use crate::dtype::{DType, bytes_to_f32, f32_to_bytes};
use crate::error::{Error, Result};
use crate::kernels::{Access, KernelSpec, Real, RefArg, RefCall};
use std::cell::RefCell;

/// The arithmetic of a reference device.
pub trait Arithmetic: Real {
    /// The spec's reference in this arithmetic.
    fn function(spec: &KernelSpec) -> fn(&mut RefCall<Self>);
    /// A result as memory of `dtype` would hold it.
    fn store(self, dtype: DType) -> Self;
}

impl Arithmetic for f64 {
    fn function(spec: &KernelSpec) -> fn(&mut RefCall<f64>) {
        spec.reference_f64
    }
    fn store(self, _dtype: DType) -> f64 {
        self
    }
}

impl Arithmetic for f32 {
    fn function(spec: &KernelSpec) -> fn(&mut RefCall<f32>) {
        spec.reference_f32
    }
    fn store(self, dtype: DType) -> f32 {
        dtype.round(self)
    }
}

enum Data<F> {
    Float(Vec<F>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

type Memory<F> = RefCell<Data<F>>;

/// The reference device in the arithmetic `F`.
pub struct Reference<F> {
    capabilities: Capabilities,
    arithmetic: std::marker::PhantomData<F>,
}

impl<F: Arithmetic> Reference<F> {
    /// A reference device.
    pub fn new() -> Self {
        let capabilities = Capabilities {
            description: format!("reference ({} bits)", 8 * size_of::<F>()),
            fast_bf16: false,
            many_blocks: false,
            compute_capability: None,
            multiprocessors: 1,
            max_binding_bytes: usize::MAX,
            arena: false,
            guard_bytes: 0,
            memory_bytes: None,
        };
        Self { capabilities, arithmetic: std::marker::PhantomData }
    }
}

impl<F: Arithmetic> Default for Reference<F> {
    fn default() -> Self {
        Self::new()
    }
}

fn memory_of<F: 'static>(buffer: &Buffer) -> Result<&Memory<F>> {
    buffer.memory().ok_or_else(|| Error::internal("reference", "a buffer of another device"))
}

impl<F: Arithmetic> Backend for Reference<F> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let data = match dtype {
            DType::U32 => Data::U32(vec![u32::MAX; len]),
            DType::U8 => Data::U8(vec![0xff; len]),
            _ => Data::Float(vec![F::from_f64(f64::NAN); len]),
        };
        Ok(Buffer::new(RefCell::new(data), dtype, len))
    }

    fn upload(&self, view: &View, bytes: &[u8]) -> Result<()> {
        let (offset, len) = (view.offset, view.len);
        match &mut *memory_of::<F>(&view.buffer)?.borrow_mut() {
            Data::U32(data) => {
                data[offset..offset + len]
                    .copy_from_slice(&bytemuck::allocation::pod_collect_to_vec::<u8, u32>(bytes));
            }
            Data::U8(data) => data[offset..offset + len].copy_from_slice(bytes),
            Data::Float(data) => {
                let values = bytes_to_f32(bytes, view.dtype());
                for (slot, value) in data[offset..offset + len].iter_mut().zip(values) {
                    *slot = F::from_f64(f64::from(value));
                }
            }
        }
        Ok(())
    }

    fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let range = view.offset..view.offset + view.len;
            Ok(match &*memory_of::<F>(&view.buffer)?.borrow() {
                Data::U32(data) => bytemuck::cast_slice(&data[range]).to_vec(),
                Data::U8(data) => data[range].to_vec(),
                Data::Float(data) => {
                    let values: Vec<f32> = data[range].iter().map(|v| v.to_f64() as f32).collect();
                    f32_to_bytes(&values, view.dtype())
                }
            })
        })
    }

    fn launch(&self, call: &KernelCall) -> Result<()> {
        let spec = call.spec;
        // Work on copies: simple, safe, and nobody times the reference.
        let mut copies = Vec::new();
        for view in &call.views {
            let range = view.offset..view.offset + view.len;
            copies.push(match &*memory_of::<F>(&view.buffer)?.borrow() {
                Data::Float(data) => Data::Float(data[range].to_vec()),
                Data::U32(data) => Data::U32(data[range].to_vec()),
                Data::U8(data) => Data::U8(data[range].to_vec()),
            });
        }
        let args = copies.iter_mut().zip(spec.bindings).map(|(data, binding)| {
            match (data, binding.access == Access::Read) {
                (Data::Float(data), true) => RefArg::Float(data),
                (Data::Float(data), false) => RefArg::FloatMut(data),
                (Data::U32(data), true) => RefArg::U32(data),
                (Data::U32(data), false) => RefArg::U32Mut(data),
                (Data::U8(data), true) => RefArg::U8(data),
                (Data::U8(data), false) => RefArg::U8Mut(data),
            }
        });
        let mut ref_call = RefCall {
            args: args.collect(),
            dtypes: call.views.iter().map(View::dtype).collect(),
            params: &call.params,
            constants: &call.constants,
        };
        F::function(spec)(&mut ref_call);
        for ((view, binding), copy) in call.views.iter().zip(spec.bindings).zip(copies) {
            if binding.access == Access::Read {
                continue;
            }
            let range = view.offset..view.offset + view.len;
            match (&mut *memory_of::<F>(&view.buffer)?.borrow_mut(), copy) {
                (Data::Float(data), Data::Float(new)) => {
                    let stored = new.into_iter().map(|v| v.store(view.dtype()));
                    data[range].iter_mut().zip(stored).for_each(|(slot, value)| *slot = value);
                }
                (Data::U32(data), Data::U32(new)) => data[range].copy_from_slice(&new),
                (Data::U8(data), Data::U8(new)) => data[range].copy_from_slice(&new),
                _ => return Err(Error::internal(spec.name, "a buffer changed its type")),
            }
        }
        Ok(())
    }

    fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }

    fn upload_f64(&self, view: &View, values: &[f64]) -> Result<()> {
        if let Data::Float(data) = &mut *memory_of::<F>(&view.buffer)?.borrow_mut() {
            for (slot, &value) in data[view.offset..view.offset + view.len].iter_mut().zip(values) {
                *slot = F::from_f64(value);
            }
        }
        Ok(())
    }

    fn download_f64<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<f64>>> {
        Box::pin(async move {
            let range = view.offset..view.offset + view.len;
            Ok(match &*memory_of::<F>(&view.buffer)?.borrow() {
                Data::Float(data) => data[range].iter().map(|v| v.to_f64()).collect(),
                Data::U32(data) => data[range].iter().map(|&v| f64::from(v)).collect(),
                Data::U8(data) => data[range].iter().map(|&v| f64::from(v)).collect(),
            })
        })
    }
}

//! Element-wise work on tensors larger than a device binds at once, slice by slice.

use crate::error::Result;
use crate::tensor::Tensor;

/// Slices hold a multiple of this many elements: views of any dtype then start at aligned bytes, and
/// no block of a sum is cut.
const MULTIPLE: usize = 4096;

/// Calls `work` with the same elements of each of `tensors` (all of one length): all of them where
/// the device binds that much, else one slice after another. `work` is told the first element.
pub(super) fn in_slices<const N: usize>(
    tensors: [&Tensor; N],
    mut work: impl FnMut(usize, [&Tensor; N]) -> Result<()>,
) -> Result<()> {
    let Some(longest) = tensors.iter().max_by_key(|tensor| tensor.len() * tensor.dtype().size())
    else {
        return Ok(());
    };
    let limit = longest.device().capabilities().max_binding_bytes / longest.dtype().size();
    let slice = (limit / MULTIPLE * MULTIPLE).max(MULTIPLE);
    let len = longest.len();
    if len <= limit {
        return work(0, tensors);
    }
    for first in (0..len).step_by(slice) {
        let count = slice.min(len - first);
        let mut parts = tensors.map(Tensor::detach);
        for part in &mut parts {
            *part = part.reshape(&[len])?.narrow(first, count)?;
        }
        work(first, parts.each_ref())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{
        AdamW, AdamW8bit, Moments8bit, StepState, StepValues, adamw, adamw_8bit, dynamic_tables,
        embedding, grad_norm, rms_norm,
    };
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::backend::{Backend, Buffer, Capabilities, KernelCall, LocalFuture, MemoryUse, View};
    use crate::{DType, Device, Error, Tape};

    /// The CPU, with bindings of 64 KiB.
    struct Narrow(Cpu, Capabilities);

    impl Backend for Narrow {
        fn capabilities(&self) -> &Capabilities {
            &self.1
        }
        fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
            self.0.alloc(dtype, len)
        }
        fn upload(&self, view: &View, bytes: &[u8]) -> Result<()> {
            self.0.upload(view, bytes)
        }
        fn download<'a>(&'a self, view: &'a View) -> LocalFuture<'a, Result<Vec<u8>>> {
            self.0.download(view)
        }
        fn launch(&self, call: &KernelCall) -> Result<()> {
            self.0.launch(call)
        }
        fn synchronize(&self) -> LocalFuture<'_, Result<()>> {
            self.0.synchronize()
        }
        fn memory(&self) -> MemoryUse {
            self.0.memory()
        }
    }

    const SHAPE: [usize; 2] = [700, 60];

    /// A step on an embedding table of 164 KiB: two gradients that meet, their norm, the update.
    fn step(device: &Device) -> Result<Vec<f32>> {
        let wave = |i: usize| (i as f32 * 0.37).sin();
        let values: Vec<f32> = (0..SHAPE[0] * SHAPE[1]).map(wave).collect();
        let table = Tensor::from_f32(device, &SHAPE, DType::F32, &values)?;
        let trained = table.with_grad("table", DType::F32);
        for ids in [[3, 699, 3, 250], [250, 0, 1, 2]] {
            let tape = Tape::recording();
            let out = embedding(&tape, &trained, &ids)?;
            let dout: Vec<f32> = (0..4 * SHAPE[1]).map(|i| 1.0 + wave(i)).collect();
            tape.backward(&out, Tensor::from_f32(device, &[4, SHAPE[1]], DType::F32, &dout)?)?;
        }
        let state = StepState::new(device)?;
        state.set(&StepValues { learning_rate: 0.1, ..StepValues::default() })?;
        let grad = trained.grad().ok_or_else(|| Error::internal("test", "no gradient"))?;
        grad_norm(device, std::slice::from_ref(&grad), 1.0, &state)?;
        let moments = [(); 2].map(|()| super::super::zeros(device, &SHAPE, DType::F32));
        let [m, v] = moments;
        let settings =
            AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, lr_ratio: 1.0 };
        adamw(settings, &table, &m?, &v?, &grad, &state)?;
        let settings =
            AdamW8bit { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, lr_ratio: 1.0 };
        let moments = Moments8bit::zeros(device, &SHAPE)?;
        adamw_8bit(settings, &dynamic_tables(device)?, &table, &moments, &grad, &state)?;
        let mut found = table.read_f32()?;
        found.extend(moments.m.read_bytes()?.into_iter().map(f32::from));
        found.extend(moments.v_absmax.read_f32()?);
        found.extend(grad.read_f32()?);
        found.extend(state.tensor().read_f32()?);
        Ok(found)
    }

    #[test]
    fn tables_beyond_the_binding_limit_are_trained_in_slices_and_the_rest_is_refused() {
        let capabilities = Cpu::new().capabilities().clone();
        let capabilities = Capabilities { max_binding_bytes: 64 << 10, ..capabilities };
        let narrow = Device::new(Narrow(Cpu::poisoned(), capabilities));
        let whole = Device::new(Cpu::poisoned());
        assert!(step(&narrow).unwrap() == step(&whole).unwrap());

        let x = super::super::zeros(&narrow, &SHAPE, DType::F32).unwrap();
        let weight = super::super::zeros(&narrow, &[SHAPE[1]], DType::F32).unwrap();
        let error = rms_norm(&Tape::inference(), &x, &weight, 1e-5, 0.0).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("in one piece"), "{error}");
    }
}

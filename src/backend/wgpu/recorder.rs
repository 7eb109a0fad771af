//! Launches on their way to the GPU: recorded into one compute pass, submitted together.

use super::Gpu;
use super::pipeline::{PARAMS_BYTES, params_layout};
use crate::backend::KernelCall;
use crate::error::Result;
use std::cell::RefCell;
use std::rc::Rc;

/// Launches in one submission at most: the slots of the parameter buffer.
const MAX_LAUNCHES: usize = 256;
/// Bytes between parameter blocks (WebGPU's `min_uniform_buffer_offset_alignment`).
const SLOT: usize = 256;
/// Threads in one submission at most: about 100 ms on a small GPU.
const MAX_THREADS: u64 = 1 << 26;

struct Pending {
    // Declared before the encoder: a pass must end before its encoder is finished.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: wgpu::CommandEncoder,
    params: Vec<u8>,
    threads: u64,
}

/// The recorder of one device.
pub(super) struct Recorder {
    gpu: Rc<Gpu>,
    params: wgpu::Buffer,
    params_group: wgpu::BindGroup,
    pending: RefCell<Option<Pending>>,
}

impl Recorder {
    pub(super) fn new(gpu: Rc<Gpu>) -> Self {
        let params = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: (MAX_LAUNCHES * SLOT) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let params_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("params"),
            layout: &params_layout(&gpu.device),
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &params,
                    offset: 0,
                    size: std::num::NonZeroU64::new(PARAMS_BYTES),
                }),
            }],
        });
        Self { gpu, params, params_group, pending: RefCell::new(None) }
    }

    /// Records a launch; submits when enough has come together.
    pub(super) fn launch(
        &self,
        pipeline: &wgpu::ComputePipeline,
        bind_group: &wgpu::BindGroup,
        call: &KernelCall,
    ) -> Result<()> {
        let mut pending = self.pending.borrow_mut();
        let state = pending.get_or_insert_with(|| self.begin());
        let slot = state.params.len();
        state.params.extend_from_slice(&call.params);
        state.params.resize(slot + SLOT, 0);
        let encoder = &mut state.encoder;
        let pass = state.pass.get_or_insert_with(|| {
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime()
        });
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, bind_group, &[]);
        pass.set_bind_group(1, &self.params_group, &[slot as u32]);
        pass.dispatch_workgroups(call.grid[0], call.grid[1], call.grid[2]);
        let threads = |sizes: &[u32; 3]| sizes.iter().map(|&size| u64::from(size)).product::<u64>();
        state.threads += threads(&call.grid) * threads(&call.spec.block);
        let full = state.params.len() == MAX_LAUNCHES * SLOT || state.threads >= MAX_THREADS;
        drop(pending);
        if full {
            self.submit();
        }
        Ok(())
    }

    /// Records a copy between buffers, after the launches so far.
    pub(super) fn copy(&self, from: &wgpu::Buffer, start: u64, to: &wgpu::Buffer, size: u64) {
        let mut pending = self.pending.borrow_mut();
        let state = pending.get_or_insert_with(|| self.begin());
        state.pass = None;
        state.encoder.copy_buffer_to_buffer(from, start, to, 0, size);
    }

    /// Sends what is recorded.
    pub(super) fn submit(&self) {
        if let Some(Pending { pass, encoder, params, .. }) = self.pending.borrow_mut().take() {
            drop(pass);
            // Takes effect before this submission and after the one before it.
            if !params.is_empty() {
                self.gpu.queue.write_buffer(&self.params, 0, &params);
            }
            self.gpu.queue.submit([encoder.finish()]);
        }
    }

    fn begin(&self) -> Pending {
        let encoder = self.gpu.device.create_command_encoder(&Default::default());
        Pending { pass: None, encoder, params: Vec::new(), threads: 0 }
    }
}

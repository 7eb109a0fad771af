//! Compiled kernels and bind groups, each made once and kept.

use super::Gpu;
use super::memory::Memory;
use crate::backend::KernelCall;
use crate::error::{Error, Result};
use crate::kernels::{Access, Texts};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Bind groups kept at most; a training step uses a few hundred.
const MAX_BIND_GROUPS: usize = 1 << 14;
/// Bytes of the parameter block's binding.
pub(super) const PARAMS_BYTES: u64 = 128;

type PipelineKey = (&'static str, Vec<(&'static str, u32)>);
type BindGroupKey = (u64, Vec<(u64, u64, u64)>);

/// A compiled kernel.
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    id: u64,
}

/// The caches.
pub(super) struct Pipelines {
    gpu: Rc<Gpu>,
    texts: Texts,
    pipelines: RefCell<HashMap<PipelineKey, Rc<Pipeline>>>,
    bind_groups: RefCell<HashMap<BindGroupKey, wgpu::BindGroup>>,
    /// [`Pool::trims`](super::memory::Pool::trims) when the bind groups were made.
    trims: Cell<u64>,
}

impl Pipelines {
    pub(super) fn new(gpu: Rc<Gpu>, texts: Texts) -> Self {
        Self {
            gpu,
            texts,
            pipelines: RefCell::default(),
            bind_groups: RefCell::default(),
            trims: Cell::new(0),
        }
    }

    /// The pipeline of the call's kernel with its constants.
    pub(super) fn get(&self, call: &KernelCall) -> Result<Rc<Pipeline>> {
        let key = (call.spec.name, call.constants.clone());
        if let Some(pipeline) = self.pipelines.borrow().get(&key) {
            return Ok(pipeline.clone());
        }
        let id = self.pipelines.borrow().len() as u64;
        let pipeline = Rc::new(self.compile(call, id)?);
        self.pipelines.borrow_mut().insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&self, call: &KernelCall, id: u64) -> Result<Pipeline> {
        let spec = call.spec;
        let source =
            self.texts.wgsl(spec.text, &call.constants).ok_or_else(|| Error::Unsupported {
                op: spec.name,
                backend: "wgpu".into(),
                why: "this version is written for CUDA only".into(),
            })?;
        let device = &self.gpu.device;
        let checks = match self.gpu.strict {
            true => wgpu::ShaderRuntimeChecks::checked(),
            false => wgpu::ShaderRuntimeChecks::unchecked(),
        };
        let build = || {
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(spec.name),
                source: wgpu::ShaderSource::Wgsl(source.as_str().into()),
            };
            // SAFETY: the kernels are this crate's own; the same ones run checked in the tests, and
            // every launch is checked against its spec.
            let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
            let entries: Vec<_> = spec
                .bindings
                .iter()
                .enumerate()
                .map(|(index, binding)| {
                    let read_only = binding.access == Access::Read;
                    let kind = wgpu::BufferBindingType::Storage { read_only };
                    layout_entry(index as u32, kind, false, None)
                })
                .collect();
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(spec.name),
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(spec.name),
                bind_group_layouts: &[Some(&layout), Some(&params_layout(device))],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(spec.name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(spec.name),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            Pipeline { pipeline, layout, id }
        };
        let file = format!("kernels-wgsl/{}.wgsl", spec.text.stem);
        self.gpu.scoped(build, |log| {
            Error::device(format!("{file}: kernel {} does not compile:\n{log}", spec.name))
        })
    }

    /// The bind group of the call's buffers.
    pub(super) fn bind(
        &self,
        pipeline: &Pipeline,
        call: &KernelCall,
        memories: &[&Memory],
        trims: u64,
    ) -> Result<wgpu::BindGroup> {
        // A bind group keeps its buffers alive, those given back too.
        if self.trims.replace(trims) != trims {
            self.bind_groups.borrow_mut().clear();
        }
        let ranges: Vec<_> = call
            .views
            .iter()
            .zip(memories)
            .map(|(view, memory)| {
                // WebGPU binds nothing empty: an empty view shows a word that no kernel looks at.
                let offset = if view.len == 0 { 0 } else { view.byte_offset() as u64 };
                (memory.id, offset, (view.byte_len().max(4) as u64).next_multiple_of(4))
            })
            .collect();
        let key = (pipeline.id, ranges);
        if let Some(group) = self.bind_groups.borrow().get(&key) {
            return Ok(group.clone());
        }
        let entries: Vec<_> = memories
            .iter()
            .zip(&key.1)
            .enumerate()
            .map(|(index, (memory, &(_, offset, size)))| wgpu::BindGroupEntry {
                binding: index as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &memory.buffer,
                    offset,
                    size: std::num::NonZeroU64::new(size),
                }),
            })
            .collect();
        let group = self.gpu.scoped(
            || {
                self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(call.spec.name),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
            },
            |error| Error::internal(call.spec.name, error),
        )?;
        let mut groups = self.bind_groups.borrow_mut();
        if groups.len() >= MAX_BIND_GROUPS {
            groups.clear();
        }
        groups.insert(key, group.clone());
        Ok(group)
    }
}

/// The layout of group 1: the parameter block, at an offset that changes with every launch.
pub(super) fn params_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let size = std::num::NonZeroU64::new(PARAMS_BYTES);
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("params"),
        entries: &[layout_entry(0, wgpu::BufferBindingType::Uniform, true, size)],
    })
}

fn layout_entry(
    binding: u32,
    ty: wgpu::BufferBindingType,
    has_dynamic_offset: bool,
    min_binding_size: Option<std::num::NonZeroU64>,
) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size },
        count: None,
    }
}

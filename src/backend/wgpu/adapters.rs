//! Which WebGPU adapters there are.

use crate::error::{Error, Result};

/// One adapter, as `--device wgpu:<index>` names it.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// `wgpu:0 (NVIDIA H200, Vulkan)`.
    pub description: String,
    /// A GPU, not a software implementation: what `--device auto` takes.
    pub is_gpu: bool,
}

/// All adapters of this machine, GPUs first, in the order that `wgpu:<index>` counts.
pub fn adapters() -> Vec<AdapterSummary> {
    list().into_iter().map(|(_, summary)| summary).collect()
}

/// Adapter number `index`.
pub(super) fn find(index: usize) -> Result<(wgpu::Adapter, AdapterSummary)> {
    let mut all = list();
    if index < all.len() {
        return Ok(all.swap_remove(index));
    }
    let known: Vec<_> = all.iter().map(|(_, summary)| summary.description.as_str()).collect();
    Err(Error::device(match known.is_empty() {
        true => "no WebGPU adapter was found: install a Vulkan driver (on Debian without a GPU, \
                 mesa-vulkan-drivers gives a software one), or use --device cpu"
            .to_owned(),
        false => format!("there is no wgpu:{index}; there are {}", known.join(", ")),
    }))
}

fn list() -> Vec<(wgpu::Adapter, AdapterSummary)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        // GL lacks what compute needs here.
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let is_gpu = |adapter: &wgpu::Adapter| {
        use wgpu::DeviceType::{DiscreteGpu, IntegratedGpu, VirtualGpu};
        matches!(adapter.get_info().device_type, DiscreteGpu | IntegratedGpu | VirtualGpu)
    };
    adapters.sort_by_key(|adapter| !is_gpu(adapter));
    adapters
        .into_iter()
        .enumerate()
        .map(|(index, adapter)| {
            let info = adapter.get_info();
            let description = format!("wgpu:{index} ({}, {:?})", info.name, info.backend);
            let summary = AdapterSummary { description, is_gpu: is_gpu(&adapter) };
            (adapter, summary)
        })
        .collect()
}

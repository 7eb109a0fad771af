//! The CUDA kernels on the PTX emulator: no GPU, every access checked.

use super::{Driver, Image, Output, Target, tensor_map};
use crate::backend::{Capabilities, KernelCall};
use crate::error::{Error, Result};
use ptx_emulator::{Config, Device, DevicePtr, Launch, Module, Param};
use std::cell::RefCell;

/// How the emulator runs, and what.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides the order of blocks and warps. The results of a right kernel do not depend on it.
    pub seed: u64,
    /// Compute capability, times ten, of the emulated GPU: 80 or 90.
    pub capability: u32,
}

impl Default for Options {
    /// Without the instructions of Hopper alone: the kernels that most GPUs run.
    fn default() -> Self {
        Self { seed: 0, capability: 80 }
    }
}

pub(super) fn target(Options { capability, .. }: Options) -> Target {
    let arch = format!("compute_{capability}{}", super::arch_suffix(capability));
    Target { arch, output: Output::Ptx, capability }
}

pub(super) fn capabilities(Options { capability, .. }: Options) -> Capabilities {
    Capabilities {
        description: format!("cuda-emulated (sm_{capability} on the CPU)"),
        fast_bf16: false,
        many_blocks: true,
        compute_capability: Some(capability),
        // Few, so that small cases show what blocks do that stay for several tiles.
        multiprocessors: 3,
        max_binding_bytes: super::gpu::MAX_BINDING_BYTES,
        arena: false,
        guard_bytes: 0,
        memory_bytes: None,
    }
}

/// The emulated GPU.
pub(super) struct Emulator(RefCell<Device>);

impl Emulator {
    pub(super) fn new(options: Options) -> Self {
        let config = Config { seed: options.seed, ..Config::default() };
        Self(RefCell::new(Device::new(config)))
    }
}

fn report(error: ptx_emulator::Error) -> Error {
    Error::device(error.to_string())
}

impl Driver for Emulator {
    type Kernel = Module;

    fn alloc(&self, bytes: usize) -> Result<u64> {
        Ok(self.0.borrow_mut().alloc(bytes).0)
    }

    fn free(&self, address: u64) {
        let freed = self.0.borrow_mut().free(DevicePtr(address));
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()> {
        self.0.borrow_mut().fill(DevicePtr(address), bytes, value).map_err(report)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.0.borrow_mut().write(DevicePtr(address), bytes).map_err(report)
    }

    fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>> {
        self.0.borrow().read(DevicePtr(address), bytes).map_err(report)
    }

    fn load(&self, image: &Image, name: &'static str) -> Result<Module> {
        let text = std::str::from_utf8(&image.bytes)
            .map_err(|error| Error::internal(name, format!("the PTX is not text: {error}")))?;
        Module::parse(text).map_err(|error| Error::device(format!("kernel {name}: {error}")))
    }

    fn launch(&self, kernel: &Module, call: &KernelCall, pointers: &[u64]) -> Result<()> {
        let mut params: Vec<Param> = pointers.iter().map(|&p| DevicePtr(p).into()).collect();
        for map in &call.maps {
            params.push(Param::bytes(tensor_map::emulated(call, map, pointers).map_err(report)?));
        }
        if !call.params.is_empty() {
            params.push(Param::bytes(call.params.as_slice()));
        }
        let launch = Launch {
            grid: call.grid,
            block: call.spec.block,
            shared_bytes: call.shared_bytes,
            params: &params,
        };
        self.0.borrow_mut().launch(kernel, call.spec.name, launch).map_err(report)?;
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn peak(&self) -> Option<u64> {
        None
    }
}

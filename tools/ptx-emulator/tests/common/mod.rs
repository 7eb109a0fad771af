//! What the kernel tests share: a device with typed buffers.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test file uses a part")]

use std::sync::Arc;

use ptx_emulator::{Config, Device, DevicePtr, Error, Launch, LaunchStats, Module, Param};

/// The PTX of one source in `tests/kernels`.
macro_rules! kernels {
    ($name:literal) => {
        ptx_emulator::Module::parse(include_str!(concat!("kernels/", $name, ".ptx"))).unwrap()
    };
}
pub(crate) use kernels;

pub struct Gpu {
    pub device: Device,
    module: Arc<Module>,
}

impl Gpu {
    pub fn new(module: Module) -> Self {
        Self::with(module, Config::default())
    }

    pub fn with(module: Module, config: Config) -> Self {
        Self { device: Device::new(config), module: Arc::new(module) }
    }

    /// With a module that other tests use too.
    pub fn of(module: &Arc<Module>, config: Config) -> Self {
        Self { device: Device::new(config), module: Arc::clone(module) }
    }

    /// A poisoned buffer for `count` values of four bytes.
    pub fn empty(&mut self, count: usize) -> DevicePtr {
        self.device.alloc(4 * count)
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> DevicePtr {
        let pointer = self.device.alloc(bytes.len());
        self.device.write(pointer, bytes).unwrap();
        pointer
    }

    pub fn floats(&mut self, values: &[f32]) -> DevicePtr {
        self.bytes(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn words(&mut self, values: &[u32]) -> DevicePtr {
        self.bytes(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn halves(&mut self, values: &[u16]) -> DevicePtr {
        self.bytes(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn try_run(
        &mut self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        params: &[Param],
    ) -> Result<LaunchStats, Error> {
        self.device.launch(&self.module, entry, Launch { grid, block, shared_bytes: 0, params })
    }

    pub fn try_run_shared(
        &mut self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        params: &[Param],
    ) -> Result<LaunchStats, Error> {
        self.device.launch(&self.module, entry, Launch { grid, block, shared_bytes, params })
    }

    /// One-dimensional launch that must succeed.
    pub fn run(&mut self, entry: &str, grid: u32, block: u32, params: &[Param]) -> LaunchStats {
        self.try_run(entry, [grid, 1, 1], [block, 1, 1], params).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn read_words(&self, pointer: DevicePtr, count: usize) -> Vec<u32> {
        let bytes = self.device.read(pointer, 4 * count).unwrap();
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn read_floats(&self, pointer: DevicePtr, count: usize) -> Vec<f32> {
        self.read_words(pointer, count).into_iter().map(f32::from_bits).collect()
    }

    pub fn read_u64(&self, pointer: DevicePtr, count: usize) -> Vec<u64> {
        let bytes = self.device.read(pointer, 8 * count).unwrap();
        bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// Reproducible values in [-1, 1).
pub fn noise(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|i| {
            let mut z = (i ^ seed.rotate_left(16)).wrapping_mul(0x9e37_79b9).wrapping_add(seed);
            z = (z ^ z >> 16).wrapping_mul(0x85eb_ca6b);
            z ^= z >> 13;
            (z >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A struct parameter of 32-bit fields.
pub fn fields(words: &[u32]) -> Param {
    Param::bytes(words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>())
}

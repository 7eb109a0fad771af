//! The host's side: memory and launches.

use std::collections::HashMap;

use crate::exec::{self, Job};
use crate::fault::Error;
use crate::memory::Global;
use crate::module::Module;

/// How a device behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Decides the order of blocks and warps. Results of a correct kernel do not depend on it.
    pub seed: u64,
    /// Host threads that run blocks; 0 for as many as there are processors. Results do not depend on it.
    pub threads: usize,
    /// Report blocks of one launch that overwrite or read what another of them wrote.
    pub check_blocks: bool,
    /// Warp instructions that a block may execute before it counts as an endless loop.
    pub instruction_limit: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { seed: 0, threads: 0, check_blocks: true, instruction_limit: 1 << 34 }
    }
}

/// An address in the memory of a [`Device`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// One kernel parameter, as its bytes in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param(Vec<u8>);

impl Param {
    /// A struct passed by value: its bytes, padding included.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

impl From<[u8; 128]> for Param {
    /// An encoded tensor map.
    fn from(map: [u8; 128]) -> Self {
        Self(map.to_vec())
    }
}

impl From<DevicePtr> for Param {
    fn from(pointer: DevicePtr) -> Self {
        Self(pointer.0.to_le_bytes().to_vec())
    }
}

impl From<u32> for Param {
    fn from(value: u32) -> Self {
        Self(value.to_le_bytes().to_vec())
    }
}

impl From<f32> for Param {
    fn from(value: f32) -> Self {
        Self(value.to_le_bytes().to_vec())
    }
}

impl From<u64> for Param {
    fn from(value: u64) -> Self {
        Self(value.to_le_bytes().to_vec())
    }
}

/// Size and arguments of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Blocks per dimension.
    pub grid: [u32; 3],
    /// Threads per dimension of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// One for each parameter of the entry, in order.
    pub params: &'a [Param],
}

/// What a launch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchStats {
    /// Blocks that ran.
    pub blocks: u64,
    /// Instructions executed, counted once per warp.
    pub warp_instructions: u64,
}

/// An emulated GPU: memory, and a place to run kernels.
#[derive(Debug, Default)]
pub struct Device {
    config: Config,
    global: Global,
    /// Addresses of module variables, by module.
    modules: HashMap<u64, Vec<u64>>,
    launches: u64,
}

fn invalid<T>(result: Result<T, String>) -> Result<T, Error> {
    result.map_err(Error::Invalid)
}

impl Device {
    /// A device without any memory in use.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Allocates `bytes` bytes, all poison: reading before writing is a fault. The address is a multiple of 256.
    pub fn alloc(&mut self, bytes: usize) -> DevicePtr {
        DevicePtr(self.global.allocate(bytes, false))
    }

    /// Frees what [`Device::alloc`] returned.
    ///
    /// # Errors
    /// The pointer is not the start of an allocation.
    pub fn free(&mut self, pointer: DevicePtr) -> Result<(), Error> {
        invalid(self.global.free(pointer.0))
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn write(&mut self, pointer: DevicePtr, bytes: &[u8]) -> Result<(), Error> {
        invalid(self.global.write(pointer.0, bytes))
    }

    /// Copies `len` bytes from the device.
    ///
    /// # Errors
    /// The range is not inside one allocation, or holds a byte that was never written.
    pub fn read(&self, pointer: DevicePtr, len: usize) -> Result<Vec<u8>, Error> {
        invalid(self.global.read(pointer.0, len))
    }

    /// Sets `len` bytes to `value`.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn fill(&mut self, pointer: DevicePtr, len: usize, value: u8) -> Result<(), Error> {
        invalid(self.global.fill(pointer.0, len, value))
    }

    /// Declares `len` bytes written, whatever they hold.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn mark_initialised(&mut self, pointer: DevicePtr, len: usize) -> Result<(), Error> {
        invalid(self.global.mark(pointer.0, len, true))
    }

    /// Makes `len` bytes poison again, as a buffer from a pool is.
    ///
    /// # Errors
    /// The range is not inside one allocation.
    pub fn poison(&mut self, pointer: DevicePtr, len: usize) -> Result<(), Error> {
        invalid(self.global.mark(pointer.0, len, false))
    }

    /// Address and size of a `.global` or `.const` variable of a module.
    pub fn variable(&mut self, module: &Module, name: &str) -> Option<(DevicePtr, usize)> {
        let index = module.variables.iter().position(|v| v.name == name && v.is_placed)?;
        self.place_variables(module);
        Some((DevicePtr(self.modules[&module.id][index]), module.variables[index].size))
    }

    fn place_variables(&mut self, module: &Module) {
        if self.modules.contains_key(&module.id) {
            return;
        }
        let mut addresses = Vec::with_capacity(module.variables.len());
        for variable in &module.variables {
            if !variable.is_placed {
                addresses.push(0);
                continue;
            }
            let address = self.global.allocate(variable.size, variable.is_const);
            // Variables without an initialiser are zero, as CUDA promises.
            let mut bytes = variable.init.clone();
            bytes.resize(variable.size, 0);
            self.global.write(address, &bytes).expect("the variable was just allocated");
            addresses.push(address);
        }
        self.modules.insert(module.id, addresses);
    }

    /// Runs an entry to its end.
    ///
    /// # Errors
    /// [`Error::Fault`] when the kernel breaks a rule, [`Error::Invalid`] when the launch itself is wrong: no such
    /// entry, parameters that do not match, sizes beyond the limits of the target.
    #[expect(clippy::too_many_lines, reason = "one check of the launch after the other")]
    pub fn launch(
        &mut self,
        module: &Module,
        entry: &str,
        launch: Launch<'_>,
    ) -> Result<LaunchStats, Error> {
        let Some(kernel) = module.kernels.get(entry) else {
            let known = module.entries().join(", ");
            return Err(Error::Invalid(format!(
                "the module has no entry `{entry}`; it has {known}"
            )));
        };
        let params = pack_params(entry, &kernel.params, kernel.param_bytes, launch.params)?;
        let refuse =
            |message: String| Err(Error::Invalid(format!("launch of `{entry}`: {message}")));
        let Launch { grid, block, shared_bytes, .. } = launch;
        let threads =
            block.iter().try_fold(1u32, |product, d| product.checked_mul(*d)).unwrap_or(u32::MAX);
        if threads == 0 || threads > 1024 || block[2] > 64 {
            return refuse(format!(
                "a block of {block:?} threads; 1 to 1024 are possible, at most 64 in z"
            ));
        }
        if grid.contains(&0) || grid[1] > 65_535 || grid[2] > 65_535 || grid[0] > i32::MAX as u32 {
            return refuse(format!(
                "a grid of {grid:?} blocks; 1 to 2^31-1 are possible in x, 65535 in y and z"
            ));
        }
        let blocks = grid.iter().map(|d| u64::from(*d)).product::<u64>();
        if blocks > u64::from(u32::MAX) {
            return refuse(format!("{blocks} blocks are more than the emulator counts"));
        }
        if let Some(required) = kernel.required_threads.filter(|r| *r != block) {
            return refuse(format!(
                "a block of {block:?} threads where the kernel requires {required:?}"
            ));
        }
        if let Some(most) = kernel.max_threads.filter(|m| threads > *m) {
            return refuse(format!("{threads} threads per block where the kernel allows {most}"));
        }
        let limit = shared_limit(&module.target);
        let shared = u64::from(kernel.static_bytes) + u64::from(shared_bytes);
        if shared > u64::from(limit) {
            return refuse(format!(
                "{shared} bytes of shared memory; {} has {limit} per block",
                module.target
            ));
        }
        self.place_variables(module);
        self.launches += 1;
        let job = Job {
            module,
            kernel,
            global: &self.global,
            variables: &self.modules[&module.id],
            params: &params,
            grid,
            block_dim: block,
            threads,
            dynamic_bytes: shared_bytes,
            seed: self.config.seed,
            // Tags hold 32 bits of it; 0 means "never".
            launch: self.launches & 0xffff_ffff,
            check_blocks: self.config.check_blocks && blocks > 1 && !kernel.has_global_atomics,
            instruction_limit: self.config.instruction_limit,
        };
        let workers = match self.config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let result = exec::run(&job, workers);
        self.global.settle();
        let warp_instructions = result.map_err(Error::Fault)?;
        Ok(LaunchStats { blocks, warp_instructions })
    }
}

fn pack_params(
    entry: &str,
    places: &[(u32, u32)],
    bytes: u32,
    params: &[Param],
) -> Result<Vec<u8>, Error> {
    if places.len() != params.len() {
        let message =
            format!("`{entry}` has {} parameters, the launch gives {}", places.len(), params.len());
        return Err(Error::Invalid(message));
    }
    let mut packed = vec![0; bytes as usize];
    for (index, ((offset, size), Param(value))) in places.iter().zip(params).enumerate() {
        if value.len() != *size as usize {
            let message = format!(
                "parameter {index} of `{entry}` has {size} bytes, the launch gives {}",
                value.len()
            );
            return Err(Error::Invalid(message));
        }
        packed[*offset as usize..*offset as usize + value.len()].copy_from_slice(value);
    }
    Ok(packed)
}

/// Shared memory per block of a target (CUDA programming guide, compute capabilities).
fn shared_limit(target: &str) -> u32 {
    let digits: String = target.chars().filter(char::is_ascii_digit).collect();
    let kib = match digits.parse().unwrap_or(0) {
        80 | 87 => 163,
        86 | 89 | 120 | 121 => 99,
        90..=119 => 227,
        70..=79 => 64,
        _ => 99,
    };
    kib * 1024
}

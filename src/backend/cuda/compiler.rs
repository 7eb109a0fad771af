//! From a kernel with its constants to an image, by way of the cache; and what the image costs.

use super::cache::Cache;
use super::nvrtc::{Image, Nvrtc, Output, warnings};
use crate::error::Result;
use crate::kernels::{KernelSpec, cuda_source};

/// NVRTC with the cache of what it made.
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Cache,
}

impl Compiler {
    /// Finds NVRTC, of at most version `max_major`.
    ///
    /// # Errors
    /// `Error::Run` that says how to install it.
    pub fn find(max_major: u32) -> Result<Self> {
        Ok(Self { nvrtc: Nvrtc::find(max_major)?, cache: Cache::of_user() })
    }

    /// The compiler behind the cache.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// The translation unit of `spec` with `constants`, compiled for `arch`.
    ///
    /// Warnings of a first compilation go to stderr: the kernels are meant to have none, but a
    /// later NVRTC may find some.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn compile(
        &self,
        spec: &KernelSpec,
        constants: &[(&str, u32)],
        arch: &str,
        output: Output,
    ) -> Result<Image> {
        let source = cuda_source(spec.text, constants);
        let (major, minor) = self.nvrtc.version();
        let options = Nvrtc::options(arch, output).join(" ");
        let key = format!("NVRTC {major}.{minor} {output:?} {options}\n{source}");
        if let Some(image) = self.cache.get(&key) {
            return Ok(image);
        }
        let image = self.nvrtc.compile(&source, spec.name, arch, output)?;
        for warning in warnings(&image.log) {
            eprintln!("{warning}");
        }
        self.cache.put(&key, &image);
        Ok(image)
    }
}

/// What a kernel takes of a multiprocessor, as the assembler reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of static shared memory per block.
    pub shared_bytes: u32,
    /// Bytes per thread that did not fit into registers, written and read back.
    pub spill_bytes: u32,
}

/// The resources of `kernel` from the log of a cubin's compilation; `None` where it says nothing.
pub fn resources(log: &str, kernel: &str) -> Option<Resources> {
    let entry = format!("Compiling entry function '{kernel}'");
    let mut lines = log.lines().skip_while(|line| !line.contains(&entry)).skip(1);
    let mut found = Resources::default();
    lines.by_ref().take_while(|line| !line.contains("Compiling entry function")).for_each(|line| {
        for part in line.split([',', ':']) {
            let mut words = part.split_whitespace().filter(|&word| word != "Used");
            let Some(count) = words.next().and_then(|word| word.parse::<u32>().ok()) else {
                continue;
            };
            match words.collect::<Vec<_>>()[..] {
                ["registers"] => found.registers = count,
                ["bytes", "smem"] => found.shared_bytes = count,
                ["bytes", "spill", ..] => found.spill_bytes += count,
                _ => {}
            }
        }
    });
    (found.registers > 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gives_each_kernel_its_own_resources() {
        let log = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8704 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 400 bytes cmem[0]
";
        let first = Resources { registers: 255, shared_bytes: 8704, spill_bytes: 20 };
        assert_eq!(resources(log, "first"), Some(first));
        let second = Resources { registers: 10, ..Resources::default() };
        assert_eq!(resources(log, "second"), Some(second));
        assert_eq!(resources(log, "third"), None);
    }
}

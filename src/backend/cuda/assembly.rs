//! What the kernels cost once they are machine code: registers, shared memory, spills.

use super::compiler::Compiler;
use super::nvrtc::{Image, Output, warnings};
use crate::backend::Capabilities;
use crate::backend::dry::Launch;
use crate::error::{Error, Result};
use rayon::prelude::*;

/// A version of a kernel as machine code.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The kernel.
    pub kernel: &'static str,
    /// The file it is in, without its extension.
    pub stem: &'static str,
    /// Its compile-time constants.
    pub constants: Vec<(&'static str, u32)>,
    /// What it takes.
    pub resources: Resources,
    /// Lines in which the compiler complains.
    pub warnings: Vec<String>,
}

/// A GPU of compute capability `capability` (times ten), as ops that choose a version see it.
pub fn stand_in(capability: u32) -> Capabilities {
    Capabilities {
        description: format!("a stand-in for sm_{capability}"),
        fast_bf16: true,
        many_blocks: true,
        compute_capability: Some(capability),
        multiprocessors: 132,
        max_binding_bytes: u32::MAX as usize,
        arena: false,
        guard_bytes: 0,
        memory_bytes: None,
    }
}

/// Compiles each of `launches` to machine code for `arch` (`sm_90a`).
///
/// # Errors
/// `Error::Device` with the compiler's message where one does not compile.
pub fn assemble(compiler: &Compiler, launches: &[Launch], arch: &str) -> Result<Vec<Assembled>> {
    let compile = |unit: &Unit<'_>| {
        let first = unit.launches[0].spec;
        let image = compiler.compile(first, &unit.constants, arch, Output::Cubin)?;
        unit.launches.iter().map(|launch| assembled(launch, &image)).collect::<Result<Vec<_>>>()
    };
    let parts: Vec<_> = units(launches).par_iter().map(compile).collect::<Result<_>>()?;
    Ok(parts.concat())
}

/// A translation unit for several launches of one file, whose constants do not contradict one
/// another: a kernel is the same whatever the constants that it does not use, and a file takes as
/// long to compile for one of its kernels as for all.
struct Unit<'a> {
    constants: Vec<(&'static str, u32)>,
    launches: Vec<&'a Launch>,
}

impl Unit<'_> {
    fn value(&self, name: &str) -> Option<u32> {
        self.constants.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn takes(&self, launch: &Launch) -> bool {
        let agrees = |&(name, wanted)| self.value(name).is_none_or(|known| known == wanted);
        std::ptr::eq(self.launches[0].spec.text, launch.spec.text)
            && launch.constants.iter().all(agrees)
    }
}

fn units(launches: &[Launch]) -> Vec<Unit<'_>> {
    let mut units: Vec<Unit<'_>> = Vec::new();
    for launch in launches {
        let Some(unit) = units.iter_mut().find(|unit| unit.takes(launch)) else {
            units.push(Unit { constants: launch.constants.clone(), launches: vec![launch] });
            continue;
        };
        for &(name, value) in &launch.constants {
            if unit.value(name).is_none() {
                unit.constants.push((name, value));
            }
        }
        unit.launches.push(launch);
    }
    units
}

fn assembled(launch: &Launch, image: &Image) -> Result<Assembled> {
    let spec = launch.spec;
    let resources = resources(&image.log, spec.name).ok_or_else(|| {
        Error::internal(spec.name, format!("the assembler says nothing of it:\n{}", image.log))
    })?;
    Ok(Assembled {
        kernel: spec.name,
        stem: spec.text.stem,
        constants: launch.constants.clone(),
        resources,
        warnings: warnings(&image.log).into_iter().map(str::to_owned).collect(),
    })
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
fn resources(log: &str, kernel: &str) -> Option<Resources> {
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

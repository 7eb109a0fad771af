//! Every CUDA kernel, as the case table launches it, is machine code for the GPUs in use: Ampere,
//! Hopper, Blackwell. The compiler has nothing to complain of, and the kernels where the time goes
//! keep everything in registers.
#![cfg(feature = "cudarc")]

use tunesmith::Result;
use tunesmith::backend::cuda::Compiler;
use tunesmith::conformance::{self, Assembled, assemble, stand_in};

/// Files whose kernels must not spill.
fn is_hot(stem: &str) -> bool {
    ["matmul", "nf4_matmul", "attention"].iter().any(|hot| stem.starts_with(hot))
}

fn complaint(arch: &str, found: &Assembled) -> Option<String> {
    let place = format!("{arch}: {} with {:?}", found.kernel, found.constants);
    if !found.warnings.is_empty() {
        return Some(format!("{place}: {}", found.warnings.join("\n")));
    }
    let spills = found.resources.spill_bytes;
    (is_hot(found.stem) && spills > 0).then(|| format!("{place} spills {spills} bytes per thread"))
}

#[test]
fn every_kernel_is_machine_code_for_every_architecture() -> Result<()> {
    let compiler = match Compiler::find(u32::MAX) {
        Ok(compiler) => compiler,
        Err(error) if std::env::var_os("TUNESMITH_REQUIRE_ALL").is_some() => return Err(error),
        Err(error) => {
            eprintln!("skipped: {error}");
            return Ok(());
        }
    };
    let mut complaints = Vec::new();
    for (capability, arch) in [(80, "sm_80"), (90, "sm_90a"), (120, "sm_120")] {
        let launches = conformance::launches(stand_in(capability))?;
        for spec in conformance::kernels() {
            if !launches.iter().any(|launch| launch.spec.name == spec.name) && capability == 90 {
                complaints.push(format!("no case launches {}", spec.name));
            }
        }
        let assembled = assemble(&compiler, &launches, arch)?;
        complaints.extend(assembled.iter().filter_map(|found| complaint(arch, found)));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

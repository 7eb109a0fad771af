//! Prints what each CUDA kernel takes per architecture: registers and spilled bytes of a thread,
//! static shared memory of a block; the most over the versions that the case table launches.
//!
//! `cargo run --release --example kernel_resources`; needs NVRTC (tools/install-nvrtc), no GPU.

use std::collections::BTreeMap;
use tunesmith::Result;
use tunesmith::backend::cuda::Compiler;
use tunesmith::conformance::{self, Resources, assemble, stand_in};

const TARGETS: [(u32, &str); 3] = [(80, "sm_80"), (90, "sm_90a"), (120, "sm_120")];

/// Of each target: the number of versions, and the most that one of them takes.
type Row = [Option<(usize, Resources)>; TARGETS.len()];

fn main() -> Result<()> {
    let compiler = Compiler::find(u32::MAX)?;
    let mut table: BTreeMap<(&str, &str), Row> = BTreeMap::new();
    for (column, (capability, arch)) in TARGETS.into_iter().enumerate() {
        let launches = conformance::launches(stand_in(capability))?;
        for found in assemble(&compiler, &launches, arch)? {
            let row = table.entry((found.stem, found.kernel)).or_default();
            let (versions, most) = row[column].get_or_insert_default();
            *versions += 1;
            most.registers = most.registers.max(found.resources.registers);
            most.shared_bytes = most.shared_bytes.max(found.resources.shared_bytes);
            most.spill_bytes = most.spill_bytes.max(found.resources.spill_bytes);
        }
    }
    println!("versions: registers / shared bytes / spilled bytes");
    print!("{:<28}", "kernel");
    for (_, arch) in TARGETS {
        print!("{arch:>24}");
    }
    println!();
    for ((_, kernel), row) in &table {
        print!("{kernel:<28}");
        for cell in row {
            let text = cell.map_or("-".to_owned(), |(versions, most)| {
                let Resources { registers, shared_bytes, spill_bytes } = most;
                format!("{versions}: {registers} / {shared_bytes} / {spill_bytes}")
            });
            print!("{text:>24}");
        }
        println!();
    }
    Ok(())
}

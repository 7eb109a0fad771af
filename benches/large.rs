//! The kernels of a training step at the sizes of an 8B model, on a GPU.
//!
//! `cargo bench --bench large -- --device cuda`
//!
//! Prints a JSON line for each, under the names of `tools/bench_torch.py`, which times NVIDIA's own. A
//! kernel is launched many times between two waits for the device, each time after a fill that flushes
//! the cache, whose time is taken off; medians. Inputs are random, and made on the device.

use std::time::Instant;

use clap::Parser;
use serde_json::json;
use tunesmith::backend::DeviceSpec;
use tunesmith::conformance::{self, LargeCase};
use tunesmith::ops;
use tunesmith::{DType, Device, Error, Result, Tape, Tensor};

/// Time the kernels of an 8B model's training step
#[derive(Parser)]
#[command(name = "large")]
struct Options {
    /// Where to compute
    #[arg(long, default_value = "cuda")]
    device: DeviceSpec,
    /// Only these ops
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// Batches of launches that are timed
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..))]
    repeats: u64,
    /// Divides the sizes, to try it out
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    shrink: u32,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// More than the largest GPU's cache.
const CACHE_BYTES: usize = 256 << 20;
/// FLOPs for each byte above which arithmetic bounds an op on tensor cores.
const ARITHMETIC_INTENSITY: f64 = 100.0;
/// A batch takes about so long.
const BATCH_SECONDS: f64 = 0.02;

fn main() -> Result<()> {
    let options = Options::parse();
    let device = options.device.open(&|message| eprintln!("{message}"))?;
    eprintln!("device: {}", device.capabilities().description);
    let by = options.shrink as usize;
    let clock = Clock::new(&device, options.repeats, CACHE_BYTES / (by * by))?;
    let mut failed = false;
    for large in conformance::large_cases(by) {
        let case = &large.case;
        if !options.only.is_empty() && !options.only.iter().any(|op| op == case.op) {
            continue;
        }
        if let Err(error) = measure(&clock, &large) {
            eprintln!("{} {}: {error}", case.op, case.variant);
            failed |= !matches!(error, Error::Unsupported { .. });
        }
    }
    match failed {
        true => Err(Error::run("not every case could be timed")),
        false => Ok(()),
    }
}

fn measure(clock: &Clock, large: &LargeCase) -> Result<()> {
    let LargeCase { case, backward, besides } = large;
    let inputs = conformance::inputs_for_timing(case, clock.device)?;
    let besides = match besides {
        Some(besides) => clock.seconds(|| besides(&Tape::inference(), &inputs).map(|_| ()))?,
        None => 0.0,
    };
    let forward = clock.seconds(|| (case.run)(&Tape::recording(), &inputs).map(|_| ()))?;
    let Some(work) = backward else {
        print(case, "", forward - besides, 1.0);
        return Ok(());
    };
    print(case, " forward", forward - besides, 1.0);
    let y = (case.run)(&Tape::inference(), &inputs)?.swap_remove(0);
    ops::random_normal(&y, 1.0, 1, 0)?;
    let both = clock.seconds(|| {
        let tape = Tape::recording();
        let outputs = (case.run)(&tape, &inputs)?;
        tape.backward(&outputs[0], y.clone())?;
        inputs.iter().filter_map(Tensor::slot).for_each(|slot| drop(slot.take()));
        Ok(())
    })?;
    print(case, " backward", both - forward, *work);
    Ok(())
}

/// A line for a case whose work is `work` times that of its forward pass.
fn print(case: &conformance::Case, pass: &str, seconds: f64, work: f64) {
    let (bytes, flops) = case.cost;
    let (amount, unit) =
        if flops > ARITHMETIC_INTENSITY * bytes { (flops, "FLOP") } else { (bytes, "B") };
    let op = format!("{}{pass}", case.op);
    let per_second = work * amount / seconds;
    let line = json!({
        "op": op, "case": case.variant, "seconds": seconds, "per_second": per_second, "unit": unit,
    });
    println!("{line}");
}

/// Times work on a device.
struct Clock<'a> {
    device: &'a Device,
    repeats: u64,
    cache: Tensor,
    flush_seconds: f64,
}

impl<'a> Clock<'a> {
    fn new(device: &'a Device, repeats: u64, cache_bytes: usize) -> Result<Self> {
        let cache = Tensor::empty(device, &[(cache_bytes / 4).max(1)], DType::F32)?;
        let mut clock = Self { device, repeats, cache, flush_seconds: 0.0 };
        clock.flush_seconds = clock.seconds(|| Ok(()))?;
        Ok(clock)
    }

    /// Seconds that `work` takes: the median of some batches. The first run, in which kernels are
    /// compiled, does not count.
    fn seconds(&self, work: impl Fn() -> Result<()>) -> Result<f64> {
        self.batch(1, &work)?;
        let count = (BATCH_SECONDS / self.batch(1, &work)?).ceil().clamp(1.0, 1000.0) as u32;
        let mut found = Vec::new();
        for _ in 0..self.repeats {
            found.push(self.batch(count, &work)? / f64::from(count) - self.flush_seconds);
        }
        found.sort_by(f64::total_cmp);
        // Of work too small to tell, the difference may be none.
        Ok(found[found.len() / 2].max(1e-9))
    }

    fn batch(&self, count: u32, work: &impl Fn() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..count {
            ops::fill(&self.cache, 0.0)?;
            work()?;
        }
        pollster::block_on(self.device.synchronize())?;
        Ok(start.elapsed().as_secs_f64())
    }
}

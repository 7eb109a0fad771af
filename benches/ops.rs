//! Every op at training shapes, forward and forward with backward.
//!
//! `cargo bench --bench ops`; the device is `TUNESMITH_BENCH_DEVICE` (`cpu`, `wgpu`, `cuda`; the CPU
//! where it is not set). Only the last iteration of a sample waits for the device. Throughput is in
//! FLOPs where they bound the op ("elem/s" is FLOP/s then), else in bytes moved, both of the forward
//! pass. Sizes are those of a 135M model; `benches/large.rs` has those of an 8B one.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use tunesmith::conformance::{self, Case};
use tunesmith::{DType, Device, Error, Result, Tape, Tensor};

/// FLOPs for each byte above which an op is taken to be bound by arithmetic.
const ARITHMETIC_INTENSITY: f64 = 8.0;

fn main() -> Result<()> {
    let name = std::env::var("TUNESMITH_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = Device::open(&name)?;
    eprintln!("device: {}", device.capabilities().description);
    let mut criterion = Criterion::default().configure_from_args();
    for dtype in [DType::F32, DType::BF16] {
        for case in conformance::bench_cases(dtype) {
            bench(&mut criterion, &device, &case)?;
        }
    }
    criterion.final_summary();
    Ok(())
}

fn bench(criterion: &mut Criterion, device: &Device, case: &Case) -> Result<()> {
    let inputs = conformance::inputs(case, device)?;
    // Once outside the clock: pipelines are compiled, and what fails does so with its message.
    let dout = match backward(case, device, &inputs, None) {
        Ok(dout) => dout,
        Err(Error::Unsupported { op, backend, why }) => {
            eprintln!("{op} on {backend}: {why}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (bytes, flops) = case.cost;
    let mut group = criterion.benchmark_group(case.op);
    group.sample_size(10);
    group.throughput(match flops > ARITHMETIC_INTENSITY * bytes {
        true => Throughput::Elements(flops as u64),
        false => Throughput::Bytes(bytes as u64),
    });
    let fail = |error: Error| panic!("{} {}: {error}", case.op, case.variant);
    group.bench_function(format!("forward {}", case.variant), |bencher| {
        bencher.iter_custom(|count| {
            time(device, count, || forward(case, &inputs)).unwrap_or_else(fail)
        });
    });
    if let Some(dout) = dout {
        group.bench_function(format!("forward+backward {}", case.variant), |bencher| {
            bencher.iter_custom(|count| {
                time(device, count, || backward(case, device, &inputs, Some(&dout)).map(|_| ()))
                    .unwrap_or_else(fail)
            });
        });
    }
    group.finish();
    Ok(())
}

/// Seconds of `count` runs, of which only the last waits for the device.
fn time(device: &Device, count: u64, work: impl Fn() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..count {
        work()?;
    }
    pollster::block_on(device.synchronize())?;
    Ok(start.elapsed())
}

fn forward(case: &Case, inputs: &[Tensor]) -> Result<()> {
    black_box((case.run)(&Tape::inference(), inputs)?);
    Ok(())
}

/// Forward and backward; returns the gradient that the backward pass began with, or `None` where
/// the case asks for no gradients.
fn backward(
    case: &Case,
    device: &Device,
    inputs: &[Tensor],
    dout: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let tape = Tape::recording();
    let outputs = (case.run)(&tape, inputs)?;
    let mut used = None;
    if inputs.iter().any(Tensor::needs_grad) {
        let out = &outputs[0];
        let dout = match dout {
            Some(dout) => dout.clone(),
            None => Tensor::from_f32(device, out.shape(), out.dtype(), &vec![0.01; out.len()])?,
        };
        tape.backward(out, dout.clone())?;
        for slot in inputs.iter().filter_map(Tensor::slot) {
            drop(slot.take());
        }
        used = Some(dout);
    }
    Ok(used)
}

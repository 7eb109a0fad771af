//! What a user is told when a device or its memory is not what the run needs, or a kernel is wrong, and
//! the exit status that goes with it: 1 where the run failed, 2 where the plan cannot fit.
#![cfg(feature = "cli")]

mod common;

use clap::Parser;
use std::path::Path;
use tunesmith::cli::{TrainOptions, VerifyOptions};
use tunesmith::{Result, programs};

/// Asserts that `result` is an error with this exit status, whose message has these parts.
fn assert_error<T>(result: Result<T>, status: i32, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, expected one with {parts:?}") };
    assert_eq!(error.exit_status(), status, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in: {error}");
    }
}

fn train(output: &Path, setting: &str) -> Result<()> {
    let output = format!("output_dir={}", output.display());
    let arguments = ["train", "examples/quickstart/quickstart.toml", "--quiet"];
    let settings = ["--set", setting, "--set", &output];
    programs::train::run(TrainOptions::parse_from(arguments.iter().chain(&settings)))
}

#[test]
fn a_run_that_cannot_fit_is_refused_with_a_table_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("run");
    let parts = [
        "1.0 MiB may be used",
        "weights",
        "optimizer moments",
        "gradients, activations",
        "peak",
        "Lower per_device_train_batch_size or max_length",
    ];
    assert_error(train(&output, "max_memory=1MiB"), 2, &parts);
    assert!(!output.exists());
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_lists_those_that_are() {
    let dir = tempfile::tempdir().unwrap();
    for device in ["cuda:999", "wgpu:999"] {
        let verify =
            programs::verify::run(VerifyOptions::parse_from(["verify", "--device", device]));
        assert_error(verify, 1, &[device, "cannot be used", "devices here: cpu"]);
        let trained = train(&dir.path().join("run"), &format!("device={device}"));
        assert_error(trained, 1, &[device, "cannot be used", "devices here: cpu"]);
    }
}

/// The error of adding two tensors on a device that reads `text` in place of the kernel's file.
#[cfg(any(feature = "cudarc", feature = "wgpu"))]
fn add(
    open: impl FnOnce(tunesmith::kernels::Texts) -> Result<tunesmith::Device>,
    path: &str,
    from: &str,
    to: &str,
) -> Result<()> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{path} has no {from}");
    let device = open(tunesmith::kernels::Texts::replacing(path, text.replace(from, to)))?;
    let cases = tunesmith::conformance::cases();
    let case = cases.iter().find(|case| case.op == "add").unwrap();
    tunesmith::conformance::verify(case, &device).map(|_| ())
}

#[cfg(feature = "cuda-emulated")]
#[test]
fn a_cuda_kernel_that_fails_is_named_with_its_line() {
    use tunesmith::backend::cuda::{EmulatedOptions, open_emulated_reading};
    if common::cuda_emulated(80).is_none() {
        return;
    }
    let open = |texts| open_emulated_reading(texts, EmulatedOptions::default());
    let path = "kernels-cuda/add.cu";
    let broken = add(open, path, "load<DT_A>(a, i)", "load<DT_A>(aa, i)");
    assert_error(broken, 1, &["kernel add", "kernels-cuda/add.cu(", "\"aa\" is undefined"]);
    let outside = add(open, path, "load<DT_A>(a, i)", "load<DT_A>(a, i + params.count)");
    assert_error(
        outside,
        1,
        &["kernel `add`", "thread (0,0,0)", "kernels-cuda/add.cu:", "outside"],
    );
}

#[cfg(feature = "wgpu")]
#[test]
fn a_wgsl_kernel_that_does_not_compile_is_named_with_its_line() {
    use tunesmith::backend::wgpu::{Options, Wgpu};
    let open = |texts| {
        let device = Wgpu::open(0, Options { strict: true })?.reading(texts);
        Ok(tunesmith::Device::new(device))
    };
    let broken = add(open, "kernels-wgsl/add.wgsl", "unpack(a[", "unpack(aa[");
    assert_error(broken, 1, &["kernels-wgsl/add.wgsl", "kernel add ", "aa", ":"]);
}

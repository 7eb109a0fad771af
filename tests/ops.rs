//! Every case of the table, on every backend that is here, against the f64 reference.

mod common;

use tunesmith::{Device, conformance};

fn check_all(device: &Device) {
    check(device, conformance::cases());
}

fn check(device: &Device, cases: Vec<conformance::Case>) {
    let mut failures = Vec::new();
    for case in cases {
        let label = format!("{} {}", case.op, case.variant);
        match conformance::verify(&case, device) {
            Ok(comparisons) => {
                for found in comparisons.iter().filter(|found| !found.passed()) {
                    failures.push(format!("{label}: {found:?}"));
                }
            }
            Err(error) => failures.push(format!("{label}: {error}")),
        }
    }
    let device = &device.capabilities().description;
    assert!(failures.is_empty(), "on {device}:\n{}", failures.join("\n"));
}

#[test]
fn cpu_agrees_with_the_reference() {
    check_all(&common::cpu());
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_agrees_with_the_reference() {
    check_all(&common::wgpu());
}

/// The CUDA kernels, on the emulator: their results, and every access on the way.
#[cfg(feature = "cuda-emulated")]
#[test]
fn cuda_emulated_agrees_with_the_reference() {
    if let Some(device) = common::cuda_emulated(80) {
        check_all(&device);
    }
}

/// The kernels that only Hopper has, in the cases that launch one there.
#[cfg(feature = "cuda-emulated")]
#[test]
fn cuda_emulated_hopper_agrees_with_the_reference() -> tunesmith::Result<()> {
    use tunesmith::conformance::stand_in;
    use tunesmith::kernels::Requires;
    let mut cases = Vec::new();
    for case in conformance::cases() {
        let launches = conformance::launches_of(std::slice::from_ref(&case), stand_in(90))?;
        if launches.iter().any(|launch| launch.spec.requires == Requires::Hopper) {
            cases.push(case);
        }
    }
    assert!(!cases.is_empty());
    if let Some(device) = common::cuda_emulated(90) {
        check(&device, cases);
    }
    Ok(())
}

/// The CUDA kernels on a real GPU, where there is one.
#[cfg(feature = "cudarc")]
#[test]
fn cuda_agrees_with_the_reference() {
    if let Some(device) = common::cuda() {
        check_all(&device);
    }
}

/// The program that users run before they trust a device.
#[cfg(all(feature = "cli", feature = "cuda-emulated"))]
#[test]
fn verify_trusts_the_emulated_gpu() -> tunesmith::Result<()> {
    use clap::Parser;
    use tunesmith::cli::VerifyOptions;
    if common::cuda_emulated(80).is_none() {
        return Ok(());
    }
    let arguments = ["verify", "--device", "cuda-emulated", "--quiet"];
    tunesmith::programs::verify::run(VerifyOptions::parse_from(arguments))
}

#[test]
fn backwards_are_the_derivatives() {
    let small = |case: &conformance::Case| {
        let elements: usize =
            case.inputs.iter().map(|input| input.shape.iter().product::<usize>()).sum();
        elements > 0 && elements <= 200 && case.inputs.iter().any(|input| input.grad.is_some())
    };
    let mut failures = Vec::new();
    for case in conformance::cases().iter().filter(|case| small(case)) {
        if let Err(error) = conformance::gradcheck_case(case) {
            failures.push(format!("{} {}: {error}", case.op, case.variant));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

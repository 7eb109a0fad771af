//! What goes wrong on a CUDA device, and how it is told.

use super::*;
use crate::kernels::{Binding, KernelSpec, KernelText, Kind};

static TEXT: KernelText = KernelText {
    stem: "faulty",
    wgsl: None,
    cuda: "struct Params { u32 count; };
extern \"C\" __global__ void __launch_bounds__(32)
one_too_many(const float* x, float* y, Params params) {
    if (threadIdx.x <= params.count) y[threadIdx.x] = x[threadIdx.x];
}
",
    headers: &[],
    constants: &[],
};

static BROKEN: KernelText = KernelText {
    stem: "broken",
    wgsl: None,
    cuda: "\nextern \"C\" __global__ void broken(float* y) { y[0] = z; }\n",
    headers: &[],
    constants: &[],
};

const BINDINGS: &[Binding] = &[Binding::read("x", Kind::F32), Binding::write("y", Kind::F32)];

const fn spec(name: &'static str, text: &'static KernelText, requires: Requires) -> KernelSpec {
    KernelSpec {
        name,
        text,
        bindings: BINDINGS,
        constants: &[],
        block: [32, 1, 1],
        requires,
        reference_f32: |_| {},
        reference_f64: |_| {},
        cpu: |_| {},
    }
}

static OUT_OF_BOUNDS: KernelSpec = spec("one_too_many", &TEXT, Requires::Portable);
static HOPPER_ONLY: KernelSpec = spec("hopper_only", &TEXT, Requires::Hopper);
static NOT_CUDA: KernelSpec = spec("broken", &BROKEN, Requires::Portable);

/// What the programs end with when the run fails.
const RUN_FAILED: i32 = 1;

/// The message of a launch over `count` of 8 elements, or `None` where all went well.
fn run(device: &Device, spec: &'static KernelSpec, count: u32) -> Option<String> {
    let launch = || {
        let x = View::whole(device.alloc(DType::F32, 8)?);
        let y = View::whole(device.alloc(DType::F32, 8)?);
        device.upload(&x, &[1; 32])?;
        KernelCall::new(spec, &[&x, &y]).params(count).launch(device, [1, 1, 1])?;
        pollster::block_on(device.download(&y)).map(|_| ())
    };
    launch().err().map(|error: Error| {
        assert_eq!(error.exit_status(), RUN_FAILED, "{error}");
        error.to_string()
    })
}

#[test]
fn faults_name_kernel_thread_and_line() {
    let device = match open_emulated(EmulatedOptions::default()) {
        Ok(device) => device,
        Err(error) if std::env::var_os("TUNESMITH_REQUIRE_ALL").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    assert_eq!(run(&device, &OUT_OF_BOUNDS, 7), None);
    let fault = run(&device, &OUT_OF_BOUNDS, 8).unwrap();
    for part in
        ["`one_too_many`", "block (0,0,0)", "thread (8,0,0)", "kernels-cuda/faulty.cu:4", "outside"]
    {
        assert!(fault.contains(part), "{part} is not in: {fault}");
    }
    let poison = run(&device, &OUT_OF_BOUNDS, 3).unwrap();
    assert!(poison.contains("written"), "{poison}");
    let unsupported = run(&device, &HOPPER_ONLY, 7).unwrap();
    assert!(unsupported.contains("needs sm_90"), "{unsupported}");
    let compiler = run(&device, &NOT_CUDA, 7).unwrap();
    for part in ["kernel broken", "kernels-cuda/broken.cu(2): error", "\"z\" is undefined"] {
        assert!(compiler.contains(part), "{part} is not in: {compiler}");
    }
    assert_eq!(device.memory().in_use, 0);
}

#[test]
fn a_missing_gpu_is_an_error_with_a_cure() {
    if devices().is_empty() {
        let error = open(0, Options::default()).err().unwrap();
        assert_eq!(error.exit_status(), RUN_FAILED, "{error}");
        let error = error.to_string();
        assert!(error.contains("--device") || error.contains("CUDA_VISIBLE_DEVICES"), "{error}");
    } else {
        let error = open(1000, Options::default()).err().unwrap().to_string();
        assert!(error.contains("there are cuda:0"), "{error}");
    }
}

#[test]
fn a_driver_that_is_too_old_is_named_with_what_is_needed() {
    assert_eq!(gpu::major_version(12_040).unwrap(), 12);
    assert_eq!(gpu::major_version(13_000).unwrap(), 13);
    let error = gpu::major_version(11_080).err().unwrap();
    assert_eq!(error.exit_status(), RUN_FAILED, "{error}");
    for part in ["11.8", "12.0", "nvidia.com/drivers", "--device"] {
        assert!(error.to_string().contains(part), "{part} is not in: {error}");
    }
}

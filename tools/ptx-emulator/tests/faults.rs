//! Deliberate faults: each must be found, at every seed, and reported at the line that says so.

mod common;

use common::{Gpu, kernels, noise};
use ptx_emulator::{Config, Error, Fault, FaultKind, Launch, Module, Param};

const SOURCE: &str = include_str!("kernels/faults.cu");

/// Lines of the source that are marked as the fault of `kernel`.
fn marked_lines(kernel: &str) -> Vec<u32> {
    let marked = SOURCE.lines().enumerate().filter(|(_, line)| {
        line.split_once("FAULT ")
            .is_some_and(|(_, rest)| rest.split([':', ' ']).next() == Some(kernel))
    });
    marked.map(|(index, _)| index as u32 + 1).collect()
}

/// Runs `kernel` with several seeds; all must fault with one of `kinds` at a marked line.
fn expect_fault(
    kernel: &str,
    kinds: &[FaultKind],
    (grid, block, shared_bytes): (u32, u32, u32),
    params: impl Fn(&mut Gpu) -> Vec<Param>,
) -> Fault {
    let lines = marked_lines(kernel);
    assert!(!lines.is_empty(), "no line of the source is marked for `{kernel}`");
    let mut last = None;
    for seed in 0..8 {
        let mut gpu =
            Gpu::with(kernels!("faults"), Config { seed, threads: 1, ..Config::default() });
        let params = params(&mut gpu);
        let result = gpu.try_run_shared(kernel, [grid, 1, 1], [block, 1, 1], shared_bytes, &params);
        let Err(Error::Fault(fault)) = result else { panic!("{kernel}, seed {seed}: {result:?}") };
        assert!(kinds.contains(&fault.kind), "{fault}");
        assert!(
            lines.iter().any(|l| fault.at.is_on_line(*l)),
            "expected one of {lines:?}: {fault}"
        );
        if let Some(other) = &fault.other {
            assert!(
                lines.iter().any(|l| other.at.is_on_line(*l)),
                "expected one of {lines:?}: {fault}"
            );
        }
        last = Some(*fault);
    }
    last.unwrap()
}

fn floats(gpu: &mut Gpu, count: usize) -> Param {
    gpu.floats(&noise(count, 1)).into()
}

#[test]
fn out_of_bounds() {
    let fault = expect_fault("out_of_bounds", &[FaultKind::OutOfBounds], (2, 64, 0), |gpu| {
        vec![floats(gpu, 1), gpu.empty(100).into(), 100u32.into()]
    });
    assert_eq!((fault.block, fault.thread), ([1, 0, 0], [36, 0, 0]));
    let text = fault.to_string();
    for part in
        ["`out_of_bounds`", "block (1,0,0), thread (36,0,0)", "faults.cu:5", "0 bytes past the end"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn freed_memory_and_null() {
    for null in [false, true] {
        let mut gpu = Gpu::new(kernels!("faults"));
        let x = gpu.floats(&[1.0; 32]);
        let y = gpu.empty(32);
        if !null {
            gpu.device.free(x).unwrap();
        }
        let x = if null { Param::from(0u64) } else { x.into() };
        let error =
            gpu.try_run("uninitialised", [1, 1, 1], [32, 1, 1], &[x, y.into()]).unwrap_err();
        assert_eq!(error.fault().unwrap().kind, FaultKind::OutOfBounds);
        assert!(error.to_string().contains(if null { "null pointer" } else { "freed" }), "{error}");
    }
}

#[test]
fn uninitialised_global() {
    expect_fault("uninitialised", &[FaultKind::Uninitialised], (1, 32, 0), |gpu| {
        vec![gpu.empty(32).into(), gpu.empty(32).into()]
    });
    // The same after `mark_initialised` is allowed.
    let mut gpu = Gpu::new(kernels!("faults"));
    let (x, y) = (gpu.empty(32), gpu.empty(32));
    gpu.device.mark_initialised(x, 128).unwrap();
    gpu.run("uninitialised", 1, 32, &[x.into(), y.into()]);
}

#[test]
fn uninitialised_shared() {
    let fault =
        expect_fault("uninitialised_shared", &[FaultKind::Uninitialised], (1, 64, 0), |gpu| {
            vec![gpu.empty(64).into()]
        });
    assert_eq!(fault.thread, [32, 0, 0]);
    assert!(fault.detail.contains("tile") && fault.detail.contains("+128"), "{fault}");
}

#[test]
fn missing_barriers() {
    for kernel in ["missing_barrier", "missing_loop_barrier"] {
        // Where the reader comes first, it finds poison instead of the other side of the race.
        let kinds = [FaultKind::Race, FaultKind::Uninitialised];
        expect_fault(kernel, &kinds, (1, 128, 0), |gpu| {
            vec![floats(gpu, 512), gpu.empty(128).into()]
        });
    }
}

#[test]
fn conflicting_writes() {
    expect_fault("write_write", &[FaultKind::Race], (1, 64, 0), |gpu| vec![gpu.empty(64).into()]);
}

#[test]
fn missing_syncwarp() {
    expect_fault("missing_syncwarp", &[FaultKind::Race], (1, 32, 0), |gpu| {
        vec![floats(gpu, 32), gpu.empty(32).into()]
    });
}

#[test]
fn divergent_barrier() {
    let fault =
        expect_fault("divergent_barrier", &[FaultKind::DivergentBarrier], (1, 64, 0), |gpu| {
            vec![floats(gpu, 64), gpu.empty(128).into()]
        });
    assert!(fault.detail.contains("has left the kernel"), "{fault}");
}

#[test]
fn asynchronous_copies() {
    expect_fault("missing_async_wait", &[FaultKind::AsyncInFlight], (1, 32, 0), |gpu| {
        vec![floats(gpu, 128), gpu.empty(128).into()]
    });
    // In another warp the copy may not have begun, be in flight, or have ended with no barrier since.
    let kinds = [FaultKind::Race, FaultKind::AsyncInFlight, FaultKind::Uninitialised];
    expect_fault("missing_async_barrier", &kinds, (1, 64, 0), |gpu| {
        vec![floats(gpu, 256), gpu.empty(256).into()]
    });
    for seed in 0..4 {
        let ptx = kernels!("tensor_core");
        let mut gpu = Gpu::with(ptx, Config { seed, ..Config::default() });
        let (a, b, c) = (gpu.halves(&[0; 64 * 64]), gpu.halves(&[0; 64 * 64]), gpu.empty(64 * 64));
        let params = [a.into(), b.into(), c.into(), 64u32.into(), 64u32.into()];
        let error = gpu.try_run("matmul_mma_no_wait", [1, 1, 1], [128, 1, 1], &params).unwrap_err();
        let fault = error.fault().unwrap();
        assert_eq!(fault.kind, FaultKind::AsyncInFlight, "{fault}");
        assert!(fault.at.instruction.starts_with("ldmatrix"), "{fault}");
    }
}

#[test]
fn misaligned_and_overrun() {
    expect_fault("misaligned", &[FaultKind::Misaligned], (1, 1, 0), |gpu| {
        vec![floats(gpu, 8), gpu.empty(4).into()]
    });
    let fault = expect_fault("shared_overrun", &[FaultKind::OutOfBounds], (1, 64, 128), |gpu| {
        vec![gpu.empty(64).into()]
    });
    assert_eq!(fault.thread, [32, 0, 0]);
}

#[test]
fn lanes_that_never_come() {
    expect_fault("absent_lane", &[FaultKind::DivergentBarrier], (1, 32, 0), |gpu| {
        vec![gpu.empty(48).into()]
    });
}

#[test]
fn blocks_that_overlap() {
    expect_fault("blocks_overlap", &[FaultKind::BlockConflict], (2, 32, 0), |gpu| {
        vec![gpu.empty(32).into()]
    });
}

#[test]
fn traps() {
    let fault = expect_fault("trapped", &[FaultKind::Trap], (1, 64, 0), |_| vec![40u32.into()]);
    assert_eq!(fault.thread, [40, 0, 0]);
}

#[test]
fn wrong_launches_are_refused() {
    let mut gpu = Gpu::new(kernels!("faults"));
    let y = gpu.empty(4);
    let mut refused = |entry, block, params: &[Param]| {
        let error = gpu.try_run(entry, [1, 1, 1], block, params).unwrap_err();
        assert!(error.fault().is_none(), "{error}");
        error.to_string()
    };
    assert!(refused("nothing", [1, 1, 1], &[]).contains("has no entry `nothing`"));
    assert!(refused("write_write", [1, 1, 1], &[]).contains("has 1 parameters"));
    assert!(refused("write_write", [1, 1, 1], &[1u32.into()]).contains("has 8 bytes"));
    assert!(refused("write_write", [2048, 1, 1], &[y.into()]).contains("1 to 1024"));
    assert!(gpu.device.read(y, 16).unwrap_err().to_string().contains("never written"));
}

#[test]
fn unsupported_instructions_are_named() {
    let module = |body: &str| {
        Module::parse(&format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k() {{\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\n{body}\nret;\n}}"
        ))
    };
    let message = |body: &str| module(body).unwrap_err().to_string();
    assert!(message("griddepcontrol.wait;").contains("PTX line 7: `griddepcontrol.wait`"));
    assert!(message("add.fancy.s32 %r1, %r2, %r3;").contains("`.fancy`"));
    assert!(message("frobnicate.b32 %r1, %r2;").contains("`frobnicate.b32`"));
    assert!(message("add.s32 %r1, %r2, %rd1;").contains("PTX line 7"));
    assert!(message("bra nowhere;").contains("`nowhere`"));
    assert!(message("mov.u32 %r1, %r9;").contains("`%r9` is not declared"));
    assert!(module("add.s32 %r1, %r2, 1;").is_ok());
}

#[test]
fn endless_loops_end() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() {\nL: bra L;\n}";
    let module = Module::parse(ptx).unwrap();
    let mut device =
        ptx_emulator::Device::new(Config { instruction_limit: 10_000, ..Config::default() });
    let launch = Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0, params: &[] };
    let error = device.launch(&module, "k", launch).unwrap_err();
    assert_eq!(error.fault().unwrap().kind, FaultKind::Limit);
}

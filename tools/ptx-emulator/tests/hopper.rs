//! TMA copies, mbarriers, wgmma: results against the host, and faults by their messages.

mod common;

use std::sync::{Arc, OnceLock};

use common::{Gpu, kernels, noise};
use half::bf16;
use ptx_emulator::{Config, DevicePtr, Error, Fault, FaultKind, Module, Param, Swizzle, TensorMap};

/// Parsed once: the module is large.
fn module() -> &'static Arc<Module> {
    static MODULE: OnceLock<Arc<Module>> = OnceLock::new();
    MODULE.get_or_init(|| Arc::new(kernels!("hopper")))
}

fn gpu(seed: u64) -> Gpu {
    Gpu::of(module(), Config { seed, ..Config::default() })
}

/// A row-major matrix, and the box that a copy moves.
fn matrix(
    address: DevicePtr,
    element_bytes: u32,
    [rows, columns]: [usize; 2],
    [box_rows, box_columns]: [u32; 2],
    swizzle: Swizzle,
) -> Param {
    let map = TensorMap {
        address,
        element_bytes,
        dims: vec![columns as u64, rows as u64],
        strides: vec![columns as u64 * u64::from(element_bytes)],
        box_dims: vec![box_columns, box_rows],
        swizzle,
    };
    map.encode().unwrap().into()
}

fn halves(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect()
}

/// `a [m,k] * b [k,n]` in f32, summed in order of k, as the emulator promises.
fn product(
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
    [m, n, k]: [usize; 3],
) -> Vec<f32> {
    let mut c = vec![0f32; m * n];
    for (i, c) in c.iter_mut().enumerate() {
        *c = (0..k).fold(0.0, |sum, l| sum + a(i / n, l) * b(l, i % n));
    }
    c
}

fn rounded(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect()
}

fn run_copy(kernel: &str, seed: u64, [rows, columns]: [usize; 2]) -> Result<(), Error> {
    let mut gpu = gpu(seed);
    let x = noise(rows * columns, 7);
    let (from, to) = (gpu.floats(&x), gpu.empty(x.len()));
    let map = |at| matrix(at, 4, [rows, columns], [32, 32], Swizzle::None);
    let params = [map(from), map(to), (rows.next_multiple_of(32) as u32).into()];
    gpu.try_run(kernel, [columns.div_ceil(32) as u32, 1, 1], [64, 1, 1], &params)?;
    assert_eq!(gpu.read_floats(to, x.len()), x);
    Ok(())
}

#[test]
fn boxes_are_copied_and_clipped_at_the_edges() {
    for seed in 0..8 {
        run_copy("copy", seed, [96, 64]).unwrap_or_else(|e| panic!("{e}"));
        run_copy("copy", seed, [77, 44]).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn plain_bulk_copies_and_states_of_barriers() {
    for seed in 0..8 {
        let mut gpu = gpu(seed);
        let x = noise(1024, 3);
        let (from, to) = (gpu.floats(&x), gpu.empty(1024));
        gpu.run("copy_bytes", 4, 64, &[from.into(), to.into()]);
        let twice: Vec<_> = x.iter().map(|v| 2.0 * v).collect();
        assert_eq!(gpu.read_floats(to, 1024), twice);
    }
}

/// Runs one of the products of [128, 256, 128] with A and B stored as `shapes`.
fn run_product(kernel: &str, seed: u64, (ta, tb): (bool, bool)) -> Result<(), Error> {
    let [m, n, k] = [128, 256, 128];
    let mut gpu = gpu(seed);
    let (a, b) = (rounded(noise(m * k, 1)), rounded(noise(n * k, 2)));
    let (da, db, c) = (gpu.halves(&halves(&a)), gpu.halves(&halves(&b)), gpu.empty(m * n));
    let shape_a = if ta { [k, m] } else { [m, k] };
    let shape_b = if tb { [k, n] } else { [n, k] };
    let (width, swizzle) = match kernel {
        "product_64_bytes" => (32, Swizzle::B64),
        "product_32_bytes" => (16, Swizzle::B32),
        _ => (64, Swizzle::B128),
    };
    let map = |at, shape| matrix(at, 2, shape, [64, width], swizzle);
    let params =
        [map(da, shape_a), map(db, shape_b), c.into(), (n as u32).into(), (k as u32).into()];
    gpu.try_run(kernel, [2, 2, 1], [128, 1, 1], &params)?;
    let expected = product(
        |i, l| if ta { a[l * m + i] } else { a[i * k + l] },
        |l, j| if tb { b[l * n + j] } else { b[j * k + l] },
        [m, n, k],
    );
    let got = gpu.read_floats(c, m * n);
    let wrong = got.iter().zip(&expected).position(|(g, e)| g != e);
    match wrong {
        None => Ok(()),
        Some(at) => Err(Error::Invalid(format!(
            "row {} column {}: {} instead of {}",
            at / n,
            at % n,
            got[at],
            expected[at]
        ))),
    }
}

#[test]
fn products_of_all_layouts() {
    for (kernel, layout) in [
        ("product_nt", (false, false)),
        ("product_nn", (false, true)),
        ("product_tn", (true, true)),
        ("product_64_bytes", (false, false)),
        ("product_32_bytes", (false, false)),
    ] {
        for seed in 0..3 {
            run_product(kernel, seed, layout).unwrap_or_else(|e| panic!("{kernel}: {e}"));
        }
    }
}

#[test]
fn a_wrong_swizzle_gives_wrong_numbers() {
    let error = run_product("product_wrong_swizzle", 0, (false, false)).unwrap_err();
    assert!(error.to_string().contains("instead of"), "{error}");
}

fn run_from_registers(kernel: &str, seed: u64) -> Result<(), Error> {
    let mut gpu = gpu(seed);
    let (a, b) = (rounded(noise(4096, 5)), rounded(noise(4096, 6)));
    let (da, db, c) = (gpu.halves(&halves(&a)), gpu.halves(&halves(&b)), gpu.empty(4096));
    gpu.try_run(kernel, [1, 1, 1], [128, 1, 1], &[da.into(), db.into(), c.into()])?;
    let expected = product(|i, l| a[i * 64 + l], |l, j| b[j * 64 + l], [64, 64, 64]);
    assert_eq!(gpu.read_floats(c, 4096), expected);
    Ok(())
}

#[test]
fn a_from_registers_and_b_without_swizzle() {
    for seed in 0..4 {
        run_from_registers("registers_product", seed).unwrap_or_else(|e| panic!("{e}"));
    }
}

fn run_specialised(kernel: &str, seed: u64) -> Result<(), Error> {
    let [m, n, k] = [256, 128, 320];
    let mut gpu = gpu(seed);
    let (a, b) = (rounded(noise(m * k, 1)), rounded(noise(n * k, 2)));
    let (da, db, c) = (gpu.halves(&halves(&a)), gpu.halves(&halves(&b)), gpu.empty(m * n));
    let params = [
        matrix(da, 2, [m, k], [64, 64], Swizzle::B128),
        matrix(db, 2, [n, k], [64, 64], Swizzle::B128),
        matrix(c, 4, [m, n], [64, 32], Swizzle::B128),
        (m as u32).into(),
        (n as u32).into(),
        (k as u32).into(),
    ];
    let shared = 3 * (128 + 64) * 64 * 2 + 2 * 64 * 64 * 4 + 48;
    gpu.try_run_shared(kernel, [3, 1, 1], [384, 1, 1], shared, &params)?;
    let expected = product(|i, l| a[i * k + l], |l, j| b[j * k + l], [m, n, k]);
    assert_eq!(gpu.read_floats(c, m * n), expected);
    Ok(())
}

#[test]
fn a_warp_specialised_pipeline() {
    for seed in 0..4 {
        run_specialised("specialised_product", seed).unwrap_or_else(|e| panic!("{e}"));
    }
}

fn run_attention(kernel: &str, seed: u64) -> Result<(), Error> {
    let keys = 192;
    let mut gpu = gpu(seed);
    let [q, k, v] = [1, 2, 3].map(|seed| rounded(noise(keys * 64, seed)));
    let mut map = |x: &[f32]| {
        let at = gpu.halves(&halves(x));
        matrix(at, 2, [keys, 64], [64, 64], Swizzle::B128)
    };
    let maps = [map(&q), map(&k), map(&v)];
    let out = gpu.empty(keys * 64);
    let params: Vec<_> = maps.into_iter().chain([out.into(), (keys as u32).into()]).collect();
    gpu.try_run(kernel, [3, 1, 1], [160, 1, 1], &params)?;
    let got = gpu.read_floats(out, keys * 64);
    for i in 0..keys {
        let product = |j: usize, l: usize| f64::from(q[i * 64 + l]) * f64::from(k[j * 64 + l]);
        let score = |j: usize| (0..64).map(|l| product(j, l)).sum::<f64>() / 8.0;
        let weights: Vec<f64> = (0..keys).map(|j| score(j).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for column in 0..64 {
            let exact = weights.iter().enumerate().map(|(j, w)| w * f64::from(v[j * 64 + column]));
            let (exact, got) = (exact.sum::<f64>() / sum, f64::from(got[i * 64 + column]));
            // The weights are rounded to bf16, each by at most 2^-9 of itself; values are below 1.
            assert!((got - exact).abs() < 2f64.powi(-9), "{i} {column}: {got} {exact}");
        }
    }
    Ok(())
}

#[test]
fn pipelined_attention() {
    for seed in 0..4 {
        run_attention("attention_pipelined", seed).unwrap_or_else(|e| panic!("{e}"));
    }
    fault(FaultKind::MatrixInFlight, &["still reads as A"], |seed| {
        run_attention("attention_too_early", seed)
    });
}

#[test]
fn one_lane_is_elected_and_parameters_have_addresses() {
    let mut gpu = gpu(0);
    let mut words = vec![0; 33];
    words[32] = 3;
    let out = gpu.words(&words);
    let map: Vec<u8> = (0..16u64).flat_map(|w| (10 * w).to_le_bytes()).collect();
    gpu.run("elected", 1, 32, &[Param::bytes(map), out.into()]);
    words[..32].fill(0);
    words[0] = 31;
    assert_eq!(gpu.read_words(out, 33), words);
}

/// The fault that `run` must end with at every seed.
fn fault(kind: FaultKind, parts: &[&str], run: impl Fn(u64) -> Result<(), Error>) -> Fault {
    let mut last = None;
    for seed in 0..8 {
        let error = run(seed).expect_err("a fault");
        let Error::Fault(fault) = error else { panic!("{error}") };
        let text = fault.to_string();
        assert_eq!(fault.kind, kind, "seed {seed}: {text}");
        for part in parts {
            assert!(text.contains(part), "seed {seed}: no `{part}` in: {text}");
        }
        last = Some(*fault);
    }
    last.unwrap()
}

#[test]
fn faults_of_copies() {
    let copy = |kernel: &'static str| move |seed| run_copy(kernel, seed, [96, 64]);
    fault(
        FaultKind::Deadlock,
        &["2048 bytes more than expected have arrived", "full", "mbarrier.try_wait"],
        copy("copy_few_bytes"),
    );
    fault(
        FaultKind::Deadlock,
        &["4096 expected bytes are pending", "0 of 1 arrivals are pending"],
        copy("copy_many_bytes"),
    );
    fault(FaultKind::Uninitialised, &["no mbarrier has been initialised"], copy("copy_no_init"));
    fault(FaultKind::MissingFence, &["fence.mbarrier_init"], copy("copy_no_init_fence"));
    fault(FaultKind::MissingFence, &["no fence.proxy.async"], copy("copy_no_proxy_fence"));
    fault(FaultKind::MissingFence, &["no fence.proxy.async"], copy("copy_late_proxy_fence"));
    fault(FaultKind::Race, &["a bulk copy still reads"], copy("copy_overwrite_source"));
    fault(FaultKind::AsyncInFlight, &["leaves the kernel"], copy("copy_no_store_wait"));
    fault(FaultKind::AsyncInFlight, &["without any thread having waited"], copy("copy_lost_load"));
    fault(FaultKind::BadOperand, &["arrives 1 times"], copy("copy_two_arrivals"));
    fault(FaultKind::BadOperand, &["part of an mbarrier"], copy("copy_touch_barrier"));
    for seed in 0..8 {
        let error = run_copy("copy_no_init_barrier", seed, [96, 64]).unwrap_err();
        let kind = &error.fault().unwrap().kind;
        assert!(matches!(kind, FaultKind::Race | FaultKind::Uninitialised), "{error}");
        // Another warp may come before the copy has begun.
        for kernel in ["copy_no_wait", "copy_wait_once"] {
            let error = run_copy(kernel, seed, [96, 64]).unwrap_err();
            let kind = &error.fault().unwrap().kind;
            assert!(matches!(kind, FaultKind::AsyncInFlight | FaultKind::Uninitialised), "{error}");
        }
        // Waiting for the wrong phase ends in reading too early, or never.
        let error = run_copy("copy_wrong_parity", seed, [96, 64]).unwrap_err();
        let kind = &error.fault().unwrap().kind;
        assert!(matches!(kind, FaultKind::AsyncInFlight | FaultKind::Deadlock), "{error}");
    }
}

#[test]
fn tensors_outside_memory_and_bytes_that_are_no_map() {
    let mut gpu = gpu(0);
    let (from, to) = (gpu.floats(&noise(1024, 1)), gpu.empty(2048));
    let map = |at, rows| matrix(at, 4, [rows, 32], [32, 32], Swizzle::None);
    let mut run = |from, rows: u32| {
        let params = [from, map(to, 64), rows.into()];
        gpu.try_run("copy", [1, 1, 1], [64, 1, 1], &params).unwrap_err()
    };
    let error = run(map(from, 64), 64);
    assert_eq!(error.fault().unwrap().kind, FaultKind::OutOfBounds, "{error}");
    let error = run(Param::bytes([0; 128]), 32);
    assert!(error.to_string().contains("not an encoded tensor map"), "{error}");
    let error = run(map(to, 64), 32);
    assert_eq!(error.fault().unwrap().kind, FaultKind::Uninitialised, "{error}");
}

#[test]
fn faults_of_products() {
    let product = |kernel: &'static str| move |seed| run_product(kernel, seed, (false, false));
    fault(FaultKind::MissingFence, &["no wgmma.fence"], product("product_no_fence"));
    fault(
        FaultKind::MissingFence,
        &["used by other instructions since the last wgmma.fence"],
        product("product_fence_after_read"),
    );
    fault(FaultKind::MatrixInFlight, &["an accumulator"], product("product_no_wgmma_wait"));
    fault(FaultKind::MatrixInFlight, &["not committed"], product("product_uncommitted"));
    fault(FaultKind::DivergentBarrier, &["different products"], product("product_one_warp"));
    for seed in 0..8 {
        // Another warp may come before the copy has begun.
        let error = run_product("product_no_wait", seed, (false, false)).unwrap_err();
        let kind = &error.fault().unwrap().kind;
        assert!(matches!(kind, FaultKind::AsyncInFlight | FaultKind::Uninitialised), "{error}");
    }
    fault(FaultKind::MissingFence, &["no fence.proxy.async"], |seed| {
        run_from_registers("registers_no_proxy_fence", seed)
    });
    fault(FaultKind::MatrixInFlight, &["still reads as A"], |seed| {
        run_from_registers("registers_too_early", seed)
    });
    fault(FaultKind::Race, &["which wgmma"], |seed| {
        run_specialised("specialised_early_release", seed)
    });
}

//! Reductions, matrix products, control flow, tensor cores.

mod common;

use common::{Gpu, fields, kernels, noise};
use half::{bf16, f16};
use ptx_emulator::{Config, DevicePtr};

fn close(got: f32, exact: f64, scale: f64) -> bool {
    (f64::from(got) - exact).abs() <= 1e-6 * scale
}

#[test]
fn block_sums() {
    let mut gpu = Gpu::new(kernels!("reduce"));
    let x = noise(1000, 1);
    let (dx, out) = (gpu.floats(&x), gpu.empty(4));
    gpu.run("block_reduce", 4, 256, &[dx.into(), out.into(), 1000u32.into()]);
    for (slice, got) in x.chunks(256).zip(gpu.read_floats(out, 4)) {
        assert!(close(got, slice.iter().map(|v| f64::from(*v)).sum(), 100.0));
    }
}

#[test]
fn softmax_and_rmsnorm_rows() {
    let mut gpu = Gpu::new(kernels!("reduce"));
    let (rows, columns) = (5, 333);
    let x: Vec<f32> = noise(rows * columns, 2).iter().map(|v| v * 8.0).collect();
    let w = noise(columns, 3);
    let (dx, dw, dy, dz) = (gpu.floats(&x), gpu.floats(&w), gpu.empty(x.len()), gpu.empty(x.len()));
    gpu.run("softmax_row", 5, 128, &[dx.into(), dy.into(), (columns as u32).into()]);
    gpu.run(
        "rmsnorm",
        5,
        96,
        &[dx.into(), dw.into(), dz.into(), (columns as u32).into(), 1e-5f32.into()],
    );
    let (y, z) = (gpu.read_floats(dy, x.len()), gpu.read_floats(dz, x.len()));
    for (r, row) in x.chunks(columns).enumerate() {
        let top = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
        let square: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
        let rstd = (square / columns as f64 + 1e-5).sqrt().recip();
        for (c, v) in row.iter().enumerate() {
            let exact = f64::from(v - top).exp() / sum;
            assert!(close(y[r * columns + c], exact, exact), "row {r} column {c}");
            let exact = f64::from(*v) * rstd * f64::from(w[c]);
            assert!(close(z[r * columns + c], exact, exact.abs()));
        }
    }
}

#[test]
fn votes_shuffles_and_reductions_of_a_warp() {
    let mut gpu = Gpu::new(kernels!("reduce"));
    let x: Vec<u32> = (0..32).map(|i| i * 7 % 23).collect();
    let (dx, out) = (gpu.words(&x), gpu.empty(320));
    gpu.run("votes", 1, 32, &[dx.into(), out.into()]);
    let got = gpu.read_words(out, 320);
    let mask = |f: &dyn Fn(u32) -> bool| {
        x.iter().enumerate().fold(0, |m, (l, v)| m | u32::from(f(*v)) << l)
    };
    for l in 0..32 {
        let expected = [
            mask(&|v| v & 1 != 0),
            u32::from(x.contains(&7)),
            1,
            x.iter().sum(),
            0,
            22,
            x.iter().fold(0, |a, b| a | b),
            mask(&|v| v & 3 == x[l] & 3),
            if l % 8 < 3 { x[l] } else { x[l - 3] },
            if l < 16 { x[l ^ 5] + 16 } else { 0 },
        ];
        for (k, expected) in expected.into_iter().enumerate() {
            assert_eq!(got[k * 32 + l], expected, "result {k} of lane {l}");
        }
    }
}

#[test]
fn tiled_matmul_of_odd_sizes() {
    let mut gpu = Gpu::new(kernels!("matmul"));
    for (m, n, k) in [(1, 1, 1), (65, 70, 33), (64, 64, 64)] {
        let (a, b) = (noise(m * k, 4), noise(k * n, 5));
        let (da, db, dc) = (gpu.floats(&a), gpu.floats(&b), gpu.empty(m * n));
        let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
        let params = [da.into(), db.into(), dc.into(), fields(&[m as u32, n as u32, k as u32])];
        gpu.try_run("matmul_tiled", grid, [16, 16, 1], &params).unwrap();
        let got = gpu.read_floats(dc, m * n);
        for i in 0..m * n {
            // The kernel sums in order of k with fused multiplications: the same bits.
            let exact = (0..k).fold(0f32, |sum, e| a[i / n * k + e].mul_add(b[e * n + i % n], sum));
            assert_eq!(got[i], exact, "{m}x{n}x{k} element {i}");
        }
    }
}

#[test]
fn divergent_loops() {
    let mut gpu = Gpu::new(kernels!("control"));
    let x: Vec<u32> = (1..=200).collect();
    let (dx, out) = (gpu.words(&x), gpu.empty(200));
    gpu.run("collatz", 2, 128, &[dx.into(), out.into(), 200u32.into()]);
    let steps = |mut v: u32| {
        let mut count = 0;
        while v != 1 {
            v = if v.is_multiple_of(2) { v / 2 } else { 3 * v + 1 };
            count += 1;
        }
        count
    };
    assert_eq!(gpu.read_words(out, 200), x.iter().map(|v| steps(*v)).collect::<Vec<u32>>());
}

#[test]
fn lanes_meet_again_before_a_shuffle() {
    let mut gpu = Gpu::new(kernels!("control"));
    let out = gpu.empty(64);
    gpu.run("reconverge", 1, 64, &[out.into()]);
    let sum = |lane: u32| {
        (0..lane.min(40))
            .fold(0, |sum: u32, i| if (sum + i) & 1 == 1 { sum + i } else { sum + i + 2 })
    };
    let expected: Vec<_> = (0..64).map(|t| sum((t & 31) ^ 1)).collect();
    assert_eq!(gpu.read_words(out, 64), expected);
}

#[test]
fn switches() {
    let mut gpu = Gpu::new(kernels!("control"));
    let x: Vec<f32> = (0..100).map(|i| 0.5 + i as f32).collect();
    let ops: Vec<u32> = (0..100).map(|i| i * 5 % 9).collect();
    let (dops, dx) = (gpu.words(&ops), gpu.floats(&x));
    gpu.run("switch_case", 1, 128, &[dops.into(), dx.into(), 100u32.into()]);
    let expected = x.iter().zip(&ops).map(|(v, op)| match op {
        0 => v + 1.0,
        1 => v * 3.0,
        2 => v * v,
        3 => -v,
        4 => v.sqrt(),
        5 => v - 7.0,
        6 => 1.0 / v,
        _ => 0.0,
    });
    assert_eq!(gpu.read_floats(dx, 100), expected.collect::<Vec<_>>());
}

#[test]
fn dynamic_shared_memory() {
    let mut gpu = Gpu::new(kernels!("control"));
    let x = noise(300, 6);
    let (dx, dy) = (gpu.floats(&x), gpu.empty(300));
    gpu.try_run_shared("reverse_dynamic", [3, 1, 1], [100, 1, 1], 400, &[dx.into(), dy.into()])
        .unwrap();
    let expected: Vec<_> = x.chunks(100).flat_map(|c| c.iter().rev().copied()).collect();
    assert_eq!(gpu.read_floats(dy, 300), expected);
}

#[test]
fn calls_with_local_arrays_and_recursion() {
    let mut gpu = Gpu::new(kernels!("control"));
    let x = noise(64, 7);
    let (dx, dy, df) = (gpu.floats(&x), gpu.empty(64), gpu.empty(64));
    gpu.run("calls", 1, 64, &[dx.into(), dy.into(), df.into()]);
    let fibonacci = |n: usize| (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0;
    for (t, (y, f)) in gpu.read_floats(dy, 64).into_iter().zip(gpu.read_words(df, 64)).enumerate() {
        let local: Vec<f32> = (0..8).map(|i| x[t] + i as f32).collect();
        let n = 1 + t % 8;
        let exact = (0..n - 1).rev().fold(local[n - 1], |r, i| r.mul_add(0.5, local[i]));
        assert_eq!((y, f), (exact, fibonacci(t % 11)), "thread {t}");
    }
}

#[test]
fn module_variables() {
    let mut gpu = Gpu::new(kernels!("control"));
    let (da, db) = (gpu.empty(32), gpu.empty(32));
    gpu.run("tables", 1, 32, &[da.into(), db.into()]);
    assert_eq!(gpu.read_words(da, 18)[14..], [610, 987, 1, 1]);
    assert_eq!(gpu.read_floats(db, 4), [0.5, -1.0, 2.25, 1e10]);
}

fn bf16_noise(count: usize, seed: u32) -> Vec<bf16> {
    noise(count, seed).into_iter().map(bf16::from_f32).collect()
}

fn bits(values: &[bf16]) -> Vec<u16> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn tensor_core_matmul() {
    let mut gpu = Gpu::new(kernels!("tensor_core"));
    let (m, n, k) = (128, 64, 96);
    let (a, b) = (bf16_noise(m * k, 8), bf16_noise(n * k, 9));
    let (da, db, dc) = (gpu.halves(&bits(&a)), gpu.halves(&bits(&b)), gpu.empty(m * n));
    let params = [da.into(), db.into(), dc.into(), (n as u32).into(), (k as u32).into()];
    gpu.try_run("matmul_mma", [1, 2, 1], [128, 1, 1], &params).unwrap_or_else(|e| panic!("{e}"));
    for (i, got) in gpu.read_floats(dc, m * n).into_iter().enumerate() {
        let terms = (0..k).map(|e| a[i / n * k + e].to_f64() * b[i % n * k + e].to_f64());
        let (exact, scale) = terms.fold((0.0, 0.0), |(sum, abs), t| (sum + t, abs + t.abs()));
        assert!(
            (f64::from(got) - exact).abs() <= 4.0 * (k as f64).sqrt() * 2f64.powi(-24) * scale,
            "element {i}"
        );
    }
}

#[test]
fn transposed_matrices_and_partial_copies() {
    let mut gpu = Gpu::new(kernels!("tensor_core"));
    let x: Vec<u16> = (0..64).map(|i| i * 3 + 1).collect();
    let (dx, dy, filled) = (gpu.halves(&x), gpu.device.alloc(128), gpu.empty(4));
    gpu.run("transpose8", 1, 32, &[dx.into(), dy.into(), filled.into()]);
    let y = gpu.device.read(dy, 128).unwrap();
    for (e, pair) in y.chunks_exact(2).enumerate() {
        assert_eq!(u16::from_le_bytes([pair[0], pair[1]]), x[e % 8 * 8 + e / 8]);
    }
    // Six bytes of the source, then zeros.
    assert_eq!(gpu.read_words(filled, 4), [1 | 4 << 16, 7, 0, 0]);
}

#[test]
fn fragments_of_f16_and_tf32() {
    let mut gpu = Gpu::new(kernels!("tensor_core"));
    let (a, b) = (noise(256, 10), noise(128, 11));
    // Fragment words in the order of the registers, lane by lane (PTX ISA, matrix fragments).
    let pair = |lo: f32, hi: f32| {
        u32::from(f16::from_f32(hi).to_bits()) << 16 | u32::from(f16::from_f32(lo).to_bits())
    };
    let mut half_a = vec![0; 128];
    let mut half_b = vec![0; 64];
    let (mut tf_a, mut tf_b) = (vec![0; 128], vec![0; 64]);
    for l in 0..32 {
        let (g, t) = (l / 4, l % 4);
        for r in 0..4 {
            let (row, k) = (g + r % 2 * 8, t * 2 + r / 2 * 8);
            half_a[r * 32 + l] = pair(a[row * 16 + k], a[row * 16 + k + 1]);
            tf_a[r * 32 + l] = a[row * 16 + t + r / 2 * 4].to_bits() & !0x1fff;
        }
        for r in 0..2 {
            let k = t * 2 + r * 8;
            half_b[r * 32 + l] = pair(b[k * 8 + g], b[(k + 1) * 8 + g]);
            tf_b[r * 32 + l] = b[(t + r * 4) * 8 + g].to_bits() & !0x1fff;
        }
    }
    let mut check =
        |wa: &[u32], wb: &[u32], which: usize, depth: usize, round: &dyn Fn(f32) -> f32| {
            let (da, db) = (gpu.words(wa), gpu.words(wb));
            let outs: [DevicePtr; 3] = std::array::from_fn(|_| gpu.empty(128));
            let params = [da.into(), db.into(), outs[0].into(), outs[1].into(), outs[2].into()];
            gpu.run("fragments", 1, 32, &params);
            for (i, got) in gpu.read_floats(outs[which], 128).into_iter().enumerate() {
                let exact: f64 = (0..depth)
                    .map(|k| {
                        f64::from(round(a[i / 8 * 16 + k])) * f64::from(round(b[k * 8 + i % 8]))
                    })
                    .sum();
                assert!(
                    (f64::from(got) - exact).abs() < 1e-5,
                    "result {which}, element {i}: {got} for {exact}"
                );
            }
        };
    let half_round = |x: f32| f16::from_f32(x).to_f32();
    check(&half_a, &half_b, 0, 16, &half_round);
    check(&half_a, &half_b, 1, 8, &half_round);
    check(&tf_a, &tf_b, 2, 8, &|x| f32::from_bits(x.to_bits() & !0x1fff));
}

#[test]
fn results_do_not_depend_on_seed_or_threads() {
    let (m, n, k) = (64, 128, 64);
    let (a, b) = (bf16_noise(m * k, 12), bf16_noise(n * k, 13));
    let run = |seed, threads| {
        let mut gpu =
            Gpu::with(kernels!("tensor_core"), Config { seed, threads, ..Config::default() });
        let (da, db, dc) = (gpu.halves(&bits(&a)), gpu.halves(&bits(&b)), gpu.empty(m * n));
        let params = [da.into(), db.into(), dc.into(), (n as u32).into(), (k as u32).into()];
        gpu.try_run("matmul_mma", [2, 1, 1], [128, 1, 1], &params).unwrap();
        gpu.read_words(dc, m * n)
    };
    let first = run(0, 1);
    for (seed, threads) in [(1, 1), (2, 2), (u64::MAX, 3)] {
        assert_eq!(run(seed, threads), first);
    }
}

//! Elementwise, integer and floating-point kernels against the same arithmetic in Rust.

mod common;

use common::{Gpu, fields, kernels, noise};
use half::{bf16, f16};

#[test]
fn saxpy_with_a_tail() {
    let mut gpu = Gpu::new(kernels!("elementwise"));
    let (x, y) = (noise(1000, 1), noise(1000, 2));
    let (dx, dy) = (gpu.floats(&x), gpu.floats(&y));
    gpu.run("saxpy", 8, 128, &[dx.into(), dy.into(), fields(&[1000, 2.5f32.to_bits()])]);
    let expected: Vec<_> = x.iter().zip(&y).map(|(x, y)| 2.5f32.mul_add(*x, *y)).collect();
    assert_eq!(gpu.read_floats(dy, 1000), expected);
}

#[test]
fn grid_stride_over_vectors() {
    let mut gpu = Gpu::new(kernels!("elementwise"));
    let x = noise(4 * 333, 3);
    let (dx, dy) = (gpu.floats(&x), gpu.empty(x.len()));
    gpu.run("silu_vec4", 2, 64, &[dx.into(), dy.into(), 333u32.into()]);
    for (x, y) in x.iter().zip(gpu.read_floats(dy, x.len())) {
        let exact = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
        assert!((exact - f64::from(y)).abs() <= 1e-6 * exact.abs(), "silu({x}) = {y}");
    }
}

#[test]
fn adamw_step() {
    let mut gpu = Gpu::new(kernels!("elementwise"));
    let n = 77;
    let (w, g, m) = (noise(n, 4), noise(n, 5), noise(n, 6));
    let v: Vec<f32> = noise(n, 7).iter().map(|x| x * x).collect();
    let [dw, dg, dm, dv] = [&w, &g, &m, &v].map(|values| gpu.floats(values));
    let [lr, b1, b2, eps, decay, c1, c2] = [1e-2, 0.9, 0.999, 1e-8, 0.1, 0.19, 0.001999f32];
    let bits = [lr, b1, b2, eps, decay, c1, c2].map(f32::to_bits);
    let params = fields(&[&[n as u32][..], &bits].concat());
    gpu.run("adamw", 1, 128, &[dw.into(), dg.into(), dm.into(), dv.into(), params]);
    for (i, got) in gpu.read_floats(dw, n).into_iter().enumerate() {
        let [w, g, m, v] = [w[i], g[i], m[i], v[i]].map(f64::from);
        let m = f64::from(b1) * m + (1.0 - f64::from(b1)) * g;
        let v = f64::from(b2) * v + (1.0 - f64::from(b2)) * g * g;
        let update = m / f64::from(c1) / ((v / f64::from(c2)).sqrt() + f64::from(eps));
        let change = -f64::from(lr) * (update + f64::from(decay) * w);
        let got = f64::from(got) - w;
        assert!(
            (got - change).abs() <= 1e-6 * change.abs() + 6e-8 * w.abs(),
            "{i}: {got} for {change}"
        );
    }
}

/// Threefry-2x32 with 20 rounds, from its paper (Salmon et al. 2011).
fn threefry(counter: [u32; 2], key: [u32; 2]) -> [u32; 2] {
    let ks = [key[0], key[1], 0x1bd1_1bda ^ key[0] ^ key[1]];
    let rotations = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let [mut a, mut b] = [counter[0].wrapping_add(ks[0]), counter[1].wrapping_add(ks[1])];
    for block in 0..5usize {
        for r in rotations[block % 2] {
            a = a.wrapping_add(b);
            b = b.rotate_left(r) ^ a;
        }
        a = a.wrapping_add(ks[(block + 1) % 3]);
        b = b.wrapping_add(ks[(block + 2) % 3]).wrapping_add(block as u32 + 1);
    }
    [a, b]
}

#[test]
fn threefry_bits() {
    let mut gpu = Gpu::new(kernels!("integer"));
    let out = gpu.empty(200);
    gpu.run(
        "threefry",
        4,
        32,
        &[out.into(), 100u32.into(), 0x1234u32.into(), 0xdead_beefu32.into()],
    );
    let expected: Vec<_> = (0..100).flat_map(|i| threefry([i, 0], [0x1234, 0xdead_beef])).collect();
    assert_eq!(gpu.read_words(out, 200), expected);
    // The known answer of the reference implementation for zeros.
    assert_eq!(threefry([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
}

#[test]
fn integer_operations() {
    let mut gpu = Gpu::new(kernels!("integer"));
    let mut a: Vec<u32> = noise(93, 8).iter().map(|x| (x * 2.1e9) as i32 as u32).collect();
    let mut b: Vec<u32> =
        noise(93, 9).iter().map(|x| (x * 2.1e9) as i32 as u32 >> (x.abs() * 30.0) as u32).collect();
    a.extend([0, u32::MAX, 1 << 31, 7]);
    b.extend([0, 3, 1, u32::MAX - 1]);
    let n = a.len();
    let (da, db, out) = (gpu.words(&a), gpu.words(&b), gpu.empty(40 * n));
    gpu.run("integer_ops", 1, 128, &[da.into(), db.into(), out.into(), (n as u32).into()]);
    let got = gpu.read_u64(out, 20 * n);
    for i in 0..n {
        let (ux, uy, x, y) = (a[i], b[i], a[i] as i32, b[i] as i32);
        let (lx, ly) = (i64::from(x) << 7 ^ i64::from(y), i64::from(y | 1));
        let expected: [u64; 20] = [
            i64::from(x.wrapping_div(y | 1)) as u64,
            i64::from(x.wrapping_rem(y | 1)) as u64,
            u64::from(ux / (uy | 1)),
            u64::from(ux % (uy | 1)),
            (i64::from(x) * i64::from(y)) as u64,
            u64::from(ux) * u64::from(uy),
            u64::from(((i64::from(x) * i64::from(y)) >> 32) as u32),
            (u64::from(ux) * u64::from(uy)) >> 32,
            lx.wrapping_div(ly) as u64,
            lx as u64 % ly as u64,
            u64::from(ux.leading_zeros()),
            u64::from(ux.count_ones()),
            u64::from(ux.reverse_bits()),
            if x == 0 { 0 } else { u64::from(ux.trailing_zeros() + 1) },
            u64::from(u32::from_le_bytes([ux as u8, uy as u8, (ux >> 16) as u8, (uy >> 16) as u8])),
            u64::from(uy << 11 | ux >> 21),
            u64::from(x.min(y) as u32 ^ ux.max(uy)),
            i64::from(x >> (y & 31)) as u64,
            lx.wrapping_mul(ly) as u64,
            u64::from((ux & uy) ^ (!ux | 0x5a5a_5a5a)),
        ];
        for (k, expected) in expected.into_iter().enumerate() {
            assert_eq!(got[k * n + i], expected, "operation {k} of {ux:#x} and {uy:#x}");
        }
    }
}

#[test]
fn nf4_decode() {
    const CODES: [f32; 16] = [
        -1.0,
        -0.6961928,
        -0.52507305,
        -0.3949175,
        -0.28444138,
        -0.18477343,
        -0.091050036,
        0.0,
        0.0795803,
        0.1609302,
        0.2461123,
        0.33791524,
        0.44070983,
        0.562617,
        0.72295684,
        1.0,
    ];
    let mut gpu = Gpu::new(kernels!("integer"));
    let packed: Vec<u8> = (0..40 * 8).map(|i| (i * 37 + 11) as u8).collect();
    let absmax = noise(10, 10);
    let (codes, scales, out) = (gpu.bytes(&packed), gpu.floats(&absmax), gpu.empty(640));
    gpu.run("nf4_decode", 1, 64, &[codes.into(), scales.into(), out.into(), 40u32.into()]);
    let nibbles = packed.iter().flat_map(|b| [b >> 4, b & 15]);
    let expected: Vec<_> =
        nibbles.enumerate().map(|(i, c)| CODES[c as usize] * absmax[i / 64]).collect();
    assert_eq!(gpu.read_floats(out, 640), expected);
}

#[test]
fn narrow_accesses() {
    let mut gpu = Gpu::new(kernels!("integer"));
    let a: Vec<u8> = (0..64).map(|i| (i * 5 + 120) as u8).collect();
    let b: Vec<u16> = (0..64).map(|i| 50_000 + i * 99).collect();
    let (da, db) = (gpu.bytes(&a), gpu.halves(&b));
    let (dc, dd) = (gpu.device.alloc(128), gpu.device.alloc(64));
    gpu.run("narrow", 1, 64, &[da.into(), db.into(), dc.into(), dd.into()]);
    let value = |i: usize| i32::from(a[i] as i8) * 3 + i32::from(b[i]);
    let halves: Vec<u8> = (0..64).flat_map(|i| (value(i) as i16).to_le_bytes()).collect();
    assert_eq!(gpu.device.read(dc, 128).unwrap(), halves);
    assert_eq!(
        gpu.device.read(dd, 64).unwrap(),
        (0..64).map(|i| (value(i) >> 2) as u8).collect::<Vec<_>>()
    );
}

#[test]
fn math_library() {
    let mut gpu = Gpu::new(kernels!("float"));
    let mut x: Vec<f32> = noise(120, 11).iter().map(|v| v * 12.0).collect();
    // Large arguments take the slow way through sin and cos, with local memory and 64-bit products.
    x.extend([0.0, -0.0, 1.0, 123_456.79, -3.0e7]);
    let n = x.len();
    let (dx, out) = (gpu.floats(&x), gpu.empty(20 * n));
    gpu.run("math", 1, 128, &[dx.into(), out.into(), (n as u32).into()]);
    let got = gpu.read_floats(out, 20 * n);
    for (i, x) in x.iter().enumerate() {
        let v = f64::from(*x);
        let p = f64::from(x.abs() + 0.125);
        // Exact values, and the largest error in units of the last place that the CUDA programming guide states.
        let functions = [
            (v.exp(), 2.0),
            (p.ln(), 1.0),
            (v.sin(), 2.0),
            (v.cos(), 2.0),
            (v.tanh(), 2.0),
            (p.sqrt(), 0.5),
            (1.0 / p.sqrt(), 2.0),
            (1.0 / p, 0.5),
            (p.powf(f64::from(1.7f32)), 4.0),
            (f64::NAN, f64::INFINITY), // erff: there is none in std to compare with
            (v.floor(), 0.0),
            (v.round_ties_even(), 0.0),
            (v.trunc(), 0.0),
            (p.ln_1p(), 1.0),
            (v.exp(), 2.0 + (1.173 * v).abs()),
            (p.ln(), 3.0),
            (v / p, 2.0),
            (v.exp2(), 2.0),
            (p.copysign(v), 0.0),
            (v / p, 0.5),
        ];
        for (k, (exact, units)) in functions.into_iter().enumerate() {
            let got = got[k * n + i];
            if got == exact as f32 || units.is_infinite() {
                continue;
            }
            let unit = exact.abs().log2().floor().max(-126.0) - 23.0;
            // __logf promises an absolute error near 1 only.
            let floor = if k == 15 { 2f64.powf(-21.41) } else { 0.0 };
            let error = (f64::from(got) - exact).abs();
            assert!(error <= units * unit.exp2() + floor, "function {k} of {x}: {got} for {exact}");
        }
    }
}

#[test]
fn double_precision() {
    let mut gpu = Gpu::new(kernels!("float"));
    let x: Vec<f32> = noise(50, 12).iter().map(|v| v * 2000.0).collect();
    let (dx, out, ints) = (gpu.floats(&x), gpu.empty(200), gpu.empty(200));
    gpu.run("wide", 1, 64, &[dx.into(), out.into(), ints.into(), 50u32.into()]);
    let (out, ints) = (gpu.read_u64(out, 100), gpu.read_u64(ints, 100));
    for i in 0..50 {
        let v = f64::from(x[i]);
        let close =
            |bits: u64, exact: f64| (f64::from_bits(bits) - exact).abs() <= 1e-15 * exact.abs();
        assert!(close(out[i], v * v + 1.0 / (1.0 + v * v)));
        assert!(close(out[50 + i], v.abs().sqrt() + i as f64));
        assert_eq!(ints[i] as i64, (v * 1e6) as i64);
        assert_eq!(
            ints[50 + i] as i64,
            i64::from(x[i] as i32) + x[i].abs().round_ties_even() as i64 * 1_000_000
        );
    }
}

#[test]
fn halves_through_inline_ptx() {
    let mut gpu = Gpu::new(kernels!("float"));
    let mut x: Vec<f32> = noise(90, 13).iter().map(|v| v * 100.0).collect();
    x.extend([0.0, -0.0, 1e-7, 65_519.0, 65_520.0, f32::INFINITY]);
    let n = x.len();
    let (dx, out16) = (gpu.floats(&x), gpu.device.alloc(4 * n));
    let (packed, back) = (gpu.empty(2 * n), gpu.empty(3 * n));
    gpu.run(
        "half_conversions",
        1,
        128,
        &[dx.into(), out16.into(), packed.into(), back.into(), (n as u32).into()],
    );
    let halves = gpu.device.read(out16, 4 * n).unwrap();
    let half = |i: usize| u16::from_le_bytes([halves[2 * i], halves[2 * i + 1]]);
    let (packed, back) = (gpu.read_words(packed, 2 * n), gpu.read_floats(back, 3 * n));
    for (i, x) in x.iter().copied().enumerate() {
        let (b, h) = (bf16::from_f32(x), f16::from_f32(x));
        assert_eq!((half(i), half(n + i)), (b.to_bits(), h.to_bits()), "{x}");
        let doubled = bf16::from_f32(2.0 * x);
        assert_eq!(packed[i], u32::from(doubled.to_bits()) << 16 | u32::from(b.to_bits()));
        assert_eq!((back[i], back[n + i]), (b.to_f32(), h.to_f32()));
        let fma = |v: bf16| bf16::from_f64(v.to_f64() * v.to_f64() + v.to_f64()).to_bits();
        assert_eq!(packed[n + i], u32::from(fma(doubled)) << 16 | u32::from(fma(b)), "{x}");
        let approx = (-f64::from(x)).exp2();
        assert!(
            (f64::from(back[2 * n + i]) - approx).abs() <= 1e-6 * approx
                || !(1.2e-38..=3e38).contains(&approx)
        );
    }
}

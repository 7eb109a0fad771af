//! Cases of the linear layer: products, bias, NF4 weights, LoRA.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops;
use crate::ops::matmul::mma::{self, Version};
use crate::ops::matmul::{Layout, Product, Rung, wgmma};
use crate::ops::step_state::{StepState, StepValues};
use crate::ops::{Dropout, Neftune, Nf4Tensor};
use crate::quant::dynamic8::dynamic_map;
use crate::quant::nf4::{BLOCKSIZE, CODEBOOK, NESTED_BLOCKSIZE};
use crate::tensor::Tensor;

const F32: DType = DType::F32;
const BF16: DType = DType::BF16;
const F16: DType = DType::F16;

/// The checked cases.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [m, n, k] in
        [[1, 1, 1], [3, 2, 5], [2, 33, 65], [31, 65, 33], [65, 31, 1], [0, 4, 8], [130, 70, 100]]
    {
        cases.push(matmul([m, n, k], [F32; 2]));
    }
    for [m, n, k] in [[1, 2, 4], [4, 6, 30], [33, 66, 64], [70, 34, 130], [0, 4, 8]] {
        cases.push(matmul([m, n, k], [BF16; 2]));
        cases.push(matmul([m, n, k], [F16; 2]));
        cases.push(matmul([m, n, k], [BF16, F32]));
    }
    cases.push(matmul([5, 7, 40], [F32, BF16]));
    for rung in [Rung::Naive, Rung::Tiled, Rung::Blocked] {
        for layout in [Layout::NT, Layout::NN, Layout::TN] {
            for sizes in [[1, 1, 1], [33, 31, 65], [65, 130, 17], [16, 64, 0], [3, 70, 32]] {
                cases.push(product(rung, layout, sizes, [F32; 3], 1.0, false));
            }
            cases.push(product(rung, layout, [33, 34, 65], [F32; 3], 0.25, true));
            cases.push(product(rung, layout, [33, 34, 65], [BF16, F32, BF16], 0.25, true));
            cases.push(product(rung, layout, [17, 66, 31], [F32, F16, F16], 2.0, false));
            cases.push(product(rung, layout, [70, 33, 32], [BF16, BF16, F32], 1.0, true));
            cases.push(product(rung, layout, [3, 34, 128], [BF16, BF16, BF16], 1.0, false));
        }
    }
    cases.extend(tensor_core_cases());
    cases.extend(hopper_cases());
    for (rows, columns) in [(1, 1), (3, 31), (33, 65), (0, 8), (300, 7)] {
        cases.push(add_bias(rows, columns, [F32; 2]));
        cases.push(row_squares(rows, columns, F32));
        cases.push(dora_norm(rows, columns, 3));
        cases.push(scale_columns(rows, columns, F32));
    }
    for dtypes in [[BF16; 2], [F16; 2], [BF16, F32]] {
        cases.push(add_bias(5, 66, dtypes));
        cases.push(row_squares(5, 66, dtypes[0]));
        cases.push(scale_columns(33, 66, dtypes[0]));
    }
    for double_quant in [false, true] {
        for (shape, dtype) in [([2, 4], F32), ([5, 72], F32), ([40, 520], F32), ([6, 72], BF16)] {
            cases.push(nf4_codes(shape, dtype, double_quant));
        }
        for (shape, dtype) in [([5, 6], F32), ([5, 6], F16), ([9, 72], BF16)] {
            cases.push(nf4_decoding(shape, dtype, double_quant));
        }
        for [m, n, k] in [[3, 4, 6], [1, 9, 72], [5, 3, 72], [33, 65, 104], [70, 16, 520]] {
            cases.push(nf4_matmul([m, n, k], F32, double_quant));
        }
        for [m, n, k] in [[2, 8, 72], [33, 66, 72], [0, 8, 8], [67, 72, 200]] {
            cases.push(nf4_matmul([m, n, k], BF16, double_quant));
            cases.push(nf4_matmul([m, n, k], F16, double_quant));
        }
    }
    for p in [0.0, 0.25] {
        for sizes in [[3, 4, 5, 2], [1, 33, 31, 1], [65, 31, 33, 8], [0, 4, 8, 2]] {
            cases.push(lora(sizes, F32, p, false));
        }
        cases.push(lora([3, 4, 5, 2], F32, p, true));
        cases.push(lora([33, 66, 34, 8], BF16, p, false));
        cases.push(lora([33, 72, 40, 8], BF16, p, false));
        cases.push(lora([5, 6, 8, 3], F16, p, true));
    }
    for (rows, columns, dtype) in [(4, 5, F32), (33, 65, F32), (0, 8, F32), (6, 66, BF16)] {
        cases.push(dropout(rows, columns, dtype));
        cases.push(neftune(rows, columns, dtype));
    }
    cases.push(dropout_twice(4, 5));
    cases
}

/// Several tiles, tails of every kind that the tensor cores' version takes, and sums shorter and longer
/// than its stages; the unaligned sizes above stay with the portable version.
fn tensor_core_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [m, n, k] in [[33, 72, 40], [130, 136, 72]] {
        cases.push(matmul([m, n, k], [BF16; 2]));
        cases.push(matmul([m, n, k], [F16; 2]));
        cases.push(matmul([m, n, k], [BF16, F32]));
        cases.push(matmul([m, n, k], [F32; 2]));
    }
    for (layout, sizes) in
        [(Layout::NT, [67, 70, 136]), (Layout::NN, [67, 72, 136]), (Layout::TN, [72, 80, 133])]
    {
        let rung = Rung::TensorCore(Version::F32Mma, 64);
        cases.push(product(rung, layout, sizes, [F32; 3], 0.25, true));
        cases.push(product(rung, layout, sizes, [F16, F32, F16], 1.0, false));
        cases.push(product(rung, layout, sizes, [F32, BF16, F32], 1.0, true));
        cases.push(product(rung, layout, [16, 24, 8], [BF16, F16, BF16], 1.0, false));
        cases.push(product(rung, layout, [8, 8, 0], [F32; 3], 1.0, false));
    }
    for tile in [64, 128] {
        let rung = Rung::TensorCore(Version::Mma, tile);
        let (odd, even, whole) = (tile + 3, tile + 6, tile + 8);
        for (layout, sizes) in [
            (Layout::NT, [odd, even, 136]),
            (Layout::NN, [odd, whole, 136]),
            (Layout::TN, [whole, whole, 133]),
        ] {
            cases.push(product(rung, layout, sizes, [BF16; 3], 1.0, false));
            cases.push(product(rung, layout, sizes, [F16, F16, F32], 0.25, true));
            cases.push(product(rung, layout, [8, 8, 0], [BF16, BF16, F32], 1.0, false));
            cases.push(product(rung, layout, [16, 24, 8], [BF16, BF16, F16], 2.0, true));
        }
        cases.push(product(rung, Layout::NT, [odd, odd, 40], [BF16, BF16, F32], 1.0, true));
    }
    // K in splits, the last of them short: each version, layout and dtype, added and not.
    for rung in [
        Rung::Blocked,
        Rung::TensorCore(Version::F32Mma, 64),
        Rung::TensorCore(Version::Mma, 64),
        Rung::TensorCore(Version::Mma, 128),
    ] {
        let dtype = if matches!(rung, Rung::TensorCore(Version::Mma, _)) { BF16 } else { F32 };
        for (layout, sizes) in
            [(Layout::NT, [67, 70, 136]), (Layout::NN, [67, 72, 200]), (Layout::TN, [72, 80, 133])]
        {
            let split =
                |dtypes, alpha, adds| split_product(rung, 64, layout, sizes, dtypes, alpha, adds);
            cases.push(split([dtype, dtype, F32], 0.25, true));
            cases.push(split([BF16, dtype, BF16], 2.0, true));
            cases.push(split([dtype, dtype, F16], 1.0, false));
        }
    }
    // As many splits as suit the sizes.
    cases.push(product(Rung::Blocked, Layout::TN, [3, 5, 600], [F32; 3], 1.0, true));
    cases.push(product(Rung::Blocked, Layout::NT, [1, 33, 520], [F32; 3], 1.0, false));
    cases.push(lora([600, 16, 24, 8], F32, 0.0, false));
    cases.push(lora([600, 16, 24, 8], BF16, 0.25, true));
    // NF4: enough blocks for the larger tile, forward and backward.
    for [n, k] in [[1000, 40], [40, 1000]] {
        cases.push(nf4_matmul([1500, n, k], BF16, true));
    }
    // More rows of tiles than are numbered together.
    let rung = Rung::TensorCore(Version::Mma, 64);
    cases.push(product(rung, Layout::NT, [580, 136, 8], [BF16; 3], 1.0, false));
    cases
}

/// A persistent kernel whose blocks take several tiles, tails of every kind, sums shorter and longer than the ring.
fn hopper_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for tile in [128, 256] {
        let rung = Rung::Hopper(tile);
        for (layout, sizes) in [
            (Layout::NT, [259, tile + 6, 328]),
            (Layout::NN, [131, tile + 8, 136]),
            (Layout::TN, [136, tile + 8, 133]),
        ] {
            cases.push(product(rung, layout, sizes, [BF16; 3], 1.0, false));
            cases.push(product(rung, layout, [72, 40, 64], [F16, F16, F32], 0.25, true));
            cases.push(product(rung, layout, [16, 24, 8], [BF16, BF16, F16], 2.0, true));
        }
        cases.push(product(rung, Layout::NT, [67, 69, 40], [BF16, BF16, F32], 1.0, true));
    }
    cases
}

/// The squares of rows, as DoRA wants them.
fn row_squares(rows: usize, columns: usize, dtype: DType) -> Case {
    let count = (rows * columns) as f64;
    Case {
        op: "row_squares",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("w", &[rows, columns], dtype)],
        rule: Rule::Reduction(vec![columns]),
        cost: (count * dtype.size() as f64, 2.0 * count),
        run: Box::new(|_, inputs| Ok(vec![ops::row_squares(&inputs[0])?])),
    }
}

/// Weights' rows are longer than their updates, as they are in training.
fn dora_norm(rows: usize, columns: usize, rank: usize) -> Case {
    let squares = (0..rows).map(|n| 40.0 + (n * 7 % 13) as f32).collect();
    Case {
        op: "dora_norm",
        variant: format!("{rows}x{columns} rank {rank}"),
        inputs: vec![
            Input::new("squares", &[rows], DType::F32).values(Values::Floats(squares)),
            Input::new("lora_a", &[rank, columns], DType::F32).values(Values::Normal(0.1)),
            Input::new("lora_b", &[rows, rank], DType::F32).values(Values::Normal(0.1)),
            Input::new("aw", &[rank, rows], DType::F32),
        ],
        rule: Rule::Elementwise,
        cost: ((4 * rows * (3 * rank + 2)) as f64, (6 * rows * rank) as f64),
        run: Box::new(|_, inputs| {
            let [squares, lora_a, lora_b, aw] = inputs else { return Ok(Vec::new()) };
            Ok(vec![ops::dora_norm(squares, lora_a, lora_b, aw, 0.7)?])
        }),
    }
}

fn scale_columns(rows: usize, columns: usize, dtype: DType) -> Case {
    let count = (rows * columns) as f64;
    Case {
        op: "scale_columns",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![
            Input::new("x", &[rows, columns], dtype).grad(),
            Input::new("magnitude", &[columns], DType::F32).grad_f32(),
            Input::new("inverse", &[columns], DType::F32).values(Values::AroundOne(0.3)),
        ],
        rule: Rule::Reduction(vec![1, 1, rows]),
        cost: (2.0 * count * dtype.size() as f64, count),
        run: Box::new(|tape, inputs| {
            let [x, magnitude, inverse] = inputs else { return Ok(Vec::new()) };
            Ok(vec![ops::scale_columns(tape, x, magnitude, inverse)?])
        }),
    }
}

/// The timed cases: the layers of a 135M model, 512 tokens.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    let mut cases = Vec::new();
    for [n, k] in [[576, 576], [1536, 576], [576, 1536], [49152, 576]] {
        cases.push(matmul([512, n, k], [dtype; 2]));
    }
    cases.push(matmul([1, 1536, 576], [dtype; 2]));
    for m in [1, 512] {
        cases.push(nf4_matmul([m, 1536, 576], dtype, true));
    }
    cases.push(lora([512, 1536, 576, 16], dtype, 0.0, false));
    cases.push(dropout(512, 576, dtype));
    cases.push(add_bias(512, 576, [dtype; 2]));
    for rung in [Rung::Naive, Rung::Tiled, Rung::Blocked] {
        cases.push(product(rung, Layout::NT, [512, 576, 576], [dtype; 3], 1.0, false));
    }
    for tile in [64, 128] {
        let rung = Rung::TensorCore(Version::Mma, tile);
        cases.push(product(rung, Layout::NT, [512, 576, 576], [dtype; 3], 1.0, false));
    }
    for tile in [128, 256] {
        let rung = Rung::Hopper(tile);
        cases.push(product(rung, Layout::NT, [512, 576, 576], [dtype; 3], 1.0, false));
    }
    cases
}

/// Bytes moved at least, and FLOPs, of a product.
pub(super) fn product_cost([m, n, k]: [usize; 3], dtypes: [DType; 3]) -> (f64, f64) {
    let [a, b, out] = dtypes.map(DType::size);
    ((m * k * a + n * k * b + m * n * out) as f64, 2.0 * (m * n * k) as f64)
}

fn matmul([m, n, k]: [usize; 3], [x, w]: [DType; 2]) -> Case {
    Case {
        op: "matmul",
        variant: format!("{m}x{n}x{k} {} {}", x.name(), w.name()),
        inputs: vec![Input::new("x", &[m, k], x).grad(), Input::new("w", &[n, k], w).grad_f32()],
        rule: Rule::Reduction(vec![k, n, m]),
        cost: product_cost([m, n, k], [x, w, x]),
        run: Box::new(|tape, inputs| Ok(vec![ops::matmul(tape, &inputs[0], &inputs[1])?])),
    }
}

fn product(
    rung: Rung,
    layout: Layout,
    sizes: [usize; 3],
    dtypes: [DType; 3],
    alpha: f32,
    accumulate: bool,
) -> Case {
    into_product(rung, None, layout, sizes, dtypes, alpha, accumulate)
}

/// With K in splits of `depth`.
fn split_product(
    rung: Rung,
    depth: usize,
    layout: Layout,
    sizes: [usize; 3],
    dtypes: [DType; 3],
    alpha: f32,
    accumulate: bool,
) -> Case {
    let mut case = into_product(rung, Some(depth), layout, sizes, dtypes, alpha, accumulate);
    case.variant += &format!(" splits of {depth}");
    case
}

fn into_product(
    rung: Rung,
    depth: Option<usize>,
    layout: Layout,
    [m, n, k]: [usize; 3],
    dtypes: [DType; 3],
    alpha: f32,
    accumulate: bool,
) -> Case {
    let [a, b, out] = dtypes;
    let a_shape = if layout == Layout::TN { [k, m] } else { [m, k] };
    let b_shape = if layout == Layout::NT { [n, k] } else { [k, n] };
    let names = dtypes.map(DType::name).join(" ");
    let adds = if accumulate { " accumulate" } else { "" };
    let tile = match rung {
        Rung::TensorCore(_, tile) | Rung::Hopper(tile) => format!(" tile {tile}"),
        _ => String::new(),
    };
    Case {
        op: match rung {
            Rung::Naive => "matmul_naive",
            Rung::Tiled => "matmul_tiled",
            Rung::Blocked => "matmul_into",
            Rung::TensorCore(Version::Mma, _) => "matmul_mma",
            Rung::TensorCore(Version::F32Mma, _) => "matmul_f32_mma",
            Rung::Hopper(_) => "matmul_wgmma",
        },
        variant: format!("{layout:?} {m}x{n}x{k} {names} alpha {alpha}{adds}{tile}"),
        inputs: vec![
            Input::new("a", &a_shape, a),
            Input::new("b", &b_shape, b),
            Input::new("c", &[m, n], out),
        ],
        rule: Rule::Reduction(vec![k + 1]),
        cost: product_cost([m, n, k], dtypes),
        run: Box::new(move |_, inputs| {
            let [a, b, c] = inputs else { return Ok(Vec::new()) };
            let out = match accumulate {
                true => Tensor::from_f32(a.device(), &[m, n], out, &c.read_f32()?)?,
                false => Tensor::empty(a.device(), &[m, n], out)?,
            };
            let rung = match rung {
                // The portable version where the device has no tensor cores.
                Rung::TensorCore(version, _) if mma::version(a, b) != Some(version) => {
                    Rung::Blocked
                }
                Rung::Hopper(_) if !wgmma::fits(a, b) => Rung::Blocked,
                rung => rung,
            };
            Product { layout, a, b, alpha, accumulate, out: &out }.run_as(rung, depth)?;
            Ok(vec![out])
        }),
    }
}

fn add_bias(rows: usize, columns: usize, [x, bias]: [DType; 2]) -> Case {
    let count = (rows * columns) as f64;
    Case {
        op: "add_bias",
        variant: format!("{rows}x{columns} {} {}", x.name(), bias.name()),
        inputs: vec![
            Input::new("x", &[rows, columns], x).grad(),
            Input::new("bias", &[columns], bias).grad_f32(),
        ],
        rule: Rule::Reduction(vec![1, 1, rows]),
        cost: (2.0 * count * x.size() as f64, count),
        run: Box::new(|tape, inputs| Ok(vec![ops::add_bias(tape, &inputs[0], &inputs[1])?])),
    }
}

/// Codes, and decoded values in every dtype: equal to the bit.
fn nf4_codes([n, k]: [usize; 2], dtype: DType, double_quant: bool) -> Case {
    let mut weights = Input::new("w", &[n, k], dtype).values(Values::Normal(0.02));
    if n == 2 {
        // A block of zeros.
        weights = weights.values(Values::Floats(vec![0.0; n * k]));
    }
    let count = (n * k) as f64;
    Case {
        op: "nf4_quantize",
        variant: format!("{n}x{k} {}{}", dtype.name(), nested(double_quant)),
        inputs: vec![weights],
        rule: Rule::Exact,
        cost: (count * (dtype.size() as f64 + 0.5), 17.0 * count),
        run: Box::new(move |_, inputs| {
            let weight = Nf4Tensor::quantize(&inputs[0], double_quant)?;
            let decoded = |dtype| ops::nf4_dequantize(&weight, dtype);
            Ok(vec![weight.codes().clone(), decoded(F32)?, decoded(BF16)?, decoded(F16)?])
        }),
    }
}

/// Of weights as files hold them, whose number need not be a multiple of anything.
fn nf4_decoding([n, k]: [usize; 2], dtype: DType, double_quant: bool) -> Case {
    let count = (n * k) as f64;
    Case {
        op: "nf4_dequantize",
        variant: format!("{n}x{k} {}{}", dtype.name(), nested(double_quant)),
        inputs: nf4_parts(n * k, double_quant).into(),
        rule: Rule::Exact,
        cost: (count * (dtype.size() as f64 + 0.5), count),
        run: Box::new(move |_, inputs| {
            let [codes, scales, tables] = inputs else { return Ok(Vec::new()) };
            let weight = Nf4Tensor::from_tensors([n, k], codes, scales, tables, double_quant);
            Ok(vec![ops::nf4_dequantize(&weight, dtype)?])
        }),
    }
}

pub(super) fn nf4_matmul([m, n, k]: [usize; 3], dtype: DType, double_quant: bool) -> Case {
    let (size, weights) = (dtype.size() as f64, (n * k) as f64);
    let mut inputs = vec![Input::new("x", &[m, k], dtype).grad()];
    inputs.extend(nf4_parts(n * k, double_quant));
    Case {
        op: "nf4_matmul",
        variant: format!("{m}x{n}x{k} {}{}", dtype.name(), nested(double_quant)),
        inputs,
        rule: Rule::Reduction(vec![k, n]),
        cost: (size * (m * (n + k)) as f64 + 0.52 * weights, 2.0 * m as f64 * weights),
        run: Box::new(move |tape, inputs| {
            let [x, codes, scales, tables] = inputs else { return Ok(Vec::new()) };
            let weight = Nf4Tensor::from_tensors([n, k], codes, scales, tables, double_quant);
            Ok(vec![ops::nf4_matmul(tape, x, &weight)?])
        }),
    }
}

/// Codes, scales and tables of a weight of `count` elements.
fn nf4_parts(count: usize, double_quant: bool) -> [Input; 3] {
    let blocks = count.div_ceil(BLOCKSIZE);
    let byte = |i: usize, factor: usize| (i * factor + i / 7) as u8;
    let codes: Vec<u8> = (0..count.div_ceil(2)).map(|i| byte(i, 197)).collect();
    let scale = |i: usize| 0.02 + 0.003 * (i as f32).sin();
    let mut tables = CODEBOOK.to_vec();
    let mut scales = vec![0u8];
    if double_quant {
        scales = (0..blocks).map(|i| byte(i, 89)).collect();
        tables.extend(dynamic_map());
        tables.push(0.02);
        tables.extend((0..blocks.div_ceil(NESTED_BLOCKSIZE)).map(|i| 0.1 * scale(i)));
    } else {
        tables.extend((0..blocks).map(scale));
    }
    let bytes = |name, values: Vec<u8>| Input {
        dtype: DType::U8,
        values: Values::Bytes(values.clone()),
        ..Input::new(name, &[values.len()], F32)
    };
    [
        bytes("codes", codes),
        bytes("scales", scales),
        Input::new("tables", &[tables.len()], F32).values(Values::Floats(tables)),
    ]
}

fn nested(double_quant: bool) -> &'static str {
    if double_quant { " double quantization" } else { "" }
}

/// `shared`: someone else holds the base's output, so that it must not be written.
fn lora([t, n, k, rank]: [usize; 4], dtype: DType, p: f32, shared: bool) -> Case {
    let flops = 2.0 * (t * rank * (n + k)) as f64;
    let bytes = dtype.size() * t * (k + 2 * n) + 4 * rank * (n + k);
    let mut inputs = vec![
        Input::new("base", &[t, n], dtype).grad(),
        Input::new("x", &[t, k], dtype).grad(),
        Input::new("lora_a", &[rank, k], F32).grad_f32(),
        Input::new("lora_b", &[n, rank], F32).grad_f32(),
    ];
    inputs.extend(places(t));
    Case {
        op: "lora",
        variant: format!("{t}x{n}x{k} rank {rank} {} p {p} shared {shared}", dtype.name()),
        inputs,
        rule: Rule::Naive,
        cost: (bytes as f64, flops),
        run: Box::new(move |tape, inputs| {
            let [base, x, lora_a, lora_b, ordinals, positions] = inputs else {
                return Ok(Vec::new());
            };
            let noise = noise(p, ordinals, positions)?;
            // A sum of two, so that the base's output is a tensor of its own.
            let base_out = ops::add(tape, base, base)?;
            let kept = shared.then(|| base_out.clone());
            let y = ops::lora(tape, base_out, x, lora_a, lora_b, 0.5, Some(&noise))?;
            Ok([Some(y), kept].into_iter().flatten().collect())
        }),
    }
}

fn dropout(rows: usize, columns: usize, dtype: DType) -> Case {
    let count = (rows * columns) as f64;
    let mut inputs = vec![Input::new("x", &[rows, columns], dtype).grad()];
    inputs.extend(places(rows));
    Case {
        op: "dropout",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs,
        rule: Rule::Elementwise,
        cost: (2.0 * count * dtype.size() as f64, 30.0 * count),
        run: Box::new(|tape, inputs| {
            let noise = noise(0.3, &inputs[1], &inputs[2])?;
            Ok(vec![ops::dropout(tape, &inputs[0], &noise)?])
        }),
    }
}

/// An input of two layers: the second gradient is masked as it is added to the first.
fn dropout_twice(rows: usize, columns: usize) -> Case {
    Case {
        variant: format!("{rows}x{columns}, used twice"),
        run: Box::new(|tape, inputs| {
            let noise = noise(0.3, &inputs[1], &inputs[2])?;
            let first = ops::dropout(tape, &inputs[0], &noise)?;
            let second = ops::dropout(tape, &inputs[0], &noise)?;
            Ok(vec![ops::add(tape, &first, &second)?])
        }),
        ..dropout(rows, columns, F32)
    }
}

fn neftune(rows: usize, columns: usize, dtype: DType) -> Case {
    let count = (rows * columns) as f64;
    let mut inputs = vec![Input::new("x", &[rows, columns], dtype).grad()];
    inputs.extend(places(rows));
    let bounds = (0..rows).flat_map(|t| [t / 7 * 7, (t / 7 * 7 + 7).min(rows)].map(|t| t as u32));
    inputs.push(Input::integers("bounds", bounds.collect()));
    Case {
        op: "neftune",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs,
        rule: Rule::Elementwise,
        cost: (2.0 * count * dtype.size() as f64, 30.0 * count),
        run: Box::new(|tape, inputs| {
            let Dropout { seed, site, ordinals, positions, step_state, .. } =
                noise(0.0, &inputs[1], &inputs[2])?;
            // Noise as large as the values, so that none of it can be missed.
            let (alpha, bounds) = (20.0, inputs[3].clone());
            let noise = Neftune { alpha, seed, site, ordinals, positions, bounds, step_state };
            Ok(vec![ops::neftune(tape, &inputs[0], &noise)?])
        }),
    }
}

/// Ordinals and positions of the tokens of examples of 7.
fn places(tokens: usize) -> [Input; 2] {
    let tokens = tokens as u32;
    let ordinals = Input::integers("ordinals", (0..tokens).map(|t| 40 + t / 7).collect());
    let positions = Input::integers("positions", (0..tokens).map(|t| t % 7).collect());
    [ordinals, positions]
}

fn noise(p: f32, ordinals: &Tensor, positions: &Tensor) -> crate::error::Result<Dropout> {
    let step_state = StepState::new(ordinals.device())?;
    step_state.set(&StepValues { step: 77, ..StepValues::default() })?;
    let (ordinals, positions) = (ordinals.clone(), positions.clone());
    Ok(Dropout { p, seed: 0x1234_5678_9abc_def0, site: 99, ordinals, positions, step_state })
}

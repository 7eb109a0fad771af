//! Cases of the linear layer: products, bias, NF4 weights, LoRA.

use super::{Case, Input, Rule};
use crate::dtype::DType;
use crate::ops;
use crate::ops::matmul::{Layout, Rung, matmul_rung};
use crate::tensor::Tensor;

const F32: DType = DType::F32;
const BF16: DType = DType::BF16;
const F16: DType = DType::F16;

/// The checked cases.
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
    cases
}

/// The timed cases: the layers of a 135M model, 512 tokens.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    let mut cases = Vec::new();
    for [n, k] in [[576, 576], [1536, 576], [576, 1536], [49152, 576]] {
        cases.push(matmul([512, n, k], [dtype; 2]));
    }
    cases.push(matmul([1, 1536, 576], [dtype; 2]));
    for rung in [Rung::Naive, Rung::Tiled, Rung::Blocked] {
        cases.push(product(rung, Layout::NT, [512, 576, 576], [dtype; 3], 1.0, false));
    }
    cases
}

/// Bytes moved at least, and FLOPs, of a product.
fn product_cost([m, n, k]: [usize; 3], dtypes: [DType; 3]) -> (f64, f64) {
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
    Case {
        op: match rung {
            Rung::Naive => "matmul_naive",
            Rung::Tiled => "matmul_tiled",
            Rung::Blocked => "matmul_into",
        },
        variant: format!("{layout:?} {m}x{n}x{k} {names} alpha {alpha}{adds}"),
        inputs: vec![
            Input::new("a", &a_shape, a),
            Input::new("b", &b_shape, b),
            Input::new("c", &[m, n], out),
        ],
        rule: Rule::Reduction(vec![k + 1]),
        cost: product_cost([m, n, k], dtypes),
        run: Box::new(move |_, inputs| {
            let [a, b, c] = inputs else { return Ok(Vec::new()) };
            let out = Tensor::from_f32(a.device(), &[m, n], out, &c.read_f32()?)?;
            matmul_rung(rung, layout, a, b, alpha, accumulate, &out)?;
            Ok(vec![out])
        }),
    }
}

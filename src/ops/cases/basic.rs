//! Cases of the element-wise ops and the norms.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops;

/// The checked cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, columns) in [(1, 1), (3, 31), (5, 33), (2, 65), (0, 8), (300, 7)] {
        cases.push(add(rows, columns, DType::F32));
        cases.push(rms_norm(rows, columns, DType::F32));
    }
    for dtype in [DType::BF16, DType::F16] {
        for (rows, columns) in [(1, 2), (3, 32), (5, 66)] {
            cases.push(add(rows, columns, dtype));
            cases.push(rms_norm(rows, columns, dtype));
        }
    }
    cases
}

/// The timed cases.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    vec![add(1024, 576, dtype), rms_norm(1024, 576, dtype)]
}

fn add(rows: usize, columns: usize, dtype: DType) -> Case {
    let shape = [rows, columns];
    let count = (rows * columns) as f64;
    Case {
        op: "add",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("a", &shape, dtype).grad(), Input::new("b", &shape, dtype).grad()],
        rule: Rule::Elementwise,
        cost: (3.0 * count * dtype.size() as f64, count),
        run: Box::new(|tape, inputs| Ok(vec![ops::add(tape, &inputs[0], &inputs[1])?])),
    }
}

fn rms_norm(rows: usize, columns: usize, dtype: DType) -> Case {
    let weight = Input::new("weight", &[columns], dtype).values(Values::AroundOne(0.3));
    let count = (rows * columns) as f64;
    Case {
        op: "rms_norm",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("x", &[rows, columns], dtype).grad(), weight.grad_f32()],
        rule: Rule::Naive,
        cost: (2.0 * count * dtype.size() as f64, 4.0 * count),
        run: Box::new(|tape, inputs| Ok(vec![ops::rms_norm(tape, &inputs[0], &inputs[1], 1e-5)?])),
    }
}

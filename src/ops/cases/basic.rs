//! Cases of the element-wise ops and the norms.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops;
use crate::tensor::Tensor;
use std::ops::Range;

/// The checked cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, columns) in [(1, 1), (3, 31), (5, 33), (2, 65), (0, 8), (300, 7)] {
        cases.push(add(rows, columns, DType::F32));
        cases.push(rms_norm(rows, columns, DType::F32));
        cases.push(scale(rows, columns, DType::F32));
        cases.push(slice_columns(rows, columns, 0..columns.div_ceil(2), DType::F32));
    }
    cases.push(slice_columns(5, 33, 7..32, DType::F32));
    cases.push(slices_of_one(31, 34, DType::F32));
    cases.push(rms_norm_around_zero(3, 31, DType::F32));
    for ids in [vec![0], vec![4, 0, 4, 2, 2, 4], vec![]] {
        cases.push(embedding(5, 7, ids, DType::F32));
    }
    cases.push(embedding_twice(5, 7));
    cases.push(embedding(6, 34, vec![5, 5, 1], DType::BF16));
    cases.push(embedding(900, 64, (0..600).map(|t| t * t % 900).collect(), DType::F32));
    for (from, to) in
        [(DType::F32, DType::BF16), (DType::BF16, DType::F32), (DType::F32, DType::F16)]
    {
        cases.push(cast(3, 34, from, to));
    }
    cases.push(cast_from_below(100));
    for dtype in [DType::F32, DType::BF16] {
        cases.push(fill(5, 34, dtype));
    }
    for (rows, columns, dtype) in [
        (1, 1, DType::F32),
        (33, 65, DType::F32),
        (0, 8, DType::F32),
        (31, 34, DType::BF16),
        (1, 3, DType::F16),
    ] {
        cases.push(random_normal(rows, columns, dtype));
    }
    for dtype in [DType::BF16, DType::F16] {
        for (rows, columns) in [(1, 2), (3, 32), (5, 66)] {
            cases.push(add(rows, columns, dtype));
            cases.push(rms_norm(rows, columns, dtype));
            cases.push(rms_norm_around_zero(rows, columns, dtype));
            cases.push(scale(rows, columns, dtype));
        }
        cases.push(slice_columns(5, 66, 8..30, dtype));
        cases.push(slices_of_one(31, 34, dtype));
    }
    // Rows that stay in registers: whole threads, a tail, several chunks of a thread.
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (rows, columns) in [(3, 1024), (2, 2056), (1, 8192)] {
            cases.push(rms_norm(rows, columns, dtype));
        }
        cases.push(rms_norm_around_zero(3, 1024, dtype));
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

pub(super) fn rms_norm(rows: usize, columns: usize, dtype: DType) -> Case {
    let weight = Input::new("weight", &[columns], dtype).values(Values::AroundOne(0.3));
    let count = (rows * columns) as f64;
    Case {
        op: "rms_norm",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("x", &[rows, columns], dtype).grad(), weight.grad_f32()],
        rule: Rule::Naive,
        cost: (2.0 * count * dtype.size() as f64, 4.0 * count),
        run: Box::new(|tape, inputs| {
            Ok(vec![ops::rms_norm(tape, &inputs[0], &inputs[1], 1e-5, 0.0)?])
        }),
    }
}

/// Gemma's, whose weights are near 0 and have 1 added.
fn rms_norm_around_zero(rows: usize, columns: usize, dtype: DType) -> Case {
    let mut case = rms_norm(rows, columns, dtype);
    case.inputs[1].values = Values::Normal(0.3);
    Case {
        variant: format!("{} with an offset", case.variant),
        run: Box::new(|tape, inputs| {
            Ok(vec![ops::rms_norm(tape, &inputs[0], &inputs[1], 1e-5, 1.0)?])
        }),
        ..case
    }
}

fn scale(rows: usize, columns: usize, dtype: DType) -> Case {
    let count = (rows * columns) as f64;
    Case {
        op: "scale",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("x", &[rows, columns], dtype).grad()],
        rule: Rule::Elementwise,
        cost: (2.0 * count * dtype.size() as f64, count),
        run: Box::new(|tape, inputs| Ok(vec![ops::scale(tape, &inputs[0], 5.5)?])),
    }
}

fn slice_columns(rows: usize, columns: usize, range: Range<usize>, dtype: DType) -> Case {
    let moved = 2 * rows * range.len() * dtype.size();
    Case {
        op: "slice_columns",
        variant: format!("{range:?} of {rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("x", &[rows, columns], dtype).grad()],
        rule: Rule::Exact,
        cost: (moved as f64, 0.0),
        run: Box::new(move |tape, inputs| {
            Ok(vec![ops::slice_columns(tape, &inputs[0], range.clone())?])
        }),
    }
}

/// Two slices of one matrix, whose gradients meet in one tensor.
fn slices_of_one(rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        variant: format!("two parts of {rows}x{columns} {}", dtype.name()),
        rule: Rule::Elementwise,
        run: Box::new(move |tape, inputs| {
            let slice = |first| ops::slice_columns(tape, &inputs[0], first..first + 8);
            Ok(vec![ops::add(tape, &slice(2)?, &slice(columns - 10)?)?])
        }),
        ..slice_columns(rows, columns, 0..8, dtype)
    }
}

fn embedding(vocab: usize, columns: usize, ids: Vec<u32>, dtype: DType) -> Case {
    let count = (ids.len() * columns) as f64;
    let inputs = vec![Input::new("weight", &[vocab, columns], dtype).grad_f32()];
    Case {
        op: "embedding",
        variant: format!("{vocab}x{columns}, {} tokens, {}", ids.len(), dtype.name()),
        inputs,
        rule: Rule::Elementwise,
        cost: (2.0 * count * dtype.size() as f64, 0.0),
        run: Box::new(move |tape, inputs| Ok(vec![ops::embedding(tape, &inputs[0], &ids)?])),
    }
}

/// A table that is used twice, whose two gradients must add up.
fn embedding_twice(vocab: usize, columns: usize) -> Case {
    Case {
        variant: format!("{vocab}x{columns}, used twice"),
        run: Box::new(|tape, inputs| {
            let first = ops::embedding(tape, &inputs[0], &[3, 0, 3])?;
            let second = ops::embedding(tape, &inputs[0], &[1, 3, 3])?;
            Ok(vec![ops::add(tape, &first, &second)?])
        }),
        ..embedding(vocab, columns, Vec::new(), DType::F32)
    }
}

fn cast(rows: usize, columns: usize, from: DType, to: DType) -> Case {
    let count = (rows * columns) as f64;
    Case {
        op: "cast",
        variant: format!("{rows}x{columns} {} to {}", from.name(), to.name()),
        inputs: vec![Input::new("x", &[rows, columns], from).grad()],
        rule: Rule::Naive,
        cost: (count * (from.size() + to.size()) as f64, 0.0),
        run: Box::new(move |tape, inputs| Ok(vec![ops::cast(tape, &inputs[0], to)?])),
    }
}

/// Numbers just below those of bf16, to which the nearest is far nearer than the next one down.
fn cast_from_below(count: usize) -> Case {
    let values = (0..count).map(|i| (i as f32 + 1.0) * (1.0 - 1e-4)).collect();
    let x = Input::new("x", &[1, count], DType::F32).values(Values::Floats(values)).grad();
    Case {
        variant: format!("{count} from below"),
        inputs: vec![x],
        ..cast(1, count, DType::F32, DType::BF16)
    }
}

fn fill(rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        op: "fill",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        // The input only brings the device.
        inputs: vec![Input::new("like", &[1], DType::F32)],
        rule: Rule::Exact,
        cost: ((rows * columns * dtype.size()) as f64, 0.0),
        run: Box::new(move |_, inputs| {
            let out = Tensor::empty(inputs[0].device(), &[rows, columns], dtype)?;
            ops::fill(&out, -1.5)?;
            Ok(vec![out])
        }),
    }
}

fn random_normal(rows: usize, columns: usize, dtype: DType) -> Case {
    let count = (rows * columns) as f64;
    Case {
        op: "random_normal",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        // The input brings the device, and the dtype's rule.
        inputs: vec![Input::new("like", &[2], dtype)],
        rule: Rule::Elementwise,
        cost: (count * dtype.size() as f64, 140.0 * count),
        run: Box::new(move |_, inputs| {
            let out = Tensor::empty(inputs[0].device(), &[rows, columns], dtype)?;
            ops::random_normal(&out, 1.5, 0x1234_5678_9abc_def0, 99)?;
            Ok(vec![out])
        }),
    }
}

//! Cases of the ops that only a transformer has: RoPE, SwiGLU and GeGLU, the copies of a KV cache.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops;

/// The checked cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tokens, heads, width) in [(1, 1, 2), (3, 2, 6), (31, 3, 10), (5, 1, 66), (0, 2, 4)] {
        cases.push(rope(tokens, heads, width, DType::F32));
    }
    for (rows, columns) in [(1, 1), (3, 31), (5, 33), (0, 8), (300, 7), (33, 72)] {
        cases.push(swiglu(rows, columns, DType::F32));
        cases.push(geglu(rows, columns, DType::F32));
    }
    for (turning, width) in [(2, 6), (6, 8), (48, 64)] {
        cases.push(partial_rope(5, 3, [turning, width], DType::F32));
    }
    for dtype in [DType::BF16, DType::F16] {
        cases.push(rope(3, 2, 4, dtype));
        cases.push(rope(33, 3, 64, dtype));
        cases.push(partial_rope(33, 3, [48, 64], dtype));
        for (rows, columns) in [(3, 30), (33, 65), (33, 72)] {
            cases.push(swiglu(rows, columns, dtype));
            cases.push(geglu(rows, columns, dtype));
        }
        cases.push(write_rows(31, 6, dtype));
        cases.push(take_row(31, 6, dtype));
    }
    cases.push(shared_input(3, 31));
    for (rows, columns) in [(1, 1), (33, 5)] {
        cases.push(write_rows(rows, columns, DType::F32));
        cases.push(take_row(rows, columns, DType::F32));
    }
    cases
}

/// The timed cases.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    vec![rope(1024, 9, 64, dtype), swiglu(1024, 1536, dtype)]
}

fn rope(tokens: usize, heads: usize, width: usize, dtype: DType) -> Case {
    partial_rope(tokens, heads, [width, width], dtype)
}

/// The first columns of each head turn, the others stand still.
fn partial_rope(tokens: usize, heads: usize, [turning, width]: [usize; 2], dtype: DType) -> Case {
    // Positions in no order, from a table with more rows than tokens.
    let rows = tokens + 3;
    let positions = (0..tokens).map(|t| ((t * 7 + 2) % rows) as u32).collect();
    let angles: Vec<f32> =
        (0..rows * turning / 2).map(|i| (i as f32 * 0.37).fract() * 6.0).collect();
    let table = |name, f: fn(f32) -> f32| {
        let values = angles.iter().map(|&angle| f(angle)).collect();
        Input::new(name, &[rows, turning / 2], DType::F32).values(Values::Floats(values))
    };
    let count = (tokens * heads * width) as f64;
    Case {
        op: "rope",
        variant: match turning == width {
            true => format!("{tokens}x{heads}x{width} {}", dtype.name()),
            false => format!("{turning} columns of {tokens}x{heads}x{width} {}", dtype.name()),
        },
        inputs: vec![
            Input::new("x", &[tokens, heads, width], dtype).grad(),
            Input::integers("positions", positions),
            table("cos", f32::cos),
            table("sin", f32::sin),
        ],
        rule: Rule::Elementwise,
        cost: (2.0 * count * dtype.size() as f64, 3.0 * count),
        run: Box::new(|tape, inputs| {
            Ok(vec![ops::rope(tape, &inputs[0], &inputs[1], &inputs[2], &inputs[3])?])
        }),
    }
}

fn swiglu(rows: usize, columns: usize, dtype: DType) -> Case {
    let shape = [rows, columns];
    let count = (rows * columns) as f64;
    let gate = Input::new("gate", &shape, dtype).values(Values::Normal(3.0)).grad();
    Case {
        op: "swiglu",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![gate, Input::new("up", &shape, dtype).grad()],
        rule: Rule::Elementwise,
        cost: (3.0 * count * dtype.size() as f64, 10.0 * count),
        run: Box::new(|tape, inputs| Ok(vec![ops::swiglu(tape, &inputs[0], &inputs[1])?])),
    }
}

fn geglu(rows: usize, columns: usize, dtype: DType) -> Case {
    let Case { variant, inputs, rule, cost: (bytes, _), .. } = swiglu(rows, columns, dtype);
    Case {
        op: "geglu",
        variant,
        inputs,
        rule,
        cost: (bytes, 20.0 * (rows * columns) as f64),
        run: Box::new(|tape, inputs| Ok(vec![ops::geglu(tape, &inputs[0], &inputs[1])?])),
    }
}

/// Both inputs are one tensor, whose two gradients must add up.
fn shared_input(rows: usize, columns: usize) -> Case {
    let both = Input::new("gate", &[rows, columns], DType::F32).grad();
    Case {
        variant: format!("{rows}x{columns} of one tensor"),
        inputs: vec![both],
        run: Box::new(|tape, inputs| Ok(vec![ops::swiglu(tape, &inputs[0], &inputs[0])?])),
        ..swiglu(rows, columns, DType::F32)
    }
}

/// Appends to a cache that has more room.
fn write_rows(rows: usize, columns: usize, dtype: DType) -> Case {
    let source = Input::new("source", &[rows, columns], dtype);
    let moved = 2 * rows * columns * dtype.size();
    Case {
        op: "write_rows",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![source, Input::new("target", &[rows + 7, columns], dtype)],
        rule: Rule::Exact,
        cost: (moved as f64, 0.0),
        run: Box::new(|_, inputs| {
            ops::write_rows(&inputs[0], &inputs[1], 3)?;
            Ok(vec![inputs[1].clone()])
        }),
    }
}

fn take_row(rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        op: "take_row",
        variant: format!("last of {rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("x", &[rows, columns], dtype)],
        rule: Rule::Exact,
        cost: ((2 * columns * dtype.size()) as f64, 0.0),
        run: Box::new(move |_, inputs| Ok(vec![ops::take_row(&inputs[0], rows - 1)?])),
    }
}

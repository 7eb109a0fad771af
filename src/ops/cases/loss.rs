//! Cases of the output layer with the loss, and of the rows that are picked for it.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops::cross_entropy::{IGNORE, Pieces, linear_cross_entropy_by};
use crate::ops::step_state::{StepState, StepValues};
use crate::ops::{self, RowSelection};

/// Everything in one piece.
pub(super) const WHOLE: Pieces = Pieces { rows: 1 << 20, vocabulary: 1 << 20 };
/// Several chunks of rows and slices of the vocabulary.
const SMALL: Pieces = Pieces { rows: 64, vocabulary: 128 };

/// The checked cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (tokens, columns, vocabulary, pieces) in [
        (1, 1, 1, WHOLE),
        (4, 3, 7, WHOLE),
        (3, 1, 150, SMALL),
        (31, 33, 65, WHOLE),
        (65, 31, 301, SMALL),
        (130, 8, 128, SMALL),
    ] {
        cases.push(linear_cross_entropy(tokens, columns, vocabulary, pieces, DType::F32));
    }
    for (rows, columns) in [(0, 4), (1, 1), (5, 3), (33, 65)] {
        cases.push(gather_rows(rows, columns, DType::F32));
    }
    for dtype in [DType::BF16, DType::F16] {
        cases.push(linear_cross_entropy(31, 32, 66, WHOLE, dtype));
        cases.push(linear_cross_entropy(65, 30, 300, SMALL, dtype));
        cases.push(gather_rows(5, 66, dtype));
    }
    cases
}

/// The timed cases.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    vec![linear_cross_entropy(512, 576, 8192, WHOLE, dtype)]
}

pub(super) fn linear_cross_entropy(
    tokens: usize,
    columns: usize,
    vocabulary: usize,
    pieces: Pieces,
    dtype: DType,
) -> Case {
    // Every third token but the first carries no loss.
    let target = |t: usize| match t % 3 {
        1 => IGNORE,
        _ => ((t * 97 + 5) % vocabulary) as u32,
    };
    let values = StepValues {
        inv_tokens: 1.0 / (tokens - tokens.div_ceil(3).min(tokens - 1)).max(1) as f32,
        loss_scale: if dtype == DType::F16 { 64.0 } else { 1.0 },
        ..StepValues::default()
    };
    let std = 1.5 / (columns as f32).sqrt();
    let (m, k, n) = (tokens as f64, columns as f64, vocabulary as f64);
    Case {
        op: "linear_cross_entropy",
        variant: format!("{tokens}x{columns} to {vocabulary} by {} {}", pieces.rows, dtype.name()),
        inputs: vec![
            Input::new("x", &[tokens, columns], dtype).grad(),
            Input::new("weight", &[vocabulary, columns], dtype)
                .values(Values::Normal(std))
                .grad_f32(),
            Input::integers("targets", (0..tokens).map(target).collect()),
        ],
        rule: Rule::Naive,
        cost: ((m * k + n * k) * dtype.size() as f64, 2.0 * m * n * k),
        run: Box::new(move |tape, inputs| {
            let [x, weight, targets] = [&inputs[0], &inputs[1], &inputs[2]];
            let state = StepState::new(x.device())?;
            state.set(&values)?;
            let found = linear_cross_entropy_by(pieces, tape, x, weight, targets, &state)?;
            Ok(vec![found.scaled_loss, found.losses])
        }),
    }
}

/// Picks every second row, last first.
fn gather_rows(rows: usize, columns: usize, dtype: DType) -> Case {
    let count = (rows * columns) as f64;
    Case {
        op: "gather_rows",
        variant: format!("{rows}x{columns} {}", dtype.name()),
        inputs: vec![Input::new("x", &[rows, columns], dtype).grad()],
        rule: Rule::Exact,
        cost: (count * dtype.size() as f64, 0.0),
        run: Box::new(move |tape, inputs| {
            let picked: Vec<u32> = (0..rows as u32).rev().step_by(2).collect();
            let selection = RowSelection::new(inputs[0].device(), rows, &picked)?;
            Ok(vec![ops::gather_rows(tape, &inputs[0], &selection)?])
        }),
    }
}

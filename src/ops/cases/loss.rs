//! Cases of the output layer with what is made of its logits, and of the rows that are picked for it.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops::cross_entropy::linear_cross_entropy_by;
use crate::ops::output_layer::Pieces;
use crate::ops::step_state::{StepState, StepValues};
use crate::ops::token_logprobs::token_logprobs_by;
use crate::ops::{self, Head, IGNORE, LogprobOptions, LowRank, RowSelection};
use crate::tensor::Tensor;

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
        for temperature in [1.0, 0.7] {
            let options = LogprobOptions { temperature, details: temperature != 1.0 };
            let sizes = [tokens, columns, vocabulary];
            cases.push(token_logprobs(sizes, pieces, options, DType::F32));
        }
    }
    for pieces in [WHOLE, SMALL] {
        let (sizes, options) = ([65, 31, 301], LogprobOptions { temperature: 0.7, details: false });
        let [tokens, columns, vocabulary] = sizes;
        let cross = linear_cross_entropy(tokens, columns, vocabulary, pieces, DType::F32);
        cases.push(with_low_rank(cross));
        cases.push(with_low_rank(token_logprobs(sizes, pieces, options, DType::F32)));
    }
    cases.push(most_likely(DType::F32));
    for (rows, columns) in [(0, 4), (1, 1), (5, 3), (33, 65)] {
        cases.push(gather_rows(rows, columns, DType::F32));
    }
    for (rows, columns) in [(1, 1), (6, 3), (33, 65)] {
        cases.push(gather_rows_often(rows, columns, DType::F32));
    }
    for dtype in [DType::BF16, DType::F16] {
        cases.push(linear_cross_entropy(31, 32, 66, WHOLE, dtype));
        cases.push(linear_cross_entropy(65, 30, 300, SMALL, dtype));
        let options = LogprobOptions { temperature: 1.3, details: true };
        cases.push(token_logprobs([31, 32, 66], WHOLE, LogprobOptions::default(), dtype));
        cases.push(token_logprobs([65, 30, 300], SMALL, options, dtype));
        cases.push(with_low_rank(linear_cross_entropy(65, 30, 300, SMALL, dtype)));
        cases.push(most_likely(dtype));
        cases.push(gather_rows(5, 66, dtype));
        cases.push(gather_rows_often(7, 66, dtype));
    }
    cases
}

/// The timed cases.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    let options = LogprobOptions { temperature: 0.7, details: true };
    vec![
        linear_cross_entropy(512, 576, 8192, WHOLE, dtype),
        token_logprobs([512, 576, 8192], WHOLE, options, dtype),
    ]
}

pub(super) fn linear_cross_entropy(
    tokens: usize,
    columns: usize,
    vocabulary: usize,
    pieces: Pieces,
    dtype: DType,
) -> Case {
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
            Input::integers("targets", targets(tokens, vocabulary)),
        ],
        rule: Rule::Naive,
        cost: ((m * k + n * k) * dtype.size() as f64, 2.0 * m * n * k),
        run: Box::new(move |tape, inputs| {
            let (x, head, targets) = (&inputs[0], head(inputs), &inputs[2]);
            let state = StepState::new(x.device())?;
            state.set(&values)?;
            let found = linear_cross_entropy_by(pieces, tape, x, &head, targets, &state)?;
            Ok(vec![found.scaled_loss, found.losses])
        }),
    }
}

/// The head of a case, with what is added to its logits where the case has that.
fn head(inputs: &[Tensor]) -> Head {
    let mut head = Head::from(&inputs[1]);
    if let [_, _, _, xa, b] = inputs {
        head.low_rank.push(LowRank { xa: xa.clone(), b: b.clone(), scale: 0.7 });
    }
    head
}

/// The case with an update of rank 3, as LoRA on the head has it.
fn with_low_rank(mut case: Case) -> Case {
    let (tokens, vocabulary) = (case.inputs[0].shape[0], case.inputs[1].shape[0]);
    case.variant += " and rank 3";
    case.inputs.push(Input::new("xa", &[tokens, 3], DType::F32).grad_f32());
    case.inputs.push(Input::new("b", &[vocabulary, 3], DType::F32).grad_f32());
    case
}

/// Every third token but the first has none.
fn targets(tokens: usize, vocabulary: usize) -> Vec<u32> {
    let target = |t: usize| match t % 3 {
        1 => IGNORE,
        _ => ((t * 97 + 5) % vocabulary) as u32,
    };
    (0..tokens).map(target).collect()
}

/// The outputs are the log-probabilities, and with details what is reported of each distribution.
fn token_logprobs(
    [tokens, columns, vocabulary]: [usize; 3],
    pieces: Pieces,
    options: LogprobOptions,
    dtype: DType,
) -> Case {
    let LogprobOptions { temperature, details } = options;
    let with = if details { " with details" } else { "" };
    let sizes = format!("{tokens}x{columns} to {vocabulary} by {}", pieces.rows);
    let std = 1.5 / (columns as f32).sqrt();
    let (m, k, n) = (tokens as f64, columns as f64, vocabulary as f64);
    Case {
        op: "token_logprobs",
        variant: format!("{sizes} at {temperature}{with} {}", dtype.name()),
        inputs: vec![
            Input::new("hidden", &[tokens, columns], dtype).grad(),
            Input::new("head", &[vocabulary, columns], dtype)
                .values(Values::Normal(std))
                .grad_f32(),
            Input::integers("targets", targets(tokens, vocabulary)),
        ],
        rule: Rule::Naive,
        cost: ((m * k + n * k) * dtype.size() as f64, 2.0 * m * n * k),
        run: Box::new(move |tape, inputs| {
            let (hidden, head, targets) = (&inputs[0], head(inputs), &inputs[2]);
            let found = token_logprobs_by(pieces, tape, hidden, &head, targets, options)?;
            let details = found.details.map(|found| {
                [found.entropy, found.is_most_likely, found.log_sum_squares, found.mean_logit]
            });
            Ok([found.logprobs].into_iter().chain(details.into_iter().flatten()).collect())
        }),
    }
}

/// Logits that are small integers, exact in every dtype, with several largest ones in a row, some slices
/// apart. The targets are the first of them, a later one, none, and any.
fn most_likely(dtype: DType) -> Case {
    let (tokens, vocabulary) = (70, 300);
    let hidden = |t: usize| [1 + t % 3, t % 5].map(|x| x as f32);
    // 77 kinds of entries: each comes back three times.
    let head = |v: usize| [(v * 7 % 11) as f32 - 5.0, (v * 5 % 7) as f32 - 3.0];
    let logit = move |t: usize, v: usize| {
        let ([a, b], [c, d]) = (hidden(t), head(v));
        a * c + b * d
    };
    let target = |t: usize| {
        let largest = (0..vocabulary).map(|v| logit(t, v)).fold(f32::MIN, f32::max);
        let ties: Vec<usize> = (0..vocabulary).filter(|&v| logit(t, v) == largest).collect();
        match t % 4 {
            0 => ties[0] as u32,
            1 => ties[1 + t / 4 % 2] as u32,
            2 => IGNORE,
            _ => (t * 37 % vocabulary) as u32,
        }
    };
    let flat = |rows: usize, row: &dyn Fn(usize) -> [f32; 2]| {
        Values::Floats((0..rows).flat_map(row).collect())
    };
    let options = LogprobOptions { temperature: 1.0, details: true };
    let mut case = token_logprobs([tokens, 2, vocabulary], SMALL, options, dtype);
    case.variant = format!("with ties {}", dtype.name());
    case.inputs[0].values = flat(tokens, &hidden);
    case.inputs[1].values = flat(vocabulary, &head);
    case.inputs[2] = Input::integers("targets", (0..tokens).map(target).collect());
    case
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

/// Picks every third row four times, and others once or not at all.
fn gather_rows_often(rows: usize, columns: usize, dtype: DType) -> Case {
    Case {
        variant: format!("{rows}x{columns} some often {}", dtype.name()),
        rule: Rule::Naive,
        run: Box::new(move |tape, inputs| {
            let often = (0..4).flat_map(|_| (0..rows as u32).step_by(3));
            let picked: Vec<u32> = often.chain((1..rows as u32).step_by(3)).collect();
            let selection = RowSelection::new(inputs[0].device(), rows, &picked)?;
            Ok(vec![ops::gather_rows(tape, &inputs[0], &selection)?])
        }),
        ..gather_rows(rows, columns, dtype)
    }
}

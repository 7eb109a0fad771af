//! What each op keeps for its backward, found on the device that only counts memory. An activation that
//! a backward keeps without reading it costs as much as one that it needs.

use super::cases::{Case, Input, cases};
use super::verify::inputs;
use crate::backend::arena::LINE;
use crate::backend::cpu::Cpu;
use crate::backend::dry::Dry;
use crate::backend::{Backend, Device};
use crate::dtype::DType;
use crate::tape::Tape;
use crate::tensor::Tensor;

/// What an op keeps where one of its inputs wants a gradient.
struct Row {
    op: &'static str,
    /// The input that wants a gradient.
    of: &'static str,
    /// The inputs whose values are read for it.
    reads: &'static [&'static str],
    /// The bytes of each tensor that is kept beside them.
    beside: fn(&Case) -> Vec<usize>,
}

const fn row(
    op: &'static str,
    of: &'static str,
    reads: &'static [&'static str],
    beside: fn(&Case) -> Vec<usize>,
) -> Row {
    Row { op, of, reads, beside }
}

const NOTHING: fn(&Case) -> Vec<usize> = |_| Vec::new();

/// Every op that has a backward.
const TABLE: &[Row] = &[
    row("add", "a", &[], NOTHING),
    row("add", "b", &[], NOTHING),
    row("add_bias", "x", &[], NOTHING),
    row("add_bias", "bias", &[], NOTHING),
    row("attention", "q", &["q", "k", "v"], of_attention),
    row("attention", "k", &["q", "k", "v"], of_attention),
    row("attention", "v", &["q", "k", "v"], of_attention),
    row("cast", "x", &[], NOTHING),
    row("dropout", "x", &[], |_| vec![STEP_STATE]),
    row("embedding", "weight", &[], NOTHING),
    row("gather_rows", "x", &[], of_gather),
    row("geglu", "gate", &["gate", "up"], NOTHING),
    row("geglu", "up", &["gate", "up"], NOTHING),
    // The gradients, which are there before the backward begins.
    row("linear_cross_entropy", "x", &[], |case| vec![bytes(&case.inputs[0])]),
    row("linear_cross_entropy", "weight", &[], |case| vec![4 * len(&case.inputs[1])]),
    row("lora", "base", &[], NOTHING),
    row("lora", "x", &["lora_a", "lora_b"], of_dropout),
    row("lora", "lora_a", &["x", "lora_b"], of_dropout),
    // x A^T.
    row("lora", "lora_b", &[], |case| vec![4 * case.inputs[1].shape[0] * case.inputs[2].shape[0]]),
    row("linear_cross_entropy", "xa", &[], |case| vec![4 * len(&case.inputs[3])]),
    row("linear_cross_entropy", "b", &[], |case| vec![4 * len(&case.inputs[4])]),
    row("matmul", "x", &["w"], NOTHING),
    row("matmul", "w", &["x"], NOTHING),
    row("neftune", "x", &[], NOTHING),
    row("nf4_matmul", "x", &[], NOTHING),
    row("rms_norm", "x", &["x", "weight"], of_norm),
    row("rms_norm", "weight", &["x"], of_norm),
    row("rope", "x", &[], NOTHING),
    row("scale", "x", &[], NOTHING),
    // The inverses of the norms, which are an input that wants no gradient.
    row("scale_columns", "x", &["magnitude"], NOTHING),
    row("scale_columns", "magnitude", &["x"], NOTHING),
    row("slice_columns", "x", &[], NOTHING),
    row("swiglu", "gate", &["gate", "up"], NOTHING),
    row("swiglu", "up", &["gate", "up"], NOTHING),
    // The logits are computed again.
    row("token_logprobs", "hidden", &["hidden", "head", "xa", "b"], of_softmax),
    row("token_logprobs", "head", &["hidden", "head", "xa", "b"], of_softmax),
    row("token_logprobs", "xa", &["hidden", "head", "xa", "b"], of_softmax),
    row("token_logprobs", "b", &["hidden", "head", "xa", "b"], of_softmax),
];

/// What draws masks reads the number of the step: f32 [16].
const STEP_STATE: usize = 64;

fn len(input: &Input) -> usize {
    input.shape.iter().product()
}

fn bytes(input: &Input) -> usize {
    len(input) * input.dtype.size()
}

/// Flash: the result, and lse and delta of each row. Eager: the weights.
fn of_attention(case: &Case) -> Vec<usize> {
    let (q, keys) = (&case.inputs[0], case.inputs[1].shape[0]);
    let rows = q.shape[0] * q.shape[1];
    match case.variant.starts_with("Flash") {
        true => vec![bytes(q), 4 * 2 * rows],
        false => vec![4 * rows * keys],
    }
}

/// Where each row went: one place, or where its places begin, and the places.
fn of_gather(case: &Case) -> Vec<usize> {
    let rows = case.inputs[0].shape[0];
    match case.variant.contains("often") {
        true => vec![4 * (rows + 1), 4 * (4 * rows.div_ceil(3) + (rows - 1).div_ceil(3))],
        false => vec![4 * rows],
    }
}

fn of_dropout(case: &Case) -> Vec<usize> {
    match case.variant.contains(" p 0 ") {
        true => Vec::new(),
        false => vec![STEP_STATE],
    }
}

/// 1 / rms of each row.
fn of_norm(case: &Case) -> Vec<usize> {
    vec![4 * case.inputs[0].shape[0]]
}

/// The statistics of each row: four more where there are details.
fn of_softmax(case: &Case) -> Vec<usize> {
    let details = ["with details", "with ties"].iter().any(|part| case.variant.contains(part));
    vec![4 * case.inputs[0].shape[0] * if details { 7 } else { 3 }]
}

/// Runs a case in which only the input `of` wants a gradient; returns the inputs that the tape then
/// holds, of those that may want one, and the bytes beside all inputs.
fn kept(case: &Case, of: &str) -> (Vec<&'static str>, u64) {
    let device = Device::new(Dry::new(Cpu::new().capabilities().clone()));
    let made = inputs(case, &device).unwrap();
    let named = case.inputs.iter().zip(made);
    let of_case: Vec<Tensor> = named
        .map(|(input, tensor)| if input.name == of { tensor } else { tensor.detach() })
        .collect();
    let before = device.memory().in_use;
    let tape = Tape::recording();
    drop((case.run)(&tape, &of_case).unwrap());
    let is_held = |tensor: &Tensor| !tensor.view().buffer.is_unique();
    let held = case.inputs.iter().zip(&of_case);
    let held = held.filter(|(input, tensor)| input.grad.is_some() && is_held(tensor));
    (held.map(|(input, _)| input.name).collect(), device.memory().in_use - before)
}

#[test]
fn every_op_keeps_what_its_backward_reads() {
    let mut tested = vec![false; TABLE.len()];
    for case in cases() {
        for of in case.inputs.iter().filter(|input| input.grad.is_some()) {
            let what = format!("{} {}, d{}", case.op, case.variant, of.name);
            let found = TABLE.iter().position(|row| row.op == case.op && row.of == of.name);
            let number = found.unwrap_or_else(|| panic!("{what}: no row in the table"));
            tested[number] = true;
            let Row { reads, beside, .. } = &TABLE[number];
            let size = |bytes: usize| bytes.max(1).next_multiple_of(LINE as usize) as u64;
            let beside: u64 = beside(&case).into_iter().map(size).sum();
            // A case may have fewer inputs: one for two.
            let is_there = |name: &&str| case.inputs.iter().any(|input| input.name == *name);
            let reads = reads.iter().copied().filter(is_there).collect();
            assert_eq!(kept(&case, of.name), (reads, beside), "{what}");
        }
    }
    let unused = TABLE.iter().zip(tested).find(|(_, tested)| !tested);
    assert!(unused.is_none(), "no case of {:?}", unused.map(|(row, _)| (row.op, row.of)));
}

/// Norms and SwiGLU leave their results to be computed again where the tape asks for that: a layer that
/// would save them saves nothing.
#[test]
fn elementwise_results_are_not_kept_where_they_can_be_recomputed() {
    let device = Device::new(Dry::new(Cpu::new().capabilities().clone()));
    let tensor = |shape: &[usize]| Tensor::empty(&device, shape, DType::F32).unwrap();
    let weight = |shape: &[usize]| tensor(shape).with_grad("weight", DType::F32);
    let (rows, columns) = (64, 128);
    let mut found = Vec::new();
    for recompute in [false, true] {
        let tape = Tape::recording();
        tape.recompute_elementwise(recompute);
        let x = weight(&[rows, columns]);
        let [norm, gate, up, down] =
            [&[columns][..], &[256, columns], &[256, columns], &[columns, 256]].map(weight);
        let before = device.memory().in_use;
        let h = super::rms_norm(&tape, &x, &norm, 1e-5, 0.0).unwrap();
        let [gate, up] = [&gate, &up].map(|w| super::matmul(&tape, &h, w).unwrap());
        let product = super::swiglu(&tape, &gate, &up).unwrap();
        let y = super::matmul(&tape, &product, &down).unwrap();
        drop((h, gate, up, product));
        found.push(device.memory().in_use - before);
        tape.backward(&y, tensor(&[rows, columns])).unwrap();
    }
    let rstd_gate_up_y = 4 * rows * (1 + 2 * 256 + columns);
    let h_and_product = 4 * rows * (columns + 256);
    assert_eq!(found, [rstd_gate_up_y + h_and_product, rstd_gate_up_y].map(|bytes| bytes as u64));
}

//! Cases of attention, for both implementations.

use super::{Case, Input, Rule};
use crate::dtype::DType;
use crate::ops::{self, AttentionLayout, Implementation};

/// What to attend to.
#[derive(Clone, Copy)]
struct Shape<'a> {
    /// Sequences packed one after the other.
    lengths: &'a [usize],
    /// Or groups: a prompt, and the sequences that share it; none after a sequence by itself.
    groups: &'a [&'a [usize]],
    heads: usize,
    kv_heads: usize,
    width: usize,
    window: Option<u32>,
    /// Keys that come before the first query.
    q_offset: usize,
}

const fn shape(lengths: &[usize], heads: usize, kv_heads: usize, width: usize) -> Shape<'_> {
    Shape { lengths, groups: &[], heads, kv_heads, width, window: None, q_offset: 0 }
}

const fn sharing<'a>(
    groups: &'a [&'a [usize]],
    heads: usize,
    kv_heads: usize,
    width: usize,
) -> Shape<'a> {
    Shape { groups, ..shape(&[], heads, kv_heads, width) }
}

const fn windowed(shape: Shape<'_>, window: u32) -> Shape<'_> {
    Shape { window: Some(window), ..shape }
}

const fn decoding(shape: Shape<'_>, q_offset: usize) -> Shape<'_> {
    Shape { q_offset, ..shape }
}

/// Tile edges, odd widths, packing, groups, windows; the first four are small enough for gradcheck.
const SHAPES: &[Shape<'static>] = &[
    shape(&[1], 1, 1, 2),
    shape(&[3, 2], 2, 1, 4),
    windowed(shape(&[7], 2, 2, 3), 3),
    windowed(shape(&[2, 1, 4], 3, 1, 2), 1),
    shape(&[], 2, 1, 4),
    shape(&[31], 2, 1, 34),
    windowed(shape(&[33], 4, 2, 66), 9),
    shape(&[20, 13, 32], 6, 2, 40),
    shape(&[65], 1, 1, 5),
    // The last query that sees a tile of keys is the first of a tile of queries.
    windowed(shape(&[70], 1, 1, 2), 34),
    windowed(shape(&[1, 64], 3, 3, 8), 32),
    windowed(shape(&[150, 40], 3, 1, 16), 70),
    shape(&[140], 2, 2, 130),
    decoding(shape(&[45], 6, 2, 16), 44),
    decoding(windowed(shape(&[37], 4, 4, 33), 20), 33),
    decoding(shape(&[200], 3, 1, 8), 130),
    // Shared prompts: the first three are small enough for gradcheck. A sequence that begins with nothing in
    // common; prompts of several tiles; sequences that end and begin within a tile; windows that reach back into
    // the prompt from some, from all, or from none; the last sequence alone, after a cache of the others.
    sharing(&[&[2, 1, 2]], 1, 1, 2),
    windowed(sharing(&[&[3, 2, 3], &[2]], 2, 1, 4), 3),
    sharing(&[&[0, 2, 3], &[2], &[1, 1, 1]], 2, 2, 2),
    sharing(&[&[40, 5, 37, 1], &[20], &[3, 50, 33]], 4, 2, 34),
    windowed(sharing(&[&[70, 20, 50], &[9, 3, 3, 30]], 3, 1, 16), 33),
    windowed(sharing(&[&[90, 41, 40]], 2, 2, 8), 100),
    windowed(sharing(&[&[150, 70, 7, 40], &[33]], 3, 3, 5), 60),
    sharing(&[&[300, 140, 150]], 2, 1, 6),
    decoding(sharing(&[&[50, 30, 20]], 6, 2, 16), 99),
    decoding(windowed(sharing(&[&[64, 40, 70]], 2, 1, 8), 50), 101),
];

/// Shapes of the 16-bit cases.
const SHAPES_16_BIT: &[Shape<'static>] = &[
    shape(&[3, 2], 2, 1, 4),
    windowed(shape(&[33], 4, 2, 66), 9),
    shape(&[20, 13, 32], 6, 2, 40),
    decoding(shape(&[45], 6, 2, 16), 44),
    windowed(sharing(&[&[40, 5, 37, 1], &[20], &[3, 50, 33]], 4, 2, 34), 45),
];

/// 16-bit shapes whose widths the tensor cores take: several tiles, packing, groups, windows, a KV
/// cache, every way that rows lie in shared memory, and heads too wide for the backward.
const SHAPES_TENSOR_CORES: &[Shape<'static>] = &[
    shape(&[70], 2, 1, 16),
    shape(&[33, 50, 7], 2, 1, 48),
    windowed(shape(&[20, 13, 100], 4, 2, 80), 40),
    windowed(shape(&[150], 1, 1, 64), 70),
    shape(&[130], 1, 1, 128),
    shape(&[70], 2, 2, 96),
    decoding(shape(&[45], 6, 2, 16), 44),
    decoding(windowed(shape(&[200], 3, 1, 32), 33), 60),
    decoding(shape(&[2, 130], 1, 1, 64), 64),
    decoding(shape(&[70], 1, 1, 192), 5),
    decoding(shape(&[70], 1, 1, 256), 5),
    sharing(&[&[70, 33, 60], &[20], &[5, 7, 90]], 2, 1, 48),
    sharing(&[&[200, 70, 130]], 1, 1, 64),
    windowed(sharing(&[&[100, 50, 70, 3]], 2, 2, 64), 80),
    windowed(sharing(&[&[9], &[90, 80, 40]], 1, 1, 128), 110),
    decoding(windowed(sharing(&[&[150, 60, 70]], 2, 1, 32), 170), 190),
];

/// 16-bit shapes that Hopper's tensor cores take: several tiles of queries and keys, packing, groups,
/// windows, a KV cache.
const SHAPES_HOPPER: &[Shape] = &[
    shape(&[100, 161, 40], 4, 2, 64),
    windowed(shape(&[300], 2, 1, 128), 140),
    decoding(windowed(shape(&[33, 270], 2, 2, 64), 200), 170),
    decoding(shape(&[330], 1, 1, 128), 200),
    sharing(&[&[150, 60, 130, 9], &[40]], 4, 2, 64),
    sharing(&[&[260, 140]], 1, 1, 128),
    windowed(sharing(&[&[40], &[170, 140, 50]], 2, 1, 128), 190),
    decoding(windowed(sharing(&[&[130, 100, 150]], 2, 2, 64), 150), 200),
];

/// The checked cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for implementation in [Implementation::Flash, Implementation::Eager] {
        cases.extend(SHAPES.iter().map(|&shape| attention(shape, DType::F32, implementation)));
        for dtype in [DType::BF16, DType::F16] {
            cases
                .extend(SHAPES_16_BIT.iter().map(|&shape| attention(shape, dtype, implementation)));
        }
    }
    for dtype in [DType::BF16, DType::F16] {
        let shapes = SHAPES_TENSOR_CORES.iter().chain(SHAPES_HOPPER);
        cases.extend(shapes.map(|&shape| attention(shape, dtype, Implementation::Flash)));
    }
    cases
}

/// The timed cases.
pub fn bench_cases(dtype: DType) -> Vec<Case> {
    [shape(&[1024], 9, 3, 64), shape(&[256, 256, 256, 256], 9, 3, 64)]
        .map(|shape| attention(shape, dtype, Implementation::Flash))
        .into()
}

/// Causal attention within sequences of these lengths.
pub(super) fn causal(
    lengths: &[usize],
    heads: usize,
    kv_heads: usize,
    width: usize,
    dtype: DType,
) -> Case {
    attention(shape(lengths, heads, kv_heads, width), dtype, Implementation::Flash)
}

fn attention(shape: Shape<'_>, dtype: DType, implementation: Implementation) -> Case {
    let Shape { lengths, groups, heads, kv_heads, width, window, q_offset } = shape;
    let (bounds, pairs) =
        if groups.is_empty() { bounds_of(lengths) } else { shared_bounds_of(groups) };
    let keys = bounds.shape[0];
    let kv = [keys, kv_heads, width];
    let mut inputs = vec![
        Input::new("q", &[keys - q_offset, heads, width], dtype),
        Input::new("k", &kv, dtype),
        Input::new("v", &kv, dtype),
    ];
    if q_offset == 0 {
        inputs = inputs.into_iter().map(Input::grad).collect();
    }
    inputs.push(bounds);
    let sequences =
        if groups.is_empty() { format!("{lengths:?}") } else { format!("shared {groups:?}") };
    let moved = (2 * keys * (heads + kv_heads) * width * dtype.size()) as f64;
    let window_text = window.map_or(String::new(), |window| format!(" window {window}"));
    Case {
        op: "attention",
        variant: format!(
            "{implementation:?} {sequences} from {q_offset} heads {heads}/{kv_heads} x {width}\
             {window_text} {}",
            dtype.name()
        ),
        inputs,
        rule: Rule::Naive,
        cost: (moved, (4 * heads * width * pairs) as f64),
        run: Box::new(move |tape, inputs| {
            let scale = 1.0 / (width as f32).sqrt();
            let layout = AttentionLayout { bounds: inputs[3].clone(), q_offset, window, scale };
            let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
            Ok(vec![ops::attention(tape, q, k, v, &layout, implementation)?])
        }),
    }
}

/// The bounds [S, 2] of sequences, and the pairs that see each other.
fn bounds_of(lengths: &[usize]) -> (Input, usize) {
    let mut bounds = Vec::new();
    for &length in lengths {
        let first = bounds.len() as u32 / 2;
        (0..length).for_each(|_| bounds.extend([first, first + length as u32]));
    }
    let keys = bounds.len() / 2;
    let pairs = lengths.iter().map(|length| length * (length + 1) / 2).sum();
    (Input { shape: vec![keys, 2], ..Input::integers("bounds", bounds) }, pairs)
}

/// The bounds [S, 4] of groups, and the pairs that see each other.
fn shared_bounds_of(groups: &[&[usize]]) -> (Input, usize) {
    let (mut bounds, mut pairs) = (Vec::new(), 0);
    for &group in groups {
        let (prompt, start) = (group[0], bounds.len() as u32 / 4);
        let end = start + group.iter().sum::<usize>() as u32;
        let prompt_end = start + prompt as u32;
        (0..prompt).for_each(|_| bounds.extend([start, end, start, start]));
        pairs += prompt * (prompt + 1) / 2;
        for &length in &group[1..] {
            let first = bounds.len() as u32 / 4;
            let shared = if prompt > 0 { [start, prompt_end] } else { [first; 2] };
            let numbers = [first, first + length as u32, shared[0], shared[1]];
            (0..length).for_each(|_| bounds.extend(numbers));
            pairs += length * prompt + length * (length + 1) / 2;
        }
    }
    let keys = bounds.len() / 4;
    (Input { shape: vec![keys, 4], ..Input::integers("bounds", bounds) }, pairs)
}

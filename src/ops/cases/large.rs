//! The kernels of a training step at the sizes of an 8B model (Llama 3.1's), to be timed beside NVIDIA's
//! own. `tools/bench_torch.py` has the same sizes under the same names.

use super::{Case, Input, Run, attention, basic, linear, loss, optimizer};
use crate::dtype::DType;
use crate::ops;
use crate::ops::IGNORE;
use crate::ops::cast_into;
use crate::ops::matmul::{Layout, matmul_into};
use crate::ops::step_state::{StepState, StepValues};
use crate::tensor::Tensor;

/// (N, K) of the linear layers: qkv, o, gate and up, down, the output layer.
const LAYERS: [[usize; 2]; 5] =
    [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336], [128_256, 4096]];
const TOKENS: [usize; 3] = [512, 4096, 16384];
/// Sequences, tokens in each, heads, kv-heads, head width.
const ATTENTION: [[usize; 5]; 3] =
    [[4, 4096, 32, 8, 128], [1, 16384, 32, 8, 128], [4, 4096, 32, 8, 64]];
const BF16: DType = DType::BF16;

/// A case that is timed and not checked: smaller ones of the same ops are.
pub struct LargeCase {
    /// The case, with op and variant as `tools/bench_torch.py` names what it is compared with.
    pub case: Case,
    /// The work of the backward pass as a multiple of the forward's, where it is timed too.
    pub backward: Option<f64>,
    /// What `case.run` does besides, to be timed by itself and taken off.
    pub besides: Option<Run>,
}

/// The cases, most telling first; token counts and widths are divided by `by`, to try them out.
pub fn large_cases(by: usize) -> Vec<LargeCase> {
    let layers = LAYERS.map(|layer| layer.map(|size| size / by));
    let tokens = TOKENS.map(|tokens| tokens.div_ceil(by));
    let (layer, most) = (4096 / by, tokens[2]);
    let mut cases = vec![copy((1 << 28) / by)];
    for layout in [Layout::NT, Layout::NN, Layout::TN] {
        for m in tokens {
            cases.extend(layers.iter().map(|&[n, k]| product(layout, [m, n, k])));
        }
    }
    for m in [tokens[2], tokens[1]] {
        cases.extend(layers[..4].iter().map(|&[n, k]| {
            let case = linear::nf4_matmul([m, n, k], BF16, true);
            both(case, format!("{m}x{n}x{k}"), 1.0)
        }));
    }
    for [sequences, length, heads, kv_heads, width] in ATTENTION {
        let length = length.div_ceil(by);
        let case = attention::causal(&vec![length; sequences], heads, kv_heads, width, BF16);
        let variant = format!("{sequences}x{length} heads {heads}/{kv_heads} x {width}");
        cases.push(both(case, variant, 2.5));
    }
    let mut rms_norm = basic::rms_norm(most, layer, BF16);
    rms_norm.inputs[1].grad = None;
    cases.push(both(rms_norm, format!("{most}x{layer}"), 1.5));
    cases.push(alone(optimizer::adamw((42 << 20) / by, 0.0), format!("{}M", 42.0 / by as f64)));
    for n in [layer, 14336 / by] {
        cases.push(lora([most, n, layer], 16));
    }
    cases.push(cross_entropy([tokens[1], layers[4][0], layer]));
    cases
}

fn alone(case: Case, variant: String) -> LargeCase {
    LargeCase { case: Case { variant, ..case }, backward: None, besides: None }
}

fn both(case: Case, variant: String, backward: f64) -> LargeCase {
    LargeCase { backward: Some(backward), ..alone(case, variant) }
}

/// The ceiling of everything that memory bounds.
fn copy(count: usize) -> LargeCase {
    let case = Case {
        op: "copy",
        variant: String::new(),
        inputs: vec![Input::new("x", &[count], DType::F32)],
        rule: super::Rule::Exact,
        cost: (8.0 * count as f64, 0.0),
        run: Box::new(|_, inputs| {
            let y = Tensor::empty(inputs[0].device(), inputs[0].shape(), DType::F32)?;
            cast_into(&inputs[0], &y)?;
            Ok(vec![y])
        }),
    };
    alone(case, format!("{} MiB", (4 * count) >> 20))
}

/// A layer's product for `m` tokens: forward, the gradient of x, that of w, by its layout.
fn product(layout: Layout, [m, n, k]: [usize; 3]) -> LargeCase {
    let (x, dy, w) = ([m, k], [m, n], [n, k]);
    let (op, a, b, out) = match layout {
        Layout::NT => ("matmul", x, w, dy),
        Layout::NN => ("matmul NN", dy, w, x),
        Layout::TN => ("matmul TN", dy, x, w),
    };
    let case = Case {
        op,
        variant: String::new(),
        inputs: vec![Input::new("a", &a, BF16), Input::new("b", &b, BF16)],
        rule: super::Rule::Naive,
        cost: linear::product_cost([m, n, k], [BF16; 3]),
        run: Box::new(move |_, inputs| {
            let y = Tensor::empty(inputs[0].device(), &out, BF16)?;
            matmul_into(layout, &inputs[0], &inputs[1], 1.0, false, &y)?;
            Ok(vec![y])
        }),
    };
    alone(case, format!("{m}x{n}x{k}"))
}

/// LoRA beside a frozen layer, whose output is zeros here.
fn lora([t, n, k]: [usize; 3], rank: usize) -> LargeCase {
    let base = move |inputs: &[Tensor]| ops::zeros(inputs[0].device(), &[t, n], BF16);
    let activations = BF16.size() * t;
    let case = Case {
        op: "lora",
        variant: String::new(),
        inputs: vec![
            Input::new("x", &[t, k], BF16).grad(),
            Input::new("lora_a", &[rank, k], DType::F32).grad_f32(),
            Input::new("lora_b", &[n, rank], DType::F32).grad_f32(),
        ],
        rule: super::Rule::Naive,
        cost: ((activations * (k + 2 * n)) as f64, (2 * t * rank * (n + k)) as f64),
        run: Box::new(move |tape, inputs| {
            let [x, lora_a, lora_b] = [&inputs[0], &inputs[1], &inputs[2]];
            Ok(vec![ops::lora(tape, base(inputs)?, x, lora_a, lora_b, 2.0, None)?])
        }),
    };
    // Forward moves x, and y twice; backward dy twice, x and dx.
    let backward = (2 * n + 2 * k) as f64 / (k + 2 * n) as f64;
    LargeCase {
        besides: Some(Box::new(move |_, inputs| Ok(vec![base(inputs)?]))),
        ..both(case, format!("{t}x{n}x{k} rank {rank}"), backward)
    }
}

/// Output layer and loss, with the gradient of x, which the forward pass finds along the way.
fn cross_entropy([tokens, vocabulary, columns]: [usize; 3]) -> LargeCase {
    let target = |t: usize| if t % 4096 == 4095 { IGNORE } else { (t * 97 % vocabulary) as u32 };
    let mut case = loss::linear_cross_entropy(tokens, columns, vocabulary, loss::WHOLE, BF16);
    case.inputs[1].grad = None;
    case.inputs[2] = Input::integers("targets", (0..tokens).map(target).collect());
    case.cost.1 *= 2.0;
    case.run = Box::new(|tape, inputs| {
        let state = StepState::new(inputs[0].device())?;
        state.set(&StepValues::default())?;
        let found = ops::linear_cross_entropy(tape, &inputs[0], &inputs[1], &inputs[2], &state)?;
        Ok(vec![found.scaled_loss])
    });
    alone(case, format!("{tokens}x{vocabulary}x{columns}"))
}

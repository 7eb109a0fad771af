//! Cases of the optimizers and of the gradient norm.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops::step_state::index;
use crate::ops::{self, AdamW, AdamW8bit, Moments8bit, Muon, StepState};
use crate::quant::dynamic8;

/// The checked cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [1, 31, 257, 5000] {
        cases.push(adamw(count, 0.0));
    }
    cases.push(adamw(33, 1.0));
    for count in [1, 255, 259, 4171] {
        cases.push(adamw_8bit(count, 0.0));
    }
    cases.push(adamw_8bit(259, 1.0));
    for shape in [[1, 7], [24, 40], [65, 31], [33, 33]] {
        cases.push(muon(shape, 0.0));
    }
    cases.push(muon([9, 5], 1.0));
    for (sizes, max_norm) in [(vec![1], 1.0), (vec![33, 4096, 4097], 1.0), (vec![7, 9], 0.0)] {
        cases.push(grad_norm(sizes.clone(), max_norm, 1.0));
        cases.push(grad_norm(sizes, max_norm, f32::INFINITY));
    }
    cases
}

/// The timed cases.
pub fn bench_cases() -> Vec<Case> {
    vec![
        adamw(1 << 20, 0.0),
        adamw_8bit(1 << 20, 0.0),
        muon([1024, 1024], 0.0),
        grad_norm(vec![1 << 20], 1.0, 1.0),
    ]
}

fn state(skip: f32) -> Input {
    let mut slots = [0.0; index::LEN];
    slots[index::LEARNING_RATE] = 0.1;
    slots[index::BIAS_CORRECTION1] = 0.19;
    slots[index::BIAS_CORRECTION2] = 0.002;
    slots[index::CLIP] = 0.5;
    slots[index::LOSS_SCALE] = 2.0;
    slots[index::SKIP] = skip;
    Input::new("state", &[index::LEN], DType::F32).values(Values::Floats(slots.to_vec()))
}

/// Parameters are small beside the step, so that comparing them compares the change.
pub(super) fn adamw(count: usize, skip: f32) -> Case {
    let float = |name, std| Input::new(name, &[count], DType::F32).values(Values::Normal(std));
    let settings = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, lr_ratio: 1.5 };
    // Second moments are squares.
    let v = (0..count).map(|i| 1e-4 * (1.0 + (i % 7) as f32)).collect();
    Case {
        op: "adamw",
        variant: format!("{count}{}", if skip == 0.0 { "" } else { ", skipped" }),
        inputs: vec![
            float("param", 0.01),
            float("m", 0.1),
            Input::new("v", &[count], DType::F32).values(Values::Floats(v)),
            float("grad", 1.0),
            state(skip),
        ],
        rule: if skip == 0.0 { Rule::Elementwise } else { Rule::Exact },
        cost: (28.0 * count as f64, 14.0 * count as f64),
        run: Box::new(move |_, inputs| {
            let [param, m, v, grad, state] = inputs else { unreachable!("five inputs") };
            ops::adamw(settings, param, m, v, grad, &StepState::from_tensor(state))?;
            Ok(vec![param.clone(), m.clone(), v.clone()])
        }),
    }
}

const BLOCKSIZE: usize = 256;

/// Inputs whose new moments lie clear of where codes change, so that codes are the same in any
/// precision. The second block has moments and gradients of zero.
fn adamw_8bit(count: usize, skip: f32) -> Case {
    let blocks = count.div_ceil(BLOCKSIZE);
    let absmax = |scale: f32| -> Vec<f32> {
        (0..blocks)
            .map(|block| if block == 1 { 0.0 } else { scale * (1 + block % 3) as f32 })
            .collect()
    };
    let (m_absmax, v_absmax) = (absmax(0.01), absmax(1e-4));
    // Where a block's largest element is.
    let is_largest = |i: usize| {
        let (block, first) = (i / BLOCKSIZE, i / BLOCKSIZE * BLOCKSIZE);
        i - first == (200 + 101 * block) % BLOCKSIZE.min(count - first)
    };
    let code = |i: usize, by: usize| if is_largest(i) { 255 } else { (i * by % 251) as u8 };
    let m: Vec<u8> = (0..count).map(|i| code(i, 37)).collect();
    let v: Vec<u8> = (0..count).map(|i| code(i, 91)).collect();
    let clear = ClearGradients::new();
    let grad = (0..count).map(|i| match i / BLOCKSIZE {
        1 => 0.0,
        _ if is_largest(i) => ClearGradients::LARGEST,
        block => clear.find(i, [m[i], v[i]], [m_absmax[block], v_absmax[block]]),
    });
    let floats = |name, values: Vec<f32>| {
        Input::new(name, &[values.len()], DType::F32).values(Values::Floats(values))
    };
    let codes = |name, values: Vec<u8>| {
        Input::new(name, &[values.len()], DType::U8).values(Values::Bytes(values))
    };
    let settings =
        AdamW8bit { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, lr_ratio: 1.5 };
    Case {
        op: "adamw_8bit",
        variant: format!("{count}{}", if skip == 0.0 { "" } else { ", skipped" }),
        inputs: vec![
            Input::new("param", &[count], DType::F32).values(Values::Normal(0.01)),
            floats("grad", grad.collect()),
            state(skip),
            codes("m", m),
            codes("v", v),
            floats("m_absmax", m_absmax),
            floats("v_absmax", v_absmax),
        ],
        rule: if skip == 0.0 { Rule::Elementwise } else { Rule::Exact },
        cost: (16.0 * count as f64, 30.0 * count as f64),
        run: Box::new(move |_, inputs| {
            let [param, grad, state, m, v, m_absmax, v_absmax] = inputs else {
                unreachable!("seven inputs")
            };
            let [m, v, m_absmax, v_absmax] = [m, v, m_absmax, v_absmax].map(Clone::clone);
            let moments = Moments8bit { m, v, m_absmax, v_absmax };
            let tables = ops::dynamic_tables(param.device())?;
            let state = StepState::from_tensor(state);
            ops::adamw_8bit(settings, &tables, param, &moments, grad, &state)?;
            let Moments8bit { m, v, m_absmax, v_absmax } = moments;
            Ok(vec![param.clone(), m, v, m_absmax, v_absmax])
        }),
    }
}

/// Draws gradients whose step makes moments with unmistakable codes.
struct ClearGradients {
    maps: [[f32; BLOCKSIZE]; 2],
    first_steps: [[f32; BLOCKSIZE]; 2],
}

impl ClearGradients {
    /// That of the largest element of a block.
    const LARGEST: f32 = 4.0;

    fn new() -> Self {
        let maps = [dynamic8::dynamic_map(), dynamic8::unsigned_dynamic_map()];
        let first_steps =
            maps.each_ref().map(|map| dynamic8::first_steps(&dynamic8::step_codes(map)));
        Self { maps, first_steps }
    }

    /// Both moments after the step with gradient `grad`, of which [`state`] clips half away.
    fn moments(&self, grad: f32, codes: [u8; 2], absmax: [f32; 2]) -> [f64; 2] {
        let old =
            |which: usize| f64::from(self.maps[which][usize::from(codes[which])] * absmax[which]);
        let g = f64::from(grad) * 0.5;
        [0.9 * old(0) + 0.1 * g, 0.999 * old(1) + 0.001 * g * g]
    }

    /// A gradient for element `i`, which is not the largest of its block.
    fn find(&self, i: usize, codes: [u8; 2], absmax: [f32; 2]) -> f32 {
        let largest = self.moments(Self::LARGEST, [255; 2], absmax);
        let candidates = (0..).map(|k| ((i * 7919 + k * 104_729) % 2003) as f32 / 1001.5 - 1.0);
        let is_clear = |grad: &f32| {
            let moments = self.moments(*grad, codes, absmax);
            (0..2).all(|which| {
                let step = (moments[which] / largest[which] + 1.0) * 32_767.5 + 0.5;
                let far = |&first: &f32| (f64::from(first) - step).abs() > 0.05;
                self.first_steps[which].iter().all(far)
            })
        };
        candidates.into_iter().find(is_clear).unwrap_or(0.0)
    }
}

/// Newton-Schulz makes small singular values up to 3.4445^5 times as large, and their rounding with
/// them: the naive computation says how much that is.
fn muon([rows, columns]: [usize; 2], skip: f32) -> Case {
    let float =
        |name, std| Input::new(name, &[rows, columns], DType::F32).values(Values::Normal(std));
    let settings = Muon { momentum: 0.95, weight_decay: 0.1, lr_ratio: 0.7 };
    let (count, side) = ((rows * columns) as f64, rows.min(columns) as f64);
    Case {
        op: "muon",
        variant: format!("{rows}x{columns}{}", if skip == 0.0 { "" } else { ", skipped" }),
        inputs: vec![float("param", 0.01), float("momentum", 0.1), float("grad", 1.0), state(skip)],
        rule: if skip == 0.0 { Rule::Naive } else { Rule::Exact },
        cost: (120.0 * count, 5.0 * side * (4.0 * count + 2.0 * side * side)),
        run: Box::new(move |_, inputs| {
            let [param, momentum, grad, state] = inputs else { unreachable!("four inputs") };
            ops::muon(settings, param, momentum, grad, &StepState::from_tensor(state))?;
            Ok(vec![param.clone(), momentum.clone()])
        }),
    }
}

/// `spike` is put into the first gradient: an infinity must set the skip flag.
fn grad_norm(sizes: Vec<usize>, max_norm: f32, spike: f32) -> Case {
    let count: usize = sizes.iter().sum();
    let mut inputs: Vec<_> =
        sizes.iter().map(|&size| Input::new("grad", &[size], DType::F32)).collect();
    let first = (0..sizes[0]).map(|i| if i == 0 { spike } else { 0.25 * i as f32 % 3.0 }).collect();
    inputs[0] = Input::new("grad", &[sizes[0]], DType::F32).values(Values::Floats(first));
    inputs.push(state(7.0));
    Case {
        op: "grad_norm",
        variant: format!("{sizes:?}, max {max_norm}, spike {spike}"),
        inputs,
        rule: Rule::Elementwise,
        cost: (4.0 * count as f64, 2.0 * count as f64),
        run: Box::new(move |_, inputs| {
            let (state, grads) = inputs.split_last().expect("a state and gradients");
            ops::grad_norm(state.device(), grads, max_norm, &StepState::from_tensor(state))?;
            // Slot by slot, so that each is held to its own size.
            [index::CLIP, index::SKIP, index::GRAD_NORM]
                .into_iter()
                .map(|slot| pick(state, slot))
                .collect()
        }),
    }
}

/// One slot of the state as a tensor of its own.
fn pick(state: &crate::Tensor, slot: usize) -> crate::Result<crate::Tensor> {
    let value = state.read_f64()?[slot];
    let tensor = crate::Tensor::empty(state.device(), &[1], DType::F32)?;
    state.device().upload_f64(tensor.view(), &[value])?;
    Ok(tensor)
}

//! Cases of the optimizer and of the gradient norm.

use super::{Case, Input, Rule, Values};
use crate::dtype::DType;
use crate::ops::step_state::index;
use crate::ops::{self, AdamW, StepState};

/// The checked cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for count in [1, 31, 257, 5000] {
        cases.push(adamw(count, 0.0));
    }
    cases.push(adamw(33, 1.0));
    for (sizes, max_norm) in [(vec![1], 1.0), (vec![33, 4096, 4097], 1.0), (vec![7, 9], 0.0)] {
        cases.push(grad_norm(sizes.clone(), max_norm, 1.0));
        cases.push(grad_norm(sizes, max_norm, f32::INFINITY));
    }
    cases
}

/// The timed cases.
pub fn bench_cases() -> Vec<Case> {
    vec![adamw(1 << 20, 0.0), grad_norm(vec![1 << 20], 1.0, 1.0)]
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
    let settings = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
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

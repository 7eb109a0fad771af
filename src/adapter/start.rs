//! The factors that a new adapter begins with.
//!
//! PiSSA and OLoRA begin with a part of the weight itself, which the weight then goes without. Here the
//! base stays as it is: the update is `scale * (B A - B0 A0)` with the first factors fixed, which is the
//! same sum. So it is saved: as a plain adapter of twice the rank, as PEFT converts it.

use super::config::PeftConfig;
use super::init::InitLoraWeights;
use super::svd::{Matrix, Singular};
use super::targets::{LoraModule, ModuleKind};
use super::weights::LoraWeights;
use crate::random::Rng;
use crate::{Error, Result};

/// New factors for a module. `weight` gives the module's own [out, in].
///
/// # Errors
/// `Error::Input` for a rank that the weight cannot give; those of `weight`.
pub(super) fn fresh(
    config: &PeftConfig,
    module: LoraModule,
    seed: u64,
    weight: impl FnOnce() -> Result<Vec<f32>>,
) -> Result<LoraWeights> {
    let LoraModule { inputs, outputs, r, .. } = module;
    let (a, b) = (r * inputs, outputs * r);
    let mut rng = Rng::new(seed, &format!("{}.lora_A", module.path), 0);
    let init = config.init_lora_weights;
    if module.kind == ModuleKind::Embedding {
        let lora_a = match init {
            InitLoraWeights::Uniform => (0..a).map(|_| rng.next_normal() as f32).collect(),
            _ => vec![0.0; a],
        };
        let lora_b = (0..b).map(|_| rng.next_normal() as f32).collect();
        return Ok(LoraWeights::new(module, lora_a, lora_b));
    }
    if init.takes_from_base() {
        let start = start_of(init, &module, &weight()?, seed)?;
        let [lora_a, lora_b] = start.clone();
        return Ok(LoraWeights { start: Some(start), ..LoraWeights::new(module, lora_a, lora_b) });
    }
    let uniform = |rng: &mut Rng, count: usize, columns: usize| -> Vec<f32> {
        let bound = 1.0 / (columns as f32).sqrt();
        (0..count).map(|_| bound * (2.0 * rng.next_f32() - 1.0)).collect()
    };
    let (lora_a, lora_b) = match init {
        InitLoraWeights::Gaussian => {
            let draw = |_| (rng.next_normal() / r as f64) as f32;
            ((0..a).map(draw).collect(), vec![0.0; b])
        }
        InitLoraWeights::Uniform => (uniform(&mut rng, a, inputs), uniform(&mut rng, b, r)),
        _ => (uniform(&mut rng, a, inputs), vec![0.0; b]),
    };
    Ok(LoraWeights::new(module, lora_a, lora_b))
}

/// The factors A0 [r, in] and B0 [out, r] that are taken from a module's weight [out, in].
///
/// # Errors
/// `Error::Input` for a rank that the weight cannot give.
pub(super) fn start_of(
    init: InitLoraWeights,
    module: &LoraModule,
    weight: &[f32],
    seed: u64,
) -> Result<[Vec<f32>; 2]> {
    let LoraModule { path, inputs, outputs, r, scale, .. } = module;
    if r > inputs.min(outputs) {
        return Err(Error::input(format!(
            "init_lora_weights: a rank of {r} is more than {path} has, a matrix of {outputs}x{inputs}"
        )));
    }
    if weight.iter().all(|x| *x == 0.0) {
        // There is nothing to take: so it is where memory is only counted.
        return Ok([vec![0.0; r * inputs], vec![0.0; outputs * r]]);
    }
    let matrix = Matrix::new(weight, *inputs);
    // Vectors of the rows and of the columns, each with the root of its value over the scale.
    let (left, right, factors) = match init {
        InitLoraWeights::Olora => {
            let [q, rows] = matrix.qr(*r, seed, path);
            (q, rows, vec![1.0; *r])
        }
        _ => {
            let Singular { left, values, right } = match init {
                InitLoraWeights::PissaNiter(count) => {
                    matrix.approximately_largest(*r, count, seed, path)
                }
                _ => matrix.largest(*r, seed, path),
            };
            (left, right, values.iter().map(|value| (value / scale).sqrt()).collect())
        }
    };
    let scaled = |(vector, factor): (&Vec<f64>, &f64)| -> Vec<f32> {
        vector.iter().map(|x| (x * factor) as f32).collect()
    };
    let lora_a: Vec<f32> = right.iter().zip(&factors).flat_map(scaled).collect();
    let columns: Vec<Vec<f32>> = left.iter().zip(&factors).map(scaled).collect();
    let lora_b = (0..*outputs).flat_map(|n| columns.iter().map(move |column| column[n])).collect();
    Ok([lora_a, lora_b])
}

/// An adapter that took from its base, as a plain one of twice the rank on the whole base.
pub(super) fn plain(config: &PeftConfig, loras: &[LoraWeights]) -> (PeftConfig, Vec<LoraWeights>) {
    // The scale of each module stays what it was.
    let factor = if config.use_rslora { 2f64.sqrt() } else { 2.0 };
    let mut plain = PeftConfig {
        r: 2 * config.r,
        lora_alpha: factor * config.lora_alpha,
        init_lora_weights: InitLoraWeights::Kaiming,
        ..config.clone()
    };
    plain.rank_pattern.iter_mut().for_each(|(_, r)| *r *= 2);
    plain.alpha_pattern.iter_mut().for_each(|(_, alpha)| *alpha *= factor);
    (plain, loras.iter().map(LoraWeights::doubled).collect())
}

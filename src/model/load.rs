//! Puts a model on a device: weights stream from the mapped files, one tensor at a time, cast or
//! quantized on the way.

use super::bnb;
use super::llama::{HeadNorms, Layer, Model, Recompute, Rope};
use super::{ModelConfig, RopeTables, Weights};
use crate::backend::Device;
use crate::dtype::{DType, f32_to_bytes};
use crate::error::{Error, Result};
use crate::nn::{Linear, Parameter, Weight};
use crate::ops::{self, Nf4Tensor};
use crate::random::site;
use crate::tensor::Tensor;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Standard deviation of random weights, Transformers' `initializer_range`.
const INITIALIZER_RANGE: f32 = 0.02;

/// Where weights come from.
pub enum Source<'a> {
    /// Files.
    Weights(&'a Weights),
    /// Normal numbers from this seed; norms are ones, biases zeros.
    Random(u64),
    /// Nowhere: the device only counts memory, and contents do not matter.
    Shapes,
}

/// What the weights become on the device.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Of weights and activations.
    pub dtype: DType,
    /// Quantize the linear layers of the blocks to NF4, and their scales too where `Some(true)`.
    pub nf4: Option<bool>,
    /// Make every tensor a parameter (full fine-tuning).
    pub train_all: bool,
    /// Positions that the RoPE tables cover.
    pub max_positions: usize,
}

/// Loads the model; returns it with its parameters, which are none unless `train_all`.
///
/// # Errors
/// `Error::Input` for weights that are not those of `config`; `Error::Run` when memory runs out.
pub fn load(
    device: &Device,
    config: &ModelConfig,
    source: &Source,
    options: LoadOptions,
) -> Result<(Model, Vec<Parameter>)> {
    if options.train_all && (options.nf4.is_some() || config.quantization.is_some()) {
        return Err(Error::input(
            "full fine-tuning needs floating-point weights, and these are 4-bit: add a [lora] \
             section (QLoRA), or start from the model without quantization",
        ));
    }
    let mut loader = Loader { device, config, source, options, parameters: Vec::new() };
    let model = loader.model()?;
    Ok((model, loader.parameters))
}

struct Loader<'a> {
    device: &'a Device,
    config: &'a ModelConfig,
    source: &'a Source<'a>,
    options: LoadOptions,
    parameters: Vec<Parameter>,
}

impl Loader<'_> {
    fn model(&mut self) -> Result<Model> {
        let config = self.config;
        let [vocab, width] = [config.vocab_size, config.hidden_size];
        let embed_tokens = self.tensor("model.embed_tokens.weight", &[vocab, width])?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Ok(Rc::new(self.layer(index)?)))
            .collect::<Result<_>>()?;
        let norm = self.tensor("model.norm.weight", &[width])?;
        let lm_head = match config.tie_word_embeddings {
            true => embed_tokens.clone(),
            false => self.tensor("lm_head.weight", &[vocab, width])?,
        };
        let tables = RopeTables::new(&config.rope, config.head_dim, self.options.max_positions)?;
        let shape = [self.options.max_positions, config.head_dim / 2];
        let table = |values| Tensor::from_f32(self.device, &shape, DType::F32, values);
        let rope = Rope { cos: table(&tables.cos)?, sin: table(&tables.sin)? };
        let (config, recompute) = (config.clone(), Recompute::default());
        Ok(Model { config, embed_tokens, layers, norm, lm_head, rope, recompute })
    }

    fn layer(&mut self, index: usize) -> Result<Layer> {
        let config = self.config;
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv, head) = (config.q_size(), config.kv_size(), config.head_dim);
        let path = |name: &str| format!("model.layers.{index}.{name}");
        let head_norms = match config.qk_norm {
            false => None,
            true => Some(HeadNorms {
                q_norm: self.tensor(&path("self_attn.q_norm.weight"), &[head])?,
                k_norm: self.tensor(&path("self_attn.k_norm.weight"), &[head])?,
            }),
        };
        Ok(Layer {
            input_layernorm: self.tensor(&path("input_layernorm.weight"), &[width])?,
            q_proj: self.linear(path("self_attn.q_proj"), [q, width], config.qkv_bias)?,
            k_proj: self.linear(path("self_attn.k_proj"), [kv, width], config.qkv_bias)?,
            v_proj: self.linear(path("self_attn.v_proj"), [kv, width], config.qkv_bias)?,
            head_norms,
            o_proj: self.linear(path("self_attn.o_proj"), [width, q], config.o_bias)?,
            post_attention_layernorm: self
                .tensor(&path("post_attention_layernorm.weight"), &[width])?,
            gate_proj: self.linear(path("mlp.gate_proj"), [inner, width], config.mlp_bias)?,
            up_proj: self.linear(path("mlp.up_proj"), [inner, width], config.mlp_bias)?,
            down_proj: self.linear(path("mlp.down_proj"), [width, inner], config.mlp_bias)?,
            window: config.sliding_window.get(index).copied().flatten(),
            head_dim: head,
            eps: config.rms_norm_eps,
        })
    }

    fn linear(&mut self, path: String, shape: [usize; 2], bias: bool) -> Result<Linear> {
        let name = format!("{path}.weight");
        let weight = match self.stored_nf4(&name)? {
            Some(weight) => Weight::Nf4(weight),
            None => {
                let dense = self.tensor(&name, &shape)?;
                match self.options.nf4 {
                    Some(double) => Weight::Nf4(Nf4Tensor::quantize(&dense, double)?),
                    None => Weight::Dense(dense),
                }
            }
        };
        let bias = match bias {
            true => Some(self.tensor(&format!("{path}.bias"), &shape[..1])?),
            false => None,
        };
        Ok(Linear { path, weight, bias, loras: BTreeMap::new() })
    }

    /// The weight, where a bitsandbytes checkpoint holds it in 4 bits.
    fn stored_nf4(&self, name: &str) -> Result<Option<Nf4Tensor>> {
        match (self.source, &self.config.quantization) {
            (Source::Weights(weights), Some(_)) => bnb::read(weights, name)?
                .map(|(weight, _)| Nf4Tensor::from_host(self.device, &weight))
                .transpose(),
            _ => Ok(None),
        }
    }

    /// A float tensor, as a parameter where all tensors are.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let dtype = match self.options.train_all {
            true => DType::F32,
            false => self.options.dtype,
        };
        let bytes = match self.source {
            Source::Shapes => {
                return self.register(name, Tensor::empty(self.device, shape, dtype)?);
            }
            Source::Random(seed) => {
                return self.register(name, random(self.device, *seed, name, shape, dtype)?);
            }
            Source::Weights(weights) => {
                let stored = weights.expect(name)?;
                let unreadable = || Error::input(format!("{name} is not stored as floats"));
                if stored.shape != shape {
                    return Err(Error::input(format!(
                        "{name} has shape {:?}, but config.json says {shape:?}",
                        stored.shape
                    )));
                }
                match stored.float_dtype().ok_or_else(unreadable)? == dtype {
                    true => stored.bytes.to_vec(),
                    false => {
                        let values = stored.to_f32(0..stored.len()).ok_or_else(unreadable)?;
                        f32_to_bytes(&values.collect::<Vec<_>>(), dtype)
                    }
                }
            }
        };
        self.register(name, Tensor::from_bytes(self.device, shape, dtype, &bytes)?)
    }

    /// The tensor that the forward pass reads; a parameter's, where all tensors are parameters.
    fn register(&mut self, name: &str, tensor: Tensor) -> Result<Tensor> {
        if !self.options.train_all {
            return Ok(tensor);
        }
        let parameter = Parameter::new(name, tensor, self.options.dtype)?;
        let value = parameter.value.clone();
        self.parameters.push(parameter);
        Ok(value)
    }
}

/// As Transformers initializes: linear weights and embeddings normal, biases 0, norms 1. Made on the
/// device, one tensor at a time.
fn random(device: &Device, seed: u64, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let tensor = Tensor::empty(device, shape, dtype)?;
    match shape.len() {
        2.. => ops::random_normal(&tensor, INITIALIZER_RANGE, seed, site(name))?,
        _ => ops::fill(&tensor, if name.ends_with(".bias") { 0.0 } else { 1.0 })?,
    }
    Ok(tensor)
}

//! Puts a model on a device: weights stream from the mapped files, one tensor at a time, cast or
//! quantized on the way.

use super::bnb;
use super::float::{first_non_finite, widen};
use super::rope::inverse_frequencies;
use super::spec::{Block, GateUpSpec, LinearSpec, NormSpec, QkvSpec, Role, TensorSpec};
use super::transformer::{GateUp, HeadNorms, Layer, Model, Qkv, Recompute, Rope};
use super::{ModelConfig, RopeConfig, RopeScaling, RopeTables, Weights};
use crate::backend::Device;
use crate::dtype::{DType, f32_to_bytes};
use crate::error::{Error, Result};
use crate::nn::{Linear, Parameter, RmsNorm, Weight};
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
    /// Files, of which these blocks alone are read: the network has as many, in this order.
    Blocks(&'a Weights, &'a [usize]),
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
/// `Error::Input` for weights that are not those of `config`; `Error::OutOfMemory`.
pub fn load(
    device: &Device,
    config: &ModelConfig,
    source: &Source,
    options: LoadOptions,
) -> Result<(Model, Vec<Parameter>)> {
    if options.train_all {
        check_floats(config, options.nf4.is_some())?;
    }
    let mut loader = Loader { device, config, source, options, parameters: Vec::new() };
    let model = loader.model()?;
    if let Source::Weights(weights) = source {
        weights.unchanged()?;
    }
    Ok((model, loader.parameters))
}

/// Refuses to train all weights where they are 4-bit: in the files, or made so.
///
/// # Errors
/// `Error::Input`.
pub fn check_floats(config: &ModelConfig, nf4: bool) -> Result<()> {
    match nf4 || config.quantization.is_some() {
        false => Ok(()),
        true => Err(Error::input(
            "4-bit weights are frozen, so there is nothing to train: add a [lora] section (QLoRA), \
             or set load_in_4bit = false and use a model that is not quantized",
        )),
    }
}

impl Source<'_> {
    /// The files, and what a tensor is called in them.
    fn stored(&self, spec: &TensorSpec) -> Option<(&Weights, String)> {
        match self {
            Source::Weights(weights) => Some((weights, spec.name.clone())),
            Source::Blocks(weights, blocks) => {
                let Some(block) = spec.block else { return Some((weights, spec.name.clone())) };
                let within = format!("model.layers.{block}.");
                let stored = format!("model.layers.{}.", blocks.get(block)?);
                Some((weights, spec.name.replacen(&within, &stored, 1)))
            }
            Source::Random(_) | Source::Shapes => None,
        }
    }
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
        let spec = &self.config.spec;
        let embed_tokens = self.tensor(&spec.embedding())?;
        let blocks = spec.blocks.iter().enumerate();
        let layers = blocks
            .map(|(index, block)| Ok(Rc::new(self.layer(index, block)?)))
            .collect::<Result<_>>()?;
        let norm = self.norm(None, &spec.norm)?;
        let lm_head = match spec.head() {
            None => embed_tokens.clone(),
            Some(head) if head.role == Role::Score => self.score(&head)?,
            Some(head) => self.tensor(&head)?,
        };
        let ropes = spec.ropes.iter().map(|rope| self.rope(rope)).collect::<Result<_>>()?;
        let (config, recompute) = (self.config.clone(), Recompute::default());
        Ok(Model {
            config,
            embed_tokens,
            embedding_updates: BTreeMap::new(),
            layers,
            norm,
            lm_head,
            head_updates: BTreeMap::new(),
            ropes,
            recompute,
        })
    }

    /// The tables of a rotary embedding; those of long sequences, where they have others and may come,
    /// stand below.
    fn rope(&self, rope: &RopeConfig) -> Result<Rope> {
        let positions = self.options.max_positions;
        let original = rope.original_context().filter(|&original| original < positions);
        let by_length = match rope.scaling {
            RopeScaling::Dynamic { max_position_embeddings, .. } => {
                Some((max_position_embeddings, rope.clone()))
            }
            _ => None,
        };
        let mut tables = match &by_length {
            Some((context, _)) => {
                let short = inverse_frequencies(rope, positions.min(*context))?;
                RopeTables::at(rope, &short, 0..positions)
            }
            None => RopeTables::new(rope, positions)?,
        };
        if let Some(original) = original {
            let short = inverse_frequencies(rope, original)?;
            let long = std::mem::replace(&mut tables, RopeTables::at(rope, &short, 0..positions));
            tables.cos.extend(long.cos);
            tables.sin.extend(long.sin);
        }
        let shape = [tables.cos.len() / (rope.width / 2), rope.width / 2];
        let table = |values| Tensor::from_f32(self.device, &shape, DType::F32, values);
        let (cos, sin) = (table(&tables.cos)?, table(&tables.sin)?);
        Ok(Rope { cos, sin, positions, long_above: original, by_length })
    }

    fn layer(&mut self, index: usize, block: &Block) -> Result<Layer> {
        let (attention, mlp, at) = (&block.attention, &block.mlp, Some(index));
        let head_norms = match &attention.head_norms {
            None => None,
            Some(norms) => Some(HeadNorms {
                q_norm: self.norm(at, &norms.q)?,
                k_norm: self.norm(at, &norms.k)?,
            }),
        };
        Ok(Layer {
            input_norm: self.norm(at, &block.input_norm)?,
            qkv: match &attention.qkv {
                QkvSpec::Separate([q, k, v]) => Qkv::Separate {
                    q_proj: self.linear(index, q)?,
                    k_proj: self.linear(index, k)?,
                    v_proj: self.linear(index, v)?,
                },
                QkvSpec::Fused(qkv) => Qkv::Fused(self.linear(index, qkv)?),
            },
            head_norms,
            o_proj: self.linear(index, &attention.o)?,
            post_attention_norm: self.optional_norm(at, &block.post_attention_norm)?,
            mlp_norm: self.norm(at, &block.mlp_norm)?,
            gate_up: match &mlp.gate_up {
                GateUpSpec::Separate([gate, up]) => GateUp::Separate {
                    gate_proj: self.linear(index, gate)?,
                    up_proj: self.linear(index, up)?,
                },
                GateUpSpec::Fused(gate_up) => GateUp::Fused(self.linear(index, gate_up)?),
            },
            down_proj: self.linear(index, &mlp.down)?,
            post_mlp_norm: self.optional_norm(at, &block.post_mlp_norm)?,
            spec: block.clone(),
        })
    }

    fn norm(&mut self, block: Option<usize>, spec: &NormSpec) -> Result<RmsNorm> {
        let tensor = spec.tensor(block);
        let path = tensor.name.trim_end_matches(".weight").to_owned();
        let (weight, saved) = (self.tensor(&tensor)?, BTreeMap::new());
        Ok(RmsNorm { path, weight, eps: spec.eps, offset: spec.offset, saved })
    }

    fn optional_norm(
        &mut self,
        block: Option<usize>,
        spec: &Option<NormSpec>,
    ) -> Result<Option<RmsNorm>> {
        spec.as_ref().map(|spec| self.norm(block, spec)).transpose()
    }

    fn linear(&mut self, block: usize, spec: &LinearSpec) -> Result<Linear> {
        let stored = spec.weight_tensor(block);
        let weight = match self.stored_nf4(&stored)? {
            Some(weight) => Weight::Nf4(weight),
            None => {
                let dense = self.tensor(&stored)?;
                match self.options.nf4 {
                    Some(double) => Weight::Nf4(Nf4Tensor::quantize(&dense, double)?),
                    None => Weight::Dense(dense),
                }
            }
        };
        let bias = spec.bias_tensor(block).map(|bias| self.tensor(&bias)).transpose()?;
        Ok(Linear { path: spec.module(block), weight, bias, updates: BTreeMap::new() })
    }

    /// The weight, where a bitsandbytes checkpoint holds it in 4 bits.
    fn stored_nf4(&self, spec: &TensorSpec) -> Result<Option<Nf4Tensor>> {
        match (self.source.stored(spec), &self.config.quantization) {
            (Some((weights, name)), Some(_)) => bnb::read(weights, &name)?
                .map(|(weight, _)| Nf4Tensor::from_host(self.device, &weight))
                .transpose(),
            _ => Ok(None),
        }
    }

    /// A float tensor, as a parameter where all tensors are.
    fn tensor(&mut self, spec: &TensorSpec) -> Result<Tensor> {
        let (name, shape) = (spec.name.as_str(), &spec.shape[..]);
        let dtype = match self.options.train_all {
            true => DType::F32,
            false => self.options.dtype,
        };
        let bytes = match self.source {
            Source::Shapes => {
                return self.register(name, Tensor::empty(self.device, shape, dtype)?);
            }
            Source::Random(seed) => {
                return self.register(name, random(self.device, *seed, spec, dtype)?);
            }
            Source::Weights(_) | Source::Blocks(..) => {
                let Some((weights, name)) = self.source.stored(spec) else {
                    return Err(Error::internal("load", "a source without files"));
                };
                weights.unchanged()?;
                let stored = weights.expect(&name)?;
                let unreadable = || Error::input(format!("{name} is not stored as floats"));
                if stored.shape != shape {
                    return Err(Error::input(format!(
                        "{name} has shape {:?}, but config.json says {shape:?}",
                        stored.shape
                    )));
                }
                let bytes = match stored.bytes_of(dtype) {
                    Some(bytes) => bytes.to_vec(),
                    None => f32_to_bytes(&stored.to_f32().ok_or_else(unreadable)?, dtype),
                };
                refuse_non_finite(weights, &name, &bytes, dtype)?;
                if dtype != self.options.dtype {
                    // The forward pass reads the parameter in the model's dtype.
                    let values = widen(&bytes, dtype).collect::<Vec<_>>();
                    let read = f32_to_bytes(&values, self.options.dtype);
                    refuse_non_finite(weights, &name, &read, self.options.dtype)?;
                }
                bytes
            }
        };
        self.register(name, Tensor::from_bytes(self.device, shape, dtype, &bytes)?)
    }

    /// The head of a classifier: f32 always, for one column of 16 bits is no word. Where the files have
    /// none it is drawn.
    fn score(&mut self, spec: &TensorSpec) -> Result<Tensor> {
        let fresh = self.config.score_seed.unwrap_or_default();
        let tensor = match self.source {
            Source::Shapes => Tensor::empty(self.device, &spec.shape, DType::F32)?,
            Source::Random(seed) => random(self.device, *seed, spec, DType::F32)?,
            Source::Weights(weights) | Source::Blocks(weights, _) => {
                match weights.get(&spec.name) {
                    None => random(self.device, fresh, spec, DType::F32)?,
                    Some(stored) => {
                        let unreadable = || Error::input("score.weight is not stored as floats");
                        let values = stored.to_f32().ok_or_else(unreadable)?;
                        Tensor::from_f32(self.device, &spec.shape, DType::F32, &values)?
                    }
                }
            }
        };
        self.register_as(&spec.name, tensor, DType::F32)
    }

    /// The tensor that the forward pass reads; a parameter's, where all tensors are parameters.
    fn register(&mut self, name: &str, tensor: Tensor) -> Result<Tensor> {
        self.register_as(name, tensor, self.options.dtype)
    }

    fn register_as(&mut self, name: &str, tensor: Tensor, dtype: DType) -> Result<Tensor> {
        if !self.options.train_all {
            return Ok(tensor);
        }
        let parameter = Parameter::new(name, tensor, dtype)?;
        let value = parameter.value.clone();
        self.parameters.push(parameter);
        Ok(value)
    }
}

/// Refuses a tensor that holds NaN or infinities in the dtype that it is used in: quantization would make
/// them codes like any other.
fn refuse_non_finite(weights: &Weights, name: &str, bytes: &[u8], dtype: DType) -> Result<()> {
    let Some(at) = first_non_finite(bytes, dtype) else { return Ok(()) };
    let stored = weights.expect(name)?.to_f32().and_then(|values| values.get(at).copied());
    let why = match stored {
        Some(value) if value.is_finite() => format!(
            "element {at} is {value}, beyond the range of {}: set dtype to bfloat16 or float32",
            dtype.name()
        ),
        value => format!(
            "element {at} is {}: the file is damaged, or its training has failed; take another copy \
             of the model",
            value.unwrap_or(f32::NAN)
        ),
    };
    Err(Error::input(format!("{}: tensor {name}: {why}", weights.place())))
}

/// As Transformers initializes: linear weights and embeddings normal, biases 0, norms 1 in effect. Made on the
/// device, one tensor at a time.
fn random(device: &Device, seed: u64, spec: &TensorSpec, dtype: DType) -> Result<Tensor> {
    let tensor = Tensor::empty(device, &spec.shape, dtype)?;
    match spec.role {
        Role::Norm { offset } => ops::fill(&tensor, 1.0 - offset)?,
        Role::Bias(_) => ops::fill(&tensor, 0.0)?,
        Role::Embedding | Role::Linear(_) | Role::Head | Role::Score => {
            ops::random_normal(&tensor, INITIALIZER_RANGE, seed, site(&spec.name))?;
        }
    }
    Ok(tensor)
}

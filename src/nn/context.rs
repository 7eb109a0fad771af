//! What all layers of one forward pass share.

use crate::backend::Device;
use crate::data::Batch;
use crate::error::Result;
use crate::ops::{Implementation, StepState};
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// The name of the adapter that is trained, and used where nothing else is asked for: PEFT's.
pub const DEFAULT_ADAPTER: &str = "default";

/// Which adapter a pass uses. Several may be attached to a model at once, over one copy of its
/// weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterChoice {
    /// None: the base model.
    Off,
    /// The one attached under this name. A layer that has none of that name is as the base has it.
    Named(&'static str),
}

impl AdapterChoice {
    /// What the adapter in use has among what `all` have, with its name.
    pub fn of<'a, T>(self, all: &'a BTreeMap<&'static str, T>) -> Option<(&'static str, &'a T)> {
        match self {
            Self::Off => None,
            Self::Named(name) => all.get(name).map(|own| (name, own)),
        }
    }
}

impl Default for AdapterChoice {
    fn default() -> Self {
        Self::Named(DEFAULT_ADAPTER)
    }
}

/// Where the tokens of a batch stand. Batches are padding-free: all sequences one after another,
/// T tokens in total.
#[derive(Clone)]
pub struct Context {
    /// u32 `[T]`: each token's position in its sequence, for RoPE.
    pub positions: Tensor,
    /// u32 [S, 2], or [S, 4] where sequences share prompts: who sees whom, as
    /// [`AttentionLayout`](crate::ops::AttentionLayout) has it.
    pub bounds: Tensor,
    /// Each token's position and the length of its sequence, as the host knows them.
    pub places: Vec<Place>,
    /// Key index of the first query: what a KV cache holds already.
    pub q_offset: usize,
    /// Flash or eager attention.
    pub attention: Implementation,
    /// The adapter in use.
    pub adapter: AdapterChoice,
    /// What random draws depend on, while training.
    pub noise: Option<Noise>,
}

/// Where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its position in its sequence.
    pub position: u32,
    /// The tokens of its sequence; those of the longest one for a token that several share.
    pub length: u32,
}

/// The coordinates of random draws: with a site and a column, they name every random bit of a run.
#[derive(Clone)]
pub struct Noise {
    /// The run's seed.
    pub seed: u64,
    /// u32 `[T]`: each token's example, counted within the optimizer step.
    pub ordinals: Tensor,
    /// The step's number.
    pub step_state: StepState,
    /// NEFTune's alpha: how much noise the embeddings get; 0 is none.
    pub neftune_alpha: f32,
    /// Whether dropout applies.
    pub dropout: bool,
}

impl Context {
    /// The context of whole sequences, as in training and evaluation, with the default adapter.
    pub fn of_sequences(
        device: &Device,
        positions: &[u32],
        bounds: &[[u32; 2]],
        attention: Implementation,
        noise: Option<Noise>,
    ) -> Result<Self> {
        let places = positions.iter().zip(bounds);
        let places = places
            .map(|(&position, [start, end])| Place { position, length: end - start })
            .collect();
        Ok(Self {
            places,
            positions: Tensor::from_u32(device, &[positions.len()], positions)?,
            bounds: Tensor::from_u32(device, &[bounds.len(), 2], bounds.as_flattened())?,
            q_offset: 0,
            attention,
            adapter: AdapterChoice::default(),
            noise,
        })
    }

    /// The context of a batch, as in training and evaluation, with the default adapter.
    pub fn of_batch(
        device: &Device,
        batch: &Batch,
        attention: Implementation,
        noise: Option<Noise>,
    ) -> Result<Self> {
        let Batch { positions, bounds, prefixes, .. } = batch;
        let whole = Self::of_sequences(device, positions, bounds, attention, noise)?;
        if prefixes.is_empty() {
            return Ok(whole);
        }
        let mut places = whole.places;
        for group in &batch.groups {
            let [first, end] = group.prefix;
            let lengths = group.sequences.iter().map(|[start, past]| end - first + past - start);
            let longest = lengths.clone().max().unwrap_or(0);
            let parts = std::iter::once((&group.prefix, longest));
            for (&[start, end], length) in parts.chain(group.sequences.iter().zip(lengths)) {
                let tokens = &mut places[start as usize..end as usize];
                tokens.iter_mut().for_each(|place| place.length = length);
            }
        }
        let seen: Vec<u32> =
            bounds.iter().zip(prefixes).flat_map(|(a, b)| [a[0], a[1], b[0], b[1]]).collect();
        let bounds = Tensor::from_u32(device, &[bounds.len(), 4], &seen)?;
        Ok(Self { places, bounds, ..whole })
    }
}

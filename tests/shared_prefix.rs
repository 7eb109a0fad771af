//! Groups whose sequences share a prompt give the log-probabilities and the gradients of the same sequences
//! written out, in whole models: random groups, packed with sequences by themselves.

mod common;

use common::{compare, cpu, fixture, open, options};
use std::collections::BTreeMap;
use std::rc::Rc;
use tunesmith::data::{Batch, Group, Sequence};
use tunesmith::model::ModelConfig;
use tunesmith::model::transformer::{Model, Recompute};
use tunesmith::nn::{Context, Parameter};
use tunesmith::ops::{self, Implementation, LogprobOptions, RowSelection};
use tunesmith::{DType, Device, Result, Tape, Tensor};

/// Random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn tokens(&mut self, count: usize, vocabulary: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocabulary) as u32).collect()
    }

    /// Sequences of these lengths after a prompt; three tokens of four carry loss, of the prompt one of
    /// eight.
    fn group(&mut self, prompt: usize, lengths: &[usize], vocabulary: usize) -> Group {
        let shared = self.tokens(prompt, vocabulary);
        let in_prompt: Vec<bool> = (0..prompt).map(|_| self.below(8) == 0).collect();
        let sequences = lengths.iter().map(|&length| {
            let ids = [shared.clone(), self.tokens(length, vocabulary)].concat();
            let answer: Vec<bool> = (0..length).map(|_| self.below(4) > 0).collect();
            Sequence::new(ids, in_prompt.iter().chain(&answer).copied())
        });
        let sequences = sequences.collect();
        Group { sequences, shared: prompt, ..Group::default() }
    }

    /// Groups of one to four sequences, some without a prompt, some longer than a tile of keys.
    fn groups(&mut self, count: usize, longest: usize, vocabulary: usize) -> Vec<Group> {
        let of_one = |random: &mut Self| {
            let prompt = match random.below(4) {
                0 => 0,
                1 => longest + random.below(longest),
                _ => 1 + random.below(longest),
            };
            let lengths: Vec<usize> =
                (0..1 + random.below(4)).map(|_| 1 + random.below(longest / 2)).collect();
            random.group(prompt, &lengths, vocabulary)
        };
        (0..count).map(|_| of_one(self)).collect()
    }
}

/// Log-probabilities of what carries loss, and the gradients of their weighted sum.
struct Found {
    tokens: usize,
    logprobs: Vec<f32>,
    gradients: BTreeMap<String, Vec<f32>>,
}

fn run(
    (model, parameters): (&Model, &[Parameter]),
    groups: &[Group],
    attention: Implementation,
) -> Result<Found> {
    let device = model.embed_tokens.device();
    let batch = Batch::of(groups, 0);
    let tape = Tape::recording();
    let context = Rc::new(Context::of_batch(device, &batch, attention, None)?);
    let hidden = model.hidden(&tape, &batch.input_ids, &context)?;
    let selection = RowSelection::new(device, batch.num_tokens(), &batch.loss_rows)?;
    let rows = ops::gather_rows(&tape, &hidden, &selection)?;
    let ids = Tensor::from_u32(device, &[batch.loss_ids.len()], &batch.loss_ids)?;
    let found = ops::token_logprobs(&tape, &rows, &model.lm_head, &ids, LogprobOptions::default())?;
    let weights: Vec<f32> = (0..ids.len()).map(|n| (n as f32 * 0.7).sin()).collect();
    tape.backward(&found.logprobs, Tensor::from_f32(device, &[ids.len()], DType::F32, &weights)?)?;
    let mut gradients = BTreeMap::new();
    for parameter in parameters {
        gradients.insert(parameter.name.clone(), parameter.grad()?.read_f32()?);
        parameter.clear_grad();
    }
    Ok(Found { tokens: batch.num_tokens(), logprobs: found.logprobs.read_f32()?, gradients })
}

fn check(device: &Device, family: &str, groups: &[Group], attention: Implementation) -> Result<()> {
    println!("{family}, {attention:?}");
    let longest = groups.iter().map(Group::longest).max().unwrap_or(0);
    let (mut model, parameters) =
        open(device, &fixture("models").join(family), options(None, true, longest))?;
    let written_out: Vec<Group> =
        groups.iter().map(|group| Group { shared: 0, ..group.clone() }).collect();
    let expected = run((&model, &parameters), &written_out, attention)?;
    let found = run((&model, &parameters), groups, attention)?;
    assert!(found.tokens < expected.tokens, "{} and {}", found.tokens, expected.tokens);
    compare("log-probabilities", &found.logprobs, &expected.logprobs);
    for (name, gradient) in &found.gradients {
        compare(name, gradient, &expected.gradients[name]);
    }
    model.recompute = Recompute::Layer;
    let again = run((&model, &parameters), groups, attention)?;
    assert!(again.gradients == found.gradients, "{family}: recomputed, other bits");
    Ok(())
}

/// Groups, with ordinary sequences before, between and after them.
fn packed(random: &mut Random, count: usize, longest: usize) -> Vec<Group> {
    let vocabulary = 100;
    let mut groups = random.groups(count, longest, vocabulary);
    let alone: Vec<Group> =
        (0..2).map(|_| random.group(0, &[1 + longest / 3], vocabulary)).collect();
    groups.splice(1..1, alone.clone());
    groups.push(alone[0].clone());
    groups.push(random.group(longest, &[longest / 2, 3, 1], vocabulary));
    groups
}

/// Llama has grouped heads, Mistral a window, Gemma 3 windows layer by layer and two RoPEs, Qwen3 norms of heads.
#[test]
fn shared_prompts_are_as_written_out() -> Result<()> {
    let mut random = Random(0x5eed_1234_5678_9abc);
    for family in ["llama", "mistral", "gemma3", "qwen3"] {
        for attention in [Implementation::Flash, Implementation::Eager] {
            let groups = packed(&mut random, 4, 40);
            check(&cpu(), family, &groups, attention)?;
        }
        let groups = packed(&mut random, 3, 150);
        check(&cpu(), family, &groups, Implementation::Flash)?;
    }
    Ok(())
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_gives_what_is_written_out() -> Result<()> {
    let device = common::wgpu();
    let mut random = Random(0xfeed_1234_5678_9abc);
    for attention in [Implementation::Flash, Implementation::Eager] {
        check(&device, "mistral", &packed(&mut random, 2, 30), attention)?;
    }
    Ok(())
}

#[cfg(feature = "cuda-emulated")]
#[test]
fn cuda_gives_what_is_written_out() -> Result<()> {
    let Some(device) = common::cuda_emulated(80) else { return Ok(()) };
    let mut random = Random(0xbeed_1234_5678_9abc);
    check(&device, "mistral", &packed(&mut random, 1, 12), Implementation::Flash)
}

/// Sequences that turn at other frequencies have no keys in common: LongRoPE's on either side of the original
/// context, and those beyond the context of dynamic RoPE that are not of one length.
#[test]
fn prompts_are_shared_by_what_turns_alike() -> Result<()> {
    for (family, context, expected) in [
        ("phi4-mini", 20, [true, true, false, true]),
        ("llama", 64, [true, true, true, true]),
        ("llama-dynamic", 16, [true, true, false, false]),
    ] {
        let spec = ModelConfig::open(&fixture("models").join(family))?.spec;
        let lengths =
            [[3, context], [context + 9; 2], [3, context + 1], [context + 1, context + 2]];
        let found = lengths.map(|[shortest, longest]| spec.turn_alike(shortest, longest));
        assert_eq!(found, expected, "{family}");
    }
    Ok(())
}

//! Log-probabilities of given tokens: the output layer, a softmax and the choice of the targets in one op,
//! so that the logits [T, V] never exist at once. What objectives on sequences are made of: preferences,
//! rewards, distillation.
//!
//! Unlike [cross-entropy](super::cross_entropy), whose gradient is known in the forward pass but for one
//! factor, the gradient of each token comes from outside (dout [T]) and only after every sequence has its
//! sum. So the forward keeps hidden states, head and a few numbers a token; the backward multiplies again,
//! chunk by chunk, and turns those logits into their gradient. That is one product more than cross-entropy
//! has, of three with a frozen head and of four with a trained one, instead of [T, V] of memory.

use super::grad_target::GradTarget;
use super::output_layer::{Gradients, Head, IGNORE, OutputLayer, Pieces};
use super::softmax::Scales;
use crate::backend::KernelCall;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::kernel_text;
use crate::kernels::{
    Binding, HostCall, KernelSpec, KernelText, Kind, Real, RefCall, Requires, grid_1d,
};
use crate::tape::Tape;
use crate::tensor::{Saved, Tensor};
use bytemuck::{Pod, Zeroable};

/// What is wanted of [`token_logprobs`].
#[derive(Clone, Copy, Debug)]
pub struct LogprobOptions {
    /// Logits are divided by it: finite and above 0.
    pub temperature: f32,
    /// Whether [`TokenDetails`] are wanted too.
    pub details: bool,
}

impl Default for LogprobOptions {
    /// The model's own distribution, and nothing but log-probabilities.
    fn default() -> Self {
        Self { temperature: 1.0, details: false }
    }
}

/// What [`token_logprobs`] computes.
pub struct TokenLogprobs {
    /// f32 `[T]`: the natural logarithm of each target's probability, 0 where the target is [`IGNORE`].
    pub logprobs: Tensor,
    /// More about each token's distribution, where it is asked for.
    pub details: Option<TokenDetails>,
}

/// What is reported of each token's distribution. A gradient that is brought to one of these ends the
/// backward pass with [`Error::MissingGradient`]: [`Tensor::detach`] them before they meet a loss.
pub struct TokenDetails {
    /// f32 `[T]`: the entropy of softmax(logits / temperature) in nats, 0 where the target is [`IGNORE`].
    pub entropy: Tensor,
    /// f32 `[T]`: 1 where the target is the most likely token, else 0, and 0 where it is [`IGNORE`]. Of
    /// equal logits the first of the vocabulary counts, as in `torch.argmax`; 16-bit logits often are.
    pub is_most_likely: Tensor,
    /// f32 `[T]`: the logarithm of the sum of the squares of all probabilities, 0 where the target is
    /// [`IGNORE`]. The model's own texts have about this mean log-probability.
    pub log_sum_squares: Tensor,
    /// f32 `[T]`: the mean of logits / temperature over the vocabulary, 0 where the target is [`IGNORE`].
    pub mean_logit: Tensor,
}

/// log softmax(hidden headᵀ / temperature) at `targets`; what adapters add to that product is in `head`.
///
/// `hidden` [T, C] and the head's weight [V, C] in any float dtypes, `targets` u32 `[T]`: below V, or [`IGNORE`]. A target
/// that is neither gives a log-probability below -1e29. Logits have `hidden`'s dtype, as in cross-entropy,
/// and are rounded after the division by the temperature.
///
/// The backward takes a gradient per token, dout f32 `[T]`: dlogits = dout / temperature * (onehot - softmax).
/// The loss scale of f16 is not put in here: dout must carry it, as it carries all that the loss is
/// multiplied with. Where the gradient is computed on the host,
/// [`Tape::backward_from`](crate::tape::Tape::backward_from) begins with it. The gradient of `head` is f32.
///
/// # Errors
/// [`Error::Input`] for a temperature that is not finite and above 0, [`Error::Unsupported`] for an odd V
/// when `hidden` is 16 bits wide.
pub fn token_logprobs(
    tape: &Tape,
    hidden: &Tensor,
    head: impl Into<Head>,
    targets: &Tensor,
    options: LogprobOptions,
) -> Result<TokenLogprobs> {
    let head = head.into();
    token_logprobs_by(Pieces::of(hidden, &head.weight), tape, hidden, &head, targets, options)
}

/// [`token_logprobs`] in pieces of choice.
pub(super) fn token_logprobs_by(
    pieces: Pieces,
    tape: &Tape,
    hidden: &Tensor,
    head: &Head,
    targets: &Tensor,
    LogprobOptions { temperature, details }: LogprobOptions,
) -> Result<TokenLogprobs> {
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(Error::input(format!(
            "token_logprobs: a temperature of {temperature}; it must be finite and above 0"
        )));
    }
    let operands = [hidden, targets];
    let layer = OutputLayer::new("token_logprobs", pieces, operands, head, temperature, details)?;
    // The first slice is the widest: its memory serves them all.
    let slices = layer.slices();
    let memory = layer.memory(slices[0], hidden.dtype())?;
    for chunk in layer.chunks(hidden)? {
        for &slice in &slices {
            chunk.forward(slice, &memory)?;
        }
    }
    let inputs: Vec<&Tensor> = std::iter::once(hidden).chain(head.inputs()).collect();
    let details = details.then(|| token_details(tape, &layer, &inputs)).transpose()?;
    let logprobs = per_token(&layer)?;
    launch(&FWD, &layer, &[&logprobs], head.weight.rows())?;
    let (dx, dw) = (GradTarget::of(hidden), GradTarget::of(&head.weight));
    let low_rank: Vec<_> =
        head.low_rank.iter().map(|added| [&added.xa, &added.b].map(GradTarget::of)).collect();
    let shapes = head.clone().low_rank.into_iter().map(|added| [added.xa, added.b]);
    let shapes: Vec<_> = shapes.map(|both| both.map(|x| x.shape().to_vec())).collect();
    let saved = Saved::of(hidden);
    let logprobs = tape.record("token_logprobs", &inputs, logprobs, move |dout| {
        let hidden = saved.get()?;
        let empty = |(target, shape): (&Option<GradTarget>, &Vec<usize>)| {
            let wanted = target.is_some().then(|| Tensor::empty(dout.device(), shape, DType::F32));
            wanted.transpose()
        };
        let mut of_low_rank = Vec::new();
        for ([xa, b], [xa_shape, b_shape]) in low_rank.iter().zip(&shapes) {
            of_low_rank.push([empty((xa, xa_shape))?, empty((b, b_shape))?]);
        }
        into(dx.as_ref(), |dx| {
            into(dw.as_ref(), |dw| {
                let gradients = Gradients { dx, dw, low_rank: &of_low_rank };
                backward(&layer, &hidden, dout, gradients)
            })
        })?;
        let found = low_rank.iter().flatten().zip(of_low_rank.into_iter().flatten());
        for (target, gradient) in found {
            if let (Some(target), Some(gradient)) = (target, gradient) {
                target.add(gradient)?;
            }
        }
        Ok(())
    });
    Ok(TokenLogprobs { logprobs, details })
}

/// The logits once more, chunk by chunk, and from them the gradients.
fn backward(
    layer: &OutputLayer,
    hidden: &Tensor,
    dout: &Tensor,
    gradients: Gradients,
) -> Result<()> {
    let slices = layer.slices();
    let memory = layer.memory(slices[0], hidden.dtype())?;
    let scales = Scales::PerToken(dout.clone());
    for chunk in layer.chunks(hidden)? {
        for &slice in &slices {
            let logits = chunk.logits(slice, &memory)?;
            chunk.backward(slice, &logits, &scales, gradients)?;
        }
    }
    Ok(())
}

/// Calls `work` with the gradient to write, and whether it is to be added to; with none where none is wanted.
fn into(
    target: Option<&GradTarget>,
    work: impl FnOnce(Option<(bool, &Tensor)>) -> Result<()>,
) -> Result<()> {
    match target {
        Some(target) => target.write(|adds, gradient| work(Some((adds, gradient)))),
        None => work(None),
    }
}

fn token_details(tape: &Tape, layer: &OutputLayer, inputs: &[&Tensor]) -> Result<TokenDetails> {
    let (entropy, is_most_likely) = (per_token(layer)?, per_token(layer)?);
    let (log_sum_squares, mean_logit) = (per_token(layer)?, per_token(layer)?);
    let outputs = [&entropy, &is_most_likely, &log_sum_squares, &mean_logit];
    launch(&DETAILS, layer, &outputs, inputs[1].rows())?;
    let without_backward = |what: &'static str, output: Tensor| {
        tape.record("token_logprobs", inputs, output, move |_| {
            Err(Error::MissingGradient {
                tensor: "the hidden states".into(),
                why: format!("token_logprobs has no backward of {what}; detach it"),
            })
        })
    };
    Ok(TokenDetails {
        entropy: without_backward("its entropy", entropy),
        is_most_likely: without_backward("is_most_likely", is_most_likely),
        log_sum_squares: without_backward("log_sum_squares", log_sum_squares),
        mean_logit: without_backward("its mean logit", mean_logit),
    })
}

/// f32 [T].
fn per_token(layer: &OutputLayer) -> Result<Tensor> {
    Tensor::empty(layer.stats.device(), layer.targets.shape(), DType::F32)
}

/// Runs a kernel that reads the finished statistics, a thread a row.
fn launch(
    spec: &'static KernelSpec,
    layer: &OutputLayer,
    outputs: &[&Tensor],
    vocabulary: usize,
) -> Result<()> {
    let OutputLayer { stats, targets, .. } = layer;
    let views: Vec<_> = [stats, targets].iter().chain(outputs).map(|x| x.view()).collect();
    KernelCall::new(spec, &views)
        .params(Params {
            rows: stats.rows() as u32,
            width: stats.columns() as u32,
            vocabulary: vocabulary as u32,
        })
        .launch(stats.device(), grid_1d(stats.rows(), BLOCK as usize))
}

const BLOCK: u32 = 256;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    /// Statistics of a row.
    width: u32,
    /// V.
    vocabulary: u32,
}

static TEXT: KernelText = kernel_text!("token_logprobs");

pub(super) const KERNELS: &[&KernelSpec] = &[&FWD, &DETAILS];

static FWD: KernelSpec = KernelSpec {
    name: "token_logprobs_fwd",
    text: &TEXT,
    bindings: &[
        Binding::read("stats", Kind::F32),
        Binding::read("targets", Kind::U32),
        Binding::write("logprobs", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: fwd_reference,
    reference_f64: fwd_reference,
    cpu: fwd_cpu,
};

static DETAILS: KernelSpec = KernelSpec {
    name: "token_logprobs_details",
    text: &TEXT,
    bindings: &[
        Binding::read("stats", Kind::F32),
        Binding::read("targets", Kind::U32),
        Binding::write("entropy", Kind::F32),
        Binding::write("is_most_likely", Kind::F32),
        Binding::write("log_sum_squares", Kind::F32),
        Binding::write("mean_logit", Kind::F32),
    ],
    constants: &[],
    block: [BLOCK, 1, 1],
    requires: Requires::Portable,
    reference_f32: details_reference,
    reference_f64: details_reference,
    cpu: details_cpu,
};

/// logprob = z - m - ln l.
fn fwd_reference<F: Real>(call: &mut RefCall<F>) {
    let width = call.params::<Params>().width as usize;
    let (stats, targets, logprobs) = (call.input(0), call.input_u32(1), call.output(2));
    for (row, logprob) in logprobs.iter_mut().enumerate() {
        let stats = &stats[width * row..][..width];
        *logprob = match targets[row] {
            IGNORE => F::ZERO,
            _ => stats[2] - stats[0] - stats[1].ln(),
        };
    }
}

/// entropy = ln l - s / l: the mean of -(logit - m - ln l). is_most_likely = [target is a].
/// log_sum_squares = ln q - 2 ln l. mean_logit = t / V.
fn details_reference<F: Real>(call: &mut RefCall<F>) {
    let vocabulary = F::from_f64(f64::from(call.params::<Params>().vocabulary));
    let (stats, targets) = (call.input(0), call.input_u32(1));
    let (entropy, is_most_likely) = (call.output(2), call.output(3));
    let (log_sum_squares, mean_logit) = (call.output(4), call.output(5));
    for (row, &target) in targets.iter().enumerate() {
        let [_, l, _, s, a, q, t] = stats[7 * row..][..7] else { continue };
        if target == IGNORE {
            (entropy[row], is_most_likely[row]) = (F::ZERO, F::ZERO);
            (log_sum_squares[row], mean_logit[row]) = (F::ZERO, F::ZERO);
            continue;
        }
        entropy[row] = l.ln() - s / l;
        is_most_likely[row] = if F::from_f64(f64::from(target)) == a { F::ONE } else { F::ZERO };
        log_sum_squares[row] = q.ln() - l.ln() - l.ln();
        mean_logit[row] = t / vocabulary;
    }
}

fn fwd_cpu(call: &mut HostCall) {
    let width = call.params::<Params>().width as usize;
    let (stats, targets) = (call.input::<f32>(0), call.input::<u32>(1));
    let logprobs = call.output::<f32>(2);
    for ((logprob, stats), &target) in logprobs.iter_mut().zip(stats.chunks(width)).zip(targets) {
        *logprob = if target == IGNORE { 0.0 } else { stats[2] - stats[0] - stats[1].ln() };
    }
}

fn details_cpu(call: &mut HostCall) {
    let vocabulary = call.params::<Params>().vocabulary as f32;
    let (stats, targets) = (call.input::<f32>(0), call.input::<u32>(1));
    let (entropy, is_most_likely) = (call.output::<f32>(2), call.output::<f32>(3));
    let (log_sum_squares, mean_logit) = (call.output::<f32>(4), call.output::<f32>(5));
    for (row, (stats, &target)) in stats.as_chunks::<7>().0.iter().zip(targets).enumerate() {
        let &[_, l, _, s, a, q, t] = stats;
        let found = match target {
            IGNORE => [0.0; 4],
            _ => {
                let same = f32::from(u8::from(target as f32 == a));
                [l.ln() - s / l, same, q.ln() - 2.0 * l.ln(), t / vocabulary]
            }
        };
        [entropy[row], is_most_likely[row], log_sum_squares[row], mean_logit[row]] = found;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{StepState, StepValues, add, linear_cross_entropy};
    use super::*;
    use crate::backend::Device;
    use crate::backend::cpu::Cpu;
    use crate::backend::reference::Reference;

    const TOKENS: usize = 5;
    const TARGETS: [u32; TOKENS] = [3, IGNORE, 0, 6, IGNORE];
    /// Of the targets that are not ignored.
    const SHARE: f32 = 1.0 / 3.0;

    fn inputs(device: &Device) -> Result<[Tensor; 3]> {
        let wave = |count: usize, from: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * 0.7 + from).sin()).collect()
        };
        let hidden = Tensor::from_f32(device, &[TOKENS, 4], DType::F32, &wave(20, 0.1))?;
        let head = Tensor::from_f32(device, &[7, 4], DType::F32, &wave(28, 2.0))?;
        let targets = Tensor::from_u32(device, &[TOKENS], &TARGETS)?;
        Ok([hidden.with_grad("hidden", DType::F32), head.with_grad("head", DType::F32), targets])
    }

    fn gradients(inputs: &[Tensor; 3]) -> Vec<f64> {
        let taken = inputs[..2].iter().filter_map(|input| input.slot()?.take());
        taken.flat_map(|gradient| gradient.read_f64().unwrap()).collect()
    }

    /// The mean cross-entropy is -1/N times the sum of the log-probabilities: with that for dout, which
    /// the host brings, the gradients have the same bits as those of the fused op.
    #[test]
    fn weighted_by_minus_the_share_it_has_the_gradients_of_cross_entropy() -> Result<()> {
        for device in [Device::new(Reference::<f64>::new()), Device::new(Cpu::poisoned())] {
            let inputs = inputs(&device)?;
            let [hidden, head, targets] = &inputs;
            let state = StepState::new(&device)?;
            state.set(&StepValues { inv_tokens: SHARE, ..StepValues::default() })?;
            let tape = Tape::recording();
            let fused = linear_cross_entropy(&tape, hidden, head, targets, &state)?;
            let one = Tensor::from_f32(&device, &[1], DType::F32, &[1.0])?;
            tape.backward(&fused.scaled_loss, one)?;
            let expected = gradients(&inputs);

            let tape = Tape::recording();
            let found = token_logprobs(&tape, hidden, head, targets, LogprobOptions::default())?;
            // What an ignored token is given is not read.
            let dout = TARGETS.map(|target| if target == IGNORE { f32::NAN } else { -SHARE });
            let dout = Tensor::from_f32(&device, &[TOKENS], DType::F32, &dout)?;
            tape.backward_from([(&found.logprobs, dout)])?;
            assert_eq!(expected.len(), 20 + 28);
            assert_eq!(gradients(&inputs), expected);

            let losses = fused.losses.read_f64()?;
            for (logprob, loss) in found.logprobs.read_f64()?.iter().zip(losses) {
                assert!((logprob + loss).abs() < 1e-6, "{logprob} and {loss}");
            }
        }
        Ok(())
    }

    /// Gradients are added to what is there, as where two objectives share the hidden states.
    #[test]
    fn gradients_add_up() -> Result<()> {
        let device = Device::new(Reference::<f64>::new());
        let inputs = inputs(&device)?;
        let [hidden, head, targets] = &inputs;
        let ones = || Tensor::from_f32(&device, &[TOKENS], DType::F32, &[1.0; TOKENS]);
        let run = |times: usize| -> Result<Vec<f64>> {
            let tape = Tape::recording();
            let mut outputs = Vec::new();
            for _ in 0..times {
                let options = LogprobOptions::default();
                outputs.push(token_logprobs(&tape, hidden, head, targets, options)?.logprobs);
            }
            let douts = outputs.iter().map(|output| Ok((output, ones()?)));
            tape.backward_from(douts.collect::<Result<Vec<_>>>()?)?;
            Ok(gradients(&inputs))
        };
        let (once, twice) = (run(1)?, run(2)?);
        assert!(once.iter().any(|gradient| *gradient != 0.0));
        assert!(once.iter().zip(twice).all(|(once, twice)| (2.0 * once - twice).abs() < 1e-12));
        Ok(())
    }

    #[test]
    fn what_has_no_gradient_says_so() -> Result<()> {
        let device = Device::new(Cpu::new());
        let [hidden, head, targets] = inputs(&device)?;
        let options = LogprobOptions { details: true, ..LogprobOptions::default() };
        let tape = Tape::recording();
        let found = token_logprobs(&tape, &hidden, &head, &targets, options)?;
        let details = found.details.expect("they were asked for");
        let loss = add(&tape, &found.logprobs, &details.entropy)?;
        let dout = Tensor::from_f32(&device, &[TOKENS], DType::F32, &[1.0; TOKENS])?;
        let error = tape.backward(&loss, dout).expect_err("the entropy has no backward");
        assert!(matches!(error, Error::MissingGradient { .. }), "{error}");
        assert!(error.to_string().contains("entropy"), "{error}");
        Ok(())
    }

    #[test]
    fn a_temperature_that_is_none_is_refused() -> Result<()> {
        let device = Device::new(Cpu::new());
        let [hidden, head, targets] = inputs(&device)?;
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let options = LogprobOptions { temperature, ..LogprobOptions::default() };
            let found = token_logprobs(&Tape::inference(), &hidden, &head, &targets, options);
            let error = found.err().expect("no such temperature");
            assert!(error.to_string().contains("finite and above 0"), "{error}");
        }
        Ok(())
    }
}

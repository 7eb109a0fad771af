//! The keys of `[train]`.

use super::{Key, named, plain, quoted};
use crate::config::choice::{Choice, GradientCheckpointing, Strategy};
use crate::config::read::Read;
use crate::config::settings::Interval;
use crate::config::tree::{Node, Value};
use crate::optim::{KINDS, Kind};
use crate::suggest::nearest;

pub(super) const BATCHES: &[Key] = &[
    Key {
        section: "train",
        name: "per_device_train_batch_size",
        aliases: &["micro_batch_size"],
        doc: "examples (rows when packing) per micro-batch",
        set: |config, node, _| {
            node.whole(1).map(|size: u32| config.train.per_device_train_batch_size = size as usize)
        },
        show: |config| plain(config.train.per_device_train_batch_size),
    },
    Key {
        section: "train",
        name: "per_device_eval_batch_size",
        aliases: &["eval_batch_size"],
        doc: "the same, in evaluation",
        set: |config, node, _| {
            node.whole(1).map(|size: u32| config.train.per_device_eval_batch_size = size as usize)
        },
        show: |config| plain(config.train.per_device_eval_batch_size),
    },
    Key {
        section: "train",
        name: "gradient_accumulation_steps",
        aliases: &[],
        doc: "micro-batches per step",
        set: |config, node, _| {
            node.whole(1)
                .map(|steps: u32| config.train.gradient_accumulation_steps = steps as usize)
        },
        show: |config| plain(config.train.gradient_accumulation_steps),
    },
    Key {
        section: "train",
        name: "num_train_epochs",
        aliases: &["num_epochs", "epochs"],
        doc: "passes over the examples",
        set: |config, node, _| {
            let epochs = node.above_zero()?;
            config.train.num_train_epochs = epochs;
            Ok(())
        },
        show: |config| plain(config.train.num_train_epochs),
    },
    Key {
        section: "train",
        name: "max_steps",
        aliases: &[],
        doc: "steps; takes precedence over num_train_epochs",
        set: |config, node, _| {
            // Transformers writes -1 for "not set".
            config.train.max_steps = match node.value {
                Value::Integer(-1) => None,
                _ => Some(node.whole(1)?),
            };
            Ok(())
        },
        show: |config| config.train.max_steps.and_then(plain),
    },
];

pub(super) const OPTIMIZER: &[Key] = &[
    Key {
        section: "train",
        name: "optim",
        aliases: &["optimizer"],
        doc: "adamw_torch, adamw_8bit (moments in 8 bits) or, for full training, muon",
        set: |config, node, _| optimizer(node.text()?).map(|kind| config.train.optim = kind),
        show: |config| Some(quoted(config.train.optim.name())),
    },
    Key {
        section: "train",
        name: "learning_rate",
        aliases: &["lr"],
        doc: "the peak learning rate; 2e-4 with LoRA, else 2e-5, if not given",
        set: |config, node, _| node.non_negative().map(|rate| config.train.learning_rate = rate),
        show: |config| plain(config.train.learning_rate),
    },
    Key {
        section: "train",
        name: "lr_scheduler_type",
        aliases: &["lr_scheduler"],
        doc: "cosine, linear, constant or constant_with_warmup",
        set: |config, node, _| node.choice().map(|kind| config.train.lr_scheduler_type = kind),
        show: |config| named(config.train.lr_scheduler_type),
    },
    Key {
        section: "train",
        name: "warmup_steps",
        aliases: &[],
        doc: "steps of linear warm-up; below 1, a share of all steps, rounded up",
        set: |config, node, _| {
            let steps = node.real("a share below 1 or a whole number of steps", |steps| {
                (0.0..1.0).contains(&steps) || steps >= 1.0 && steps.fract() == 0.0
            })?;
            config.train.warmup_steps = steps;
            Ok(())
        },
        show: |config| plain(config.train.warmup_steps),
    },
    Key {
        section: "train",
        name: "weight_decay",
        aliases: &[],
        doc: "AdamW's decoupled decay; biases and norm weights have none",
        set: |config, node, _| node.non_negative().map(|decay| config.train.weight_decay = decay),
        show: |config| plain(config.train.weight_decay),
    },
    Key {
        section: "train",
        name: "adam_beta1",
        aliases: &[],
        doc: "AdamW's decay of the mean of gradients",
        set: |config, node, _| node.fraction().map(|beta| config.train.adam_beta1 = beta),
        show: |config| plain(config.train.adam_beta1),
    },
    Key {
        section: "train",
        name: "adam_beta2",
        aliases: &[],
        doc: "AdamW's decay of the mean of squared gradients",
        set: |config, node, _| node.fraction().map(|beta| config.train.adam_beta2 = beta),
        show: |config| plain(config.train.adam_beta2),
    },
    Key {
        section: "train",
        name: "adam_epsilon",
        aliases: &["adam_eps"],
        doc: "AdamW's term against division by zero",
        set: |config, node, _| {
            let epsilon = node.above_zero()?;
            config.train.adam_epsilon = epsilon;
            Ok(())
        },
        show: |config| plain(config.train.adam_epsilon),
    },
    Key {
        section: "train",
        name: "max_grad_norm",
        aliases: &["gradient_clipping"],
        doc: "the global norm above which gradients are scaled down; 0 is never",
        set: |config, node, _| node.non_negative().map(|norm| config.train.max_grad_norm = norm),
        show: |config| plain(config.train.max_grad_norm),
    },
    Key {
        section: "train",
        name: "gradient_checkpointing",
        aliases: &["grad_checkpoint"],
        doc: "recompute activations in the backward pass: \"auto\" (as little as fits), true, false",
        set: |config, node, _| {
            config.train.gradient_checkpointing = match &node.value {
                Value::Text(text) if text == "auto" => GradientCheckpointing::Auto,
                Value::Bool(true) => GradientCheckpointing::On,
                Value::Bool(false) => GradientCheckpointing::Off,
                _ => {
                    return Err(format!(
                        "expected \"auto\", true or false, found {}",
                        node.describe()
                    ));
                }
            };
            Ok(())
        },
        show: |config| match config.train.gradient_checkpointing {
            GradientCheckpointing::Auto => Some(quoted("auto")),
            GradientCheckpointing::On => plain(true),
            GradientCheckpointing::Off => plain(false),
        },
    },
    Key {
        section: "train",
        name: "neftune_noise_alpha",
        aliases: &[],
        doc: "noise on embeddings while training; 0 is none",
        set: |config, node, _| {
            node.non_negative().map(|alpha| config.train.neftune_noise_alpha = alpha)
        },
        show: |config| plain(config.train.neftune_noise_alpha),
    },
    Key {
        section: "train",
        name: "seed",
        aliases: &[],
        doc: "the seed of everything random",
        set: |config, node, _| node.whole(0).map(|seed| config.train.seed = seed),
        show: |config| plain(config.train.seed),
    },
];

/// The keys of what happens periodically. A strategy comes after the steps that it may contradict.
pub(super) const SCHEDULE: &[Key] = &[
    Key {
        section: "train",
        name: "logging_steps",
        aliases: &[],
        doc: "log every so many steps; 0 is at the end of every epoch",
        set: |config, node, _| interval(node).map(|when| config.train.logging_steps = when),
        show: |config| show_interval(config.train.logging_steps),
    },
    Key {
        section: "train",
        name: "logging_strategy",
        aliases: &[],
        doc: "no: nothing is logged",
        set: |config, node, _| {
            strategy(node, "logging_steps", &mut config.train.logging_steps, Interval::Steps(1))
        },
        show: |config| show_strategy(config.train.logging_steps),
    },
    Key {
        section: "train",
        name: "eval_steps",
        aliases: &[],
        doc: "evaluate every so many steps (below 1: such a share of them); 0 is at the end of every epoch",
        set: |config, node, _| interval(node).map(|when| config.train.eval_steps = when),
        show: |config| show_interval(config.train.eval_steps),
    },
    Key {
        section: "train",
        name: "eval_strategy",
        aliases: &["evaluation_strategy"],
        doc: "no: nothing is evaluated between the start and the end",
        set: |config, node, _| {
            strategy(node, "eval_steps", &mut config.train.eval_steps, Interval::Epoch)
        },
        show: |config| show_strategy(config.train.eval_steps),
    },
    Key {
        section: "train",
        name: "evals_per_epoch",
        aliases: &[],
        doc: "instead of eval_steps: so many evaluations an epoch",
        set: |config, node, _| {
            let epochs = config.train.num_train_epochs;
            per_epoch(node, "eval_steps", &mut config.train.eval_steps, epochs)
        },
        show: |_| None,
    },
    Key {
        section: "train",
        name: "save_steps",
        aliases: &[],
        doc: "save a checkpoint every so many steps, or share of them; 0 is at the end of every epoch",
        set: |config, node, _| interval(node).map(|when| config.train.save_steps = when),
        show: |config| show_interval(config.train.save_steps),
    },
    Key {
        section: "train",
        name: "saves_per_epoch",
        aliases: &[],
        doc: "instead of save_steps: so many checkpoints an epoch",
        set: |config, node, _| {
            let epochs = config.train.num_train_epochs;
            per_epoch(node, "save_steps", &mut config.train.save_steps, epochs)
        },
        show: |_| None,
    },
    Key {
        section: "train",
        name: "save_strategy",
        aliases: &[],
        doc: "no: only the result is saved",
        set: |config, node, _| {
            strategy(node, "save_steps", &mut config.train.save_steps, Interval::Epoch)
        },
        show: |config| show_strategy(config.train.save_steps),
    },
    Key {
        section: "train",
        name: "save_total_limit",
        aliases: &[],
        doc: "how many checkpoints are kept; 0 is all",
        set: |config, node, _| node.whole(0).map(|limit| config.train.save_total_limit = limit),
        show: |config| plain(config.train.save_total_limit),
    },
    Key {
        section: "train",
        name: "load_best_model_at_end",
        aliases: &[],
        doc: "the result is the checkpoint with the lowest evaluation loss",
        set: |config, node, _| node.bool().map(|on| config.train.load_best_model_at_end = on),
        show: |config| plain(config.train.load_best_model_at_end),
    },
    Key {
        section: "train",
        name: "early_stopping_patience",
        aliases: &[],
        doc: "stop after so many evaluations without a lower loss; 0 is never",
        set: |config, node, _| {
            node.whole(0).map(|count| config.train.early_stopping_patience = count)
        },
        show: |config| plain(config.train.early_stopping_patience),
    },
];

/// The optimizer of that name; the message of the error lists those that are known.
fn optimizer(name: &str) -> Read<&'static Kind> {
    if let Some(kind) = Kind::find(name) {
        return Ok(kind);
    }
    let known: Vec<_> = KINDS.iter().map(|kind| format!("{:?}", kind.name())).collect();
    let hint = match nearest(name, KINDS.iter().flat_map(|kind| kind.names).copied()) {
        Some(near) => format!(" (did you mean {near:?}?)"),
        None => String::new(),
    };
    Err(format!("expected one of {}, found {name:?}{hint}", known.join(", ")))
}

fn interval(node: &Node) -> Read<Interval> {
    if let Value::Float(share) = node.value {
        let is_share = |share: &f64| (0.0..1.0).contains(share) && *share > 0.0;
        let what = "a whole number of steps, or a share of them above 0 and below 1";
        return node.real(what, |share| is_share(&share)).map(|_| Interval::Share(share));
    }
    match node.whole(0)? {
        0 => Ok(Interval::Epoch),
        steps => Ok(Interval::Steps(steps)),
    }
}

/// axolotl's `evals_per_epoch`: a share of the steps of all epochs, as it computes it.
fn per_epoch(node: &Node, steps: &str, interval: &mut Interval, epochs: f64) -> Read<()> {
    if *interval != Interval::Epoch {
        return Err(format!("contradicts {steps}: leave one of them out"));
    }
    *interval = match (node.whole::<u64>(0)?, epochs) {
        (0, _) => Interval::Never,
        (1, _) => Interval::Epoch,
        (count, epochs) if count as f64 * epochs > 1.0 => {
            Interval::Share(1.0 / (count as f64 * epochs))
        }
        _ => return Err(format!("is less than one in the whole run: give {steps}")),
    };
    Ok(())
}

/// Applies a strategy to the interval that `steps` (the name of a key) has set. An interval that
/// is still its `default` contradicts nothing.
fn strategy(node: &Node, steps: &str, interval: &mut Interval, default: Interval) -> Read<()> {
    let strategy = match &node.value {
        // YAML reads a bare `no` as false.
        Value::Bool(false) => Strategy::No,
        _ => node.choice()?,
    };
    match (strategy, *interval) {
        (Strategy::Steps, Interval::Steps(_) | Interval::Share(_)) => {}
        (Strategy::Steps, _) => return Err(format!("\"steps\" needs {steps} above 0")),
        (strategy, Interval::Steps(_) | Interval::Share(_)) if *interval != default => {
            let (name, given) = (strategy.name(), show_interval(*interval).unwrap_or_default());
            return Err(format!("{name:?} contradicts {steps} = {given}: leave one of them out"));
        }
        (Strategy::Epoch, _) => *interval = Interval::Epoch,
        (Strategy::No, _) => *interval = Interval::Never,
    }
    Ok(())
}

fn show_interval(interval: Interval) -> Option<String> {
    match interval {
        Interval::Steps(steps) => plain(steps),
        Interval::Share(share) => plain(share),
        Interval::Epoch => plain(0),
        // The strategy says it.
        Interval::Never => None,
    }
}

fn show_strategy(interval: Interval) -> Option<String> {
    (interval == Interval::Never).then(|| quoted(Strategy::No.name()))
}

//! The section `[dpo]`.

use super::Dpo;
use super::loss::{Divergence, LossType};
use crate::config::Choice;
use crate::config::key::{Key, Keys, Node, Read, Value, named, plain, quoted};
use crate::objective::answers::{set_reference, show_reference};

impl Keys for Dpo {
    const KEYS: &'static [Key<Self>] = KEYS;

    fn check(&self) -> Result<(), (&'static str, String)> {
        let Self { losses, label_smoothing, divergence, .. } = self;
        let has = |loss: LossType| losses.iter().any(|(known, _)| *known == loss);
        if has(LossType::ExoPair) && *label_smoothing == 0.0 {
            let why = "exo_pair needs a label_smoothing above 0, such as 1e-3";
            return Err(("dpo.label_smoothing", why.to_owned()));
        }
        let fixed = losses.iter().find(|(loss, _)| !loss.takes_divergence());
        if let Some((loss, _)) = fixed
            && *divergence != Divergence::ReverseKl
        {
            let why = format!("{:?} has loss_type {:?} no use for", divergence.name(), loss.name());
            return Err((
                "dpo.f_divergence_type",
                format!(
                    "{why}: leave it out, or take sigmoid, hinge, ipo, exo_pair, robust, discopop, sigmoid_norm or sft"
                ),
            ));
        }
        Ok(())
    }
}

const KEYS: &[Key<Dpo>] = &[
    Key {
        section: "dpo",
        name: "beta",
        aliases: &["dpo_beta", "pref_beta", "rl_beta"],
        doc: "how strongly the policy is held to the reference",
        set: |dpo, node, _| node.above_zero().map(|beta| dpo.beta = beta),
        show: |dpo| plain(dpo.beta),
    },
    Key {
        section: "dpo",
        name: "loss_type",
        aliases: &["pref_loss", "dpo_loss"],
        doc: "sigmoid hinge ipo robust exo_pair nca_pair bco_pair sppo_hard apo_zero apo_down discopop \
              sigmoid_norm sft; or a list, whose losses are added",
        set: |dpo, node, _| loss_types(node).map(|losses| dpo.losses = losses),
        show: |dpo| {
            let names: Vec<String> =
                dpo.losses.iter().map(|(loss, _)| quoted(loss.name())).collect();
            match names.as_slice() {
                [one] => Some(one.clone()),
                several => Some(format!("[{}]", several.join(", "))),
            }
        },
    },
    Key {
        section: "dpo",
        name: "loss_weights",
        aliases: &[],
        doc: "what each loss of a list is multiplied with; ones if not given",
        set: |dpo, node, _| {
            let items = node.list("a list of numbers, one for each loss")?;
            let number = |item: &Node| item.real("a number", |_| true);
            let weights = items.iter().map(number).collect::<Read<Vec<f64>>>()?;
            if weights.len() != dpo.losses.len() {
                let (found, expected) = (weights.len(), dpo.losses.len());
                return Err(format!(
                    "expected {expected} numbers, as loss_type has, found {found}"
                ));
            }
            dpo.losses.iter_mut().zip(weights).for_each(|((_, weight), given)| *weight = given);
            Ok(())
        },
        show: |dpo| {
            let is_plain = dpo.losses.iter().all(|(_, weight)| *weight == 1.0);
            let weights: Vec<String> =
                dpo.losses.iter().map(|(_, weight)| format!("{weight:?}")).collect();
            (!is_plain).then(|| format!("[{}]", weights.join(", ")))
        },
    },
    Key {
        section: "dpo",
        name: "label_smoothing",
        aliases: &["dpo_label_smoothing"],
        doc: "the share of labels that may be wrong, for robust and exo_pair",
        set: |dpo, node, _| node.label_smoothing().map(|share| dpo.label_smoothing = share),
        show: |dpo| plain(dpo.label_smoothing),
    },
    Key {
        section: "dpo",
        name: "f_divergence_type",
        aliases: &[],
        doc: "reverse_kl, forward_kl, js_divergence or alpha_divergence",
        set: |dpo, node, _| node.choice().map(|divergence| dpo.divergence = divergence),
        show: |dpo| named(dpo.divergence),
    },
    Key {
        section: "dpo",
        name: "f_alpha_divergence_coef",
        aliases: &[],
        doc: "alpha of alpha_divergence",
        set: |dpo, node, _| node.real("a number", |_| true).map(|alpha| dpo.alpha = alpha),
        show: |dpo| plain(dpo.alpha),
    },
    Key {
        section: "dpo",
        name: "ld_alpha",
        aliases: &[],
        doc: "what tokens beyond the shorter of the two answers count, from 0 to 1 (LD-DPO)",
        set: |dpo, node, _| {
            let share = node.real("a number from 0 to 1", |share| (0.0..=1.0).contains(&share))?;
            dpo.ld_alpha = Some(share);
            Ok(())
        },
        show: |dpo| dpo.ld_alpha.and_then(plain),
    },
    Key {
        section: "dpo",
        name: "use_weighting",
        aliases: &[],
        doc: "weigh pairs by how likely the policy is to write them (WPO)",
        set: |dpo, node, _| node.bool().map(|on| dpo.use_weighting = on),
        show: |dpo| plain(dpo.use_weighting),
    },
    Key {
        section: "dpo",
        name: "discopop_tau",
        aliases: &[],
        doc: "temperature of discopop's mixing",
        set: |dpo, node, _| node.above_zero().map(|tau| dpo.discopop_tau = tau),
        show: |dpo| plain(dpo.discopop_tau),
    },
    Key {
        section: "dpo",
        name: "reference",
        aliases: &["ref_model"],
        doc: "\"base\": the policy as training finds it; or the directory of a model or adapter",
        set: |dpo, node, bases| set_reference(&mut dpo.reference, node, bases),
        show: |dpo| show_reference(&dpo.reference),
    },
    Key {
        section: "dpo",
        name: "precompute_ref_log_probs",
        aliases: &[],
        doc: "compute the reference's log-probabilities once, before the first step",
        set: |dpo, node, _| node.bool().map(|on| dpo.reference.precompute = on),
        show: |dpo| plain(dpo.reference.precompute),
    },
];

/// One name, or a list of them; each with a weight of 1.
fn loss_types(node: &Node) -> Read<Vec<(LossType, f64)>> {
    let losses: Vec<LossType> = match &node.value {
        Value::List(_) => {
            let items = node.list("the name of a loss, or a list of names")?;
            items.iter().map(Node::choice).collect::<Read<_>>()?
        }
        _ => vec![node.choice()?],
    };
    match losses.iter().enumerate().find(|(at, loss)| losses[..*at].contains(loss)) {
        Some((_, twice)) => Err(format!("{:?} is there twice", twice.name())),
        None => Ok(losses.into_iter().map(|loss| (loss, 1.0)).collect()),
    }
}

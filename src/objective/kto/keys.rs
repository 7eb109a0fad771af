//! The section `[kto]`.

use super::{Kto, LossType};
use crate::config::Choice;
use crate::config::key::{Key, Keys, named, plain};
use crate::objective::answers::{set_reference, show_reference};

impl Choice for LossType {
    const NAMES: &'static [(&'static str, Self)] =
        &[("kto", Self::Kto), ("apo_zero_unpaired", Self::ApoZeroUnpaired)];
}

impl Keys for Kto {
    const KEYS: &'static [Key<Self>] = &[
        Key {
            section: "kto",
            name: "beta",
            aliases: &["pref_beta", "rl_beta"],
            doc: "how strongly the policy is held to the reference",
            set: |kto, node, _| node.above_zero().map(|beta| kto.beta = beta),
            show: |kto| plain(kto.beta),
        },
        Key {
            section: "kto",
            name: "desirable_weight",
            aliases: &["kto_chosen_weight", "kto_desirable_weight"],
            doc: "what answers labelled true count",
            set: |kto, node, _| node.non_negative().map(|weight| kto.desirable_weight = weight),
            show: |kto| plain(kto.desirable_weight),
        },
        Key {
            section: "kto",
            name: "undesirable_weight",
            aliases: &["kto_rejected_weight", "kto_undesirable_weight"],
            doc: "what answers labelled false count",
            set: |kto, node, _| node.non_negative().map(|weight| kto.undesirable_weight = weight),
            show: |kto| plain(kto.undesirable_weight),
        },
        Key {
            section: "kto",
            name: "loss_type",
            aliases: &[],
            doc: "kto, or apo_zero_unpaired, which compares with no KL",
            set: |kto, node, _| node.choice().map(|loss| kto.loss_type = loss),
            show: |kto| named(kto.loss_type),
        },
        Key {
            section: "kto",
            name: "reference",
            aliases: &["ref_model"],
            doc: "\"base\": the policy as training finds it; or the directory of a model or adapter",
            set: |kto, node, bases| set_reference(&mut kto.reference, node, bases),
            show: |kto| show_reference(&kto.reference),
        },
    ];
}

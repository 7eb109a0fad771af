//! The section `[cpo]`.

use super::Cpo;
use crate::config::key::{Key, Keys, named, plain};

impl Keys for Cpo {
    const KEYS: &'static [Key<Self>] = &[
        Key {
            section: "cpo",
            name: "loss_type",
            aliases: &["pref_loss"],
            doc: "sigmoid, hinge, ipo or simpo",
            set: |cpo, node, _| node.choice().map(|loss| cpo.loss_type = loss),
            show: |cpo| named(cpo.loss_type),
        },
        Key {
            section: "cpo",
            name: "beta",
            aliases: &["pref_beta", "rl_beta"],
            doc: "what differences of log-probabilities are multiplied with",
            set: |cpo, node, _| node.above_zero().map(|beta| cpo.beta = beta),
            show: |cpo| plain(cpo.beta),
        },
        Key {
            section: "cpo",
            name: "label_smoothing",
            aliases: &[],
            doc: "the share of labels that may be wrong, for sigmoid and simpo",
            set: |cpo, node, _| node.label_smoothing().map(|share| cpo.label_smoothing = share),
            show: |cpo| plain(cpo.label_smoothing),
        },
        Key {
            section: "cpo",
            name: "cpo_alpha",
            aliases: &[],
            doc: "what the likelihood of the chosen answer counts; 0 is SimPO as its paper has it",
            set: |cpo, node, _| node.non_negative().map(|alpha| cpo.cpo_alpha = alpha),
            show: |cpo| plain(cpo.cpo_alpha),
        },
        Key {
            section: "cpo",
            name: "simpo_gamma",
            aliases: &[],
            doc: "the margin that simpo wants",
            set: |cpo, node, _| node.non_negative().map(|gamma| cpo.simpo_gamma = gamma),
            show: |cpo| plain(cpo.simpo_gamma),
        },
        Key {
            section: "cpo",
            name: "alpha",
            aliases: &[],
            doc: "shape of the reward (AlphaPO); 0 is the log-probability",
            set: |cpo, node, _| node.real("a number", |_| true).map(|alpha| cpo.alpha = alpha),
            show: |cpo| plain(cpo.alpha),
        },
    ];
}

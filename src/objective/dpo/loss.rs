//! The losses of a pair, from the log-ratios u = log p - log p_ref of its two answers, and their
//! derivatives: f64, on the host.
//!
//! ```text
//! s = f'(e^u)         u for the reverse KL divergence, else as the f-divergence says
//! d = s_c - s_r       chosen less rejected
//! ```

use crate::config::Choice;
use crate::objective::answers::{log_sigmoid, sigmoid};

/// The losses, by TRL's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossType {
    /// -log sigmoid(beta d): Rafailov et al., 2023, arXiv:2305.18290.
    Sigmoid,
    /// max(0, 1 - beta d): Zhao et al., 2023, arXiv:2305.10425.
    Hinge,
    /// (d per token - 1 / (2 beta))²: Azar et al., 2023, arXiv:2310.12036.
    Ipo,
    /// The sigmoid loss without the bias of flipped labels: Chowdhury et al., 2024, arXiv:2403.00409.
    Robust,
    /// The divergence from smoothed labels: Ji et al., 2024, arXiv:2402.00856.
    ExoPair,
    /// Absolute likelihoods: Chen et al., 2024, arXiv:2402.05369.
    NcaPair,
    /// Two classifications: Jung et al., 2024, arXiv:2404.04656.
    BcoPair,
    /// Squares about ±1 / (2 beta): Wu et al., 2024, arXiv:2405.00675.
    SppoHard,
    /// Chosen up, rejected down: D'Oosterlinck et al., 2024, arXiv:2408.06266.
    ApoZero,
    /// Both down, rejected more: the same.
    ApoDown,
    /// Between logistic and exponential: Lu et al., 2024, arXiv:2406.08414.
    Discopop,
    /// The sigmoid loss of log-ratios per token.
    SigmoidNorm,
    /// Cross-entropy of the chosen answer's tokens: a mean over those of the step, not a loss of pairs.
    Sft,
}

impl Choice for LossType {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("sigmoid", Self::Sigmoid),
        ("hinge", Self::Hinge),
        ("ipo", Self::Ipo),
        ("robust", Self::Robust),
        ("exo_pair", Self::ExoPair),
        ("nca_pair", Self::NcaPair),
        ("bco_pair", Self::BcoPair),
        ("sppo_hard", Self::SppoHard),
        ("apo_zero", Self::ApoZero),
        ("apo_down", Self::ApoDown),
        ("discopop", Self::Discopop),
        ("sigmoid_norm", Self::SigmoidNorm),
        ("sft", Self::Sft),
    ];
}

impl LossType {
    /// Whether it is one of scores, which an f-divergence changes; the others take log-ratios as they are.
    pub fn takes_divergence(self) -> bool {
        use LossType::{BcoPair, NcaPair};
        !matches!(self, NcaPair | BcoPair | Self::SppoHard | Self::ApoZero | Self::ApoDown)
    }
}

/// f of the divergence between policy and reference: Wang et al., 2023, arXiv:2309.16240.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Divergence {
    /// f'(t) = log t + 1, of which the constant cancels.
    #[default]
    ReverseKl,
    /// f'(t) = 1 - 1 / t.
    ForwardKl,
    /// f'(t) = log(2 t / (t + 1)).
    JensenShannon,
    /// f'(t) = (t^(a - 1) - 1) / (a - 1).
    Alpha,
}

impl Choice for Divergence {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("reverse_kl", Self::ReverseKl),
        ("forward_kl", Self::ForwardKl),
        ("js_divergence", Self::JensenShannon),
        ("alpha_divergence", Self::Alpha),
    ];
}

/// Exponents of an alpha divergence stay below this, so that float32 holds the power.
const LARGEST_EXPONENT: f64 = 80.0;

impl Divergence {
    /// The score of a log-ratio and its derivative; `alpha` is that of the alpha divergence.
    pub fn score(self, u: f64, alpha: f64) -> (f64, f64) {
        match self {
            Self::ReverseKl => (u, 1.0),
            Self::ForwardKl => (1.0 - (-u).exp(), (-u).exp()),
            Self::JensenShannon => (std::f64::consts::LN_2 + log_sigmoid(u), sigmoid(-u)),
            Self::Alpha if (alpha - 1.0).abs() < 1e-6 => (u, 1.0),
            Self::Alpha => {
                let power = ((alpha - 1.0) * u).min(LARGEST_EXPONENT).exp();
                let is_free = (alpha - 1.0) * u <= LARGEST_EXPONENT;
                ((power - 1.0) / (alpha - 1.0), if is_free { power } else { 0.0 })
            }
        }
    }
}

/// The numbers that losses have.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// How strongly the policy is held to the reference.
    pub beta: f64,
    /// The share of labels that may be wrong.
    pub label_smoothing: f64,
    /// Temperature of discopop's mixing.
    pub discopop_tau: f64,
}

/// A pair as losses see it: chosen and rejected.
#[derive(Clone, Copy, Debug)]
pub struct Ratios {
    /// Log-ratios.
    pub u: [f64; 2],
    /// Scores of them.
    pub s: [f64; 2],
    /// Tokens of the answers.
    pub tokens: [f64; 2],
}

/// A loss with its derivatives by the log-ratios and by the scores of the two answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    /// The loss.
    pub value: f64,
    /// By the log-ratios.
    pub by_u: [f64; 2],
    /// By the scores.
    pub by_s: [f64; 2],
}

impl Term {
    /// Of a function of d = s_c / n_c - s_r / n_r, from its value and derivative.
    fn of_difference(value: f64, slope: f64, [chosen, rejected]: [f64; 2]) -> Self {
        Self { value, by_s: [slope / chosen, -slope / rejected], ..Self::default() }
    }

    fn of_ratios(value: f64, by_u: [f64; 2]) -> Self {
        Self { value, by_u, ..Self::default() }
    }
}

impl LossType {
    /// The loss of a pair. That of [`LossType::Sft`] is none of a pair: zero here.
    #[expect(clippy::too_many_lines, reason = "an arm for each loss")]
    pub fn of(
        self,
        Numbers { beta, label_smoothing, discopop_tau }: Numbers,
        pair: &Ratios,
    ) -> Term {
        let Ratios { u, s, tokens } = *pair;
        let [rc, rr] = [beta * u[0], beta * u[1]];
        let whole = [1.0, 1.0];
        let h = beta * (s[0] - s[1]);
        let per_token = s[0] / tokens[0] - s[1] / tokens[1];
        let (p, q) = (sigmoid(h), sigmoid(-h));
        let slope = |x: f64| sigmoid(x) * sigmoid(-x);
        let of_h = |value: f64, by_h: f64| Term::of_difference(value, beta * by_h, whole);
        match self {
            Self::Sigmoid => of_h(-log_sigmoid(h), -q),
            Self::Hinge => of_h((1.0 - h).max(0.0), if h < 1.0 { -1.0 } else { 0.0 }),
            Self::Ipo => {
                let off = per_token - 1.0 / (2.0 * beta);
                Term::of_difference(off * off, 2.0 * off, tokens)
            }
            Self::SigmoidNorm => {
                let h = beta * per_token;
                Term::of_difference(-log_sigmoid(h), -beta * sigmoid(-h), tokens)
            }
            Self::Robust => {
                let e = label_smoothing;
                let value = -(1.0 - e) * log_sigmoid(h) + e * log_sigmoid(-h);
                of_h(value / (1.0 - 2.0 * e), (-(1.0 - e) * q - e * p) / (1.0 - 2.0 * e))
            }
            Self::ExoPair => {
                let (wins, loses) = ((-label_smoothing).ln_1p(), label_smoothing.ln());
                let (of_p, of_q) = (log_sigmoid(h) - wins, log_sigmoid(-h) - loses);
                of_h(p * of_p + q * of_q, p * q * (of_p - of_q))
            }
            Self::Discopop => {
                let mix = sigmoid(h / discopop_tau);
                let (logistic, exponential) = (-log_sigmoid(h), (-h).exp());
                let by_mix = slope(h / discopop_tau) / discopop_tau * (exponential - logistic);
                let value = logistic * (1.0 - mix) + exponential * mix;
                of_h(value, -q * (1.0 - mix) - exponential * mix + by_mix)
            }
            Self::NcaPair => Term::of_ratios(
                -log_sigmoid(rc) - 0.5 * log_sigmoid(-rc) - 0.5 * log_sigmoid(-rr),
                [beta * (0.5 * sigmoid(rc) - sigmoid(-rc)), 0.5 * beta * sigmoid(rr)],
            ),
            Self::BcoPair => Term::of_ratios(
                -log_sigmoid(rc) - log_sigmoid(-rr),
                [-beta * sigmoid(-rc), beta * sigmoid(rr)],
            ),
            Self::SppoHard => {
                let (chosen, rejected) = (u[0] - 0.5 / beta, u[1] + 0.5 / beta);
                let value = chosen * chosen + rejected * rejected;
                Term::of_ratios(value, [2.0 * chosen, 2.0 * rejected])
            }
            Self::ApoZero => {
                Term::of_ratios(sigmoid(-rc) + sigmoid(rr), [-beta * slope(rc), beta * slope(rr)])
            }
            Self::ApoDown => {
                let between = slope(rc - rr);
                Term::of_ratios(
                    sigmoid(rc) + sigmoid(rr - rc),
                    [beta * (slope(rc) - between), beta * between],
                )
            }
            Self::Sft => Term::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every derivative is that of its value, by differences.
    #[test]
    fn derivatives_are_those_of_the_values() {
        let numbers = Numbers { beta: 0.3, label_smoothing: 0.1, discopop_tau: 0.5 };
        let step = 1e-5;
        for (name, loss) in LossType::NAMES {
            for u in [[0.4, -0.7], [-2.0, 1.5], [3.0, 2.9]] {
                let of = |u: [f64; 2]| loss.of(numbers, &Ratios { u, s: u, tokens: [5.0, 3.0] });
                let found = of(u);
                for side in 0..2 {
                    let at = |by: f64| {
                        let mut moved = u;
                        moved[side] += by;
                        of(moved).value
                    };
                    let expected = (at(step) - at(-step)) / (2.0 * step);
                    let total = found.by_u[side] + found.by_s[side];
                    assert!(
                        (total - expected).abs() < 1e-8,
                        "{name} at {u:?}: {total}, {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn scores_have_the_derivatives_of_their_values() {
        for (name, divergence) in Divergence::NAMES {
            for u in [-1.5, 0.0, 0.8] {
                let at = |u: f64| divergence.score(u, 0.5).0;
                let expected = (at(u + 1e-5) - at(u - 1e-5)) / 2e-5;
                let found = divergence.score(u, 0.5).1;
                assert!((found - expected).abs() < 1e-8, "{name} at {u}: {found}, {expected}");
            }
        }
        assert_eq!(Divergence::Alpha.score(0.7, 1.0), (0.7, 1.0));
    }
}

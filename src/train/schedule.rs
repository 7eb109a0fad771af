//! The learning rate of every step, as Transformers' `optimization.py` computes it.

use std::f64::consts::PI;

use crate::config::LrSchedulerType;

/// The learning rate over the steps of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: LrSchedulerType,
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// The schedule of `total_steps` steps that peaks at `peak`. `warmup_steps` below 1 is a share
    /// of all steps, rounded up.
    pub fn new(kind: LrSchedulerType, peak: f64, warmup_steps: f64, total_steps: u64) -> Self {
        let warmup_steps =
            if warmup_steps < 1.0 { warmup_steps * total_steps as f64 } else { warmup_steps };
        Self { kind, peak, warmup_steps: warmup_steps.ceil() as u64, total_steps }
    }

    /// The steps of warm-up.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup_steps
    }

    /// Whether no step would change anything, though the rate at the peak would: a run of nothing but
    /// the first step of the warm-up.
    pub fn is_zero(&self) -> bool {
        self.peak > 0.0 && (1..=self.total_steps).all(|step| self.learning_rate(step) == 0.0)
    }

    /// The learning rate that step `step` (from 1) uses: `peak` times, with `s = step - 1`, `w`
    /// warm-up steps and `n` steps in all,
    /// - warm-up (`s < w`): `s / max(1, w)`
    /// - cosine: `(1 + cos(pi (s - w) / max(1, n - w))) / 2`
    /// - linear: `(n - s) / max(1, n - w)`
    /// - constant: 1; `constant` has no warm-up
    pub fn learning_rate(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let factor = match self.kind {
            LrSchedulerType::Constant => 1.0,
            _ if done < self.warmup_steps => done as f64 / self.warmup_steps as f64,
            LrSchedulerType::ConstantWithWarmup => 1.0,
            LrSchedulerType::Linear => self.total_steps.saturating_sub(done) as f64 / decay_steps,
            LrSchedulerType::Cosine => {
                let progress = (done - self.warmup_steps) as f64 / decay_steps;
                (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
        };
        self.peak * factor
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;

    use super::*;
    use LrSchedulerType::{Constant, ConstantWithWarmup, Cosine, Linear};

    fn rates(kind: LrSchedulerType, warmup: f64, total: u64) -> Vec<f64> {
        let schedule = Schedule::new(kind, 1.0, warmup, total);
        (1..=total).map(|step| schedule.learning_rate(step)).collect()
    }

    #[test]
    fn cosine_follows_the_formula() {
        // (1 + cos(pi k / 4)) / 2 for k = 0..4 is 1, (2 + sqrt 2)/4, 1/2, (2 - sqrt 2)/4.
        let root = 2f64.sqrt();
        let expected = [0.0, 0.5, 1.0, (2.0 + root) / 4.0, 0.5, (2.0 - root) / 4.0];
        for (rate, expected) in rates(Cosine, 2.0, 6).into_iter().zip(expected) {
            assert_relative_eq!(rate, expected, epsilon = 1e-15);
        }
        // Past the last step the schedule has arrived at 0.
        assert_eq!(Schedule::new(Cosine, 1.0, 2.0, 6).learning_rate(7), 0.0);
    }

    #[test]
    fn linear_and_constant_follow_their_formulas() {
        assert_eq!(rates(Linear, 2.0, 6), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(Linear, 0.0, 4), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(ConstantWithWarmup, 2.0, 4), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(rates(Constant, 2.0, 3), [1.0, 1.0, 1.0]);
        assert_eq!(rates(Cosine, 0.0, 1), [1.0]);
    }

    #[test]
    fn a_share_of_warmup_is_rounded_up() {
        let warmup = |steps, total| Schedule::new(Cosine, 1.0, steps, total).warmup_steps();
        assert_eq!(warmup(0.03, 100), 3);
        assert_eq!(warmup(0.03, 101), 4);
        assert_eq!(warmup(0.03, 1), 1);
        assert_eq!(warmup(0.0, 100), 0);
        assert_eq!(warmup(1.0, 100), 1);
        assert_eq!(warmup(25.0, 10), 25);
    }

    #[test]
    fn warmup_longer_than_the_run_stays_finite() {
        for kind in [Cosine, Linear, ConstantWithWarmup] {
            let expected = [0.0, 0.25, 0.5];
            assert_eq!(rates(kind, 4.0, 3), expected);
        }
    }
}

//! `run_state.json` of a checkpoint: what a run needs to go on, besides tensors and the trainer state.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::enclosed;
use crate::model::Fingerprint;
use crate::objective::{Means, exact};

/// The file's name.
pub const NAME: &str = "run_state.json";

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// The version that wrote it.
    pub version: String,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run: the schedule depends on it.
    pub total_steps: u64,
    /// Tokens without padding so far.
    pub num_input_tokens_seen: u64,
    /// A hash of the tokenized training data.
    pub data_fingerprint: u64,
    /// The base model.
    pub base: Fingerprint,
    /// What templates that print the date have printed.
    pub date: String,
    /// The loss scale of the next step, and its counters.
    pub loss_scale: f32,
    /// Finite steps since the scale changed.
    pub finite_steps: u32,
    /// Non-finite steps in a row.
    pub skipped_steps: u32,
    /// Whether the evaluation after the last step was given up for a signal.
    pub evaluation_due: bool,
    /// What came together since the last logged step.
    pub window: Window,
}

/// What came together since the last logged step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Steps.
    pub steps: u64,
    /// The sum of their losses.
    pub loss: f64,
    /// The sum of their gradient norms, which may not be finite.
    #[serde(with = "exact")]
    pub grad_norm: f64,
    /// What the objective measured.
    pub means: Means,
    /// Tokens without padding.
    pub tokens: u64,
    /// Seconds, without evaluations and saving.
    pub seconds: f64,
}

impl RunState {
    /// What a checkpoint says.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such file, or its values cannot be.
    pub fn read(dir: &Path) -> Result<Self> {
        let place = dir.join(NAME);
        let shown = place.display();
        let text = enclosed::expected_text(dir, NAME, enclosed::SETTINGS).map_err(|error| {
            Error::input(format!("{} is no checkpoint: {shown}: {error}", dir.display()))
        })?;
        let state: Self = serde_json::from_str(&text)
            .map_err(|error| Error::input(format!("{shown}: {error}")))?;
        let is_scale = state.loss_scale.is_finite() && state.loss_scale > 0.0;
        match is_scale && state.step > 0 {
            true => Ok(state),
            false => Err(Error::input(format!(
                "{shown}: step {} and loss scale {} are none of a run",
                state.step, state.loss_scale
            ))),
        }
    }

    /// The text of the file.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n")
            .map_err(|error| Error::internal("run state", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> RunState {
        RunState {
            version: "0".into(),
            step: 3,
            total_steps: 9,
            num_input_tokens_seen: 100,
            data_fingerprint: u64::MAX,
            base: Fingerprint::default(),
            date: "2026-01-01T00:00:00".into(),
            loss_scale: 65_536.0,
            finite_steps: 1,
            skipped_steps: 2,
            evaluation_due: true,
            window: Window { steps: 2, loss: 0.1 + 0.2, grad_norm: f64::NAN, ..Window::default() },
        }
    }

    #[test]
    fn the_state_reads_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), state().to_json().unwrap()).unwrap();
        let mut found = RunState::read(dir.path()).unwrap();
        assert!(found.window.grad_norm.is_nan());
        found.window.grad_norm = 0.0;
        assert_eq!(
            found,
            RunState { window: Window { grad_norm: 0.0, ..state().window }, ..state() }
        );
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (old, new) in [("65536.0", "null"), ("65536.0", "-1.0"), ("\"step\": 3", "\"step\": 0")]
        {
            let text = state().to_json().unwrap();
            assert!(text.contains(old), "{text}");
            std::fs::write(dir.path().join(NAME), text.replace(old, new)).unwrap();
            assert_eq!(RunState::read(dir.path()).unwrap_err().exit_status(), 2, "{new}");
        }
    }
}

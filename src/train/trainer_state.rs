//! `trainer_state.json`, with Transformers' keys: what was logged, and which evaluation is the best.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::metrics::Metrics;
use crate::config::TrainArgs;
use crate::error::{Error, Result};
use crate::files;
use crate::objective::Best;

/// `trainer_state.json`, with Transformers' keys in its order (sorted).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The step of the best evaluation.
    pub best_global_step: Option<u64>,
    /// The metric that says so, there: the lowest evaluation loss, if the objective names no other.
    pub best_metric: Option<f64>,
    /// The checkpoint of that step, from `output_dir`: a directory that is moved keeps it.
    pub best_model_checkpoint: Option<String>,
    /// Passes over the examples so far.
    pub epoch: f64,
    /// Evaluate every so many steps; 0 is at the end of every epoch.
    pub eval_steps: u64,
    /// Optimizer steps so far.
    pub global_step: u64,
    /// Always false.
    pub is_hyper_param_search: bool,
    /// Always true: there is one process.
    pub is_local_process_zero: bool,
    /// Always true.
    pub is_world_process_zero: bool,
    /// What was logged: the objects of `metrics.jsonl`.
    pub log_history: Vec<Metrics>,
    /// Log every so many steps; 0 is at the end of every epoch.
    pub logging_steps: u64,
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Tokens without padding so far.
    pub num_input_tokens_seen: u64,
    /// Passes over the examples of the whole run, rounded up.
    pub num_train_epochs: u64,
    /// Save every so many steps; 0 is at the end of every epoch.
    pub save_steps: u64,
    /// State of what acts between steps.
    pub stateful_callbacks: StatefulCallbacks,
    /// Floating-point operations so far.
    pub total_flos: f64,
    /// Examples per micro-batch.
    pub train_batch_size: usize,
    /// Always null.
    pub trial_name: Option<String>,
    /// Always null.
    pub trial_params: Option<Map<String, Value>>,
}

/// State of what acts between steps, in Transformers' form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatefulCallbacks {
    /// Early stopping, where it is on.
    #[serde(rename = "EarlyStoppingCallback", default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
}

/// Early stopping: its settings and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// The settings.
    pub args: EarlyStoppingArgs,
    /// What changes.
    pub attributes: EarlyStoppingAttributes,
}

/// The settings of early stopping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStoppingArgs {
    /// Stop after so many evaluations that are not the best so far.
    pub early_stopping_patience: usize,
    /// The least difference that counts as better; always 0.
    pub early_stopping_threshold: f64,
}

/// What changes in early stopping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStoppingAttributes {
    /// Evaluations since the last best one.
    pub early_stopping_patience_counter: usize,
}

/// What an evaluation means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It is the best so far.
    pub is_best: bool,
    /// Early stopping ends the run.
    pub stop: bool,
}

impl TrainerState {
    /// The state before the first of `max_steps` steps, which are `epochs` passes over the
    /// examples.
    pub fn new(train: &TrainArgs, max_steps: u64, epochs: f64) -> Self {
        let patience = train.early_stopping_patience;
        let early_stopping = (patience > 0).then_some(EarlyStopping {
            args: EarlyStoppingArgs {
                early_stopping_patience: patience,
                early_stopping_threshold: 0.0,
            },
            attributes: EarlyStoppingAttributes { early_stopping_patience_counter: 0 },
        });
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: train.eval_steps.of(max_steps).steps(),
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: train.logging_steps.of(max_steps).steps(),
            max_steps,
            num_input_tokens_seen: 0,
            num_train_epochs: epochs.ceil() as u64,
            save_steps: train.save_steps.of(max_steps).steps(),
            stateful_callbacks: StatefulCallbacks { early_stopping },
            total_flos: 0.0,
            train_batch_size: train.per_device_train_batch_size,
            trial_name: None,
            trial_params: None,
        }
    }

    /// Takes an evaluation into account whose step is saved as `checkpoint`. It is the best only when
    /// the metric that `by` names is strictly better, and never when that is not a number. The
    /// evaluation before the first step is no candidate: nothing is saved there.
    pub fn judge(&mut self, metrics: &Metrics, by: Best, checkpoint: &str) -> Verdict {
        if metrics.step() == 0 {
            return Verdict { is_best: false, stop: false };
        }
        let found = metrics.get(by.metric);
        let is_better = |best| if by.greater_is_better { found > best } else { found < best };
        let is_best = !found.is_nan() && self.best_metric.is_none_or(is_better);
        if is_best {
            self.best_metric = Some(found);
            self.best_global_step = Some(metrics.step());
            self.best_model_checkpoint = Some(checkpoint.to_owned());
        }
        let Some(EarlyStopping { args, attributes }) = &mut self.stateful_callbacks.early_stopping
        else {
            return Verdict { is_best, stop: false };
        };
        let counter = &mut attributes.early_stopping_patience_counter;
        *counter = if is_best { 0 } else { *counter + 1 };
        Verdict { is_best, stop: *counter >= args.early_stopping_patience }
    }

    /// Takes over the settings of this start of a run, of `max_steps` steps, which are `epochs` passes over
    /// the examples.
    pub fn go_on(self, train: &TrainArgs, max_steps: u64, epochs: f64) -> Self {
        let mut fresh = Self::new(train, max_steps, epochs);
        let stopping = (&mut fresh.stateful_callbacks.early_stopping, &self.stateful_callbacks);
        if let (Some(now), StatefulCallbacks { early_stopping: Some(saved) }) = stopping {
            now.attributes = saved.attributes.clone();
        }
        Self {
            best_global_step: self.best_global_step,
            best_metric: self.best_metric,
            best_model_checkpoint: self.best_model_checkpoint,
            epoch: self.epoch,
            global_step: self.global_step,
            log_history: self.log_history,
            num_input_tokens_seen: self.num_input_tokens_seen,
            total_flos: self.total_flos,
            ..fresh
        }
    }

    /// Forgets the best evaluation, whose checkpoint is lost.
    pub fn forget_best(&mut self) {
        self.best_global_step = None;
        self.best_metric = None;
        self.best_model_checkpoint = None;
    }

    /// Whether early stopping has ended the run.
    pub fn has_stopped(&self) -> bool {
        let stopping = self.stateful_callbacks.early_stopping.as_ref();
        stopping.is_some_and(|EarlyStopping { args, attributes }| {
            attributes.early_stopping_patience_counter >= args.early_stopping_patience
        })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Run`] where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("trainer state", error.to_string()))?;
        text.push('\n');
        files::write(path, text)
    }

    /// Reads the file of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Input`] where it cannot be read or is no such file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|error| Error::input(format!("cannot read {}: {error}", path.display())))?;
        serde_json::from_str(&text).map_err(|error| {
            Error::input(format!("{} is no trainer state: {error}", path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(early_stopping_patience: usize) -> TrainerState {
        TrainerState::new(&TrainArgs { early_stopping_patience, ..Default::default() }, 10, 1.0)
    }

    const LOSS: Best = Best { metric: "eval_loss", greater_is_better: false };

    fn eval(step: u64, loss: f64) -> Metrics {
        Metrics::new(step, 0.5).with("eval_loss", loss)
    }

    #[test]
    fn the_best_loss_is_the_first_lowest() {
        let mut state = state(2);
        let mut judge = |step, loss| {
            let verdict = state.judge(&eval(step, loss), LOSS, &format!("checkpoint-{step}"));
            (verdict.is_best, verdict.stop)
        };
        assert_eq!(judge(0, 0.1), (false, false));
        assert_eq!(judge(1, f64::NAN), (false, false));
        assert_eq!(judge(2, 3.0), (true, false));
        assert_eq!(judge(3, 2.0), (true, false));
        assert_eq!(judge(4, 2.0), (false, false));
        assert_eq!(judge(5, 1.0), (true, false));
        assert_eq!(judge(6, 1.5), (false, false));
        assert_eq!(judge(7, f64::NAN), (false, true));
        assert_eq!(state.best_global_step, Some(5));
        assert_eq!(state.best_metric, Some(1.0));
        assert_eq!(state.best_model_checkpoint.as_deref(), Some("checkpoint-5"));
    }

    #[test]
    fn an_objective_may_judge_by_a_metric_that_grows() {
        let mut state = state(2);
        let by = Best { metric: "eval_accuracy", greater_is_better: true };
        let mut judge = |step, accuracy| {
            let metrics = eval(step, 1.0).with("eval_accuracy", accuracy);
            state.judge(&metrics, by, "checkpoint").is_best
        };
        assert_eq!([judge(1, 0.5), judge(2, 0.4), judge(3, 0.6)], [true, false, true]);
        assert_eq!(state.best_metric, Some(0.6));
    }

    #[test]
    fn the_state_reads_back_and_has_transformers_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trainer_state.json");
        let mut state = TrainerState { global_step: 3, epoch: 0.1 + 0.2, ..state(3) };
        state.log_history.push(eval(3, 2.5));
        state.judge(&eval(3, 2.5), LOSS, "out/checkpoint-3");
        state.save(&path).unwrap();
        assert_eq!(TrainerState::load(&path).unwrap(), state);
        let json: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!(keys, sorted);
        assert_eq!(keys.len(), 20);
        assert!(json["trial_name"].is_null() && json["log_history"][0]["eval_loss"] == 2.5);
        fs::write(&path, "{}").unwrap();
        assert_eq!(TrainerState::load(&path).unwrap_err().exit_status(), 2);
    }
}

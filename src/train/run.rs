//! A whole run: steps, evaluations, checkpoints, records, and the result.

use super::build::build;
use super::checkpoint::{self, RunState};
use super::log::Log;
use super::memory::MemoryPlan;
use super::metrics::Metrics;
pub use super::observer::Observer;
use super::prepare::Prepared;
use super::schedule::Schedule;
use super::steps::Steps;
use super::trainer::{StepOutcome, Trainer};
use super::trainer_state::TrainerState;
use crate::adapter::PeftConfig;
use crate::backend::Device;
use crate::config::{Interval, TrainConfig};
use crate::data::{Dataset, Plan};
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::files;
use crate::objective::Means;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a finished run says of itself.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// The evaluations before the first step and after the last.
    pub evaluations: Option<(Metrics, Metrics)>,
    /// Where the result is.
    pub output_dir: PathBuf,
}

/// Runs `prepared` on `device`, as `plan` ([`super::memory::choose`]) has it. `date` is what its templates
/// printed.
///
/// # Errors
/// What is wrong with the input or the run; [`Error::Interrupted`] after a signal, with a checkpoint
/// saved.
pub fn run(
    prepared: &Prepared,
    device: &Device,
    plan: &MemoryPlan,
    date: &str,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let steps = Steps::new(&prepared.train, prepared.batching.clone(), &prepared.config.train);
    let checkpoint = checkpoint::to_resume(&prepared.config)?;
    if let Some(dir) = &checkpoint {
        refuse_other_run(dir, prepared, steps.total())?;
    }
    let (trainer, adapter) = build(prepared, device, plan.recompute, false)?;
    let mut run = Run::start(prepared, trainer, adapter, steps, date, checkpoint, observer)?;
    run.train(observer)?;
    run.finish(observer)
}

struct Run<'a> {
    prepared: &'a Prepared,
    trainer: Trainer,
    adapter: Option<PeftConfig>,
    steps: Steps<'a>,
    schedule: Schedule,
    log: Log,
    done: RunState,
    first_eval: Option<Metrics>,
    last_eval: Option<Metrics>,
    last_save: u64,
    window: Window,
}

/// What came together since the last logged step.
#[derive(Default)]
struct Window {
    steps: u64,
    loss: f64,
    grad_norm: f64,
    means: Means,
    tokens: u64,
    time: Duration,
}

impl<'a> Run<'a> {
    fn start(
        prepared: &'a Prepared,
        mut trainer: Trainer,
        adapter: Option<PeftConfig>,
        steps: Steps<'a>,
        date: &str,
        checkpoint: Option<PathBuf>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let config = &prepared.config;
        let args = &config.train;
        let total = steps.total();
        let output = &config.output_dir;
        files::create_directory(output)?;
        let fresh = RunState {
            version: env!("CARGO_PKG_VERSION").into(),
            step: 0,
            total_steps: total,
            num_input_tokens_seen: 0,
            data_fingerprint: prepared.train.fingerprint(),
            date: date.into(),
            loss_scale: trainer.scaler.scale,
            finite_steps: 0,
            skipped_steps: 0,
        };
        let (done, log) = match checkpoint {
            None => {
                let state = TrainerState::new(args, total, args.num_train_epochs);
                (fresh, Log::create(output, state)?)
            }
            Some(dir) => {
                let (done, state) = checkpoint::load(&dir, &mut trainer)?;
                let log = Log::resume(output, state, done.step)?;
                (done, log)
            }
        };
        files::write(&output.join("config.toml"), config.to_toml())?;
        observer.begin(done.step, total);
        let warmup = args.warmup_steps;
        let mut run = Self {
            schedule: Schedule::new(args.lr_scheduler_type, args.learning_rate, warmup, total),
            last_save: done.step,
            first_eval: log.first_evaluation().cloned(),
            last_eval: None,
            prepared,
            trainer,
            adapter,
            steps,
            log,
            done,
            window: Window::default(),
        };
        if run.done.step == 0 {
            run.evaluate(observer)?;
            observer.before_training(&run.trainer)?;
        }
        Ok(run)
    }

    fn train(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let args = &self.prepared.config.train;
        for step in self.done.step + 1..=self.steps.total() {
            let started = Instant::now();
            let batches = self.steps.batches(step);
            let tokens: usize = batches.iter().map(|batch| batch.num_tokens()).sum();
            let learning_rate = self.schedule.learning_rate(step);
            let outcome = self.trainer.step(step, learning_rate, &batches)?;
            if outcome.skipped {
                observer.warn(&format!("step {step}: the gradient is not finite; not applied"));
            }
            self.done.step = step;
            self.done.num_input_tokens_seen += tokens as u64;
            self.window.add(&outcome, tokens, started.elapsed());
            if self.due(args.logging_steps, step) || step == self.steps.total() {
                self.log(learning_rate, observer)?;
            }
            let mut stop = false;
            if self.prepared.eval.is_some() && self.due(args.eval_steps, step) {
                stop = self.evaluate(observer)?;
            }
            if self.due(args.save_steps, step) || stop {
                self.save(observer)?;
            }
            if let Some(signal) = observer.interrupted() {
                self.save(observer)?;
                return Err(Error::Interrupted(signal));
            }
            if stop {
                break;
            }
        }
        Ok(())
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<Summary> {
        let step = self.done.step;
        if self.last_eval.as_ref().is_none_or(|last| last.step() != step) {
            self.evaluate(observer)?;
        }
        if self.prepared.config.train.load_best_model_at_end {
            let state = &self.log.state;
            let best = state.best_model_checkpoint.as_ref();
            if let Some(dir) =
                best.map(PathBuf::from).filter(|_| state.best_global_step != Some(step))
            {
                checkpoint::load_tensors(&dir, &self.trainer, false)?;
            }
        }
        let output = &self.prepared.config.output_dir;
        let details = self.details();
        checkpoint::save_result(
            output,
            self.prepared,
            &self.trainer,
            self.adapter.as_ref(),
            &details,
        )?;
        self.log.state.save(&output.join("trainer_state.json"))?;
        observer.after_training(&self.trainer)?;
        let evaluations = self.first_eval.zip(self.last_eval);
        Ok(Summary { steps: step, evaluations, output_dir: output.clone() })
    }

    /// Whether something periodic happens after `step`.
    fn due(&self, interval: Interval, step: u64) -> bool {
        match interval {
            Interval::Never => false,
            Interval::Epoch => self.steps.ends_epoch(step),
            Interval::Steps(every) => step.is_multiple_of(every.max(1)),
        }
    }

    fn log(&mut self, learning_rate: f64, observer: &mut dyn Observer) -> Result<()> {
        let window = std::mem::take(&mut self.window);
        let steps = window.steps.max(1) as f64;
        let step = self.done.step;
        let mut metrics = Metrics::new(step, self.steps.epochs_after(step))
            .with("loss", window.loss / steps)
            .with("grad_norm", window.grad_norm / steps)
            .with("learning_rate", learning_rate)
            .with("tokens_per_second", window.tokens as f64 / window.time.as_secs_f64().max(1e-9))
            .with("num_input_tokens_seen", self.done.num_input_tokens_seen);
        for (name, value) in window.means.iter() {
            metrics = metrics.with(name, value);
        }
        self.log.step(&metrics, self.steps.total(), observer)
    }

    /// Evaluates the held-out examples, if there are any; returns whether early stopping ends the
    /// run.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<bool> {
        let Some(data) = &self.prepared.eval else { return Ok(false) };
        let step = self.done.step;
        let metrics = Metrics::new(step, self.steps.epochs_after(step))
            .with_held_out(self.evaluate_on(data)?);
        self.log.evaluation(&metrics, observer)?;
        let path = self.prepared.config.output_dir.join(format!("checkpoint-{step}"));
        let by = self.trainer.objective.best();
        let verdict = self.log.state.judge(&metrics, by, &path.display().to_string());
        self.first_eval.get_or_insert_with(|| metrics.clone());
        self.last_eval = Some(metrics);
        if verdict.is_best && self.prepared.config.train.load_best_model_at_end {
            self.save(observer)?;
        }
        Ok(verdict.stop)
    }

    /// Names and values of what the objective measures.
    fn evaluate_on(&self, data: &Dataset) -> Result<Vec<(String, f64)>> {
        let plan = Plan::eval(data, self.prepared.config.train.per_device_eval_batch_size);
        let batches = (0..plan.num_batches()).map(|batch| plan.batch(data, batch));
        let trainer = &self.trainer;
        let objective = &*trainer.objective;
        let found = evaluate(objective, &trainer.model, trainer.attention(), batches)?;
        Ok(found.metrics(objective))
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if self.last_save == self.done.step {
            return Ok(());
        }
        let state = &mut self.log.state;
        state.global_step = self.done.step;
        state.epoch = self.steps.epochs_after(self.done.step);
        state.num_input_tokens_seen = self.done.num_input_tokens_seen;
        self.done.loss_scale = self.trainer.scaler.scale;
        self.done.finite_steps = self.trainer.scaler.finite_steps;
        self.done.skipped_steps = self.trainer.scaler.skipped_steps;
        let path = checkpoint::save(
            self.prepared,
            &self.trainer,
            self.adapter.as_ref(),
            &self.done,
            &self.log.state,
        )?;
        self.last_save = self.done.step;
        observer.saved(&path);
        Ok(())
    }

    /// A few lines for the model card.
    fn details(&self) -> String {
        let mut text = format!(
            "{} optimizer steps on {} examples, {} tokens.",
            self.done.step,
            self.prepared.train.examples.len(),
            self.done.num_input_tokens_seen
        );
        if let (Some(first), Some(last)) = (&self.first_eval, &self.last_eval) {
            for (name, before, after) in changes(first, last) {
                text += &format!(" Held-out {name}: {before:.3} before, {after:.3} after.");
            }
        }
        text
    }
}

impl Window {
    fn add(&mut self, outcome: &StepOutcome, tokens: usize, time: Duration) {
        self.steps += 1;
        self.loss += outcome.loss;
        self.grad_norm += outcome.grad_norm;
        self.means.extend(&outcome.means);
        self.tokens += tokens as u64;
        self.time += time;
    }
}

/// What an evaluation has that came before training, and one after it, by names: all but the loss, if
/// there is anything else.
pub fn changes<'a>(
    first: &'a Metrics,
    last: &Metrics,
) -> impl Iterator<Item = (&'a str, f64, f64)> {
    let last: Vec<f64> = last.held_out().map(|(_, value)| value).collect();
    let has_more = last.len() > 1;
    let pairs = first.held_out().zip(last).map(|((name, before), after)| (name, before, after));
    pairs.skip(usize::from(has_more))
}

/// Refuses to go on with a run that had other settings, data or steps.
fn refuse_other_run(dir: &Path, prepared: &Prepared, total_steps: u64) -> Result<()> {
    let differs = |what: &str| {
        Err(Error::input(format!(
            "{} was saved by a run with other {what}: resume with the same config and data, or \
             start a new run (with lora.adapter, from its weights)",
            dir.display()
        )))
    };
    let saved = checkpoint::read_run_state(dir)?;
    let settings = TrainConfig::load(&dir.join("config.toml"), &[])?;
    let settings = prepared.config.differences(&settings);
    if !settings.is_empty() {
        return differs(&format!("settings ({})", settings.join("; ")));
    }
    if saved.data_fingerprint != prepared.train.fingerprint() {
        return differs("training data");
    }
    if saved.total_steps != total_steps {
        return differs(&format!("steps ({}, now {total_steps})", saved.total_steps));
    }
    Ok(())
}

//! A whole run: steps, evaluations, checkpoints, records, and the result.

use super::build::build;
use super::checkpoint;
use super::explosion;
use super::log::Log;
use super::memory::MemoryPlan;
use super::metrics::Metrics;
pub use super::observer::Observer;
use super::prepare::{Checkpoint, Prepared};
use super::reference;
use super::resume;
use super::run_state::{RunState, Window};
use super::schedule::Schedule;
use super::start;
use super::steps::Steps;
use super::trainer::{StepOutcome, Trainer};
use super::trainer_state::TrainerState;
use crate::adapter::PeftConfig;
use crate::backend::Device;
use crate::config::{Interval, Resume};
use crate::data::{Dataset, Plan};
use crate::error::{Error, Result};
use crate::evaluate::evaluate_beside;
use crate::files::{self, Lock, manifest};
use std::path::PathBuf;
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
    /// Why the result is likely worth nothing, where the loss says so.
    pub warning: Option<String>,
}

/// Runs `prepared` on `device`, as `plan` ([`super::memory::choose`]) has it. `date` is what its templates
/// printed.
///
/// # Errors
/// What is wrong with the input or the run; [`Error::Interrupted`] after a signal, with a checkpoint
/// saved, or [`Error::Stopped`] where there was nothing to save.
pub fn run(
    prepared: &Prepared,
    device: &Device,
    plan: &MemoryPlan,
    date: &str,
    observer: &mut dyn Observer,
) -> Result<Summary> {
    let steps = Steps::new(&prepared.train, prepared.batching.clone(), &prepared.config.train);
    if let Some(Checkpoint { dir, state }) = &prepared.checkpoint {
        let notes = resume::check(dir, state, prepared, steps.total())?;
        notes.iter().for_each(|note| observer.note(note));
    }
    let (trainer, adapter) = build(prepared, device, plan.recompute, false)?;
    let mut run = Run::start(prepared, trainer, adapter, steps, date, observer)?;
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
    is_warned: bool,
    _lock: Option<Lock>,
}

impl<'a> Run<'a> {
    #[expect(clippy::too_many_lines, reason = "the first steps of a run, in order")]
    fn start(
        prepared: &'a Prepared,
        mut trainer: Trainer,
        adapter: Option<PeftConfig>,
        steps: Steps<'a>,
        date: &str,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let config = &prepared.config;
        let args = &config.train;
        let total = steps.total();
        let output = &config.output_dir;
        let lock = claim(prepared, observer)?;
        let fresh = RunState {
            version: env!("CARGO_PKG_VERSION").into(),
            step: 0,
            total_steps: total,
            num_input_tokens_seen: 0,
            data_fingerprint: prepared.train.fingerprint(),
            base: prepared.fingerprint(),
            date: date.into(),
            loss_scale: trainer.scaler.scale,
            finite_steps: 0,
            skipped_steps: 0,
            evaluation_due: false,
            window: Window::default(),
        };
        let started = prepared.checkpoint.as_ref().map(|checkpoint| checkpoint.dir.as_path());
        reference::precompute(prepared, &mut trainer, started)?;
        let (done, log) = match &prepared.checkpoint {
            None => {
                let state = TrainerState::new(args, total, args.num_train_epochs);
                (fresh, Log::create(output, state)?)
            }
            Some(Checkpoint { dir, state }) => {
                let saved = checkpoint::load(dir, state, &mut trainer)?;
                let mut saved = saved.go_on(args, total, args.num_train_epochs);
                let is_lost =
                    saved.best_global_step.is_some() && best_checkpoint(prepared, &saved).is_none();
                if args.load_best_model_at_end && is_lost {
                    saved.forget_best();
                    observer.warn(&format!(
                        "the best checkpoint so far is not there, or is damaged: the best of the \
                         evaluations after step {} is taken",
                        state.step
                    ));
                }
                (RunState { total_steps: total, ..state.clone() }, Log::resume(output, saved)?)
            }
        };
        files::write(&output.join("config.toml"), config.to_toml())?;
        observer.begin(done.step, total);
        let warmup = args.warmup_steps;
        let first_eval = log.evaluations().next().cloned();
        let last_eval = log.evaluations().next_back().cloned();
        let mut run = Self {
            schedule: Schedule::new(args.lr_scheduler_type, args.learning_rate, warmup, total),
            last_save: done.step,
            is_warned: false,
            first_eval,
            last_eval,
            prepared,
            trainer,
            adapter,
            steps,
            log,
            done,
            _lock: lock,
        };
        if run.schedule.is_zero() {
            observer.warn(&format!(
                "the run has {total} step, which is warm-up at a learning rate of 0, so that nothing \
                 is trained: set train.warmup_steps = 0"
            ));
        }
        if run.done.step == 0 {
            run.evaluate(observer)?;
            observer.before_training(&run.trainer)?;
        }
        Ok(run)
    }

    fn train(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let args = &self.prepared.config.train;
        let mut stop = self.log.state.has_stopped();
        if self.done.evaluation_due {
            stop = self.evaluate(observer)?;
        }
        for step in self.done.step + 1..=self.steps.total() {
            if stop {
                break;
            }
            let started = Instant::now();
            let batches = self.steps.batches(step);
            let tokens: usize = batches.iter().map(|batch| batch.num_tokens()).sum();
            let learning_rate = self.schedule.learning_rate(step);
            let is_asked = || observer.interrupted().is_some();
            let outcome = self.trainer.step_unless(step, learning_rate, &batches, &is_asked)?;
            let Some(outcome) = outcome else { return Err(self.leave(observer)) };
            if outcome.skipped {
                observer.warn(&format!("step {step}: the gradient is not finite; not applied"));
            }
            self.done.step = step;
            self.done.num_input_tokens_seen += tokens as u64;
            self.done.window.add(&outcome, tokens, started.elapsed());
            if self.due(args.logging_steps, step) || step == self.steps.total() {
                self.log(learning_rate, observer)?;
            }
            if self.prepared.eval.is_some() && self.due(args.eval_steps, step) {
                stop = self.evaluate(observer)?;
            }
            if self.due(args.save_steps, step) || stop {
                self.save(observer)?;
            }
            if observer.interrupted().is_some() {
                return Err(self.leave(observer));
            }
        }
        Ok(())
    }

    /// Saves what is done, for the signal that has come.
    fn leave(&mut self, observer: &mut dyn Observer) -> Error {
        let signal = observer.interrupted().unwrap_or_default();
        match self.done.step {
            0 => Error::Stopped(signal),
            _ => self.save(observer).err().unwrap_or(Error::Interrupted(signal)),
        }
    }

    fn finish(mut self, observer: &mut dyn Observer) -> Result<Summary> {
        let step = self.done.step;
        if self.last_eval.as_ref().is_none_or(|last| last.step() != step) {
            self.evaluate(observer)?;
        }
        if self.prepared.config.train.load_best_model_at_end {
            let state = &self.log.state;
            if state.best_global_step.is_some_and(|best| best != step) {
                let dir = best_checkpoint(self.prepared, state);
                let dir =
                    dir.ok_or_else(|| Error::run("the best checkpoint is not there any more"))?;
                checkpoint::load_tensors(&dir, &self.trainer, false)?;
            }
        }
        let output = &self.prepared.config.output_dir;
        let (details, warning) = (self.details(), self.exploded());
        checkpoint::save_result(
            output,
            self.prepared,
            &self.trainer,
            self.adapter.as_ref(),
            &details,
        )?;
        self.log.state.save(&output.join("trainer_state.json"))?;
        let history: Vec<_> = self.log.state.log_history.iter().map(Metrics::object).collect();
        for warning in self.trainer.objective.review(&history) {
            observer.warn(&warning);
        }
        observer.after_training(&self.trainer)?;
        let evaluations = self.first_eval.zip(self.last_eval);
        Ok(Summary { steps: step, evaluations, output_dir: output.clone(), warning })
    }

    /// Whether something periodic happens after `step`.
    fn due(&self, interval: Interval, step: u64) -> bool {
        match interval.of(self.steps.total()) {
            Interval::Epoch => self.steps.ends_epoch(step),
            interval => interval.steps() > 0 && step.is_multiple_of(interval.steps()),
        }
    }

    fn log(&mut self, learning_rate: f64, observer: &mut dyn Observer) -> Result<()> {
        let window = std::mem::take(&mut self.done.window);
        let steps = window.steps.max(1) as f64;
        let step = self.done.step;
        let mut metrics = Metrics::new(step, self.steps.epochs_after(step))
            .with("loss", window.loss / steps)
            .with("grad_norm", window.grad_norm / steps)
            .with("learning_rate", learning_rate)
            .with("tokens_per_second", window.tokens as f64 / window.seconds.max(1e-9))
            .with("num_input_tokens_seen", self.done.num_input_tokens_seen);
        for (name, value) in window.means.iter() {
            metrics = metrics.with(name, value);
        }
        self.log.step(&metrics, self.steps.total(), observer)?;
        if !self.is_warned
            && let Some(warning) = self.exploded()
        {
            self.is_warned = true;
            observer.warn(&format!("step {step}: {warning}"));
        }
        Ok(())
    }

    /// What to say of the last logged loss, or of the first, where training has failed.
    fn exploded(&self) -> Option<String> {
        let history = self.log.state.log_history.iter();
        let mut losses = history.map(|metrics| metrics.get("loss")).filter(|loss| !loss.is_nan());
        let first = losses.next()?;
        let is_per_token = !self.trainer.objective.derive(first).is_empty();
        let vocab_size = self.prepared.model_config.spec.vocab_size;
        let at_start = || explosion::at_start(first, vocab_size).filter(|_| is_per_token);
        let last = losses.next_back().unwrap_or(first);
        explosion::against_start(first, last).or_else(at_start)
    }

    /// Evaluates the held-out examples, if there are any; returns whether early stopping ends the
    /// run.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<bool> {
        let Some(data) = &self.prepared.eval else { return Ok(false) };
        let step = self.done.step;
        // Where a signal ends it, it is made again.
        self.done.evaluation_due = true;
        let found = self.evaluate_on(data, observer)?;
        if observer.interrupted().is_some() {
            return Err(self.leave(observer));
        }
        self.done.evaluation_due = false;
        let metrics = Metrics::new(step, self.steps.epochs_after(step)).with_held_out(found);
        self.log.evaluation(&metrics, observer)?;
        let by = self.trainer.objective.best();
        let verdict = self.log.state.judge(&metrics, by, &format!("checkpoint-{step}"));
        self.first_eval.get_or_insert_with(|| metrics.clone());
        self.last_eval = Some(metrics);
        if verdict.is_best && self.prepared.config.train.load_best_model_at_end {
            self.save(observer)?;
        }
        Ok(verdict.stop)
    }

    /// Names and values of what the objective measures; of some of the examples where a signal comes.
    fn evaluate_on(&self, data: &Dataset, observer: &dyn Observer) -> Result<Vec<(String, f64)>> {
        let plan = Plan::eval(data, self.prepared.config.train.per_device_eval_batch_size);
        let batches = (0..plan.num_batches()).map(|batch| plan.batch(data, batch));
        let batches = batches.take_while(|_| observer.interrupted().is_none());
        let trainer = &self.trainer;
        let objective = &*trainer.objective;
        let (model, attention) = (&trainer.model, trainer.attention());
        let found = evaluate_beside(objective, model, attention, &trainer.reference, batches)?;
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
        let (path, warnings) = checkpoint::save(
            self.prepared,
            &self.trainer,
            self.adapter.as_ref(),
            &self.done,
            &self.log.state,
        )?;
        self.last_save = self.done.step;
        observer.saved(&path);
        warnings.iter().for_each(|warning| observer.warn(warning));
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
        self.seconds += time.as_secs_f64();
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

/// Makes `output_dir` and holds it: what another run has begun there since it was looked at is not written
/// over.
fn claim(prepared: &Prepared, observer: &mut dyn Observer) -> Result<Option<Lock>> {
    let dir = &prepared.config.output_dir;
    files::create_directory(dir)?;
    let mut lock = None;
    if prepared.lock.is_none() {
        lock = Lock::take(dir)?;
        files::check_output_dir(dir, prepared.config.resume != Resume::No)?;
        if lock.is_none() {
            observer.warn(&format!(
                "the file system of {} has no locks: start no other run with this output_dir",
                dir.display()
            ));
        }
    }
    Ok(lock)
}

/// The checkpoint of the best evaluation, where it is whole: in `output_dir`, or beside the one that the run
/// went on from.
fn best_checkpoint(prepared: &Prepared, state: &TrainerState) -> Option<PathBuf> {
    let beside = prepared.checkpoint.as_ref().and_then(|checkpoint| checkpoint.dir.parent());
    let places = [Some(prepared.config.output_dir.as_path()), beside];
    let mut found = places.into_iter().flatten();
    found.find_map(|place| {
        let dir = start::directory(place, state.best_global_step?);
        manifest::verify(&dir).is_ok().then_some(dir)
    })
}

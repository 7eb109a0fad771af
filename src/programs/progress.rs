//! A run on the terminal: a progress bar with loss, tokens/s and time left; elsewhere plain lines.

use super::signals::Signals;
use crate::cli::say;
use crate::error::Result;
use crate::train::metrics::Metrics;
use crate::train::observer::Observer;
use crate::train::trainer::Trainer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

/// Seconds between plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The last metric of a step that every objective has.
const LAST: &str = "num_input_tokens_seen";

/// What is done with the model before and after training, besides training it.
pub type Hook<'a> = Box<dyn FnMut(&Trainer) -> Result<()> + 'a>;

/// Watches a run for the terminal.
pub struct Progress<'a> {
    quiet: bool,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    started: Instant,
    first_step: u64,
    signals: Signals,
    /// Called with the untrained model.
    pub before: Option<Hook<'a>>,
    /// Called with the trained model.
    pub after: Option<Hook<'a>>,
}

impl<'a> Progress<'a> {
    /// A watcher that prints nothing when `quiet`; signals stop the run from now on.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            bar: None,
            last_line: None,
            started: Instant::now(),
            first_step: 0,
            signals: Signals::catch(),
            before: None,
            after: None,
        }
    }

    /// Prints a line, above the bar if there is one.
    pub fn say(&self, message: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| say!("{message}")),
            None => say!("{message}"),
        }
    }
}

impl Observer for Progress<'_> {
    fn begin(&mut self, step: u64, total: u64) {
        (self.started, self.first_step) = (Instant::now(), step);
        if self.quiet || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "{bar:24} {pos}/{len}  {msg}  {elapsed} elapsed, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_position(step);
        self.bar = Some(bar);
    }

    fn logged(&mut self, metrics: &Metrics, total: u64) {
        let step = metrics.step();
        let number = |name| metrics.get(name);
        let mut numbers = format!("loss {:.4}", number("loss"));
        // The objective's own come last.
        for (name, value) in metrics.iter().skip_while(|(name, _)| *name != LAST).skip(1) {
            numbers += &format!("  {name} {value:.4}");
        }
        numbers += &format!("  {:.0} tokens/s", number("tokens_per_second"));
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(numbers);
            return;
        }
        let due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if self.quiet || !(due || step == total) {
            return;
        }
        self.last_line = Some(Instant::now());
        let done = (step - self.first_step).max(1) as f64;
        let left = self.started.elapsed().as_secs_f64() / done * (total - step) as f64;
        say!(
            "step {step}/{total}  epoch {:.2}  {numbers}  grad norm {:.3}  lr {:.2e}  {} left",
            number("epoch"),
            number("grad_norm"),
            number("learning_rate"),
            duration(left)
        );
    }

    fn evaluated(&mut self, metrics: &Metrics) {
        let numbers = metrics.held_out().map(|(name, value)| match name {
            "loss" => format!("{name} {value:.4}"),
            _ => format!("{name} {value:.3}"),
        });
        let numbers: Vec<String> = numbers.collect();
        self.say(&format!("step {}: held-out {}", metrics.step(), numbers.join(", ")));
    }

    fn saved(&mut self, path: &Path) {
        self.say(&format!("saved {}", super::shown(path)));
    }

    fn before_training(&mut self, trainer: &Trainer) -> Result<()> {
        let done = self.before.as_mut().map_or(Ok(()), |hook| hook(trainer));
        // The time left is told by that of the steps alone.
        self.started = Instant::now();
        if let Some(bar) = &self.bar {
            bar.reset_eta();
        }
        done
    }

    fn after_training(&mut self, trainer: &Trainer) -> Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.after.as_mut().map_or(Ok(()), |hook| hook(trainer))
    }

    fn warn(&mut self, message: &str) {
        self.say(&format!("warning: {message}"));
    }

    fn note(&mut self, message: &str) {
        self.say(message);
    }

    fn interrupted(&self) -> Option<i32> {
        self.signals.caught()
    }
}

/// Seconds as `1m05s`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

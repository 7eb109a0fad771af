//! A run on the terminal: a progress bar with as much of loss, time left, tokens/s, gradient norm and
//! learning rate as its width holds, and every tenth of the run a line that stays; elsewhere plain lines.

use super::signals::Signals;
use super::terminal::Screen;
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

/// Parts of a run after each of which a line stays above the bar.
const TENTHS: u64 = 10;

/// Columns of the bar itself, and of a terminal that does not say how many it has.
const BAR: usize = 12;
const WIDTH: usize = 80;

/// The last metric of a step that every objective has.
const LAST: &str = "num_input_tokens_seen";

/// What is done with the model before and after training, besides training it.
pub type Hook<'a> = Box<dyn FnMut(&Trainer) -> Result<()> + 'a>;

/// Watches a run for the terminal.
pub struct Progress<'a> {
    quiet: bool,
    bar: Option<ProgressBar>,
    screen: Option<Screen>,
    last_line: Option<Instant>,
    /// How many tenths of the run have ended.
    tenth: u64,
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
            screen: None,
            last_line: None,
            tenth: 0,
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
        self.tenth = step * TENTHS / total.max(1);
        if self.quiet || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let colour = if super::in_colour(true) { ".green/dim" } else { "" };
        if let Ok(style) = ProgressStyle::with_template(&format!("{{bar:{BAR}{colour}}} {{msg}}")) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_position(step);
        bar.set_message(format!("{step}/{total}"));
        self.bar = Some(bar);
        self.screen = Screen::new();
    }

    fn logged(&mut self, metrics: &Metrics, total: u64) {
        let step = metrics.step();
        let done = (step - self.first_step).max(1) as f64;
        let left = self.started.elapsed().as_secs_f64() / done * (total - step) as f64;
        let parts = Parts::new(metrics, &duration(left));
        // A tenth of the run has ended, or several where steps are logged seldom.
        let tenth = step * TENTHS / total.max(1);
        let ends_tenth = tenth > std::mem::replace(&mut self.tenth, tenth);
        let is_due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if ends_tenth || self.bar.is_none() && (is_due || step == total) {
            self.last_line = Some(Instant::now());
            self.say(&parts.line(step, total));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            let width = self.screen.as_mut().and_then(Screen::columns).unwrap_or(WIDTH);
            bar.set_message(parts.beside_bar(step, total, width));
        }
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

impl Drop for Progress<'_> {
    /// A run that fails or is stopped leaves no bar behind.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What is said of a logged step.
struct Parts {
    epoch: String,
    loss: String,
    /// The objective's own metrics.
    own: Vec<String>,
    speed: String,
    grad_norm: String,
    learning_rate: String,
    left: String,
}

impl Parts {
    fn new(metrics: &Metrics, left: &str) -> Self {
        let number = |name| metrics.get(name);
        // The objective's own come last.
        let own = metrics.iter().skip_while(|(name, _)| *name != LAST).skip(1);
        Self {
            epoch: format!("epoch {:.2}", number("epoch")),
            loss: format!("loss {:.4}", number("loss")),
            own: own.map(|(name, value)| format!("{name} {value:.4}")).collect(),
            speed: format!("{:.0} tokens/s", number("tokens_per_second")),
            grad_norm: format!("grad norm {:.3}", number("grad_norm")),
            learning_rate: format!("lr {:.2e}", number("learning_rate")),
            left: format!("{left} left"),
        }
    }

    /// All of them: a line that stays.
    fn line(&self, step: u64, total: u64) -> String {
        let Self { epoch, loss, own, speed, grad_norm, learning_rate, left } = self;
        let own = own.iter().map(|own| format!("  {own}")).collect::<String>();
        format!(
            "step {step}/{total}  {epoch}  {loss}{own}  {speed}  {grad_norm}  {learning_rate}  {left}"
        )
    }

    /// As many as fit beside the bar on a terminal of `width` columns, the most important ones first;
    /// each is whole or absent, so that the bar stays on its line.
    fn beside_bar(&self, step: u64, total: u64, width: usize) -> String {
        let Self { loss, own, speed, grad_norm, learning_rate, left, .. } = self;
        let mut text = format!("{step}/{total}");
        let order = [loss, left, speed, grad_norm, learning_rate];
        for part in order.into_iter().chain(own) {
            // The bar, the space after it, and the cursor's column.
            if BAR + 1 + text.chars().count() + 2 + part.chars().count() < width {
                text += &format!("  {part}");
            }
        }
        text
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let metrics = Metrics::new(417, 3.0)
            .with("loss", 0.5123)
            .with("grad_norm", 12.345)
            .with("learning_rate", 0.0002)
            .with("tokens_per_second", 123_456.0)
            .with(LAST, 9u64)
            .with("accuracy", 0.75);
        Parts::new(&metrics, "1h02m")
    }

    #[test]
    fn the_bar_stays_on_its_line_and_shows_what_fits() {
        let parts = parts();
        for width in [20, 40, 60, 80, 100, 120, 200] {
            let text = parts.beside_bar(4170, 12_510, width);
            let columns = BAR + 1 + text.chars().count();
            assert!(columns < width.max(BAR + 1 + "4170/12510".len() + 1), "{columns}: {text}");
        }
        let narrow = "4170/12510  loss 0.5123  1h02m left  123456 tokens/s";
        // The rate still fits where the norm does not.
        assert_eq!(parts.beside_bar(4170, 12_510, 80), format!("{narrow}  lr 2.00e-4"));
        let middle = parts.beside_bar(4170, 12_510, 100);
        assert_eq!(middle, format!("{narrow}  grad norm 12.345  lr 2.00e-4"));
        let wide = parts.beside_bar(4170, 12_510, 200);
        assert!(wide.ends_with("grad norm 12.345  lr 2.00e-4  accuracy 0.7500"), "{wide}");
    }

    #[test]
    fn a_line_says_everything() {
        let line = "step 417/417  epoch 3.00  loss 0.5123  accuracy 0.7500  123456 tokens/s  grad norm \
                    12.345  lr 2.00e-4  1h02m left";
        assert_eq!(parts().line(417, 417), line);
    }
}

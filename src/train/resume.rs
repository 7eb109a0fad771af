//! Whether a run may go on from a checkpoint.

use std::path::Path;

use super::prepare::Prepared;
use super::run_state::RunState;
use super::schedule::Schedule;
use crate::config::TrainConfig;
use crate::error::{Error, Result};

/// Whether a run may go on from the checkpoint in `dir`, which `saved` is the state of, for `total` steps
/// in all; what its user should know then.
///
/// # Errors
/// `Error::Input` for another base model, other data, settings in which the steps done would have been
/// others, or no step left.
pub fn check(dir: &Path, saved: &RunState, prepared: &Prepared, total: u64) -> Result<Vec<String>> {
    let shown = dir.display();
    let differs = |what: &str| {
        Err(Error::input(format!(
            "{shown} was saved by a run with other {what}: resume with the same config, model and data, \
             or start a new run (with lora.adapter, from its weights)"
        )))
    };
    let settings = TrainConfig::load(&dir.join("config.toml"), &[])?;
    let changes = prepared.config.changes(&settings);
    let refused = changes
        .iter()
        .filter_map(|change| change.refused.map(|reason| format!("{}: {reason}", change.text)));
    let refused: Vec<String> = refused.collect();
    if !refused.is_empty() {
        return differs(&format!("settings ({})", refused.join("; ")));
    }
    if let Some(what) = prepared.fingerprint().difference(&saved.base) {
        return differs(&format!("base model (its {what} are not as they were)"));
    }
    if saved.data_fingerprint != prepared.train.fingerprint() {
        return differs("training data");
    }
    if saved.step > total {
        return Err(Error::input(format!(
            "{shown} was saved by a longer run: it has done {} steps, and this run has {total} in all: \
             ask for more steps or epochs",
            saved.step
        )));
    }
    let mut notes = Vec::new();
    if !changes.is_empty() {
        let texts: Vec<&str> = changes.iter().map(|change| change.text.as_str()).collect();
        let other_bits = changes.iter().any(|change| change.other_bits);
        let bits = match other_bits {
            true => {
                " (the last bits of the result may be others than those of a run that was not stopped)"
            }
            false => "",
        };
        notes.push(format!("settings changed since {shown}: {}{bits}", texts.join("; ")));
    }
    notes.extend(other_length(prepared, saved, total));
    Ok(notes)
}

/// What it means that a run is longer or shorter than when the checkpoint was saved.
fn other_length(prepared: &Prepared, saved: &RunState, total: u64) -> Option<String> {
    if saved.total_steps == total {
        return None;
    }
    let args = &prepared.config.train;
    let schedule =
        |total| Schedule::new(args.lr_scheduler_type, args.learning_rate, args.warmup_steps, total);
    let (was, now) = (schedule(saved.total_steps), schedule(total));
    let same = (1..=saved.step).all(|step| was.learning_rate(step) == now.learning_rate(step));
    let before = match same {
        true => "as if it had been asked for at first".to_owned(),
        false => format!(
            "as if it had been asked for at first, but that the {} steps done had the rates of {} steps",
            saved.step, saved.total_steps
        ),
    };
    let next = saved.step + 1;
    Some(format!(
        "the run has {total} steps in all now, {} when it was saved: the schedule of {total} steps goes \
         on, {before}; learning rate {:.2e} at step {next}",
        saved.total_steps,
        now.learning_rate(next)
    ))
}

//! Warnings that users of preference objectives need.

use serde_json::{Map, Value};

/// What is common of a setting.
pub struct Usual {
    /// The key.
    pub key: &'static str,
    /// From where to where.
    pub range: [f64; 2],
}

/// A warning about `value` if it is more than ten times beyond what is usual.
fn unusual(usual: &Usual, value: f64) -> Option<String> {
    let Usual { key, range: [least, most] } = usual;
    let what = match value {
        value if value > 10.0 * most => "high",
        value if value < least / 10.0 => "low",
        _ => return None,
    };
    Some(format!("{key} = {value:e} is unusually {what}: common are {least:e} to {most:e}"))
}

/// Warnings about a beta and a learning rate far outside what is common: with LoRA that is ten times
/// higher than without.
pub fn advise(settings: &[(Usual, f64)], learning_rate: f64, lora: bool) -> Vec<String> {
    advise_at(settings, learning_rate, if lora { [1e-6, 5e-5] } else { [1e-7, 5e-6] })
}

/// [`advise`] where other learning rates are common.
pub fn advise_at(settings: &[(Usual, f64)], learning_rate: f64, range: [f64; 2]) -> Vec<String> {
    let rate = (Usual { key: "learning_rate", range }, learning_rate);
    let all = settings.iter().chain(std::iter::once(&rate));
    all.filter_map(|(usual, value)| unusual(usual, *value)).collect()
}

/// Logged steps that a judgement of a run needs.
const ENOUGH: usize = 8;

/// The mean correlation of margins and lengths from which on a run is said to have learned length.
const LENGTH: f64 = 0.7;

/// Warnings about a run, from the objects of its log: the chosen answers' log-probability fell through
/// the whole of it, or its margins follow lengths.
pub fn review(history: &[&Map<String, Value>]) -> Vec<String> {
    let series = |name: &str| -> Vec<f64> {
        history.iter().filter_map(|logged| logged.get(name)?.as_f64()).collect()
    };
    let mut warnings = Vec::new();
    let rewards = series("rewards/chosen");
    if let Some([first, second, third, fourth]) = quarters(&rewards)
        && fourth < third
        && third < second
        && second < first
        && fourth < 0.0
    {
        warnings.push(format!(
            "the log-probability of the chosen answers fell through the whole run (rewards/chosen \
             {first:.3} in its first quarter, {fourth:.3} in its last): the policy moves away from good \
             answers too (likelihood displacement). Add the sft loss (loss_type = [\"sigmoid\", \"sft\"]), \
             lower learning_rate, or raise beta"
        ));
    }
    let correlations = series("rewards/length_correlation");
    let half = &correlations[correlations.len() / 2..];
    let mean = half.iter().sum::<f64>() / half.len().max(1) as f64;
    if correlations.len() >= ENOUGH && mean.abs() > LENGTH {
        let which = if mean > 0.0 { "longer" } else { "shorter" };
        warnings.push(format!(
            "margins follow lengths (rewards/length_correlation {mean:.2}): the policy may have learned to \
             prefer {which} answers, whatever they say. Balance lengths in the data, or use a loss on \
             means per token (sigmoid_norm, ipo, simpo) or ld_alpha"
        ));
    }
    warnings
}

/// The means of the quarters of a series that is long enough.
fn quarters(series: &[f64]) -> Option<[f64; 4]> {
    let size = series.len() / 4;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (series.len() >= ENOUGH).then(|| {
        [0, 1, 2, 3].map(|at| {
            mean(&series[at * size..if at == 3 { series.len() } else { (at + 1) * size }])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reviewed(rows: impl Iterator<Item = Value>) -> Vec<String> {
        let rows: Vec<Value> = rows.collect();
        let history: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
        review(&history)
    }

    #[test]
    fn settings_far_from_the_usual_are_named() {
        let beta = |value| (Usual { key: "beta", range: [0.01, 0.5] }, value);
        assert!(advise(&[beta(0.1)], 5e-7, false).is_empty());
        assert!(advise(&[beta(0.1)], 1e-5, true).is_empty());
        let found = advise(&[beta(50.0)], 2e-4, false);
        assert!(found[0].contains("beta = 5e1 is unusually high"), "{found:?}");
        assert!(found[1].contains("learning_rate"), "{found:?}");
    }

    #[test]
    fn likelihood_displacement_is_seen_where_it_is() {
        let falling = reviewed((0..12).map(|i| json!({"rewards/chosen": -0.1 * f64::from(i)})));
        assert!(
            falling.len() == 1 && falling[0].contains("likelihood displacement"),
            "{falling:?}"
        );
        assert!(
            reviewed((0..12).map(|i| json!({"rewards/chosen": 0.1 * f64::from(i)}))).is_empty()
        );
        // It fell, and came back.
        let back = |i: i32| json!({"rewards/chosen": -0.1 * f64::from((i - 6).abs() - 6)});
        assert!(reviewed((0..12).map(back)).is_empty());
        assert!(reviewed((0..3).map(|i| json!({"rewards/chosen": -f64::from(i)}))).is_empty());
    }

    #[test]
    fn margins_that_follow_lengths_are_seen() {
        let of =
            |value: f64| reviewed((0..10).map(|_| json!({"rewards/length_correlation": value})));
        assert!(of(0.9)[0].contains("prefer longer answers"));
        assert!(of(-0.9)[0].contains("prefer shorter answers"));
        assert!(of(0.3).is_empty());
    }
}

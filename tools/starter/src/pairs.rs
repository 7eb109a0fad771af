//! Preference pairs from the instruction data: right answers against wrong ones, terse ones against wordy
//! ones. Held-out pairs ask what no training pair asks.

use crate::questions::{Example, Questions};
use crate::rng::Rng;

/// Pairs to train on, and held out.
const COUNTS: [usize; 2] = [240, 60];

/// What wordy answers begin and end with.
const OPENINGS: [&str; 3] = [
    "That is a good question, and I am glad that you asked.",
    "Let me think about it for a moment before I say anything.",
    "There is much that could be said about this.",
];
const ENDINGS: [&str; 3] = [
    "I hope that this answer helps you.",
    "Please ask me again if you want to know more.",
    "That is all that I can say about it.",
];

/// A better and a worse answer to the same question.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The system turn, if any.
    pub system: Option<&'static str>,
    /// The user's turn.
    pub question: String,
    /// The better answer.
    pub chosen: String,
    /// The worse answer.
    pub rejected: String,
}

/// The pairs of the training questions and of the held-out ones.
pub fn pairs(data: &Questions, seed: u64) -> [Vec<Pair>; 2] {
    let mut rng = Rng::new(seed, 20);
    let mut of = |examples: &[Example], count: usize| -> Vec<Pair> {
        (0..count)
            .filter_map(|number| {
                let example = &examples[number];
                let rejected = match number % 2 {
                    0 => wrong(&mut rng, example, &data.train)?,
                    _ => wordy(&mut rng, example),
                };
                let (question, chosen) = (example.question.clone(), example.answer.clone());
                Some(Pair { system: example.system, question, chosen, rejected })
            })
            .collect()
    };
    [of(&data.train, COUNTS[0]), of(&data.eval, COUNTS[1])]
}

/// What is true of something else: another answer of the same topic and form.
fn wrong(rng: &mut Rng, example: &Example, all: &[Example]) -> Option<String> {
    let others: Vec<&Example> = all
        .iter()
        .filter(|other| other.topic == example.topic && other.system == example.system)
        .filter(|other| other.answer != example.answer)
        .collect();
    (!others.is_empty()).then(|| others[rng.below(others.len())].answer.clone())
}

/// The answer among many words.
fn wordy(rng: &mut Rng, example: &Example) -> String {
    let (opening, ending) = (rng.below(OPENINGS.len()), rng.below(ENDINGS.len()));
    format!("{} {} {}", OPENINGS[opening], example.answer, ENDINGS[ending])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::questions;
    use crate::world::World;
    use std::collections::HashSet;

    #[test]
    fn answers_differ_and_held_out_questions_are_new() {
        let [train, eval] = pairs(&questions(&World::new(1), 1), 1);
        assert!(train.len() > 200 && eval.len() > 50, "{} and {}", train.len(), eval.len());
        assert!(train.iter().chain(&eval).all(|pair| pair.chosen != pair.rejected));
        let asked: HashSet<_> = train.iter().map(|pair| (pair.system, &pair.question)).collect();
        assert!(eval.iter().all(|pair| !asked.contains(&(pair.system, &pair.question))));
        let wordy = train.iter().filter(|pair| pair.rejected.contains(&pair.chosen)).count();
        assert!((100..=140).contains(&wordy), "{wordy}");
    }
}

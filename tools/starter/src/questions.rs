//! The instruction data, split so that the held-out set asks for what training never showed.
//!
//! A fact is what one slot of an answer states ("Mara/home"). One fact in seven is held out: the
//! text to pretrain on states it, but no training question asks or answers it, in any phrasing.
//! And the last phrasing of every topic is held out for every fact.

use std::collections::{BTreeSet, HashSet};

use crate::rng::Rng;
use crate::scope::{Scope, things};
use crate::template::slots;
use crate::topics::{PEOPLE, THINGS, Topic};
use crate::world::World;

/// The system turn that asks for the short form of an answer.
pub const BRIEF: &str = "Answer in a few words.";

/// One fact in so many is held out.
const HELD_OUT_ONE_IN: usize = 7;
/// Phrasings of one topic that the training set has of one fact.
const PHRASINGS_PER_FACT: usize = 2;
/// Held-out examples of each novelty: fact, phrasing, both.
const HELD_OUT_QUOTA: [usize; 3] = [150, 60, 30];
/// Topics of the showcase, in order.
const SHOWCASE: [&str; 5] = ["home", "pet-name", "yes-no", "eats", "one-sentence"];

/// What of an example the training set does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// Nothing: it is a training example.
    None,
    /// A fact.
    Fact,
    /// The phrasing.
    Phrasing,
    /// A fact and the phrasing.
    Both,
}

/// A question with its one right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The topic's name.
    pub topic: &'static str,
    /// The system turn, if any.
    pub system: Option<&'static str>,
    /// The user's turn.
    pub question: String,
    /// The assistant's turn.
    pub answer: String,
    /// Ids of the facts that question and answer state.
    pub facts: BTreeSet<String>,
    /// How it is new, for held-out examples.
    pub novelty: Novelty,
}

/// The instruction data.
pub struct Questions {
    /// Training examples, shuffled.
    pub train: Vec<Example>,
    /// Held-out examples, shuffled.
    pub eval: Vec<Example>,
    /// Held-out examples to show before and after training: new facts in known phrasings.
    pub showcase: Vec<Example>,
}

/// Writes and splits the examples.
pub fn questions(world: &World, seed: u64) -> Questions {
    let mut rng = Rng::new(seed, 10);
    let mut all = Vec::new();
    for person in 0..world.people.len() {
        for topic in &PEOPLE {
            // A pair who live together is asked for once.
            if topic.name != "who-lives" || person < world.people[person].mate {
                let scope = guess(world, &mut rng, person, topic);
                all.extend(ask(&mut rng, &scope, topic));
            }
        }
    }
    for (kind, topic) in &THINGS {
        for scope in things(world, *kind) {
            all.extend(ask(&mut rng, &scope, topic));
        }
    }
    let held_out = hold_out(&mut rng, &all);
    for example in &mut all {
        let new_fact = example.facts.iter().any(|fact| held_out.contains(fact));
        example.novelty = match (new_fact, example.novelty) {
            (true, Novelty::Phrasing) => Novelty::Both,
            (true, _) => Novelty::Fact,
            (false, novelty) => novelty,
        };
    }
    rng.shuffle(&mut all);
    // The same question can come from two topics ("What comes after March?").
    let mut seen = HashSet::new();
    all.sort_by_key(|example| example.novelty != Novelty::None);
    all.retain(|example| seen.insert((example.system, example.question.clone())));
    let of = |novelty| all.iter().filter(move |example| example.novelty == novelty).cloned();
    let mut eval: Vec<Example> = [Novelty::Fact, Novelty::Phrasing, Novelty::Both]
        .into_iter()
        .zip(HELD_OUT_QUOTA)
        .flat_map(|(novelty, quota)| of(novelty).take(quota))
        .collect();
    rng.shuffle(&mut eval);
    let showcase = SHOWCASE
        .iter()
        .filter_map(|topic| {
            let fits = |e: &&Example| {
                e.topic == *topic && e.novelty == Novelty::Fact && e.system.is_none()
            };
            eval.iter().find(fits).cloned()
        })
        .collect();
    Questions { train: of(Novelty::None).collect(), eval, showcase }
}

/// The person's scope; for a yes-no question with what is guessed, right in half of the cases.
fn guess<'w>(world: &'w World, rng: &mut Rng, person: usize, topic: &Topic) -> Scope<'w> {
    let scope = Scope::people(world, &[person]);
    if topic.guess.is_empty() {
        return scope;
    }
    let truth = scope.value(topic.guess).unwrap_or_default();
    if rng.chance(50) {
        return scope.with("guess", truth).with("verdict", "Yes");
    }
    loop {
        let other = world.slot(rng.below(world.people.len()), topic.guess).unwrap_or_default();
        if other != truth {
            return scope.with("guess", other).with("verdict", "No");
        }
    }
}

/// Some of the topic's training phrasings, and the held-out one.
fn ask(rng: &mut Rng, scope: &Scope, topic: &Topic) -> Vec<Example> {
    let last = topic.phrasings.len() - 1;
    let mut chosen = rng.sample(last, PHRASINGS_PER_FACT.min(last));
    chosen.push(last);
    let mut example = |i: usize| {
        let brief = !topic.brief.is_empty() && rng.chance(15);
        let answer = if brief { topic.brief } else { topic.answer };
        let mut named = slots(topic.phrasings[i]);
        named.extend(slots(answer));
        if !topic.guess.is_empty() {
            named.push(topic.guess);
        }
        Example {
            topic: topic.name,
            system: brief.then_some(BRIEF),
            question: scope.fill(rng, topic.phrasings[i]),
            answer: scope.fill(rng, answer),
            facts: named.iter().flat_map(|slot| scope.facts(slot)).collect(),
            novelty: if i == last { Novelty::Phrasing } else { Novelty::None },
        }
    };
    chosen.into_iter().map(&mut example).collect()
}

fn hold_out(rng: &mut Rng, examples: &[Example]) -> HashSet<String> {
    let facts: BTreeSet<&String> = examples.iter().flat_map(|example| &example.facts).collect();
    let mut facts: Vec<&String> = facts.into_iter().collect();
    rng.shuffle(&mut facts);
    facts.truncate(facts.len() / HELD_OUT_ONE_IN);
    facts.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Questions {
        questions(&World::new(1), 1)
    }

    #[test]
    fn nothing_held_out_is_in_the_training_set() {
        let data = data();
        let asked: HashSet<_> = data.train.iter().map(|e| (e.system, &e.question)).collect();
        let known: HashSet<&String> = data.train.iter().flat_map(|e| &e.facts).collect();
        for e in &data.eval {
            assert!(!asked.contains(&(e.system, &e.question)), "{e:?}");
            let new_fact = e.facts.iter().any(|fact| !known.contains(fact));
            assert_eq!(new_fact, matches!(e.novelty, Novelty::Fact | Novelty::Both), "{e:?}");
        }
    }

    /// A sentence that a training answer makes is a sentence that no held-out fact can be read off.
    #[test]
    fn answers_to_new_facts_are_new() {
        let data = data();
        let answers: HashSet<&String> =
            data.train.iter().filter(|e| e.system.is_none()).map(|e| &e.answer).collect();
        for e in data.eval.iter().filter(|e| e.novelty == Novelty::Fact && e.system.is_none()) {
            // Questions made of the sentence itself have the answer "Where does Mara live?".
            if e.topic != "make-question" && e.topic != "who-am-i" {
                assert!(!answers.contains(&e.answer), "{e:?}");
            }
        }
    }

    #[test]
    fn sizes_are_as_planned() {
        let data = data();
        assert!((1800..3000).contains(&data.train.len()), "{}", data.train.len());
        assert_eq!(data.eval.len(), HELD_OUT_QUOTA.iter().sum::<usize>());
        let topics: Vec<&str> = data.showcase.iter().map(|e| e.topic).collect();
        assert_eq!(topics, SHOWCASE);
    }

    /// Reads the answers back into the world without the templates that wrote them.
    #[test]
    fn answers_are_true_in_the_world() {
        let world = World::new(1);
        let data = data();
        let mut checked = 0;
        for e in data.train.iter().chain(&data.eval).filter(|e| e.system.is_none()) {
            let person = |name: &str| world.people.iter().find(|p| p.name == name);
            let sentence = e.answer.trim_end_matches('.');
            let sentence = sentence.trim_start_matches("Yes, ").trim_start_matches("No, ");
            let Some((name, rest)) = sentence.split_once(' ') else { continue };
            let Some(p) = person(name) else { continue };
            let holds = match e.topic {
                "home" => rest == format!("lives {}", p.home),
                "trade" | "who-trade" => rest == format!("is the {}", p.trade),
                "food" => rest == format!("likes {} best", p.food),
                "birth" => rest == format!("was born in {}", p.birth),
                "hobby" => rest == format!("loves {}", p.hobby),
                "mate" => rest == format!("lives with {}", world.people[p.mate].name),
                "yes-no" => {
                    let yes = e.answer.starts_with("Yes");
                    [p.home, p.trade, p.pet, p.coat, p.food]
                        .iter()
                        .any(|value| rest.contains(value) && e.question.contains(value) == yes)
                }
                _ => continue,
            };
            assert!(holds, "{e:?}");
            checked += 1;
        }
        assert!(checked > 500, "{checked}");
    }
}

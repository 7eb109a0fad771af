//! The pretraining text: short passages about the valley, each a few sentences of one kind.

use crate::lexicon::{DAYS, NUMBERS};
use crate::phrases::{
    ENDINGS, EVENTS, LETTERS, NOTES, OPENINGS, PORTRAIT, QUIZ, RAMBLES, TALK, TALK_FRAMES, THINGS,
};
use crate::rng::Rng;
use crate::scope::{Kind, Scope, things};
use crate::template::capitalize;
use crate::world::World;

/// Writes one passage of its kind.
type Writer = fn(&World, &mut Rng) -> String;

/// How often each kind of passage comes, in percent.
const MIX: [(usize, Writer); 9] = [
    (36, portrait),
    (16, story),
    (18, talk),
    (5, quiz),
    (9, facts),
    (4, letter),
    (8, notes),
    (2, counting),
    (2, play),
];

/// `count` passages of the stream `stream` of the seed.
pub fn passages(world: &World, seed: u64, stream: u64, count: usize) -> Vec<String> {
    let mut rng = Rng::new(seed, stream);
    (0..count).map(|_| passage(world, &mut rng)).collect()
}

fn passage(world: &World, rng: &mut Rng) -> String {
    let mut at = rng.below(MIX.iter().map(|(share, _)| share).sum());
    for (share, write) in MIX {
        if at < share {
            return write(world, rng);
        }
        at -= share;
    }
    unreachable!("a draw is below the sum of the shares")
}

/// Several people's sentences, chosen and ordered at random.
fn portrait(world: &World, rng: &mut Rng) -> String {
    let person = rng.below(world.people.len());
    let count = 3 + rng.below(5);
    let mut sentences = Vec::new();
    for (i, relation) in rng.sample(PORTRAIT.len(), count).into_iter().enumerate() {
        let scope = refer(world, rng, person, i == 0);
        let template = rng.pick(PORTRAIT[relation]);
        sentences.push(scope.fill(rng, template));
    }
    sentences.join(" ")
}

/// A scope in which the person is called by name, by trade or by pronoun.
fn refer<'w>(world: &'w World, rng: &mut Rng, person: usize, first: bool) -> Scope<'w> {
    let scope = Scope::people(world, &[person]);
    let p = &world.people[person];
    let pronoun = |slot| world.slot(person, slot).unwrap_or_default();
    let (who, whose, whom) = match rng.below(10) {
        0..6 if !first => (pronoun("he"), pronoun("his"), pronoun("him")),
        6..8 => {
            let who = format!("the {}", p.trade);
            (who.clone(), format!("{who}'s"), who)
        }
        _ => (p.name.to_owned(), format!("{}'s", p.name), p.name.to_owned()),
    };
    scope.with("who", who).with("whose", whose).with("whom", whom)
}

/// Three people, and words for a place, a season and a day. The first two differ wherever a
/// template sets one against the other.
fn scene<'w>(world: &'w World, rng: &mut Rng) -> Scope<'w> {
    let cast = loop {
        let cast = rng.sample(world.people.len(), 3);
        let (first, second) = (&world.people[cast[0]], &world.people[cast[1]]);
        if first.home != second.home && first.food != second.food && first.friend != cast[1] {
            break cast;
        }
    };
    let mut scope = Scope::people(world, &cast);
    for kind in [Kind::Place, Kind::Season] {
        let all = things(world, kind);
        let thing = &all[rng.below(all.len())];
        for slot in ["place", "at", "sight", "colour", "season", "weather", "happens", "feast"] {
            if let Some(word) = thing.value(slot) {
                scope = scope.with(slot, word);
            }
        }
    }
    scope.with("day", rng.pick(&DAYS))
}

fn story(world: &World, rng: &mut Rng) -> String {
    let scope = scene(world, rng);
    let mut parts = vec![rng.pick(&OPENINGS)];
    let events = 2 + rng.below(3);
    parts.extend(rng.sample(EVENTS.len(), events).into_iter().map(|i| EVENTS[i]));
    parts.push(rng.pick(&ENDINGS));
    parts.iter().map(|part| scope.fill(rng, part)).collect::<Vec<_>>().join(" ")
}

/// Two questions and answers, each told as a small scene.
fn talk(world: &World, rng: &mut Rng) -> String {
    let exchange = |rng: &mut Rng| {
        let scope = scene(world, rng);
        let (question, answer) = TALK[rng.below(TALK.len())];
        told(world, rng, &scope, question, answer)
    };
    format!("{} {}", exchange(rng), exchange(rng))
}

fn quiz(world: &World, rng: &mut Rng) -> String {
    let exchange = |rng: &mut Rng| {
        let (kind, question, answer) = QUIZ[rng.below(QUIZ.len())];
        let all = things(world, kind);
        let scope = &all[rng.below(all.len())];
        told(world, rng, scope, question, answer)
    };
    format!("{} {}", exchange(rng), exchange(rng))
}

fn told(world: &World, rng: &mut Rng, scope: &Scope, question: &str, answer: &str) -> String {
    let (question, answer) = (scope.fill(rng, question), scope.fill(rng, answer));
    let frame = rng.pick(&TALK_FRAMES);
    loop {
        let speakers = scene(world, rng);
        // Nobody asks or answers about themselves.
        let spoken_of = |slot| {
            let name = speakers.value(slot).unwrap_or_default();
            question.contains(&name) || answer.contains(&name)
        };
        if !spoken_of("2.name") && !spoken_of("3.name") {
            return speakers.with("q", question).with("a", answer).fill(rng, frame);
        }
    }
}

/// Two to four facts about one thing.
fn facts(world: &World, rng: &mut Rng) -> String {
    let (kind, templates) = THINGS[rng.below(THINGS.len())];
    let all = things(world, kind);
    let count = (2 + rng.below(3)).min(templates.len());
    let scope = &all[rng.below(all.len())];
    let chosen = rng.sample(templates.len(), count);
    chosen.into_iter().map(|i| scope.fill(rng, templates[i])).collect::<Vec<_>>().join(" ")
}

fn letter(world: &World, rng: &mut Rng) -> String {
    let template = rng.pick(&LETTERS);
    scene(world, rng).fill(rng, template)
}

fn notes(world: &World, rng: &mut Rng) -> String {
    let chosen = rng.sample(NOTES.len(), 2);
    chosen.into_iter().map(|i| scene(world, rng).fill(rng, NOTES[i])).collect::<Vec<_>>().join(" ")
}

/// Counting up, and what comes after a number.
fn counting(_: &World, rng: &mut Rng) -> String {
    let from = 1 + rng.below(9);
    let to = from + 2 + rng.below(5);
    let run = NUMBERS[from..=to].join(", ");
    let at = 1 + rng.below(14);
    let (number, next) = (NUMBERS[at], NUMBERS[at + 1]);
    match rng.below(3) {
        0 => format!("The children counted {}: {run}.", rng.pick(&["boats", "birds", "steps"])),
        1 => format!("{}. After {number} comes {next}.", capitalize(&run)),
        _ => format!(
            "{} comes after {number}. They counted from {} to {}: {run}.",
            capitalize(next),
            NUMBERS[from],
            NUMBERS[to]
        ),
    }
}

/// Two people talk past each other, written with the chat template's turn markers.
fn play(world: &World, rng: &mut Rng) -> String {
    let first = rng.below(world.people.len());
    let second = (first + 1 + rng.below(world.people.len() - 1)) % world.people.len();
    let mut text = String::new();
    for turn in 0..2 + rng.below(3) {
        let cast = if turn % 2 == 0 { [first, second] } else { [second, first] };
        let words = scene(world, rng);
        let mut scope = Scope::people(world, &cast);
        for slot in ["at", "sight", "colour", "season", "weather", "happens", "day"] {
            scope = scope.with(slot, words.value(slot).unwrap_or_default());
        }
        let count = 2 + rng.below(4);
        let said = rng.sample(RAMBLES.len(), count);
        let said: Vec<String> = said.into_iter().map(|i| scope.fill(rng, RAMBLES[i])).collect();
        let name = world.people[cast[0]].name;
        text += &format!("<|im_start|>{name}\n{}<|im_end|>\n", said.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_writes_the_same_text() {
        let world = World::new(1);
        assert_eq!(passages(&world, 1, 1, 200), passages(&world, 1, 1, 200));
        assert_ne!(passages(&world, 1, 1, 200), passages(&world, 1, 2, 200));
    }

    #[test]
    fn articles_fit_and_sentences_start_and_end() {
        for text in passages(&World::new(1), 1, 3, 4000) {
            let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
            for pair in words.windows(2).filter(|pair| !pair[1].is_empty()) {
                let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']) || pair[1] == "hour";
                match pair[0] {
                    "a" | "A" => assert!(!vowel, "{text}"),
                    "an" | "An" => assert!(vowel, "{text}"),
                    _ => {}
                }
            }
            assert!(!text.contains(['{', '}', '[', ']']), "{text}");
            assert!(!text.contains("  ") && !text.contains(".."), "{text}");
            let first = text.trim_start_matches("<|im_start|>").trim_start_matches('"');
            assert!(first.starts_with(char::is_uppercase), "{text}");
            let markers_off = text.replace("<|im_end|>", "");
            let last = markers_off.trim_end().trim_end_matches('"').chars().last();
            // Letters end with a signature.
            assert!(text.starts_with("Dear ") || matches!(last, Some('.' | '!' | '?')), "{text}");
            for sentence in text.split(". ").skip(1) {
                assert!(!sentence.starts_with(char::is_lowercase), "{text}");
            }
        }
    }
}

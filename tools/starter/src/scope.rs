//! What the slots of a template mean in one passage or question.

use crate::lexicon::{
    ANIMALS, Animal, DAYS, MONTHS, NUMBERS, OPPOSITES, PLACES, Place, SEASONS, SOURCES, Season,
    TRADES,
};
use crate::rng::Rng;
use crate::template::{expand, join};
use crate::world::World;

/// Slots that only name the thing spoken of, and so state no fact.
const NAMES: [&str; 13] = [
    "animal", "plural", "place", "at", "sight", "season", "date", "maker", "make", "craft", "word",
    "from", "to",
];

/// Slots by name: those of the people in the cast ("home" is the first one's, "2.home" the
/// second's, "3.home" the third's), and single words given by hand, which come first.
#[derive(Clone, Debug)]
pub struct Scope<'w> {
    world: &'w World,
    cast: Vec<usize>,
    words: Vec<(&'static str, String)>,
    /// The subject of the words, for the ids of the facts they state ("animal/goose").
    subject: String,
}

impl<'w> Scope<'w> {
    /// The slots of these people.
    pub fn people(world: &'w World, cast: &[usize]) -> Self {
        Scope { world, cast: cast.to_vec(), words: Vec::new(), subject: String::new() }
    }

    /// The slots of a thing that is no person.
    pub fn thing(world: &'w World, subject: String, words: Vec<(&'static str, String)>) -> Self {
        Scope { world, cast: Vec::new(), words, subject }
    }

    /// The same with a word added, in place of an earlier one of that name.
    pub fn with(mut self, slot: &'static str, word: impl Into<String>) -> Self {
        self.words.retain(|(name, _)| *name != slot);
        self.words.push((slot, word.into()));
        self
    }

    /// A slot's value.
    pub fn value(&self, slot: &str) -> Option<String> {
        if let Some((_, word)) = self.words.iter().find(|(name, _)| *name == slot) {
            return Some(word.clone());
        }
        let (person, slot) = self.person(slot)?;
        self.world.slot(person, slot)
    }

    /// The ids of the facts that a slot's value states. Words given to a scope of people (who
    /// speaks, what is wrong) state none.
    pub fn facts(&self, slot: &str) -> Vec<String> {
        if self.words.iter().any(|(name, _)| *name == slot) {
            return match (self.subject.as_str(), slot) {
                ("", _) => Vec::new(),
                (_, slot) if NAMES.contains(&slot) => Vec::new(),
                (subject, "twice") => vec![format!("{subject}/legs")],
                (_, "previous") => vec![format!("{}/next", self.value(slot).unwrap_or_default())],
                (_, "successor") => {
                    vec![format!("{}/successor", self.value("from").unwrap_or_default())]
                }
                (subject, slot) => vec![format!("{subject}/{slot}")],
            };
        }
        self.person(slot).map_or(Vec::new(), |(person, slot)| self.world.facts(person, slot))
    }

    /// Fills a template.
    pub fn fill(&self, rng: &mut Rng, template: &str) -> String {
        expand(template, rng, &|slot| self.value(slot))
    }

    fn person<'s>(&self, slot: &'s str) -> Option<(usize, &'s str)> {
        let (index, slot) = match slot.split_once('.') {
            Some((number, slot)) => (number.parse::<usize>().ok()?.checked_sub(1)?, slot),
            None => (0, slot),
        };
        Some((*self.cast.get(index)?, slot))
    }
}

/// An animal's slots.
pub fn animal<'w>(world: &'w World, a: &Animal) -> Scope<'w> {
    let words = vec![
        ("plural", a.plural.to_owned()),
        ("young", a.young.to_owned()),
        ("says", a.says.to_owned()),
        ("eats", a.eats.to_owned()),
        ("sleeps", a.sleeps.to_owned()),
        ("legs", NUMBERS[a.legs].to_owned()),
        ("twice", NUMBERS[2 * a.legs].to_owned()),
        ("animal", a.name.to_owned()),
    ];
    Scope::thing(world, format!("animal {}", a.name), words)
}

/// A place's slots.
pub fn place<'w>(world: &'w World, p: &Place) -> Scope<'w> {
    let words = vec![
        ("place", p.name.to_owned()),
        ("at", p.at.to_owned()),
        ("region", p.region.to_owned()),
        ("found", join(&p.found)),
        ("sight", p.sight.0.to_owned()),
        ("colour", p.sight.1.to_owned()),
    ];
    Scope::thing(world, p.name.to_owned(), words)
}

/// A season's slots.
pub fn season<'w>(world: &'w World, s: &Season) -> Scope<'w> {
    let words = vec![
        ("season", s.name.to_owned()),
        ("months", join(&s.months.map(|m| MONTHS[m]))),
        ("weather", s.weather.to_owned()),
        ("happens", s.happens.to_owned()),
        ("feast", s.feast.to_owned()),
        ("dish", s.dish.to_owned()),
    ];
    Scope::thing(world, s.name.to_owned(), words)
}

/// A day's or a month's slots: itself, the one after and the one before.
pub fn date<'w>(world: &'w World, table: &[&str], i: usize) -> Scope<'w> {
    let n = table.len();
    let words = vec![
        ("date", table[i].to_owned()),
        ("next", table[(i + 1) % n].to_owned()),
        ("previous", table[(i + n - 1) % n].to_owned()),
    ];
    Scope::thing(world, table[i].to_owned(), words)
}

/// The slots of a pair of opposites, from either end.
pub fn opposite<'w>(world: &'w World, pair: (&str, &str), swap: bool) -> Scope<'w> {
    let (word, other) = if swap { (pair.1, pair.0) } else { pair };
    let words = vec![("word", word.to_owned()), ("opposite", other.to_owned())];
    // One id for both ends, so that a pair is never split between training and held-out.
    Scope::thing(world, pair.0.to_owned(), words)
}

/// The slots of where something comes from.
pub fn source<'w>(world: &'w World, (maker, verb, product): (&str, &str, &str)) -> Scope<'w> {
    let words = vec![
        ("maker", maker.to_owned()),
        ("make", verb.to_owned()),
        ("product", product.to_owned()),
    ];
    Scope::thing(world, maker.to_owned(), words)
}

/// The slots of a trade whoever has it.
pub fn trade<'w>(world: &'w World, (trade, works): (&str, &str)) -> Scope<'w> {
    let words = vec![("craft", trade.to_owned()), ("works", works.to_owned())];
    Scope::thing(world, trade.to_owned(), words)
}

/// The slots of counting from one number to another.
pub fn count<'w>(world: &'w World, from: usize, to: usize) -> Scope<'w> {
    let words = vec![
        ("from", NUMBERS[from].to_owned()),
        ("to", NUMBERS[to].to_owned()),
        ("run", NUMBERS[from..=to].join(", ")),
        ("successor", NUMBERS[from + 1].to_owned()),
    ];
    Scope::thing(world, format!("{} to {}", NUMBERS[from], NUMBERS[to]), words)
}

/// Every thing of a kind.
pub fn things<'w>(world: &'w World, kind: Kind) -> Vec<Scope<'w>> {
    match kind {
        Kind::Animal => ANIMALS.iter().map(|a| animal(world, a)).collect(),
        Kind::Place => PLACES.iter().map(|p| place(world, p)).collect(),
        Kind::Season => SEASONS.iter().map(|s| season(world, s)).collect(),
        Kind::Day => (0..DAYS.len()).map(|i| date(world, &DAYS, i)).collect(),
        Kind::Month => (0..MONTHS.len()).map(|i| date(world, &MONTHS, i)).collect(),
        Kind::Opposite => {
            let both = |&pair: &(_, _)| [false, true].map(|swap| opposite(world, pair, swap));
            OPPOSITES.iter().flat_map(both).collect()
        }
        Kind::Source => SOURCES.iter().map(|&s| source(world, s)).collect(),
        Kind::Trade => TRADES.iter().map(|&t| trade(world, t)).collect(),
        Kind::Count => {
            let spans = (1..=9).flat_map(|from| (2..=6).map(move |more| (from, from + more)));
            spans.map(|(from, to)| count(world, from, to)).collect()
        }
    }
}

/// What there is besides people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`ANIMALS`].
    Animal,
    /// [`PLACES`].
    Place,
    /// [`SEASONS`].
    Season,
    /// [`DAYS`].
    Day,
    /// [`MONTHS`].
    Month,
    /// [`OPPOSITES`].
    Opposite,
    /// [`SOURCES`].
    Source,
    /// [`TRADES`].
    Trade,
    /// Spans of [`NUMBERS`].
    Count,
}

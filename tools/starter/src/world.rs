//! The valley of Larkmoor: who lives there, and what is true of each of them.
//!
//! Everything the corpus says and every answer the questions expect comes from here, so nothing
//! in the data contradicts anything else.

use crate::lexicon::{
    COATS, FOODS, HOBBIES, HOMES, MEN, MONTHS, PET_COLOURS, PET_NAMES, PETS, TRADES, TREASURES,
    WOMEN,
};
use crate::rng::Rng;

/// Someone of the valley. `mate` and `friend` are indexes into [`World::people`].
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// First name, unique.
    pub name: &'static str,
    /// Chooses the pronoun.
    pub woman: bool,
    /// Unique in the valley: "baker".
    pub trade: &'static str,
    /// What the trade does: "bakes bread".
    pub works: &'static str,
    /// With its preposition: "by the pond".
    pub home: &'static str,
    /// The one other person who lives there.
    pub mate: usize,
    /// The pet's kind: "goose".
    pub pet: &'static str,
    /// The pet's colour.
    pub pet_colour: &'static str,
    /// The pet's name, unique.
    pub pet_name: &'static str,
    /// Favourite food.
    pub food: &'static str,
    /// Colour of the coat.
    pub coat: &'static str,
    /// What the person loves doing: "flying kites".
    pub hobby: &'static str,
    /// What the person always carries, unique: "copper bell".
    pub treasure: &'static str,
    /// The month of birth.
    pub birth: &'static str,
    /// Best friend; friendship is mutual.
    pub friend: usize,
}

/// All people. The order is alphabetical.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// See [`Person`].
    pub people: Vec<Person>,
}

impl World {
    /// Deals the lexicon out to the people; the seed decides who gets what.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 0);
        let mut names: Vec<(&str, bool)> =
            WOMEN.iter().map(|&name| (name, true)).chain(MEN.map(|name| (name, false))).collect();
        names.sort_unstable();
        let n = names.len();
        let trades = deal(&mut rng, &TRADES, n);
        let homes = deal(&mut rng, &HOMES, n);
        let mates = (0..n).map(|i| (0..n).find(|&j| j != i && homes[j] == homes[i]).unwrap_or(i));
        let mates: Vec<usize> = mates.collect();
        let friends = befriend(&mut rng, &mates);
        let pets = deal(&mut rng, &PETS, n);
        let pet_colours = deal(&mut rng, &PET_COLOURS, n);
        let pet_names = deal(&mut rng, &PET_NAMES, n);
        let foods = deal(&mut rng, &FOODS, n);
        let coats = deal(&mut rng, &COATS, n);
        let hobbies = deal(&mut rng, &HOBBIES, n);
        let treasures = deal(&mut rng, &TREASURES, n);
        let births = deal(&mut rng, &MONTHS, n);
        let person = |i: usize| Person {
            name: names[i].0,
            woman: names[i].1,
            trade: trades[i].0,
            works: trades[i].1,
            home: homes[i],
            mate: mates[i],
            pet: pets[i],
            pet_colour: pet_colours[i],
            pet_name: pet_names[i],
            food: foods[i],
            coat: coats[i],
            hobby: hobbies[i],
            treasure: treasures[i],
            birth: births[i],
            friend: friends[i],
        };
        World { people: (0..n).map(person).collect() }
    }

    /// The value of a person's slot in a template ("home"), or `None` when there is no such slot.
    /// "mate" and "friend" give names; "he", "him" and "his" the pronouns.
    pub fn slot(&self, person: usize, slot: &str) -> Option<String> {
        let p = &self.people[person];
        let value = match slot {
            "name" => p.name,
            "trade" => p.trade,
            "works" => p.works,
            "home" => p.home,
            "mate" => self.people[p.mate].name,
            "pet" => p.pet,
            "pet_colour" => p.pet_colour,
            "pet_name" => p.pet_name,
            "food" => p.food,
            "coat" => p.coat,
            "hobby" => p.hobby,
            "treasure" => p.treasure,
            "birth" => p.birth,
            "friend" => self.people[p.friend].name,
            "he" => ["he", "she"][usize::from(p.woman)],
            "him" => ["him", "her"][usize::from(p.woman)],
            "his" => ["his", "her"][usize::from(p.woman)],
            _ => return None,
        };
        Some(value.to_owned())
    }

    /// The facts that a template's slot states about a person, as ids ("Mara/home"). Both sides
    /// of a mutual fact share the id; "mate" states where two people live; pronouns state nothing.
    pub fn facts(&self, person: usize, slot: &str) -> Vec<String> {
        let p = &self.people[person];
        match slot {
            "home" => vec![format!("{}/home", p.name)],
            "mate" => [p, &self.people[p.mate]].map(|p| format!("{}/home", p.name)).to_vec(),
            "friend" => {
                let first = &self.people[person.min(p.friend)];
                vec![format!("{}/friend", first.name)]
            }
            "works" => vec![format!("{}/trade", p.name), format!("{}/works", p.trade)],
            "trade" | "pet" | "pet_colour" | "pet_name" | "food" | "coat" | "hobby"
            | "treasure" | "birth" => vec![format!("{}/{slot}", p.name)],
            _ => Vec::new(),
        }
    }
}

/// `n` values in random order, every item of the table equally often (up to one).
fn deal<T: Copy>(rng: &mut Rng, table: &[T], n: usize) -> Vec<T> {
    let mut values: Vec<T> = table.iter().copied().cycle().take(n).collect();
    rng.shuffle(&mut values);
    values
}

/// Pairs of friends who do not live together.
fn befriend(rng: &mut Rng, mates: &[usize]) -> Vec<usize> {
    loop {
        let order = rng.sample(mates.len(), mates.len());
        if order.chunks_exact(2).all(|pair| mates[pair[0]] != pair[1]) {
            let mut friends = vec![0; mates.len()];
            for pair in order.chunks_exact(2) {
                friends[pair[0]] = pair[1];
                friends[pair[1]] = pair[0];
            }
            return friends;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn one_seed_one_world() {
        assert_eq!(World::new(1), World::new(1));
        assert_ne!(World::new(1), World::new(2));
    }

    #[test]
    fn friends_and_mates_are_mutual_and_different() {
        let world = World::new(1);
        for (i, p) in world.people.iter().enumerate() {
            assert_eq!(world.people[p.friend].friend, i);
            assert_eq!(world.people[p.mate].mate, i);
            assert_eq!(world.people[p.mate].home, p.home);
            assert!(p.friend != i && p.mate != i && p.friend != p.mate);
            assert_eq!(world.facts(i, "friend"), world.facts(p.friend, "friend"));
        }
    }

    #[test]
    fn what_must_be_unique_is() {
        let world = World::new(1);
        let unique = |value: fn(&Person) -> &'static str| {
            let n = world.people.iter().map(value).collect::<HashSet<_>>().len();
            assert_eq!(n, world.people.len());
        };
        unique(|p| p.name);
        unique(|p| p.trade);
        unique(|p| p.pet_name);
        unique(|p| p.treasure);
    }
}

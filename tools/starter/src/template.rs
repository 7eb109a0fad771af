//! The grammar's one mechanism: templates with slots and alternatives.
//!
//! - `[red|green|blue]` is one of the alternatives, drawn (they may hold slots, not alternatives).
//! - `{slot}` is the slot's value; `{^slot}` starts it with a capital letter; `{a slot}` puts
//!   "a" or "an" before it; `{^a slot}` does both.

use crate::rng::Rng;

/// Fills a template. `value` gives a slot's value.
///
/// # Panics
/// When a bracket is left open or a slot has no value: a fault of the table the template is in.
pub fn expand(template: &str, rng: &mut Rng, value: &dyn Fn(&str) -> Option<String>) -> String {
    let chosen = choose(template, rng);
    let mut text = String::with_capacity(chosen.len() * 2);
    let mut rest = chosen.as_str();
    while let Some((before, slot, after)) = split_bracket(rest, '{', '}') {
        text.push_str(before);
        let (capital, slot) = strip(slot, "^");
        let (article, slot) = strip(slot, "a ");
        let word = value(slot).unwrap_or_else(|| panic!("no value for {{{slot}}} in {template:?}"));
        let word = if article { with_article(&word) } else { word };
        text.push_str(&if capital { capitalize(&word) } else { word });
        rest = after;
    }
    text + rest
}

/// The names of the slots of a template, markers removed.
pub fn slots(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = template;
    while let Some((_, slot, after)) = split_bracket(rest, '{', '}') {
        names.push(strip(strip(slot, "^").1, "a ").1);
        rest = after;
    }
    names
}

fn choose(template: &str, rng: &mut Rng) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, options, after)) = split_bracket(rest, '[', ']') {
        text.push_str(before);
        text.push_str(rng.pick(&options.split('|').collect::<Vec<_>>()));
        rest = after;
    }
    text + rest
}

/// What is before, inside and after the first pair of brackets.
fn split_bracket(text: &str, open: char, close: char) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(open)?;
    let (inside, after) =
        rest.split_once(close).unwrap_or_else(|| panic!("{open} is never closed in {text:?}"));
    Some((before, inside, after))
}

fn strip<'a>(text: &'a str, marker: &str) -> (bool, &'a str) {
    text.strip_prefix(marker).map_or((false, text), |rest| (true, rest))
}

/// "a goose", "an owl". Every word of the world is spelled as it sounds at its start.
pub fn with_article(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    format!("{} {noun}", if an { "an" } else { "a" })
}

/// The first letter made a capital.
pub fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// "reeds", "reeds and frogs", "reeds, frogs and ducks".
pub fn join(items: &[&str]) -> String {
    match items {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(slot: &str) -> Option<String> {
        Some(match slot {
            "pet" => "owl".into(),
            "name" => "Mara".into(),
            _ => return None,
        })
    }

    #[test]
    fn slots_alternatives_articles_and_capitals() {
        let mut rng = Rng::new(1, 1);
        let text = expand("{^a pet} [saw|heard] {name}.", &mut rng, &value);
        assert!(["An owl saw Mara.", "An owl heard Mara."].contains(&text.as_str()), "{text}");
        assert_eq!(slots("{^a pet} [saw {name}|ran]."), ["pet", "name"]);
        assert_eq!(with_article("goose"), "a goose");
        assert_eq!(join(&["a", "b", "c"]), "a, b and c");
    }

    #[test]
    #[should_panic(expected = "no value for {colour}")]
    fn an_unknown_slot_is_a_fault() {
        expand("{colour}", &mut Rng::new(1, 1), &value);
    }
}

//! "Did you mean": the nearest of a set of names.

/// The most characters of a name that something near is looked for.
const LONGEST: usize = 200;

/// The candidate nearest to `name`, if it is near enough to be what was meant: the edits needed
/// are at most a third of the name's length, or `name` is about how the candidate begins.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let length = name.chars().count();
    if length > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let edits = edit_distance(&name, &candidate.to_lowercase());
            let begins_alike = length >= 4
                && (length - 1..=length + 1).any(|length| {
                    let beginning: String = candidate.chars().take(length).collect();
                    edit_distance(&name, &beginning) <= 1
                });
            match (edits <= (length / 3).max(1), begins_alike) {
                (true, _) => Some((edits, candidate)),
                // It never beats a misspelling.
                (false, true) => Some((edits + length, candidate)),
                (false, false) => None,
            }
        })
        .min_by_key(|(score, _)| *score)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of
/// neighbours, each counting 1.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = substitution.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits_and_swaps() {
        assert_eq!(edit_distance("lora_r", "lora_r"), 0);
        assert_eq!(edit_distance("learning_rat", "learning_rate"), 1);
        assert_eq!(edit_distance("sede", "seed"), 1);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn nearest_ignores_what_is_far() {
        let names = ["learning_rate", "logging_steps", "seed"];
        assert_eq!(nearest("learnign_rate", names), Some("learning_rate"));
        assert_eq!(nearest("learning", names), Some("learning_rate"));
        assert_eq!(nearest("loging", names), Some("logging_steps"));
        assert_eq!(nearest("Seed", names), Some("seed"));
        assert_eq!(nearest("wandb_project", names), None);
    }
}

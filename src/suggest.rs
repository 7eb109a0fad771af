//! "Did you mean": the nearest of a set of names.

use strsim::osa_distance;

/// The most characters of a name that something near is looked for.
const LONGEST: usize = 200;

/// The candidate nearest to `name`, if it is near enough to be what was meant: the edits needed
/// (insertions, deletions, substitutions and swaps of neighbours) are at most a third of the name's
/// length, or `name` is about the first words of the candidate.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let length = name.chars().count();
    if length > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let candidate_lower = candidate.to_lowercase();
            let edits = osa_distance(&name, &candidate_lower);
            let mut beginnings =
                candidate_lower.match_indices(['_', '-']).map(|(end, _)| &candidate_lower[..end]);
            let begins_alike =
                length >= 4 && beginnings.any(|beginning| osa_distance(&name, beginning) <= 1);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_ignores_what_is_far() {
        let names = ["learning_rate", "logging_steps", "seed"];
        assert_eq!(nearest("learnign_rate", names), Some("learning_rate"));
        assert_eq!(nearest("learning", names), Some("learning_rate"));
        assert_eq!(nearest("loging", names), Some("logging_steps"));
        assert_eq!(nearest("Seed", names), Some("seed"));
        assert_eq!(nearest("sede", names), Some("seed"));
        assert_eq!(nearest("wandb_project", names), None);
        // Half a word is not the word.
        assert_eq!(nearest("compile", ["completion_only_loss"]), None);
        assert_eq!(nearest("ouput", ["output_dir"]), Some("output_dir"));
    }
}

//! The merges of a vocabulary whose tokens have scores in their place (SentencePiece's BPE).

use std::cmp::Ordering;
use std::collections::HashMap;

/// The longest token that is cut into pairs, in bytes: more than any vocabulary has.
const MAX_TOKEN: usize = 1024;

/// The pairs that merge into each token, those of a higher score first, as Transformers orders them
/// (`generate_merges`): then longer left sides first, then longer right sides; of one token, by the ids of
/// the two sides.
///
/// Errors: in words, a token that is too long.
pub fn merges_by_score(tokens: &[String], scores: &[f32]) -> Result<Vec<[String; 2]>, String> {
    let mut merges = pairs(tokens)?;
    merges.sort_by(|a, b| {
        let ordered = scores[b.id].partial_cmp(&scores[a.id]).unwrap_or(Ordering::Equal);
        ordered.then(b.lengths.cmp(&a.lengths))
    });
    Ok(merges.into_iter().map(|merge| merge.pair.map(str::to_string)).collect())
}

/// The same without scores: those of a lower id first, then shorter left sides first.
///
/// Errors: as [`merges_by_score`].
pub fn merges_by_id(tokens: &[String]) -> Result<Vec<[String; 2]>, String> {
    let mut merges = pairs(tokens)?;
    merges.sort_by_key(|merge| (merge.id, merge.lengths));
    Ok(merges.into_iter().map(|merge| merge.pair.map(str::to_string)).collect())
}

/// Two tokens whose texts together are another's.
struct Merge<'a> {
    /// Of the other.
    id: usize,
    pair: [&'a str; 2],
    /// Of the two, in characters.
    lengths: [usize; 2],
}

fn pairs(tokens: &[String]) -> Result<Vec<Merge<'_>>, String> {
    // Of two tokens with one text the later has the id, and the earlier the place in the order.
    let mut ids: HashMap<&str, usize> = HashMap::new();
    let mut order: Vec<&str> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if token.len() > MAX_TOKEN {
            return Err(format!(
                "a token of {} bytes; at most {MAX_TOKEN} are allowed",
                token.len()
            ));
        }
        if ids.insert(token, id).is_none() {
            order.push(token);
        }
    }
    let mut merges = Vec::new();
    for token in order {
        let (id, count) = (ids[token], token.chars().count());
        let cuts = token.char_indices().enumerate().skip(1);
        let mut found: Vec<([usize; 2], Merge)> = cuts
            .filter_map(|(chars, (at, _))| {
                let (left, right) = token.split_at(at);
                let sides = [*ids.get(left)?, *ids.get(right)?];
                let lengths = [chars, count - chars];
                Some((sides, Merge { id, pair: [left, right], lengths }))
            })
            .collect();
        found.sort_by_key(|(sides, _)| *sides);
        merges.extend(found.into_iter().map(|(_, merge)| merge));
    }
    Ok(merges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_ordered_by_score_then_by_length() {
        let tokens: Vec<String> = ["a", "b", "ab", "ba", "aba", "c"].map(String::from).to_vec();
        let merges = merges_by_score(&tokens, &[0.0, 0.0, -1.0, -2.0, -1.0, 0.0]).unwrap();
        let merges: Vec<[&str; 2]> =
            merges.iter().map(|pair| [pair[0].as_str(), pair[1].as_str()]).collect();
        assert_eq!(merges, [["ab", "a"], ["a", "ba"], ["a", "b"], ["b", "a"]]);
        let merges = merges_by_id(&tokens).unwrap();
        assert_eq!(merges.len(), 4);
        assert_eq!([&merges[0][0], &merges[2][0], &merges[3][0]], ["a", "a", "ab"]);
        assert!(merges_by_score(&["x".repeat(2000)], &[0.0]).is_err());
    }
}

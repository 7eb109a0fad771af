// What every kernel of attention has: its parameters, and who sees whom.
// Twin: kernels-cuda/attention.cuh

struct Params {
    tokens: u32, // T
    keys: u32, // S
    heads: u32, // NH
    kv_heads: u32, // NKV
    q_offset: u32,
    window: u32, // 2^32 - 1 without one
    scale: f32,
}

// A score that nothing beats; finite, so that MASK - MASK is.
const MASK: f32 = -1e30;

// The numbers of a token in `bounds`: the first token of its sequence, and one past the last that may see it;
// where sequences share prompts (SHARED), also start and end of the prompt that it sees besides, both the first
// of its sequence if there is none.
const BOUNDS: u32 = 2u + 2u * SHARED;

// The first key, of those from `first` on, that key index i sees through the window.
fn lowest_key(first: u32, i: u32, window: u32) -> u32 {
    return select(first, max(first, i + 1u - window), i >= window);
}

// The keys that a query sees: lowest .. hole - 1 of a shared prompt, and resume .. past - 1 of its own sequence.
// Without a shared prompt, or where it sees nothing of it, lowest = hole = resume.
struct Seen {
    lowest: u32,
    hole: u32,
    resume: u32,
    past: u32,
}

// What key index i sees.
fn seen_by(i: u32, window: u32) -> Seen {
    let first = bounds[BOUNDS * i];
    let resume = lowest_key(first, i, window);
    var seen = Seen(resume, resume, resume, i + 1u);
    if (SHARED == 1u) {
        // Right behind the prompt, i would stand at this place.
        let prompt_end = bounds[BOUNDS * i + 3u];
        let place = i - (first - prompt_end);
        let lowest = lowest_key(bounds[BOUNDS * i + 2u], place, window);
        if (lowest < prompt_end) {
            seen.lowest = lowest;
            seen.hole = prompt_end;
        }
    }
    return seen;
}

fn sees(seen: Seen, key: u32) -> bool {
    return key >= seen.lowest && key < seen.past && (SHARED == 0u || key < seen.hole || key >= seen.resume);
}

// The keys that a tile of queries walks over, in tiles: from `begin` on, but for `skip` keys before tile `leap`,
// which lie between a shared prompt and what follows of the queries' own sequences.
struct Walk {
    begin: u32,
    leap: u32,
    skip: u32,
}

// The walk of the queries at key indices first_i .. last_i over all that any of them sees.
fn walk_keys(first_i: u32, last_i: u32, window: u32, tile: u32) -> Walk {
    let first = bounds[BOUNDS * first_i];
    let resume = lowest_key(first, first_i, window);
    var walk = Walk(resume, 0u, 0u);
    if (SHARED == 1u) {
        let prompt_end = bounds[BOUNDS * first_i + 3u];
        // Where another sequence begins among them, its first token sees the most of the prompt.
        let others = bounds[BOUNDS * last_i] != first;
        let place = select(first_i - (first - prompt_end), prompt_end, others);
        let lowest = lowest_key(bounds[BOUNDS * first_i + 2u], place, window);
        if (lowest < prompt_end) {
            walk.begin = lowest;
            walk.leap = (prompt_end - lowest + tile - 1u) / tile;
            let next = lowest + walk.leap * tile;
            walk.skip = select(0u, resume - next, resume > next);
        }
    }
    return walk;
}

// The first key of tile n of a walk.
fn walk_key(walk: Walk, n: u32, tile: u32) -> u32 {
    return walk.begin + n * tile + select(0u, walk.skip, SHARED == 1u && n >= walk.leap);
}

// The tiles of a walk whose last query is key index last_i.
fn walk_tiles(walk: Walk, last_i: u32, tile: u32) -> u32 {
    return (last_i - walk.skip - walk.begin) / tile + 1u;
}

// One past the last query that sees any of the keys first_key .. last_key.
fn end_of_seers(first_key: u32, last_key: u32, window: u32) -> u32 {
    let end = bounds[BOUNDS * last_key + 1u];
    if (SHARED == 1u) {
        // Keys of a prompt and of sequences after it: all that come after the prompt see some.
        let prompt = bounds[BOUNDS * last_key + 2u];
        let prompt_end = bounds[BOUNDS * last_key + 3u];
        if (prompt < prompt_end && first_key < prompt_end) {
            return bounds[BOUNDS * prompt + 1u];
        }
        // A shared prompt ends where the last sequence after it says. The first tokens after it see the last key
        // if the window reaches back.
        let shared_end = bounds[BOUNDS * (end - 1u) + 3u];
        if (shared_end > last_key && window > shared_end - last_key) {
            return end;
        }
    }
    return select(end, last_key + window, window < end - last_key);
}

// What every kernel of attention has: its parameters, and who sees whom.
// Twin: kernels-wgsl/attention.wgsl

struct Params {
    u32 tokens;   // T
    u32 keys;     // S
    u32 heads;    // NH
    u32 kv_heads; // NKV
    u32 q_offset;
    u32 window;   // 2^32 - 1 without one
    float scale;
};

// A score that nothing beats; finite, so that MASK - MASK is.
constexpr float MASK = -1e30f;

// The numbers of a token in `bounds`: the first token of its sequence, and one past the last that may see it;
// where sequences share prompts (SHARED), also start and end of the prompt that it sees besides, both the first
// of its sequence if there is none.
constexpr u32 BOUNDS = SHARED ? 4 : 2;

// The first key, of those from `first` on, that key index i sees through the window.
__device__ __forceinline__ u32 lowest_key(u32 first, u32 i, u32 window) {
    return i >= window ? max(first, i + 1 - window) : first;
}

// The keys that a query sees: lowest .. hole - 1 of a shared prompt, and resume .. past - 1 of its own sequence.
// Without a shared prompt, or where it sees nothing of it, lowest = hole = resume.
struct Seen {
    u32 lowest;
    u32 hole;
    u32 resume;
    u32 past;
};

// What key index i sees, of whose `numbers` in bounds.
__device__ __forceinline__ Seen seen_by(const u32* numbers, u32 i, u32 window) {
    u32 resume = lowest_key(numbers[0], i, window);
    Seen seen = {resume, resume, resume, i + 1};
    if (SHARED) {
        // Right behind the prompt, i would stand at this place.
        u32 place = i - (numbers[0] - numbers[3]);
        u32 lowest = lowest_key(numbers[2], place, window);
        if (lowest < numbers[3]) {
            seen.lowest = lowest;
            seen.hole = numbers[3];
        }
    }
    return seen;
}

__device__ __forceinline__ bool sees(const Seen& seen, u32 key) {
    return key >= seen.lowest && key < seen.past && (!SHARED || key < seen.hole || key >= seen.resume);
}

// The keys that a tile of queries walks over, in tiles: from `begin` on, but for `skip` keys before tile `leap`,
// which lie between a shared prompt and what follows of the queries' own sequences.
struct Walk {
    u32 begin;
    u32 leap;
    u32 skip;
};

// The walk of the queries at key indices first_i .. last_i over all that any of them sees.
__device__ __forceinline__ Walk walk_keys(const u32* bounds, u32 first_i, u32 last_i, u32 window, u32 tile) {
    const u32* numbers = bounds + BOUNDS * first_i;
    u32 resume = lowest_key(numbers[0], first_i, window);
    Walk walk = {resume, 0, 0};
    if (SHARED) {
        u32 place = first_i - (numbers[0] - numbers[3]);
        // Where another sequence begins among them, its first token sees the most of the prompt.
        if (bounds[BOUNDS * last_i] != numbers[0]) place = numbers[3];
        u32 lowest = lowest_key(numbers[2], place, window);
        if (lowest < numbers[3]) {
            walk.begin = lowest;
            walk.leap = (numbers[3] - lowest + tile - 1) / tile;
            u32 next = lowest + walk.leap * tile;
            walk.skip = resume > next ? resume - next : 0;
        }
    }
    return walk;
}

// The first key of tile n of a walk.
__device__ __forceinline__ u32 walk_key(const Walk& walk, u32 n, u32 tile) {
    return walk.begin + n * tile + (SHARED && n >= walk.leap ? walk.skip : 0);
}

// The tiles of a walk whose last query is key index last_i.
__device__ __forceinline__ u32 walk_tiles(const Walk& walk, u32 last_i, u32 tile) {
    return (last_i - walk.skip - walk.begin) / tile + 1;
}

// Whether keys first_key .. first_key + tile - 1 are seen by all queries first_i .. last_i: they lie before all of
// them and within the last one's reach, or in a prompt that they share and that the window leaves whole. Cheap,
// so it may say no.
struct SeenByAll {
    u32 own;        // own sequence: from here on
    u32 own_past;   // to here
    u32 prompt;     // shared prompt: from here on
    u32 prompt_end; // to here

    __device__ __forceinline__ SeenByAll(const u32* bounds, u32 first_i, u32 last_i, u32 window)
        : own(lowest_key(bounds[BOUNDS * last_i], last_i, window)), own_past(first_i + 1), prompt(0), prompt_end(0) {
        if (SHARED) {
            // In the prompt itself, start and end are both its first token.
            u32 start = bounds[BOUNDS * last_i + 2], end = bounds[BOUNDS * last_i + 3];
            if (end == bounds[BOUNDS * first_i + 3] && last_i - start < window) prompt = start, prompt_end = end;
        }
    }

    __device__ __forceinline__ bool operator()(u32 first_key, u32 tile) const {
        return first_key >= own && first_key + tile <= own_past ||
               SHARED && first_key >= prompt && first_key + tile <= prompt_end;
    }
};

// One past the last query that sees any of the keys first_key .. last_key.
__device__ __forceinline__ u32 end_of_seers(const u32* bounds, u32 first_key, u32 last_key, u32 window) {
    u32 end = bounds[BOUNDS * last_key + 1];
    if (SHARED) {
        // Keys of a prompt and of sequences after it: all that come after the prompt see some.
        u32 prompt = bounds[BOUNDS * last_key + 2];
        u32 prompt_end = bounds[BOUNDS * last_key + 3];
        if (prompt < prompt_end && first_key < prompt_end) return bounds[BOUNDS * prompt + 1];
        // A shared prompt ends where the last sequence after it says. The first tokens after it see the last key
        // if the window reaches back.
        prompt_end = bounds[BOUNDS * (end - 1) + 3];
        if (prompt_end > last_key && window > prompt_end - last_key) return end;
    }
    return window < end - last_key ? last_key + window : end;
}

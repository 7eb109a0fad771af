// Softmax over rows of logits, which may come in slices of the vocabulary: its statistics, and its gradient
// in the logits' place. Cross-entropy and log-probabilities are made of them.
//
//   stats[r] = (m, l, z)     m = max logits, l = sum e^(logit - m), z = logit of the target;
//              (.., s, a,    of WIDTH 7 also s = sum (logit - m) e^(logit - m), a = first column with m,
//               q, t)        q = sum e^(2 (logit - m)), t = sum logit
//   bwd        dlogits = scale (e^(logit - m) / l - [column is the target]), in place
//              scale = INV_TOKENS LOSS_SCALE of the step state (the mean of the target's -log p), or
//              -dout[r] per token (log p)
//
// Tensors   logits [rows, columns]: f32 | bf16 | f16; targets u32 [rows], IGNORE for none; stats [rows,
//           WIDTH], scales: step state [16] or dout [rows]: f32
// Mapping   a block owns a row, its threads stride over it, bwd by words
// Launch    grid rows, split over x and y; block 256, 6 KiB workgroup memory; 16-bit rows have an even width
//           (the host checks)
// Cost      stats reads the logits, bwd reads and writes them: bound by memory bandwidth
// Numerics  online softmax with f32 statistics, MASK finite; no term of s is above 0, so it loses nothing to
//           cancellation; a is exact below 2^24; rows without target are not read and get exact zeros;
//           sums in a fixed order: deterministic
// Twin      kernels-cuda/softmax.cu. Reference: src/ops/softmax.rs. Paper: arXiv:1805.02867

struct Params {
    rows: u32,
    columns: u32,
    first_column: u32,
    per_token: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> targets: array<u32>; // [rows]
@group(0) @binding(2) var<storage, read_write> stats: array<f32>; // [rows, WIDTH]

@group(0) @binding(0) var<storage, read> done_stats: array<f32>; // [rows, WIDTH]
@group(0) @binding(2) var<storage, read> scales: array<f32>; // [16] or [rows]
@group(0) @binding(3) var<storage, read_write> dlogits: array<u32>; // [rows, columns]

@group(1) @binding(0) var<uniform> params: Params;

const IGNORE: u32 = 0xffffffffu;
const MASK: f32 = -1e30;
const DETAILS: bool = WIDTH == 7u;

// What turns sums about one maximum into sums about a larger one: every logit - m changes by `by`.
struct Shift {
    by: f32,
    factor: f32, // e^by
}

fn shift_maximum(before: f32, after: f32) -> Shift {
    return Shift(before - after, exp(before - after));
}

// s about the larger maximum, from s and l about the other.
fn shift_weighted(shift: Shift, s: f32, l: f32) -> f32 {
    return shift.factor * (s + shift.by * l);
}

var<workgroup> largest: array<f32, 256>; // [256]
var<workgroup> partial: array<f32, 256>; // [256]
var<workgroup> weighted: array<f32, 256>; // [256]
var<workgroup> place: array<u32, 256>; // [256]
var<workgroup> squares: array<f32, 256>; // [256]
var<workgroup> total: array<f32, 256>; // [256]

@compute @workgroup_size(256)
fn softmax_stats(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid);
    if (row >= params.rows || targets[row] == IGNORE) {
        return;
    }
    // [1] each thread's own maximum and sums, in one pass
    var m = MASK;
    var l = 0.0;
    var s = 0.0;
    var a = 0u;
    var q = 0.0;
    var t = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        let i = row * params.columns + c;
        let z = unpack(logits[word_of(i, DT_LOGITS)], i, DT_LOGITS);
        if (z > m) {
            let shift = shift_maximum(m, z);
            if (DETAILS) {
                s = shift_weighted(shift, s, l);
                q *= shift.factor * shift.factor;
            }
            l *= shift.factor;
            m = z;
            a = params.first_column + c;
        }
        let e = exp(z - m);
        l += e;
        if (DETAILS) {
            s += (z - m) * e;
            q += e * e;
            t += z;
        }
    }
    // [2] join them by halving: the order is fixed, and of equal maxima the first counts
    largest[thread] = m;
    partial[thread] = l;
    weighted[thread] = s;
    place[thread] = a;
    squares[thread] = q;
    total[thread] = t;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (thread < half) {
            let other = thread + half;
            let joint = max(largest[thread], largest[other]);
            let shift = shift_maximum(largest[thread], joint);
            let other_shift = shift_maximum(largest[other], joint);
            if (DETAILS) {
                weighted[thread] = shift_weighted(shift, weighted[thread], partial[thread])
                    + shift_weighted(other_shift, weighted[other], partial[other]);
                let equal = largest[other] == largest[thread];
                if (largest[other] > largest[thread] || (equal && place[other] < place[thread])) {
                    place[thread] = place[other];
                }
                squares[thread] = squares[thread] * shift.factor * shift.factor
                    + squares[other] * other_shift.factor * other_shift.factor;
                total[thread] += total[other];
            }
            partial[thread] = partial[thread] * shift.factor + partial[other] * other_shift.factor;
            largest[thread] = joint;
        }
        workgroupBarrier();
    }
    // [3] join with earlier slices
    if (thread == 0u) {
        let found = row * WIDTH;
        if (params.first_column == 0u) {
            for (var i = 0u; i < WIDTH; i++) {
                stats[found + i] = select(0.0, MASK, i == 0u || i == 2u);
            }
        }
        let joint = max(stats[found], largest[0]);
        let shift = shift_maximum(stats[found], joint);
        let slice_shift = shift_maximum(largest[0], joint);
        if (DETAILS) {
            stats[found + 3u] = shift_weighted(shift, stats[found + 3u], stats[found + 1u])
                + shift_weighted(slice_shift, weighted[0], partial[0]);
            if (largest[0] > stats[found]) {
                stats[found + 4u] = f32(place[0]);
            }
            stats[found + 5u] = stats[found + 5u] * shift.factor * shift.factor
                + squares[0] * slice_shift.factor * slice_shift.factor;
            stats[found + 6u] += total[0];
        }
        stats[found + 1u] = stats[found + 1u] * shift.factor + partial[0] * slice_shift.factor;
        stats[found] = joint;
        let column = targets[row] - params.first_column;
        if (column < params.columns) {
            let i = row * params.columns + column;
            stats[found + 2u] = unpack(logits[word_of(i, DT_LOGITS)], i, DT_LOGITS);
        }
    }
}

@compute @workgroup_size(256)
fn softmax_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid);
    if (row >= params.rows) {
        return;
    }
    // [1] what the row's logits have in common
    let seen = targets[row] != IGNORE;
    let target_column = targets[row] - params.first_column;
    var scale = 0.0;
    if (params.per_token == 1u) {
        scale = -scales[row];
    } else {
        scale = scales[INV_TOKENS] * scales[LOSS_SCALE];
    }
    // [2] a word at a time
    let step = per_word(DT_LOGITS);
    for (var c = thread * step; c < params.columns; c += 256u * step) {
        let i = row * params.columns + c;
        let word = dlogits[word_of(i, DT_LOGITS)];
        var d: array<f32, 2>;
        for (var lane = 0u; lane < step && seen; lane++) {
            let z = unpack(word, i + lane, DT_LOGITS);
            let p = exp(z - done_stats[row * WIDTH]) / done_stats[row * WIDTH + 1u];
            d[lane] = scale * (p - select(0.0, 1.0, c + lane == target_column));
        }
        dlogits[word_of(i, DT_LOGITS)] = pack(d[0], d[1], DT_LOGITS);
    }
}

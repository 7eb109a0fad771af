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
// Launch    grid rows, split over x and y; block 256, 6 KiB shared memory; 16-bit rows have an even width
//           (the host checks)
// Cost      stats reads the logits, bwd reads and writes them: bound by memory bandwidth
// Numerics  online softmax with f32 statistics, MASK finite; no term of s is above 0, so it loses nothing to
//           cancellation; a is exact below 2^24; rows without target are not read and get exact zeros;
//           sums in a fixed order: deterministic
// Twin      kernels-wgsl/softmax.wgsl. Reference: src/ops/softmax.rs. Paper: arXiv:1805.02867

struct Params {
    u32 rows;
    u32 columns;
    u32 first_column;
    u32 per_token;
};

constexpr u32 IGNORE = 0xffffffff;
constexpr float MASK = -1e30f;
constexpr bool DETAILS = WIDTH == 7;

// What turns sums about one maximum into sums about a larger one: every logit - m changes by `by`.
struct Shift {
    float by;
    float factor; // e^by
};

__device__ __forceinline__ Shift shift_maximum(float before, float after) {
    return {before - after, expf(before - after)};
}

// s about the larger maximum, from s and l about the other.
__device__ __forceinline__ float shift_weighted(Shift shift, float s, float l) {
    return shift.factor * (s + shift.by * l);
}

extern "C" __global__ void __launch_bounds__(256)
softmax_stats(const void* logits, const u32* targets, float* stats, Params params) {
    __shared__ float largest[256]; // [256]
    __shared__ float partial[256]; // [256]
    __shared__ float weighted[256]; // [256]
    __shared__ u32 place[256]; // [256]
    __shared__ float squares[256]; // [256]
    __shared__ float total[256]; // [256]
    u32 thread = threadIdx.x;
    u32 row = block_number();
    if (row >= params.rows || targets[row] == IGNORE) return;
    // [1] each thread's own maximum and sums, in one pass
    float m = MASK;
    float l = 0.0f;
    float s = 0.0f;
    u32 a = 0;
    float q = 0.0f;
    float t = 0.0f;
    for (u32 c = thread; c < params.columns; c += 256) {
        float z = load<DT_LOGITS>(logits, row * params.columns + c);
        if (z > m) {
            Shift shift = shift_maximum(m, z);
            if (DETAILS) {
                s = shift_weighted(shift, s, l);
                q *= shift.factor * shift.factor;
            }
            l *= shift.factor;
            m = z;
            a = params.first_column + c;
        }
        float e = expf(z - m);
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
    __syncthreads();
    for (u32 half = 128; half > 0; half /= 2) {
        if (thread < half) {
            u32 other = thread + half;
            float joint = fmaxf(largest[thread], largest[other]);
            Shift shift = shift_maximum(largest[thread], joint);
            Shift other_shift = shift_maximum(largest[other], joint);
            if (DETAILS) {
                weighted[thread] = shift_weighted(shift, weighted[thread], partial[thread])
                    + shift_weighted(other_shift, weighted[other], partial[other]);
                bool equal = largest[other] == largest[thread];
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
        __syncthreads();
    }
    // [3] join with earlier slices
    if (thread == 0) {
        float* found = stats + row * WIDTH;
        if (params.first_column == 0) {
            for (u32 i = 0; i < WIDTH; i++) found[i] = i == 0 || i == 2 ? MASK : 0.0f;
        }
        float joint = fmaxf(found[0], largest[0]);
        Shift shift = shift_maximum(found[0], joint);
        Shift slice_shift = shift_maximum(largest[0], joint);
        if (DETAILS) {
            found[3] = shift_weighted(shift, found[3], found[1])
                + shift_weighted(slice_shift, weighted[0], partial[0]);
            if (largest[0] > found[0]) found[4] = float(place[0]);
            found[5] = found[5] * shift.factor * shift.factor
                + squares[0] * slice_shift.factor * slice_shift.factor;
            found[6] += total[0];
        }
        found[1] = found[1] * shift.factor + partial[0] * slice_shift.factor;
        found[0] = joint;
        u32 column = targets[row] - params.first_column;
        if (column < params.columns) found[2] = load<DT_LOGITS>(logits, row * params.columns + column);
    }
}

extern "C" __global__ void __launch_bounds__(256)
softmax_bwd(const float* stats, const u32* targets, const float* scales, void* logits, Params params) {
    u32 row = block_number();
    if (row >= params.rows) return;
    // [1] what the row's logits have in common
    bool seen = targets[row] != IGNORE;
    u32 target_column = targets[row] - params.first_column;
    float scale = params.per_token == 1 ? -scales[row] : scales[INV_TOKENS] * scales[LOSS_SCALE];
    // [2] a word at a time
    constexpr u32 step = per_word(DT_LOGITS);
    for (u32 c = threadIdx.x * step; c < params.columns; c += 256 * step) {
        for (u32 lane = 0; lane < step; lane++) {
            u32 i = row * params.columns + c + lane;
            float d = 0.0f;
            if (seen) {
                float p = expf(load<DT_LOGITS>(logits, i) - stats[row * WIDTH]) / stats[row * WIDTH + 1];
                d = scale * (p - (c + lane == target_column ? 1.0f : 0.0f));
            }
            store<DT_LOGITS>(logits, i, d);
        }
    }
}

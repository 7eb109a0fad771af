// RMSNorm over rows, forward and backward.
//
//   rstd[t] = 1 / sqrt(mean_c x[t,c]^2 + eps)
//   fwd      y[t,c]  = x[t,c] * rstd[t] * w[c],  w[c] = weight[c] + offset (0, or Gemma's 1)
//   bwd_dx   dx[t,c] = rstd[t] * (g - x[t,c] * rstd[t] * mean_c(g * x * rstd)),  g = dy[t,c] * w[c]
//   bwd_dw   dw[c]   = sum_t dy[t,c] * x[t,c] * rstd[t]
//
// Tensors   x, y, dy, dx [rows, columns], weight [columns]: f32 | bf16 | f16; rstd [rows], dw [columns]: f32
// Mapping   fwd, bwd_dx: a block owns a row, its threads stride over the row's words
//           bwd_dw: a thread owns a column and walks down the rows, so the sum has a fixed order
// Launch    fwd, bwd_dx: grid rows; bwd_dw: grid ceil(columns / 256); block 256, 1 KiB workgroup memory;
//           16-bit rows have an even width (the host checks)
// Cost      fwd 2, bwd_dx 3 passes over the rows, about 4 FLOPs per element: bound by memory bandwidth
// Numerics  sums in f32, in a fixed order: deterministic; all writes, no adds
// Versions  this one, rms_norm_wide
// Twin      kernels-cuda/rms_norm.cu. Reference: src/ops/rms_norm.rs. Paper: arXiv:1910.07467

struct Params {
    rows: u32,
    columns: u32,
    eps: f32,
    offset: f32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> weight: array<u32>; // [columns]
@group(0) @binding(2) var<storage, read_write> y: array<u32>; // [rows, columns]
@group(0) @binding(3) var<storage, read_write> rstd: array<f32>; // [rows]

@group(0) @binding(0) var<storage, read> dy: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> bwd_x: array<u32>; // [rows, columns]
@group(0) @binding(2) var<storage, read> bwd_weight: array<u32>; // [columns]
@group(0) @binding(3) var<storage, read> bwd_rstd: array<f32>; // [rows]
@group(0) @binding(4) var<storage, read_write> dx: array<u32>; // [rows, columns]

@group(0) @binding(2) var<storage, read> dw_rstd: array<f32>; // [rows]
@group(0) @binding(3) var<storage, read_write> dw: array<f32>; // [columns]

@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> partial: array<f32, 256>; // [256]

// The sum of `value` over the block, by halving: the order is fixed.
fn block_sum(value: f32, thread: u32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half = half / 2u) {
        if (thread < half) {
            partial[thread] += partial[thread + half];
        }
        workgroupBarrier();
    }
    return partial[0];
}

@compute @workgroup_size(256)
fn rms_norm_fwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid);
    if (row >= params.rows) {
        return;
    }
    let start = row * params.columns;
    // [1] sum of squares
    var sum = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        let value = unpack(x[word_of(start + c, DT_X)], start + c, DT_X);
        sum += value * value;
    }
    let r = 1.0 / sqrt(block_sum(sum, thread) / f32(params.columns) + params.eps);
    if (thread == 0u) {
        rstd[row] = r;
    }
    // [2] normalise and scale, a word at a time
    let step = per_word(DT_Y);
    for (var c = thread * step; c < params.columns; c += 256u * step) {
        var out: array<f32, 2>;
        for (var lane = 0u; lane < step; lane++) {
            let i = start + c + lane;
            let w = unpack(weight[word_of(c + lane, DT_WEIGHT)], c + lane, DT_WEIGHT);
            out[lane] = unpack(x[word_of(i, DT_X)], i, DT_X) * r * (w + params.offset);
        }
        y[word_of(start + c, DT_Y)] = pack(out[0], out[1], DT_Y);
    }
}

@compute @workgroup_size(256)
fn rms_norm_bwd_dx(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = block_number(block, grid);
    if (row >= params.rows) {
        return;
    }
    let start = row * params.columns;
    let r = bwd_rstd[row];
    // [1] mean of g * n, where g = dy * w and n = x * rstd
    var sum = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        let g = unpack(dy[word_of(start + c, DT_DY)], start + c, DT_DY)
            * (unpack(bwd_weight[word_of(c, DT_WEIGHT)], c, DT_WEIGHT) + params.offset);
        sum += g * unpack(bwd_x[word_of(start + c, DT_X)], start + c, DT_X) * r;
    }
    let mean = block_sum(sum, thread) / f32(params.columns);
    // [2] dx, a word at a time
    let step = per_word(DT_DX);
    for (var c = thread * step; c < params.columns; c += 256u * step) {
        var out: array<f32, 2>;
        for (var lane = 0u; lane < step; lane++) {
            let i = start + c + lane;
            let w = unpack(bwd_weight[word_of(c + lane, DT_WEIGHT)], c + lane, DT_WEIGHT);
            let g = unpack(dy[word_of(i, DT_DY)], i, DT_DY) * (w + params.offset);
            out[lane] = r * (g - unpack(bwd_x[word_of(i, DT_X)], i, DT_X) * r * mean);
        }
        dx[word_of(start + c, DT_DX)] = pack(out[0], out[1], DT_DX);
    }
}

@compute @workgroup_size(256)
fn rms_norm_bwd_dw(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the column this thread owns
    let c = block_number(block, grid) * 256u + thread;
    if (c >= params.columns) {
        return;
    }
    // [2] down the rows
    var sum = 0.0;
    for (var row = 0u; row < params.rows; row++) {
        let i = row * params.columns + c;
        sum += unpack(dy[word_of(i, DT_DY)], i, DT_DY)
            * unpack(bwd_x[word_of(i, DT_X)], i, DT_X) * dw_rstd[row];
    }
    dw[c] = sum;
}

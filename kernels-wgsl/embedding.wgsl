// Token embedding: rows of a table, and the gradient of the table.
//
//   fwd   out[t,c] = weight[ids[t],c]
//   bwd   dw[id,c] += sum over tokens t of that id, in token order, of dout[t,c]
//
// Tensors   weight [V, C] (or a slab of its rows from params.first on), ids [T], out, dout [T, C]:
//           f32 | bf16 | f16; dw [V, C] (or a slab): f32
//           order [T]: tokens sorted by id; starts [U + 1]: where each id's tokens begin in it;
//           unique_ids [U]
// Mapping   fwd: a thread owns one word of out. bwd: a thread owns one column of one id's row
// Launch    grid ceil(words / 256) or ceil(U * C / 256), block 256; the host checks the ids
// Cost      fwd 2 T C, bwd T C + 2 U C elements moved: bound by memory bandwidth
// Numerics  fwd copies; bwd adds into dw in a fixed order: deterministic, no atomics
// Twin      kernels-cuda/embedding.cu. Reference: src/ops/embedding.rs

struct Params {
    first: u32,
    rows: u32,
    columns: u32,
    tokens: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<u32>; // [rows, columns]
@group(0) @binding(1) var<storage, read> ids: array<u32>; // [T]
@group(0) @binding(2) var<storage, read_write> out: array<u32>; // [T, columns]

@group(0) @binding(0) var<storage, read> dout: array<u32>; // [T, columns]
@group(0) @binding(1) var<storage, read> order: array<u32>; // [T]
@group(0) @binding(2) var<storage, read> starts: array<u32>; // [rows + 1]
@group(0) @binding(3) var<storage, read> unique_ids: array<u32>; // [rows]
@group(0) @binding(4) var<storage, read_write> dw: array<f32>; // [slab, columns]

@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn embedding_fwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the word this thread owns
    let words = params.columns / per_word(DT_OUT);
    let word = block_number(block, grid) * 256u + thread;
    let t = word / words;
    if (t >= params.tokens) {
        return;
    }
    // [2] copy it, if its row is in this slab; table and output have one dtype
    let row = ids[t] - params.first;
    if (ids[t] >= params.first && row < params.rows) {
        out[word] = weight[row * words + word % words];
    }
}

@compute @workgroup_size(256)
fn embedding_bwd(
    @builtin(workgroup_id) block: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    // [1] the column this thread owns
    let index = block_number(block, grid) * 256u + thread;
    let u = index / params.columns;
    let c = index % params.columns;
    if (u >= params.rows) {
        return;
    }
    // [2] add the id's tokens, in order
    let target_index = (unique_ids[u] - params.first) * params.columns + c;
    var sum = dw[target_index];
    for (var n = starts[u]; n < starts[u + 1u]; n++) {
        let i = order[n] * params.columns + c;
        sum += unpack(dout[word_of(i, DT_DOUT)], i, DT_DOUT);
    }
    dw[target_index] = sum;
}

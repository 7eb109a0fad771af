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
// Twin      kernels-wgsl/embedding.wgsl. Reference: src/ops/embedding.rs

struct Params {
    u32 first;
    u32 rows;
    u32 columns;
    u32 tokens;
};

extern "C" __global__ void __launch_bounds__(256)
embedding_fwd(const u32* weight, const u32* ids, u32* out, Params params) {
    // [1] the word this thread owns
    u32 words = params.columns / per_word(DT_OUT);
    u32 word = block_number() * 256 + threadIdx.x;
    u32 t = word / words;
    if (t >= params.tokens) return;
    // [2] copy it, if its row is in this slab; table and output have one dtype
    u32 row = ids[t] - params.first;
    if (ids[t] >= params.first && row < params.rows) {
        out[word] = weight[row * words + word % words];
    }
}

extern "C" __global__ void __launch_bounds__(256)
embedding_bwd(const void* dout, const u32* order, const u32* starts, const u32* unique_ids, float* dw,
              Params params) {
    // [1] the column this thread owns
    u32 index = block_number() * 256 + threadIdx.x;
    u32 u = index / params.columns;
    u32 c = index % params.columns;
    if (u >= params.rows) return;
    // [2] add the id's tokens, in order
    u32 target_index = (unique_ids[u] - params.first) * params.columns + c;
    float sum = dw[target_index];
    for (u32 n = starts[u]; n < starts[u + 1]; n++) {
        sum += load<DT_DOUT>(dout, order[n] * params.columns + c);
    }
    dw[target_index] = sum;
}

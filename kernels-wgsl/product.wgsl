// The parameters of the matrix product's versions; the names of the layouts NT, NN, TN come from the host.
// Twin: kernels-cuda/product.cuh

struct Params {
    M: u32,
    N: u32,
    K: u32,
    alpha: f32,
}

// Of the versions that can split K.
struct SplitParams {
    M: u32,
    N: u32,
    K: u32,
    alpha: f32,
    depth: u32, // k of a split
}

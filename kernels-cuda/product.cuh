// The parameters of the matrix product's versions; the names of the layouts NT, NN, TN come from the host.
// Twin: kernels-wgsl/product.wgsl

struct Params {
    u32 M;
    u32 N;
    u32 K;
    float alpha;
};

// Of the versions that can split K.
struct SplitParams {
    u32 M;
    u32 N;
    u32 K;
    float alpha;
    u32 depth; // k of a split
};

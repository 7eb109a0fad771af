// The parameters of the kernels of NF4 weights.

struct Params {
    u32 count; // elements
    u32 blocksize;
    u32 nested_blocksize;
    u32 zero; // for the WGSL twin
};

// Of a product with one.
struct ProductParams {
    u32 M;
    u32 N;
    u32 K;
    u32 blocksize;
    u32 nested_blocksize;
    u32 zero; // for the WGSL twin
};

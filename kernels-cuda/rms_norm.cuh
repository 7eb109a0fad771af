// The parameters of RMSNorm's kernels.

struct Params {
    u32 rows;
    u32 columns;
    float eps;
    float offset; // of the weight: 0, or Gemma's 1
};

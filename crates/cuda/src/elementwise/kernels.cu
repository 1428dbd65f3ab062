// Small passes between the large ones: copies of blocks of matrices, masks, sums of partial sums.

#include "prelude.cuh"

constexpr int THREADS = 256;

// out[i] = values[i]·mask[i % period]; `values` may be `out`.
struct MaskArgs {
    const float *values;
    const float *mask;
    float *out;             // overwritten
    uint64_t len;
    uint64_t period;
};
static_assert(sizeof(MaskArgs) == 40);

KERNEL(elementwise_mask, MaskArgs, 256) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i < args.len) args.out[i] = args.values[i] * args.mask[i % args.period];
}

// Block j of `count`: rows of `width` floats from `from` + j-th source, to `to` + j-th place.
constexpr int BLOCKS = 64;

struct CopyArgs {
    const float *from[BLOCKS];
    float *to[BLOCKS];          // overwritten
    uint32_t rows;
    uint32_t width;
    uint32_t from_stride;
    uint32_t to_stride;
};
static_assert(sizeof(CopyArgs) == 1040);

// blockIdx.y: the block of the matrix; blockIdx.x: pieces of it.
KERNEL(elementwise_copy, CopyArgs, 256) {
    size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= size_t(args.rows) * args.width) return;
    size_t row = i / args.width, column = i % args.width;
    args.to[blockIdx.y][row * args.to_stride + column] = args.from[blockIdx.y][row * args.from_stride + column];
}

// out = factor·Σ partial, a thread every THREADS-th, threads in a fixed order.
struct SumArgs {
    const double *partial;
    double *out;            // [1], overwritten
    double factor;
    uint64_t len;
};
static_assert(sizeof(SumArgs) == 32);

KERNEL(elementwise_sum, SumArgs, 256) {
    DYN_SMEM(double, shared);
    double sum = 0.0;
    for (uint64_t i = threadIdx.x; i < args.len; i += THREADS) sum += args.partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *args.out = args.factor * sum;
}

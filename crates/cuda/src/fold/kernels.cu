// Adds up the partial sums that the blocks of another kernel left, in f64. Knows no operation.
//
// Axes: B blocks, L sums. partials [B, L] f32; sums [L], overwritten: f64, or f32 for gradients of weights. One entry per pair
// of them.
#include "prelude.cuh"

#define FOLD_ENTRIES 128
// Columns of a block, and the threads that share one.
#define FOLD_COLUMNS 32
#define FOLD_ROWS 8

struct FoldEntry {
    const float *partials;
    void *sums;
    uint32_t blocks, len;
};

struct FoldArgs {
    FoldEntry entry[FOLD_ENTRIES];
};
static_assert(sizeof(FoldArgs) == 24 * FOLD_ENTRIES, "layout of FoldArgs");

template <typename T>
DEVICE void fold_entry(const FoldEntry &entry, double *shared) {
    uint32_t column = blockIdx.x * FOLD_COLUMNS + threadIdx.x % FOLD_COLUMNS;
    uint32_t row = threadIdx.x / FOLD_COLUMNS;
    double sum = 0.0;
    if (column < entry.len) {
#pragma unroll 4
        for (uint32_t block = row; block < entry.blocks; block += FOLD_ROWS) {
            sum += (double)entry.partials[(size_t)block * entry.len + column];
        }
    }
    shared[threadIdx.x] = sum;
    BARRIER();
    if (row == 0 && column < entry.len) {
        for (uint32_t other = 1; other < FOLD_ROWS; other++) sum += shared[other * FOLD_COLUMNS + threadIdx.x];
        static_cast<T *>(entry.sums)[column] = (T)sum;
    }
}

// Grid: runs of FOLD_COLUMNS sums of the longest entry, entries.
KERNEL(fold_partials, FoldArgs, 256) {
    DYN_SMEM(double, shared);
    fold_entry<double>(args.entry[blockIdx.y], shared);
}

KERNEL(fold_weights, FoldArgs, 256) {
    DYN_SMEM(double, shared);
    fold_entry<float>(args.entry[blockIdx.y], shared);
}

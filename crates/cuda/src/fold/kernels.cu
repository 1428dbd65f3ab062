// Adds up the partial sums that the blocks of another kernel left, in f64. Knows no operation.
//
// Axes: B blocks, L sums. partials [B, L] f32; sums [L], overwritten: f64, or f32 for gradients of weights. One entry per pair
// of them.
#include "prelude.cuh"

#define FOLD_ENTRIES 128
#define FOLD_THREADS 256
// Columns of a block: of few sums of many blocks a sector of memory, of the many gradients of weights more.
#define FOLD_COLUMNS 8
#define FOLD_WEIGHTS_COLUMNS 32
// Partial sums that a thread loads at once.
#define FOLD_AHEAD 8

struct FoldEntry {
    const float *partials;
    void *sums;
    uint32_t blocks, len;
};

struct FoldArgs {
    FoldEntry entry[FOLD_ENTRIES];
};
static_assert(sizeof(FoldArgs) == 24 * FOLD_ENTRIES, "layout of FoldArgs");

template <typename T, uint32_t COLUMNS>
DEVICE void fold_entry(const FoldEntry &entry, double *shared) {
    // Threads that share a column.
    constexpr uint32_t ROWS = FOLD_THREADS / COLUMNS;
    uint32_t column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
    uint32_t row = threadIdx.x / COLUMNS;
    double sum = 0.0;
    if (column < entry.len) {
        const float *from = entry.partials + column;
        for (uint32_t block = row; block < entry.blocks; block += FOLD_AHEAD * ROWS) {
            // Loads first, all at once: their latencies overlap.
            float part[FOLD_AHEAD];
#pragma unroll
            for (uint32_t i = 0; i < FOLD_AHEAD; i++) {
                uint32_t at = block + i * ROWS;
                part[i] = at < entry.blocks ? from[(size_t)at * entry.len] : 0.0f;
            }
#pragma unroll
            for (uint32_t i = 0; i < FOLD_AHEAD; i++) sum += (double)part[i];
        }
    }
    shared[threadIdx.x] = sum;
    for (uint32_t half = ROWS / 2; half > 0; half /= 2) {
        BARRIER();
        if (row < half) shared[threadIdx.x] += shared[threadIdx.x + half * COLUMNS];
    }
    if (row == 0 && column < entry.len) static_cast<T *>(entry.sums)[column] = (T)shared[threadIdx.x];
}

// Grid: runs of columns of the longest entry, entries.
KERNEL(fold_partials, FoldArgs, FOLD_THREADS) {
    DYN_SMEM(double, shared);
    fold_entry<double, FOLD_COLUMNS>(args.entry[blockIdx.y], shared);
}

KERNEL(fold_weights, FoldArgs, FOLD_THREADS) {
    DYN_SMEM(double, shared);
    fold_entry<float, FOLD_WEIGHTS_COLUMNS>(args.entry[blockIdx.y], shared);
}

// Adds up the partial sums that the blocks of another kernel left, in f64. Knows no operation.
//
// Axes: B blocks, L sums. partials [B, L] f32; sums [L], overwritten: f64, or f32 for gradients of weights. One entry per pair
// of them.
#include "fold.cuh"

#define FOLD_ENTRIES 128
#define FOLD_THREADS 256
// Columns of a block: of few sums of many blocks a sector of memory, of the many gradients of weights more.
#define FOLD_COLUMNS 8
#define FOLD_WEIGHTS_COLUMNS 32

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
    double sum = column < entry.len ? fold_column<ROWS>(entry.partials, entry.blocks, entry.len, column, row) : 0.0;
    fold_rows<ROWS, COLUMNS>(shared, sum);
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

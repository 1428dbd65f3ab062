// Adds up the partial sums that the blocks of another kernel left, in f64 and an order that depends on their number alone.
//
// Axes: B blocks, L sums. partials [B, L] f32.
#pragma once
#include "prelude.cuh"

// Partial sums that a thread loads at once.
#define FOLD_AHEAD 8

// Sum of every `ROWS`th partial sum of a column, from `row` on.
template <uint32_t ROWS>
DEVICE double fold_column(const float *partials, uint32_t blocks, uint32_t len, uint32_t column, uint32_t row) {
    double sum = 0.0;
    const float *from = partials + column;
    for (uint32_t block = row; block < blocks; block += FOLD_AHEAD * ROWS) {
        // Loads first, all at once: their latencies overlap.
        float part[FOLD_AHEAD];
#pragma unroll
        for (uint32_t i = 0; i < FOLD_AHEAD; i++) {
            uint32_t at = block + i * ROWS;
            part[i] = at < blocks ? from[(size_t)at * len] : 0.0f;
        }
#pragma unroll
        for (uint32_t i = 0; i < FOLD_AHEAD; i++) sum += (double)part[i];
    }
    return sum;
}

// Adds up what the ROWS threads of each of COLUMNS columns bring: thread row * COLUMNS + column. Then shared[column] is the
// sum, for the threads of row 0. All threads of the block call this.
template <uint32_t ROWS, uint32_t COLUMNS>
DEVICE void fold_rows(double *shared, double sum) {
    uint32_t row = threadIdx.x / COLUMNS;
    shared[threadIdx.x] = sum;
    for (uint32_t half = ROWS / 2; half > 0; half /= 2) {
        BARRIER();
        if (row < half) shared[threadIdx.x] += shared[threadIdx.x + half * COLUMNS];
    }
}

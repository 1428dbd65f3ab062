// Arguments of products, and what all tiles share.

#pragma once

#include "prelude.cuh"

constexpr int THREADS = 256;

struct MatmulArgs {
    const float *a;
    const float *b;
    float *out;           // [M, N], overwritten or accumulated; with splits [splits, M, N], overwritten
    const float *scale;   // [M, N] or none: 1
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t a_row;       // floats from a row to the next
    uint32_t a_column;    // and from a column to the next
    uint32_t b_row;
    uint32_t b_column;
    uint32_t out_row;
    uint32_t split;       // k of one blockIdx.z
    uint32_t accumulate;
};
static_assert(sizeof(MatmulArgs) == 72);

// Where a thread's elements of a tile of lines × k lie: element j at line + j·line_step, depth + j·depth_step. Lines are rows of a
// or columns of b, depth is k. Neighbouring threads take neighbouring memory.
struct Walk {
    uint32_t line;
    uint32_t depth;
    uint32_t line_step;
    uint32_t depth_step;
};

// The steps of k [begin, end) of a block.
struct Range {
    uint32_t begin;
    uint32_t end;
};

DEVICE Range range_of_block(const MatmulArgs &args) {
    uint32_t begin = blockIdx.z * args.split;
    return Range{begin, args.k - begin < args.split ? args.k : begin + args.split};
}

// Writes a sum to its place, if the output reaches that far.
DEVICE void put(const MatmulArgs &args, uint32_t row, uint32_t column, float value) {
    if (row >= args.m || column >= args.n) return;
    if (args.scale) value *= args.scale[size_t(row) * args.n + column];
    float *out = args.out + size_t(blockIdx.z) * args.m * args.n;
    float *place = out + size_t(row) * args.out_row + column;
    *place = args.accumulate ? *place + value : value;
}

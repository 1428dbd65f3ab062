// A tile of a product on CUDA cores, in f32. A thread owns TM × TN sums.

#pragma once

#include "args.cuh"

template <int LINES, int DEPTH> DEVICE Walk walk(bool along_depth) {
    static_assert(THREADS % LINES == 0 && THREADS % DEPTH == 0);
    uint32_t t = threadIdx.x;
    if (along_depth) return Walk{t / DEPTH, t % DEPTH, THREADS / DEPTH, 0};
    return Walk{t % LINES, t / LINES, 0, THREADS / LINES};
}

// Bit j: line + j·line_step is one of the `lines` that there are.
template <int COUNT> DEVICE uint32_t valid_lines(Walk walk, uint32_t lines) {
    uint32_t valid = 0;
    for (int j = 0; j < COUNT; j++) valid |= uint32_t(walk.line + j * walk.line_step < lines) << j;
    return valid;
}

// A thread's elements of the tile at `source`, of which `left` steps of k remain.
template <int COUNT>
DEVICE void fetch(float (&held)[COUNT], const float *source, size_t step, uint32_t valid, Walk walk, uint32_t left) {
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        bool inside = (valid >> j & 1) && walk.depth + j * walk.depth_step < left;
        held[j] = inside ? source[j * step] : 0.0f;
    }
}

// Puts them into a tile [k][line].
template <int COUNT, int PITCH> DEVICE void keep(const float (&held)[COUNT], float *tile, Walk walk) {
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        tile[(walk.depth + j * walk.depth_step) * PITCH + walk.line + j * walk.line_step] = held[j];
}

// `values` of a thread's part of a row of a tile: groups of four, SPREAD apart, so that neighbouring threads read neighbouring
// words and no bank twice.
template <int COUNT, int SPREAD> DEVICE void part_of_row(float (&values)[COUNT], const float *row) {
#pragma unroll
    for (int group = 0; group < COUNT / 4; group++) {
        float4 four = load4(row + group * SPREAD);
        values[4 * group] = four.x;
        values[4 * group + 1] = four.y;
        values[4 * group + 2] = four.z;
        values[4 * group + 3] = four.w;
    }
}

template <int BM, int BN, int BK, int TM, int TN, int SLICES> DEVICE void multiply_tile(const MatmulArgs &args, float *shared) {
    constexpr int PER_SLICE = THREADS / SLICES, ACROSS = BN / TN, DEPTH = BK / SLICES;
    constexpr int A_PITCH = BM + 4, B_PITCH = BN + 4, STAGE = BK * (A_PITCH + B_PITCH);
    constexpr int A_COUNT = BM * BK / THREADS, B_COUNT = BN * BK / THREADS;
    // Output rows and columns of a thread come in groups of four, this far apart.
    constexpr int ROW_SPREAD = 4 * BM / TM, COLUMN_SPREAD = 4 * BN / TN;
    static_assert(BM / TM * ACROSS == PER_SLICE && ACROSS % 8 == 0 && PER_SLICE % 32 == 0);
    static_assert((SLICES - 1) * BM * BN <= 2 * STAGE, "the slices' sums fit where the tiles were");

    uint32_t first_row = blockIdx.y * BM, first_column = blockIdx.x * BN;
    Range range = range_of_block(args);
    uint32_t begin = range.begin, end = range.end;

    Walk a_walk = walk<BM, BK>(args.a_column == 1), b_walk = walk<BN, BK>(args.b_row == 1);
    uint32_t a_valid = valid_lines<A_COUNT>(a_walk, args.m - first_row);
    uint32_t b_valid = valid_lines<B_COUNT>(b_walk, args.n - first_column);
    size_t a_step = size_t(a_walk.line_step) * args.a_row + size_t(a_walk.depth_step) * args.a_column;
    size_t b_step = size_t(b_walk.line_step) * args.b_column + size_t(b_walk.depth_step) * args.b_row;
    const float *a = args.a + size_t(first_row + a_walk.line) * args.a_row + size_t(begin + a_walk.depth) * args.a_column;
    const float *b = args.b + size_t(first_column + b_walk.line) * args.b_column + size_t(begin + b_walk.depth) * args.b_row;

    // Eight threads of a warp side by side and four below each other read the fewest words from shared memory.
    uint32_t slice = threadIdx.x / PER_SLICE, local = threadIdx.x % PER_SLICE;
    uint32_t warp_of_slice = local / 32;
    uint32_t across = warp_of_slice % (ACROSS / 8) * 8 + local % 8;
    uint32_t down = warp_of_slice / (ACROSS / 8) * 4 + local % 32 / 8;

    float sums[TM][TN];
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) sums[i][j] = 0.0f;

    float a_held[A_COUNT], b_held[B_COUNT];
    fetch(a_held, a, a_step, a_valid, a_walk, end - begin);
    fetch(b_held, b, b_step, b_valid, b_walk, end - begin);
    float *stage = shared;
    keep<A_COUNT, A_PITCH>(a_held, stage, a_walk);
    keep<B_COUNT, B_PITCH>(b_held, stage + BK * A_PITCH, b_walk);
    BARRIER();
    for (uint32_t at = begin; at < end; at += BK) {
        bool more = end - at > BK;
        if (more) {
            a += size_t(BK) * args.a_column;
            b += size_t(BK) * args.b_row;
            fetch(a_held, a, a_step, a_valid, a_walk, end - at - BK);
            fetch(b_held, b, b_step, b_valid, b_walk, end - at - BK);
        }
        const float *a_tile = stage + slice * DEPTH * A_PITCH + down * 4;
        const float *b_tile = stage + BK * A_PITCH + slice * DEPTH * B_PITCH + across * 4;
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float rows[TM], columns[TN];
            part_of_row<TM, ROW_SPREAD>(rows, a_tile + k * A_PITCH);
            part_of_row<TN, COLUMN_SPREAD>(columns, b_tile + k * B_PITCH);
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) sums[i][j] = fmaf(rows[i], columns[j], sums[i][j]);
        }
        // The other stage was last read before the barrier that ended the turn before.
        stage = stage == shared ? shared + STAGE : shared;
        if (more) {
            keep<A_COUNT, A_PITCH>(a_held, stage, a_walk);
            keep<B_COUNT, B_PITCH>(b_held, stage + BK * A_PITCH, b_walk);
        }
        BARRIER();
    }

    if (SLICES > 1) {
        float *rest = shared;
        if (slice > 0) {
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++)
                    rest[((slice - 1) * TM * TN + i * TN + j) * PER_SLICE + local] = sums[i][j];
        }
        BARRIER();
        if (slice > 0) return;
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++)
                for (int other = 0; other < SLICES - 1; other++)
                    sums[i][j] += rest[(other * TM * TN + i * TN + j) * PER_SLICE + local];
    }

#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++)
            put(args, first_row + down * 4 + i / 4 * ROW_SPREAD + i % 4,
                first_column + across * 4 + j / 4 * COLUMN_SPREAD + j % 4, sums[i][j]);
}

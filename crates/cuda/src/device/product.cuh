// Products of matrices in shared memory, in f32. Knows no operation.
//
// Axes: P pixels (innermost in shared memory, rows of `pitch` floats), K the axis that is summed over, C columns of the
// result. A thread owns V times four neighbouring pixels and four neighbouring columns of the result.
#pragma once
#include "quads.cuh"

// Whether the lanes of a warp share columns, so that `warp_column_sums` can add over them.
DEVICE bool shares_interleave(uint32_t columns) { return columns % 4 == 0; }

// Which four columns and which group of pixels a thread owns. The lanes of a warp are 4 columns x 8 groups where that
// comes out even, interleaved such that neighbouring lanes read the same 16 bytes of one operand or of the other.
struct Share {
    uint32_t column, group;
    bool active;
};

// `run` and `rest`: of the warp divided by columns / 4 where lanes interleave, else of the thread divided by columns.
DEVICE Share share_at(uint32_t thread, uint32_t columns, uint32_t groups, uint32_t run, uint32_t rest) {
    Share mine;
    if (shares_interleave(columns)) {
        uint32_t l = thread & 31;
        mine.column = rest * 4 + ((l >> 1) & 1) + ((l >> 2) & 2);
        mine.group = run * 8 + (l & 1) + ((l >> 1) & 2) + ((l >> 2) & 4);
    } else {
        mine.group = run;
        mine.column = rest;
    }
    mine.active = mine.group < groups;
    return mine;
}

DEVICE Share share(uint32_t thread, uint32_t columns, uint32_t groups) {
    uint32_t i = shares_interleave(columns) ? thread >> 5 : thread, by = shares_interleave(columns) ? columns / 4 : columns;
    return share_at(thread, columns, groups, i / by, i % by);
}

// The same with the magic that `quotient` divides by.
DEVICE Share share(uint32_t thread, uint32_t columns, uint32_t groups, uint32_t magic) {
    uint32_t i = shares_interleave(columns) ? thread >> 5 : thread, by = shares_interleave(columns) ? columns / 4 : columns;
    uint32_t run = quotient(i, magic);
    return share_at(thread, columns, groups, run, i - run * by);
}

// acc[4*v + j][c] += sum over k of a[k][v*half + j] * b[k][c]; a [K, pitch_a] at the thread's first pixel, b [K, pitch_b] at
// its first column. A and B: the pitches, where they are constants; addresses then take no instructions.
template <int V, int A = 0, int B = 0>
DEVICE void multiply(const float *a, uint32_t pitch_a, uint32_t half, const float *b, uint32_t pitch_b, uint32_t depth,
                     float (&acc)[4 * V][4]) {
    uint32_t step_a = A ? A : pitch_a, step_b = B ? B : pitch_b;
#pragma unroll(V == 1 ? 4 : 2)
    for (uint32_t k = 0; k < depth; k++, a += step_a, b += step_b) {
        float4 columns = load4(b);
#pragma unroll
        for (int v = 0; v < V; v++) {
            float4 pixels = load4(a + v * half);
            const float p[4] = {pixels.x, pixels.y, pixels.z, pixels.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float(&to)[4] = acc[4 * v + j];
                to[0] = fmaf(p[j], columns.x, to[0]);
                to[1] = fmaf(p[j], columns.y, to[1]);
                to[2] = fmaf(p[j], columns.z, to[2]);
                to[3] = fmaf(p[j], columns.w, to[3]);
            }
        }
    }
}

// Products of rows, summed over pixels: acc[i][j] += sum over the quads first, first + step, ... < quads of
// a[i*rows_a][.] . b[j*rows_b][.], with a and b at the thread's first rows.
DEVICE void multiply_rows(const float *a, uint32_t pitch_a, uint32_t rows_a, const float *b, uint32_t pitch_b,
                          uint32_t rows_b, uint32_t first, uint32_t step, uint32_t quads, float (&acc)[4][4]) {
    const float *end = a + 4 * quads;
    a += 4 * first;
    b += 4 * first;
    for (; a < end; a += 4 * step, b += 4 * step) {
        float4 columns[4];
#pragma unroll
        for (int j = 0; j < 4; j++) columns[j] = load4(b + j * rows_b * pitch_b);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 row = load4(a + i * rows_a * pitch_a);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float sum = fmaf(row.x, columns[j].x, acc[i][j]);
                sum = fmaf(row.y, columns[j].y, sum);
                sum = fmaf(row.z, columns[j].z, sum);
                acc[i][j] = fmaf(row.w, columns[j].w, sum);
            }
        }
    }
}

// Of every lane's sums and sums of squares of its four columns, those over the eight lanes of the warp that have the same columns,
// whose numbers differ in the bits X, Y and Z: one of the eight for each lane, `column_sum_lane` says which. Called by all lanes.
template <int X, int Y, int Z> DEVICE float warp_column_sum(const float (&sum)[4], const float (&square)[4]) {
    // Each time, one of two lanes keeps half of what both have.
    bool squares = lane() & X, high = lane() & Y, odd = lane() & Z;
    float four[4], two[2];
#pragma unroll
    for (int c = 0; c < 4; c++) {
        float other = warp_xor(squares ? sum[c] : square[c], X);
        four[c] = (squares ? square[c] : sum[c]) + other;
    }
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float other = warp_xor(high ? four[c] : four[2 + c], Y);
        two[c] = (high ? four[2 + c] : four[c]) + other;
    }
    float other = warp_xor(odd ? two[0] : two[1], Z);
    return (odd ? two[1] : two[0]) + other;
}

// Among those eight lanes, the bits of the one that has the sum, or the sum of squares, of this one of the four columns.
template <int X, int Y, int Z> DEVICE uint32_t column_sum_lane(uint32_t column, bool square) {
    return (square ? X : 0) + (column & 2 ? Y : 0) + (column & 1 ? Z : 0);
}

// Sums and sums of squares per column over a block: every active thread brings those of its pixels. Columns [0, count)
// are written to `to` and `to + stride`. `shared` has 2 * columns * 4 * groups + 256 floats; called by all threads,
// contains barriers and begins with one, so `shared` may be what the product has just read.
DEVICE void column_sums(Share mine, uint32_t columns, uint32_t groups, const float (&sum)[4], const float (&square)[4],
                        float *shared, float *to, uint32_t stride, uint32_t count) {
    uint32_t rows = 2 * 4 * columns;
    BARRIER();
    if (mine.active) {
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t row = 4 * mine.column + j;
            shared[row * groups + mine.group] = sum[j];
            shared[(4 * columns + row) * groups + mine.group] = square[j];
        }
    }
    BARRIER();
    uint32_t parts = blockDim.x / rows;
    uint32_t row = threadIdx.x / parts, part = threadIdx.x % parts;
    float *again = shared + rows * groups;
    float total = 0.0f;
    if (row < rows) {
        for (uint32_t group = part; group < groups; group += parts) total += shared[row * groups + group];
    }
    again[threadIdx.x] = total;
    BARRIER();
    if (row < rows && part == 0) {
        for (uint32_t other = 1; other < parts; other++) total += again[threadIdx.x + other];
        uint32_t column = row % (4 * columns);
        if (column < count) to[(row / (4 * columns)) * stride + column] = total;
    }
}

// A tile of a product on tensor cores: factors are rounded to tf32 or bfloat16 on their way into shared memory, sums are f32. A
// warp owns WM × WN sums.
//
// A tile of a factor is SIDE lines of WORDS words of k: a word is one number in tf32, two neighbours in bfloat16. It lies as the
// factor lies in memory, [line][k] or [k][line]; rows are padded such that neither the loads of operands nor ldmatrix meet a
// bank twice.

#pragma once

#include "args.cuh"
#include "mma.cuh"

constexpr int WORDS = 16, PITCH = WORDS + 4;

template <Operand OPERAND, int SIDE> struct Shape {
    static constexpr int PER_WORD = OPERAND == BF16 ? 2 : 1;
    static constexpr int DEPTH = WORDS * PER_WORD;
    static constexpr int ACROSS = SIDE / PER_WORD;                         // words of a row [k][line]
    static constexpr int ACROSS_PITCH = ACROSS + (OPERAND == BF16 ? 4 : 8);
    static constexpr int COUNT = SIDE * WORDS / THREADS;                   // words of a thread
    static constexpr int LEN = SIDE * PITCH;                               // words of shared memory
    static_assert(DEPTH * ACROSS_PITCH <= LEN && THREADS % WORDS == 0 && THREADS % ACROSS == 0);
};

// Where a thread's words lie, by their first element.
template <typename SHAPE> DEVICE Walk word_walk(bool along_depth) {
    uint32_t t = threadIdx.x;
    if (along_depth) return Walk{t / WORDS, t % WORDS * SHAPE::PER_WORD, THREADS / WORDS, 0};
    return Walk{t % SHAPE::ACROSS * SHAPE::PER_WORD, t / SHAPE::ACROSS, 0, THREADS / SHAPE::ACROSS};
}

// A thread's elements of the tile at `source`, of which `lines` lines and `left` steps of k remain. Elements of a word are
// neighbours in memory.
template <typename SHAPE>
DEVICE void fetch_words(float (&held)[SHAPE::COUNT][SHAPE::PER_WORD], const float *source, size_t step, bool along_depth, Walk walk,
                        uint32_t lines, uint32_t left) {
#pragma unroll
    for (int j = 0; j < SHAPE::COUNT; j++)
#pragma unroll
        for (int e = 0; e < SHAPE::PER_WORD; e++) {
            uint32_t line = walk.line + j * walk.line_step + (along_depth ? 0 : e);
            uint32_t depth = walk.depth + j * walk.depth_step + (along_depth ? e : 0);
            held[j][e] = line < lines && depth < left ? source[j * step + e] : 0.0f;
        }
}

template <typename SHAPE>
DEVICE void keep_words(const float (&held)[SHAPE::COUNT][SHAPE::PER_WORD], uint32_t *tile, bool along_depth, Walk walk) {
#pragma unroll
    for (int j = 0; j < SHAPE::COUNT; j++) {
        uint32_t line = walk.line + j * walk.line_step, depth = walk.depth + j * walk.depth_step;
        uint32_t at = along_depth ? line * PITCH + depth / SHAPE::PER_WORD
                                  : depth * SHAPE::ACROSS_PITCH + line / SHAPE::PER_WORD;
        if constexpr (SHAPE::PER_WORD == 2) tile[at] = pack_bf16(held[j][0], held[j][1]);
        else tile[at] = to_tf32(held[j][0]);
    }
}

// A[16][one step of k] from row `row` and step `k` of a tile.
template <typename SHAPE> DEVICE FragmentA operand_a(const uint32_t *tile, bool along_depth, uint32_t row, uint32_t k) {
    if constexpr (SHAPE::PER_WORD == 2) {
        const bf16 *halves = reinterpret_cast<const bf16 *>(tile);
        if (along_depth) return load_a(halves + row * 2 * PITCH + k, 2 * PITCH);
        return load_a_transposed(halves + k * 2 * SHAPE::ACROSS_PITCH + row, 2 * SHAPE::ACROSS_PITCH);
    } else {
        uint32_t by_line = along_depth ? PITCH : 1, by_depth = along_depth ? 1 : SHAPE::ACROSS_PITCH;
        const uint32_t *p = tile + (row + lane() / 4) * by_line + (k + lane() % 4) * by_depth;
        return FragmentA{{p[0], p[8 * by_line], p[4 * by_depth], p[8 * by_line + 4 * by_depth]}};
    }
}

// B[one step of k][16] from step `k` and column `column` of a tile, as two fragments.
template <typename SHAPE>
DEVICE void operand_b(FragmentB &left, FragmentB &right, const uint32_t *tile, bool along_depth, uint32_t k, uint32_t column) {
    if constexpr (SHAPE::PER_WORD == 2) {
        const bf16 *halves = reinterpret_cast<const bf16 *>(tile);
        if (along_depth) load_b(left, right, halves + column * 2 * PITCH + k, 2 * PITCH);
        else load_b_transposed(left, right, halves + k * 2 * SHAPE::ACROSS_PITCH + column, 2 * SHAPE::ACROSS_PITCH);
    } else {
        uint32_t by_line = along_depth ? PITCH : 1, by_depth = along_depth ? 1 : SHAPE::ACROSS_PITCH;
        const uint32_t *p = tile + (column + lane() / 4) * by_line + (k + lane() % 4) * by_depth;
        left = FragmentB{{p[0], p[4 * by_depth]}};
        right = FragmentB{{p[8 * by_line], p[8 * by_line + 4 * by_depth]}};
    }
}

template <Operand OPERAND, int SIDE, int WM, int WN, int SLICES>
DEVICE void multiply_tensors(const MatmulArgs &args, uint32_t *shared) {
    using SHAPE = Shape<OPERAND, SIDE>;
    constexpr int PER_SLICE = THREADS / SLICES, ROWS = WM / 16, COLUMNS = WN / 8;
    constexpr int STEP = 8 * SHAPE::PER_WORD, STEPS = SHAPE::DEPTH / STEP / SLICES;
    constexpr int STAGE = 2 * SHAPE::LEN;
    static_assert((SIDE / WM) * (SIDE / WN) * 32 == PER_SLICE && WM % 16 == 0 && WN % 16 == 0 && STEPS > 0);
    static_assert((SLICES - 1) * SIDE * SIDE <= 2 * STAGE, "the slices' sums fit where the tiles were");

    uint32_t first_row = blockIdx.y * SIDE, first_column = blockIdx.x * SIDE;
    Range range = range_of_block(args);
    bool a_along = args.a_column == 1, b_along = args.b_row == 1;
    Walk a_walk = word_walk<SHAPE>(a_along), b_walk = word_walk<SHAPE>(b_along);
    uint32_t a_lines = args.m - first_row, b_lines = args.n - first_column;
    size_t a_step = size_t(a_walk.line_step) * args.a_row + size_t(a_walk.depth_step) * args.a_column;
    size_t b_step = size_t(b_walk.line_step) * args.b_column + size_t(b_walk.depth_step) * args.b_row;
    const float *a =
        args.a + size_t(first_row + a_walk.line) * args.a_row + size_t(range.begin + a_walk.depth) * args.a_column;
    const float *b =
        args.b + size_t(first_column + b_walk.line) * args.b_column + size_t(range.begin + b_walk.depth) * args.b_row;

    uint32_t slice = threadIdx.x / PER_SLICE, local = threadIdx.x % PER_SLICE;
    uint32_t row = local / 32 / (SIDE / WN) * WM, column = local / 32 % (SIDE / WN) * WN;

    FragmentC sums[ROWS][COLUMNS];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) sums[i][j] = FragmentC{{0.0f, 0.0f, 0.0f, 0.0f}};

    float a_held[SHAPE::COUNT][SHAPE::PER_WORD], b_held[SHAPE::COUNT][SHAPE::PER_WORD];
    uint32_t *stage = shared;
    fetch_words<SHAPE>(a_held, a, a_step, a_along, a_walk, a_lines, range.end - range.begin);
    fetch_words<SHAPE>(b_held, b, b_step, b_along, b_walk, b_lines, range.end - range.begin);
    keep_words<SHAPE>(a_held, stage, a_along, a_walk);
    keep_words<SHAPE>(b_held, stage + SHAPE::LEN, b_along, b_walk);
    BARRIER();
    for (uint32_t at = range.begin; at < range.end; at += SHAPE::DEPTH) {
        bool more = range.end - at > SHAPE::DEPTH;
        if (more) {
            uint32_t left = range.end - at - SHAPE::DEPTH;
            a += size_t(SHAPE::DEPTH) * args.a_column;
            b += size_t(SHAPE::DEPTH) * args.b_row;
            fetch_words<SHAPE>(a_held, a, a_step, a_along, a_walk, a_lines, left);
            fetch_words<SHAPE>(b_held, b, b_step, b_along, b_walk, b_lines, left);
        }
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint32_t k = (slice * STEPS + step) * STEP;
            FragmentA rows[ROWS];
            FragmentB columns[COLUMNS];
#pragma unroll
            for (int i = 0; i < ROWS; i++) rows[i] = operand_a<SHAPE>(stage, a_along, row + 16 * i, k);
#pragma unroll
            for (int j = 0; j < COLUMNS; j += 2)
                operand_b<SHAPE>(columns[j], columns[j + 1], stage + SHAPE::LEN, b_along, k, column + 8 * j);
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    if constexpr (OPERAND == BF16) mma_bf16(sums[i][j], rows[i], columns[j]);
                    else mma_tf32(sums[i][j], rows[i], columns[j]);
                }
        }
        // The other stage was last read before the barrier that ended the turn before.
        stage = stage == shared ? shared + STAGE : shared;
        if (more) {
            keep_words<SHAPE>(a_held, stage, a_along, a_walk);
            keep_words<SHAPE>(b_held, stage + SHAPE::LEN, b_along, b_walk);
        }
        BARRIER();
    }

    if constexpr (SLICES > 1) {
        float *rest = reinterpret_cast<float *>(shared);
        if (slice > 0) {
#pragma unroll
            for (int i = 0; i < 4 * ROWS * COLUMNS; i++)
                rest[((slice - 1) * 4 * ROWS * COLUMNS + i) * PER_SLICE + local] =
                    sums[i / 4 / COLUMNS][i / 4 % COLUMNS].r[i % 4];
        }
        BARRIER();
        if (slice > 0) return;
#pragma unroll
        for (int i = 0; i < 4 * ROWS * COLUMNS; i++)
            for (int other = 0; other < SLICES - 1; other++)
                sums[i / 4 / COLUMNS][i / 4 % COLUMNS].r[i % 4] +=
                    rest[(other * 4 * ROWS * COLUMNS + i) * PER_SLICE + local];
    }

    row += first_row + lane() / 4;
    column += first_column + lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
#pragma unroll
            for (int r = 0; r < 4; r++) put(args, row + 16 * i + r / 2 * 8, column + 8 * j + r % 2, sums[i][j].r[r]);
}

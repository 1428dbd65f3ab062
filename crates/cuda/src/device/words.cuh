// Products of factors that lie in shared memory as the tensor cores take them. Knows no operation.
//
// A factor is lines of words. A line is a row of the first factor or a column of the second; a word is what an operand's
// register holds of the axis that is summed over: one number in tf32, two neighbours in bfloat16, the first in the lower half. So
// the operands of both are loaded alike. In f32, for products on CUDA cores, a word is the number as it is.
//
// Lines that nobody wrote make sums that nobody may use. Of what is summed over, whole steps of WORDS_OF_STEP are read: what is
// beyond the end must be 0.
#pragma once
#include "mma.cuh"
#include "quads.cuh"

constexpr uint32_t WORDS_OF_STEP = 8;

template <Operand OPERAND> constexpr uint32_t PER_WORD = OPERAND == BF16 ? 2 : 1;

// One number of each vector a word.
template <Operand OPERAND> DEVICE float4 words_of(float4 v) {
    static_assert(PER_WORD<OPERAND> == 1, "pairs of numbers are packed");
    if constexpr (OPERAND == F32) return v;
    return make_float4(float_of_bits(to_tf32(v.x)), float_of_bits(to_tf32(v.y)), float_of_bits(to_tf32(v.z)),
                       float_of_bits(to_tf32(v.w)));
}

DEVICE float word_of(float low, float high) { return float_of_bits(pack_bf16(low, high)); }

// Puts a tile of four pixels of four neighbouring rows, v[j] of row j, into a factor.
using Put = void (*)(float *to, uint32_t pitch, Tile4 at, const float4 (&v)[4]);

// Where rows are summed over: lines are pixels, `pitch` words from one row of words to the next.
template <Operand OPERAND> DEVICE void put_across(float *to, uint32_t pitch, Tile4 at, const float4 (&v)[4]) {
    float *first = to + 4 / PER_WORD<OPERAND> * at.quad * pitch + 4 * at.slot;
#pragma unroll
    for (uint32_t j = 0; j < 4; j += PER_WORD<OPERAND>) {
        float *row = first + j / PER_WORD<OPERAND> * pitch;
        if constexpr (OPERAND == BF16) {
            const float4 &low = v[j], &high = v[j + 1];
            put4(row, make_float4(word_of(low.x, high.x), word_of(low.y, high.y), word_of(low.z, high.z), word_of(low.w, high.w)));
        } else {
            put4(row, words_of<OPERAND>(v[j]));
        }
    }
}

// Where pixels are summed over: lines are rows, `pitch` words from one to the next.
template <Operand OPERAND> DEVICE void put_along(float *to, uint32_t pitch, Tile4 at, const float4 (&v)[4]) {
#pragma unroll
    for (uint32_t j = 0; j < 4; j++) {
        float *row = to + (4 * at.quad + j) * pitch + 4 / PER_WORD<OPERAND> * at.slot;
        if constexpr (OPERAND == BF16) store2(row, make_float2(word_of(v[j].x, v[j].y), word_of(v[j].z, v[j].w)));
        else put4(row, words_of<OPERAND>(v[j]));
    }
}

// Four neighbouring rows of one line, where rows are summed over.
template <Operand OPERAND> DEVICE void put_line(float *to, uint32_t pitch, uint32_t quad, uint32_t line, float4 v) {
    float *first = to + 4 / PER_WORD<OPERAND> * quad * pitch + line;
    if constexpr (OPERAND == BF16) {
        first[0] = word_of(v.x, v.y);
        first[pitch] = word_of(v.z, v.w);
    } else {
        float4 words = words_of<OPERAND>(v);
        first[0] = words.x;
        first[pitch] = words.y;
        first[2 * pitch] = words.z;
        first[3 * pitch] = words.w;
    }
}

// Word w of line l at p[l*line + w*word]. Loads meet no bank twice where word is 1 and line an odd multiple of 4, or where line is 1
// and word an odd multiple of 8.
struct Factor {
    const float *p;
    uint32_t line, word;
};

DEVICE uint32_t word_at(const float *p) { return bits_of_float(*p); }

// sums[i][j] += A[16*i ...]*B[8*j ...] over the steps first, first + stride, ... of `words` words; all lanes of a warp.
template <Operand OPERAND, int M, int N>
DEVICE void multiply_words(Factor a, Factor b, uint32_t first, uint32_t stride, uint32_t words, FragmentC (&sums)[M][N]) {
    const float *rows = a.p + lane() / 4 * a.line + lane() % 4 * a.word;
    const float *columns = b.p + lane() / 4 * b.line + lane() % 4 * b.word;
#pragma unroll 2
    for (uint32_t w = WORDS_OF_STEP * first; w < words; w += WORDS_OF_STEP * stride) {
        FragmentA left[M];
        FragmentB right[N];
#pragma unroll
        for (int i = 0; i < M; i++) {
            const float *p = rows + 16 * i * a.line + w * a.word;
            left[i] = FragmentA{{word_at(p), word_at(p + 8 * a.line), word_at(p + 4 * a.word), word_at(p + 8 * a.line + 4 * a.word)}};
        }
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float *p = columns + 8 * j * b.line + w * b.word;
            right[j] = FragmentB{{word_at(p), word_at(p + 4 * b.word)}};
        }
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                if constexpr (OPERAND == BF16) mma_bf16(sums[i][j], left[i], right[j]);
                else mma_tf32(sums[i][j], left[i], right[j]);
            }
    }
}

// Products of one warp on tensor cores, of f32 factors in shared memory: each is rounded on its way into registers. Knows no
// operation.
//
// TERMS 1: a factor is the nearest number in tf32, or in bfloat16 (which tf32 holds). TERMS 3: it is the sum of two numbers in
// tf32, and of the product only that of the two smaller ones is missing: 2^-22 of it.
//
// With g = lane/4 and t = lane%4, pixels and channels are numbered such that a lane loads neighbours: see below. All lanes of the
// warp call, at the same line.
#pragma once
#include "mma.cuh"

// A factor's fragment, and what its rounding left.
template <int TERMS, typename Fragment> struct Factor {
    Fragment high, low;
};

template <int TERMS, typename Fragment> DEVICE void set(Factor<TERMS, Fragment> &to, int i, float value, bool bfloat) {
    to.high.r[i] = to_tf32(TERMS == 1 && bfloat ? round_bf16(value) : value);
    if constexpr (TERMS == 3) to.low.r[i] = to_tf32(value - float_of_bits(to.high.r[i]));
}

template <int TERMS> DEVICE void add_product(FragmentC &c, const Factor<TERMS, FragmentA> &a, const Factor<TERMS, FragmentB> &b) {
    if constexpr (TERMS == 3) {
        mma_tf32(c, a.low, b.high);
        mma_tf32(c, a.high, b.low);
    }
    mma_tf32(c, a.high, b.high);
}

// 32 pixels x 16 channels, acc[m][n]: sum over k < depth (a multiple of 8) of a[k][pixel] * b[k][channel], with a [K, pitch_a] at
// the first pixel and b [K, pitch_b] at the first channel. Pitches of 8 more than a multiple of 32 avoid bank conflicts. A lane has
// pixels 16m + 2g and 16m + 2g + 1, and of both channels 4t to 4t + 3 (`pixel_quad`).
template <int TERMS>
DEVICE void warp_multiply(const float *a, uint32_t pitch_a, const float *b, uint32_t pitch_b, uint32_t depth, bool bfloat,
                          FragmentC (&acc)[2][2]) {
    uint32_t g = lane() / 4, t = lane() % 4;
    a += t * pitch_a + 2 * g;
    b += t * pitch_b + 2 * g;
#pragma unroll 2
    for (uint32_t k = 0; k < depth; k += 8, a += 8 * pitch_a, b += 8 * pitch_b) {
        float2 near = load2(b), far = load2(b + 4 * pitch_b);
        Factor<TERMS, FragmentB> right[2];
        set(right[0], 0, near.x, bfloat);
        set(right[1], 0, near.y, bfloat);
        set(right[0], 1, far.x, bfloat);
        set(right[1], 1, far.y, bfloat);
#pragma unroll
        for (int m = 0; m < 2; m++) {
            near = load2(a + 16 * m);
            far = load2(a + 4 * pitch_a + 16 * m);
            Factor<TERMS, FragmentA> left;
            set(left, 0, near.x, bfloat);
            set(left, 1, near.y, bfloat);
            set(left, 2, far.x, bfloat);
            set(left, 3, far.y, bfloat);
#pragma unroll
            for (int n = 0; n < 2; n++) add_product<TERMS>(acc[m][n], left, right[n]);
        }
    }
}

// Four channels of the first (odd 0) or the second of a lane's two pixels.
DEVICE float4 pixel_quad(const FragmentC (&acc)[2], int odd) {
    return make_float4(acc[0].r[2 * odd], acc[1].r[2 * odd], acc[0].r[2 * odd + 1], acc[1].r[2 * odd + 1]);
}

// 16 x 16, acc[n]: sum over the pixels first, first + step, ... < count, eight each, of a[row][pixel] * b[column][pixel], with a and b
// [rows, pitch] at their first rows. A lane has rows g and g + 8, columns 8n + 2t and 8n + 2t + 1.
template <int TERMS>
DEVICE void warp_multiply_rows(const float *a, const float *b, uint32_t pitch, uint32_t first, uint32_t step, uint32_t count,
                               bool bfloat, FragmentC (&acc)[2]) {
    uint32_t g = lane() / 4, t = lane() % 4;
    a += g * pitch + 2 * t;
    b += g * pitch + 2 * t;
#pragma unroll 2
    for (uint32_t pixel = first; pixel < count; pixel += step) {
        float2 upper = load2(a + pixel), lower = load2(a + 8 * pitch + pixel);
        Factor<TERMS, FragmentA> left;
        set(left, 0, upper.x, bfloat);
        set(left, 1, lower.x, bfloat);
        set(left, 2, upper.y, bfloat);
        set(left, 3, lower.y, bfloat);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float2 column = load2(b + 8 * n * pitch + pixel);
            Factor<TERMS, FragmentB> right;
            set(right, 0, column.x, bfloat);
            set(right, 1, column.y, bfloat);
            add_product<TERMS>(acc[n], left, right);
        }
    }
}

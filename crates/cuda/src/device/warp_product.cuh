// Products of one warp on tensor cores, of f32 factors in shared memory: each is rounded on its way into registers,
// to the nearest number in tf32, or in bfloat16, which tf32 holds.
//
// With g = lane/4 and t = lane%4, pixels and channels are numbered such that a lane loads neighbours: see below. All lanes of the
// warp call, at the same line.
#pragma once
#include "mma.cuh"

DEVICE uint32_t factor(float value, bool bfloat) { return to_tf32(bfloat ? round_bf16(value) : value); }

// 32 pixels x 16 channels, acc[m][n]: sum over k < depth (a multiple of 8) of a[k][pixel] * b[k][channel], with a [K, pitch_a] at
// the first pixel and b [K, pitch_b] at the first channel. Pitches of 8 more than a multiple of 32 avoid bank conflicts. A lane has
// pixels 16m + 2g and 16m + 2g + 1, and of both channels 4t to 4t + 3 (`pixel_quad`).
DEVICE void warp_multiply(const float *a, uint32_t pitch_a, const float *b, uint32_t pitch_b, uint32_t depth, bool bfloat,
                          FragmentC (&acc)[2][2]) {
    uint32_t g = lane() / 4, t = lane() % 4;
    a += t * pitch_a + 2 * g;
    b += t * pitch_b + 2 * g;
#pragma unroll 2
    for (uint32_t k = 0; k < depth; k += 8, a += 8 * pitch_a, b += 8 * pitch_b) {
        float2 near = load2(b), far = load2(b + 4 * pitch_b);
        const FragmentB right[2] = {{{factor(near.x, bfloat), factor(far.x, bfloat)}},
                                    {{factor(near.y, bfloat), factor(far.y, bfloat)}}};
#pragma unroll
        for (int m = 0; m < 2; m++) {
            near = load2(a + 16 * m);
            far = load2(a + 4 * pitch_a + 16 * m);
            FragmentA left = {{factor(near.x, bfloat), factor(near.y, bfloat), factor(far.x, bfloat), factor(far.y, bfloat)}};
#pragma unroll
            for (int n = 0; n < 2; n++) mma_tf32(acc[m][n], left, right[n]);
        }
    }
}

// Four channels of the first (odd 0) or the second of a lane's two pixels.
DEVICE float4 pixel_quad(const FragmentC (&acc)[2], int odd) {
    return make_float4(acc[0].r[2 * odd], acc[1].r[2 * odd], acc[0].r[2 * odd + 1], acc[1].r[2 * odd + 1]);
}

// 16 x 16, acc[n]: sum over the pixels first, first + step, ... < count, eight each, of a[row][pixel] * b[column][pixel], with a and b
// [rows, pitch] at their first rows. A lane has rows g and g + 8, columns 8n + 2t and 8n + 2t + 1.
DEVICE void warp_multiply_rows(const float *a, const float *b, uint32_t pitch, uint32_t first, uint32_t step, uint32_t count,
                               bool bfloat, FragmentC (&acc)[2]) {
    uint32_t g = lane() / 4, t = lane() % 4;
    a += g * pitch + 2 * t;
    b += g * pitch + 2 * t;
#pragma unroll 2
    for (uint32_t pixel = first; pixel < count; pixel += step) {
        float2 upper = load2(a + pixel), lower = load2(a + 8 * pitch + pixel);
        FragmentA left = {
            {factor(upper.x, bfloat), factor(lower.x, bfloat), factor(upper.y, bfloat), factor(lower.y, bfloat)}};
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float2 column = load2(b + 8 * n * pitch + pixel);
            mma_tf32(acc[n], left, FragmentB{{factor(column.x, bfloat), factor(column.y, bfloat)}});
        }
    }
}

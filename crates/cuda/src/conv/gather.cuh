// What the kernels of the dense convolution share: its shape, and the unfolded input of a few pixels in shared memory.
//
// Axes: P pixels of z, counted through the whole batch; rows of the unfolded input, in the order (part, tap, channel), the
// channels of a part padded to quads. In shared memory pixels are innermost; what is summed over lies in words (words.cuh).
#pragma once
#include "words.cuh"

#define CONV_PARTS 16
#define CONV_BRANCHES 8
#define CONV_OUTPUTS 4
#define CONV_THREADS 256

// x [N, H, W, channels]: channels [first, first + channels) of the concatenated input. `quad`: quads of the parts before it.
// du: as x; null: not wanted.
struct ConvPart {
    const float *x;
    float *du;
    uint32_t channels, first, quad, pad;
};

// weight [C_out, C_in, k_y, k_x]; channels [first, first + C_out) of the z with the number `output`. `split`: blocks of output
// channels before it. partials: of the weight's gradient, one for each block that takes some of the pixels, overwritten.
struct ConvBranch {
    const float *weight;
    float *partials;
    int32_t offset_y, offset_x;
    uint32_t c_out, first, split, output;
};

struct Conv {
    uint32_t n, h, w, c_in, out_h, out_w;
    uint32_t kernel_y, kernel_x, stride_y, stride_x;
    uint32_t parts, branches;
    // 0: nothing, 1: relu(x), or relu(scale*x + shift) where scale is not null.
    uint32_t activate;
    // Whether the parts, and every z, allow accesses of 16 bytes.
    uint32_t wide_x, wide_z, pad;
    // Channels of every z.
    uint32_t widths[CONV_OUTPUTS];
    const float *scale;
    const float *shift;
    ConvPart part[CONV_PARTS];
    ConvBranch branch[CONV_BRANCHES];
};
static_assert(sizeof(Conv) == 96 + 32 * CONV_PARTS + 40 * CONV_BRANCHES, "layout of Conv");

DEVICE uint32_t part_quads(const Conv &conv) {
    const ConvPart &last = conv.part[conv.parts - 1];
    return last.quad + (last.channels + 3) / 4;
}

// Part, tap and channel of the part of a quad of rows.
struct ConvRow {
    uint32_t part, tap, c;
};

DEVICE ConvRow conv_row(const Conv &conv, uint32_t taps, uint32_t quad) {
    ConvRow row;
    row.part = 0;
    while (row.part + 1 < conv.parts && quad >= taps * conv.part[row.part + 1].quad) row.part++;
    uint32_t across = (conv.part[row.part].channels + 3) / 4, rest = quad - taps * conv.part[row.part].quad;
    row.tap = taps == 1 ? 0 : rest / across;
    row.c = 4 * (rest - row.tap * across);
    return row;
}

// Whether a pixel of z has the number of the one that it reads: no division finds it.
DEVICE bool is_pointwise(const Conv &conv, const ConvBranch &branch) {
    return conv.kernel_y * conv.kernel_x * conv.stride_y * conv.stride_x == 1 && branch.offset_y == 0 && branch.offset_x == 0 &&
           conv.out_h == conv.h && conv.out_w == conv.w;
}

// Whether the gradient at a pixel depends on its image.
DEVICE bool needs_image(const Upstream &up) { return up.terms != 1 || up.term[0].sample_scale; }

// The branch that a block of output channels belongs to.
DEVICE uint32_t branch_of(const Conv &conv, uint32_t split) {
    uint32_t number = 0;
    while (number + 1 < conv.branches && split >= conv.branch[number + 1].split) number++;
    return number;
}

// Image, row and column of a pixel, and the next.
struct ConvPixel {
    uint32_t n, y, x;
};

DEVICE ConvPixel conv_pixel(uint32_t number, uint32_t h, uint32_t w) {
    ConvPixel at;
    uint32_t line = number / w;
    at.x = number - line * w;
    at.n = line / h;
    at.y = line - at.n * h;
    return at;
}

DEVICE void advance(ConvPixel &at, uint32_t h, uint32_t w) {
    if (++at.x == w) {
        at.x = 0;
        if (++at.y == h) {
            at.y = 0;
            at.n++;
        }
    }
}

// Rows [4*quad0, 4*(quad0 + quads)) of the unfolded input of a branch for pixels [pixel0, pixel0 + pixels) of z, of which
// `end` exist. Outside of the image, and at pixels and rows that do not exist, they are 0. `magic` divides by quads. PUT: put_across
// where rows are summed over, put_along where pixels are.
template <Put PUT>
DEVICE void gather_input(const Conv &conv, const ConvBranch &branch, float *to, uint32_t pitch, uint32_t quad0, uint32_t quads,
                         uint32_t magic, uint32_t pixel0, uint32_t pixels, uint32_t end) {
    uint32_t slots = pixels / 4, taps = conv.kernel_y * conv.kernel_x, total = taps * part_quads(conv);
    bool pointwise = is_pointwise(conv, branch);
    for (uint32_t index = threadIdx.x; index < tile4_count(slots, quads); index += CONV_THREADS) {
        Tile4 at = tile4(index, quads, magic);
        if (at.slot >= slots) continue;
        if (quad0 + at.quad >= total) {
            const float4 none[4] = {};
            PUT(to, pitch, at, none);
            continue;
        }
        ConvRow row = conv_row(conv, taps, quad0 + at.quad);
        const ConvPart &part = conv.part[row.part];
        uint32_t first = pixel0 + 4 * at.slot, left = part.channels - row.c;
        float4 v[4];
        bool there[4];
        const float *from = part.x + row.c;
        int offset[4];
        if (pointwise) {
            from += (size_t)first * part.channels;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                there[j] = first + j < end;
                offset[j] = (int)(j * part.channels);
            }
        } else {
            uint32_t tap_y = row.tap / conv.kernel_x, tap_x = row.tap - tap_y * conv.kernel_x;
            ConvPixel pixel = conv_pixel(first, conv.out_h, conv.out_w);
            size_t number0 = 0;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                int y = (int)(pixel.y * conv.stride_y + tap_y) + branch.offset_y;
                int x = (int)(pixel.x * conv.stride_x + tap_x) + branch.offset_x;
                there[j] = first + j < end && y >= 0 && y < (int)conv.h && x >= 0 && x < (int)conv.w;
                // Of a pixel that is not there it may be beyond all memory.
                size_t number = (((size_t)pixel.n * conv.h + y) * conv.w + x) * part.channels;
                if (j == 0) number0 = number;
                offset[j] = (int)(number - number0);
                advance(pixel, conv.out_h, conv.out_w);
            }
            from += number0;
        }
        // Loads first, all at once: their latencies overlap.
        if (conv.wide_x) {
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = there[j] ? load4(from + offset[j]) : splat_quad(0.0f);
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = there[j] ? load_quad(from + offset[j], left, false) : splat_quad(0.0f);
        }
        if (conv.activate) {
            float4 scale = splat_quad(1.0f), shift = splat_quad(0.0f);
            if (conv.scale) {
                scale = load_quad(conv.scale + part.first + row.c, left, conv.wide_x);
                shift = load_quad(conv.shift + part.first + row.c, left, conv.wide_x);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (there[j]) v[j] = relu_quad(conv.scale ? fma_quad(scale, v[j], shift) : v[j]);
            }
        }
        transpose(v);
        PUT(to, pitch, at, v);
    }
}

// Gradient of what a dense convolution reads: of u = a*x + b, masked by u > 0, or of x. Refuses to scatter: every pixel of the
// input gathers from the pixels of z that read it.
//
// Axes: parts and their gradients [N, H, W, C_i], dz [N, H', W', C_out]; in shared memory (branch, tap, output channel) x pixels of
// the input, and (branch, tap, output channel) x input channels.
//
// With strides, pixels of the input are taken by phase, the remainders of row and column: all pixels of a phase are read by
// the same taps, and no others are multiplied.
#include "tile.cuh"

struct ConvInputArgs {
    Conv conv;
    Upstream upstream[CONV_OUTPUTS];
    // [phase][tile][2*C_in], overwritten: [sum du | sum du*x] of a tile, of what du holds afterwards; null: not wanted.
    float *partials;
    // 1: du is added to.
    uint32_t accumulate;
    // Pixels of a tile, tiles of a phase, floats of a row of pixels; rows at a time, what divides by the quads of that; input
    // channels of a block.
    uint32_t pixels, tiles, pitch, chunk, quads_magic, split;
    // In shared memory: dz, then this, in floats.
    uint32_t weights_at;
};
static_assert(sizeof(ConvInputArgs) == sizeof(Conv) + CONV_OUTPUTS * sizeof(Upstream) + 40, "layout of ConvInputArgs");

// Along one axis: taps first, first + stride, ... (`count` of them) read pixels of this phase; tap number m reads pixel
// `start - m` of z for the phase's pixel 0, and one more for every pixel.
struct Axis {
    uint32_t first, count;
    int start;
};

DEVICE Axis axis(uint32_t phase, uint32_t kernel, uint32_t stride, int offset) {
    Axis axis;
    int at = (int)phase - offset, step = (int)stride;
    int first = at % step < 0 ? at % step + step : at % step;
    axis.first = (uint32_t)first;
    axis.count = axis.first < kernel ? (kernel - axis.first + stride - 1) / stride : 0;
    axis.start = (at - first) / step;
    return axis;
}

// Rows [4*quad0, 4*(quad0 + quads)) of dz of a branch in the order (tap, output channel), channels padded to quads; 0 at rows that
// do not exist.
template <Operand OPERAND>
DEVICE void gather_upstream(const ConvInputArgs &args, const ConvBranch &branch, const Axis &down, const Axis &along,
                            uint32_t phase_h, uint32_t phase_w, uint32_t quad0, uint32_t total, uint32_t pixel0, float *to) {
    const Conv &conv = args.conv;
    uint32_t slots = args.pixels / 4, quads = args.chunk / 4, across = (branch.c_out + 3) / 4;
    uint32_t end = conv.n * phase_h * phase_w, width = conv.widths[branch.output];
    const Upstream &up = args.upstream[branch.output];
    bool pointwise = is_pointwise(conv, branch), by_image = needs_image(up);
    for (uint32_t index = threadIdx.x; index < tile4_count(slots, quads); index += CONV_THREADS) {
        Tile4 at = tile4(index, quads, args.quads_magic);
        if (at.slot >= slots) continue;
        if (quad0 + at.quad >= total) {
            const float4 none[4] = {};
            put_across<OPERAND>(to, args.pitch, at, none);
            continue;
        }
        float4 v[4];
        size_t first = 0;
        int offset[4];
        bool there[4];
        uint32_t n[4];
        uint32_t o, number0 = pixel0 + 4 * at.slot;
        if (pointwise) {
            o = 4 * (quad0 + at.quad);
            first = (size_t)number0 * width + branch.first + o;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                offset[j] = (int)(j * width);
                there[j] = number0 + j < end;
                n[j] = by_image ? (number0 + j) / (phase_h * phase_w) : 0;
            }
        } else {
            uint32_t tap = (quad0 + at.quad) / across, tap_y = tap / along.count, tap_x = tap - tap_y * along.count;
            o = 4 * (quad0 + at.quad - tap * across);
            ConvPixel pixel = conv_pixel(number0, phase_h, phase_w);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                int y = down.start - (int)tap_y + (int)pixel.y, x = along.start - (int)tap_x + (int)pixel.x;
                there[j] = pixel.n < conv.n && y >= 0 && y < (int)conv.out_h && x >= 0 && x < (int)conv.out_w;
                // Of a pixel that is not there it may be beyond all memory.
                size_t number = (((size_t)pixel.n * conv.out_h + y) * conv.out_w + x) * width + branch.first + o;
                if (j == 0) first = number;
                offset[j] = (int)(number - first);
                n[j] = pixel.n;
                advance(pixel, phase_h, phase_w);
            }
        }
        upstream_quads(up, first, offset, there, n, branch.first + o, branch.c_out - o, v);
        transpose(v);
        put_across<OPERAND>(to, args.pitch, at, v);
    }
}

template <Operand OPERAND> DEVICE void input_gradient(const ConvInputArgs &args, float *shared) {
    const Conv &conv = args.conv;
    uint32_t phase_y = blockIdx.z / conv.stride_x, phase_x = blockIdx.z - phase_y * conv.stride_x;
    // Some phases have fewer pixels than others, or none.
    uint32_t phase_h = phase_y < conv.h ? (conv.h - phase_y + conv.stride_y - 1) / conv.stride_y : 0;
    uint32_t phase_w = phase_x < conv.w ? (conv.w - phase_x + conv.stride_x - 1) / conv.stride_x : 0;
    uint32_t pixel0 = blockIdx.x * args.pixels, end = conv.n * phase_h * phase_w;
    uint32_t taps = conv.kernel_y * conv.kernel_x, quad_c0 = blockIdx.y * args.split / 4, all_quads = part_quads(conv);
    uint32_t quads = args.chunk / 4;
    Tile tile = tile_of<OPERAND>(args.pixels, args.pitch, args.split);
    float *weights = shared + args.weights_at;
    float acc[8][4] = {};
    for (uint32_t b = 0; b < conv.branches; b++) {
        const ConvBranch &branch = conv.branch[b];
        Axis down = axis(phase_y, conv.kernel_y, conv.stride_y, branch.offset_y);
        Axis along = axis(phase_x, conv.kernel_x, conv.stride_x, branch.offset_x);
        uint32_t across = (branch.c_out + 3) / 4;
        uint32_t total = pixel0 < end ? down.count * along.count * across : 0;
        for (uint32_t quad0 = 0; quad0 < total; quad0 += quads) {
            gather_upstream<OPERAND>(args, branch, down, along, phase_h, phase_w, quad0, total, pixel0, shared);
            for (uint32_t i = threadIdx.x; i < quads * args.split; i += CONV_THREADS) {
                uint32_t column = quotient(i, args.quads_magic), quad = i - column * quads;
                if (quad0 + quad >= total) {
                    put_line<OPERAND>(weights, tile.weights_pitch, quad, column, splat_quad(0.0f));
                    continue;
                }
                uint32_t tap = taps == 1 ? 0 : (quad0 + quad) / across, o = 4 * (quad0 + quad - tap * across);
                uint32_t tap_y = taps == 1 ? 0 : tap / along.count, tap_x = tap - tap_y * along.count;
                uint32_t from_tap = (down.first + tap_y * conv.stride_y) * conv.kernel_x + along.first + tap_x * conv.stride_x;
                uint32_t c = 0;
                bool there = quad_c0 + column / 4 < all_quads;
                if (there) {
                    ConvRow row = conv_row(conv, 1, quad_c0 + column / 4);
                    c = conv.part[row.part].first + row.c + column % 4;
                    there = row.c + column % 4 < conv.part[row.part].channels;
                }
                float weight[4];
#pragma unroll
                for (uint32_t j = 0; j < 4; j++) {
                    bool wanted = there && o + j < branch.c_out;
                    weight[j] = wanted ? branch.weight[((size_t)(o + j) * conv.c_in + c) * taps + from_tap] : 0.0f;
                }
                put_line<OPERAND>(weights, tile.weights_pitch, quad, column, make_float4(weight[0], weight[1], weight[2], weight[3]));
            }
            BARRIER();
            multiply_tile<OPERAND>(tile, shared, weights, 4 * min(quads, total - quad0), acc);
            BARRIER();
        }
    }
    share_out<OPERAND>(tile, shared, acc);
    Share mine = tile.mine;
    float sum[4] = {}, weighted[4] = {};
    if (mine.active && quad_c0 + mine.column < all_quads) {
        ConvRow row = conv_row(conv, 1, quad_c0 + mine.column);
        const ConvPart &part = conv.part[row.part];
        uint32_t left = part.channels - row.c;
        float4 scale = splat_quad(1.0f), shift = splat_quad(0.0f);
        if (conv.scale) {
            scale = load_quad(conv.scale + part.first + row.c, left, conv.wide_x);
            shift = load_quad(conv.shift + part.first + row.c, left, conv.wide_x);
        }
#pragma unroll
        for (uint32_t v = 0; v < 2; v++) {
            uint32_t number = 4 * (mine.group + v * tile.groups);
            if (!part.du || number >= args.pixels || pixel0 + number >= end) continue;
            ConvPixel pixel = conv_pixel(pixel0 + number, phase_h, phase_w);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (pixel.n >= conv.n) continue;
                uint32_t y = pixel.y * conv.stride_y + phase_y, x = pixel.x * conv.stride_x + phase_x;
                size_t offset = (((size_t)pixel.n * conv.h + y) * conv.w + x) * part.channels + row.c;
                float4 du = make_float4(acc[4 * v + j][0], acc[4 * v + j][1], acc[4 * v + j][2], acc[4 * v + j][3]);
                float4 value = load_quad(part.x + offset, left, conv.wide_x);
                if (conv.activate) du = where_positive(conv.scale ? fma_quad(scale, value, shift) : value, du);
                if (args.accumulate) du = add_quad(du, load_quad(part.du + offset, left, conv.wide_x));
                store_quad(part.du + offset, du, left, conv.wide_x);
                sum[0] += du.x;
                sum[1] += du.y;
                sum[2] += du.z;
                sum[3] += du.w;
                weighted[0] = fmaf(du.x, value.x, weighted[0]);
                weighted[1] = fmaf(du.y, value.y, weighted[1]);
                weighted[2] = fmaf(du.z, value.z, weighted[2]);
                weighted[3] = fmaf(du.w, value.w, weighted[3]);
                advance(pixel, phase_h, phase_w);
            }
        }
    }
    if (args.partials) {
        // Columns are quads of parts: where a part's last is not full, they are not the input's channels.
        float *sums = shared + 8 * tile.columns * tile.groups + CONV_THREADS;
        column_sums(mine, tile.columns, tile.groups, sum, weighted, shared, sums, args.split, args.split);
        BARRIER();
        float *to = args.partials + ((size_t)blockIdx.z * args.tiles + blockIdx.x) * 2 * conv.c_in;
        for (uint32_t i = threadIdx.x; i < 2 * args.split; i += CONV_THREADS) {
            uint32_t column = i % args.split;
            if (quad_c0 + column / 4 >= all_quads) continue;
            ConvRow row = conv_row(conv, 1, quad_c0 + column / 4);
            uint32_t c = row.c + column % 4;
            if (c < conv.part[row.part].channels) to[i / args.split * conv.c_in + conv.part[row.part].first + c] = sums[i];
        }
    }
}

// Grid: tiles, blocks of input channels, phases.
KERNEL_RESIDENT(conv_input, ConvInputArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    input_gradient<F32>(args, shared);
}

KERNEL_RESIDENT(conv_input_tf32, ConvInputArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    input_gradient<TF32>(args, shared);
}

KERNEL_RESIDENT(conv_input_bf16, ConvInputArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    input_gradient<BF16>(args, shared);
}

// The unit's backward up to the depthwise convolution: with dz the gradient that arrives, g = dz*PW, and the gradients of
// both weights. `input.cu` has the rest. Refuses to keep dz and DW(relu(a*x + b)): both are computed again, in shared memory.
//
// Axes: N images, H rows, W columns, C channels. x [N, H, W, C_in], dz [N, H', W', C_out], g [N, H', W', C_in]; weights as in
// `forward.cu`.
#include "depthwise.cuh"
#include "product.cuh"

// g: overwritten. Gradients of the weights, of the tiles that one of the kind's `splits` blocks takes, overwritten:
// d_depthwise [splits][C_in, 1, K, K], d_pointwise [splits][C_out, C_in, 1, 1]; null: not wanted (both).
struct SepBackward {
    const float *x;
    const float *scale;
    const float *shift;
    const float *depthwise;
    const float *pointwise;
    float *g;
    float *d_depthwise;
    float *d_pointwise;
    Upstream upstream;
    // Of x and g: both have C_in channels.
    uint32_t wide, pad;
};

struct SepBackwardArgs {
    uint32_t n, h, w, kinds;
    SepKind kind[SEP_KINDS];
    SepBackward unit[SEP_UNITS];
};
static_assert(sizeof(SepBackwardArgs) == 16 + 168 * SEP_KINDS + 200 * SEP_UNITS, "layout of SepBackwardArgs");

// The pixel of z at number `pixel` of a tile, a multiple of 4: its index, and how many of the next four columns exist (0: not even it).
struct Pixel {
    size_t index;
    uint32_t image, columns;
};

DEVICE Pixel pixel_of(const SepKind &kind, const Corner &corner, uint32_t images, uint32_t pixel) {
    uint32_t line = quotient(pixel / 4, kind.columns_magic), column = corner.column + pixel - line * kind.tile_w;
    uint32_t image = quotient(line, kind.tile_h_magic), row = corner.row + line - image * kind.tile_h;
    Pixel at;
    at.image = corner.n + image;
    bool exists = at.image < images && row < kind.out_h && column < kind.out_w;
    at.index = ((size_t)at.image * kind.out_h + row) * kind.out_w + column;
    at.columns = exists ? min(kind.out_w - column, 4u) : 0;
    return at;
}

// dz of a tile into rows [C_out][pitch]; 0 at pixels that do not exist.
DEVICE void load_upstream(const SepKind &kind, const Corner &corner, uint32_t images, const Upstream &upstream, float *rows) {
    uint32_t quads = (kind.c_out + 3) / 4, slots = kind.pixels / 4;
    for (uint32_t index = threadIdx.x; index < tile4_count(slots, quads); index += SEP_THREADS) {
        Tile4 at = tile4(index, quads, kind.quads_out_magic);
        if (at.slot >= slots) continue;
        uint32_t c = 4 * at.quad;
        Pixel pixel = pixel_of(kind, corner, images, 4 * at.slot);
        float4 v[4];
        int offset[4];
        bool there[4];
        uint32_t image[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            offset[j] = (int)(j * kind.c_out);
            there[j] = j < pixel.columns;
            image[j] = pixel.image;
        }
        upstream_quads(upstream, pixel.index * kind.c_out + c, offset, there, image, c, kind.c_out - c, v);
        transpose(v);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) put4(rows + (c + j) * kind.pitch + 4 * at.slot, v[j]);
    }
}

// g of the chunk's channels, to rows [chunk][pitch] and to device memory.
template <int V>
DEVICE void multiply_pointwise(const SepKind &kind, const Corner &corner, uint32_t images, const SepBackward &unit, uint32_t c0,
                               uint32_t channels, const float *dz, const float *pointwise, float *g) {
    uint32_t pitch_w = kind.chunk + 4, columns = (channels + 3) / 4, groups = (kind.pixels + 4 * V - 1) / (4 * V);
    // A whole number of warps' shares.
    uint32_t count = columns % 4 == 0 ? columns / 4 * ((groups + 7) / 8) * 32 : columns * groups;
    for (uint32_t thread = threadIdx.x; thread < count; thread += SEP_THREADS) {
        Share mine = share(thread, columns, groups);
        if (!mine.active) continue;
        float acc[4 * V][4] = {};
        multiply<V>(dz + 4 * mine.group, kind.pitch, 4 * groups, pointwise + 4 * mine.column, pitch_w, kind.c_out, acc);
        uint32_t c = 4 * mine.column;
#pragma unroll
        for (uint32_t v = 0; v < V; v++) {
            uint32_t number = 4 * (mine.group + v * groups);
            if (number >= kind.pixels) continue;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                float4 quad = make_float4(acc[4 * v][j], acc[4 * v + 1][j], acc[4 * v + 2][j], acc[4 * v + 3][j]);
                put4(g + (c + j) * kind.pitch + number, quad);
            }
            Pixel pixel = pixel_of(kind, corner, images, number);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (j >= pixel.columns) break;
                const float(&value)[4] = acc[4 * v + j];
                store_quad(unit.g + (pixel.index + j) * kind.c_in + c0 + c,
                           make_float4(value[0], value[1], value[2], value[3]), channels - c, unit.wide);
            }
        }
    }
}

DEVICE Patches patches_of(const SepKind &kind) {
    return {kind.tile_w / 4, kind.columns_magic, kind.chunk, kind.chunk_magic,
            patch_rows(kind.tile_h, kind.dilation), kind.patch_rows_magic, kind.tile_n};
}

// For the thread's patch: its part of the depthwise gradient to `parts` [patches][K*K], and DW of the activated input in place
// of g. Called by all threads; `parts` may lie where the planes are, unless the shape is only known at run time (K = 0). K*K is
// odd: neighbouring threads write to different banks.
template <int K, int F, int D>
DEVICE void backward_patches(const SepKind &kind, uint32_t channels, const float *planes, const float *depthwise, float *g,
                             float *parts) {
    uint32_t dilation = K ? D : kind.dilation;
    Patches patches = patches_of(kind);
    Patch at = patch_of(threadIdx.x, patches, dilation);
    bool active = threadIdx.x < patch_count(patches) && at.channel < channels;
    float taps[K ? K * K : 1] = {};
    if (active) {
        const float *x = planes + at.channel * kind.plane +
                         (at.image * kind.in_h + kind.factor * at.row) * kind.in_w + kind.factor * at.column;
        uint32_t step = dilation * kind.in_w;
        float *here = g + at.channel * kind.pitch + at.image * kind.tile_h * kind.tile_w + at.column;
        float mine[4][4];
        // The registers of one product at a time: g is kept, y takes its place.
#pragma unroll
        for (uint32_t r = 0; r < 4; r++) {
            uint32_t row = at.row + r * dilation;
            float4 quad = row < kind.tile_h ? load4(here + row * kind.tile_w) : splat_quad(0.0f);
            mine[r][0] = quad.x;
            mine[r][1] = quad.y;
            mine[r][2] = quad.z;
            mine[r][3] = quad.w;
        }
        float acc[4][4] = {};
        convolve<K, F, D>(x, step, depthwise + at.channel * kind.kernel * kind.kernel, kind, acc);
#pragma unroll
        for (uint32_t r = 0; r < 4; r++) {
            uint32_t row = at.row + r * dilation;
            if (row < kind.tile_h) {
                put4(here + row * kind.tile_w, make_float4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]));
            }
        }
        if constexpr (K == 0) {
            for (uint32_t t = 0; t < kind.kernel * kind.kernel; t++) {
                float sum = 0.0f;
                for (uint32_t r = 0; r < 4; r++) {
                    const float *row = x + (kind.factor * r + t / kind.kernel) * step + kind.dilation * (t % kind.kernel);
                    for (uint32_t j = 0; j < 4; j++) sum = fmaf(mine[r][j], row[kind.factor * j], sum);
                }
                parts[threadIdx.x * kind.kernel * kind.kernel + t] = sum;
            }
        } else {
            correlate<K, F, D>(x, step, mine, taps);
        }
    }
    BARRIER();
    if (K != 0 && active) {
#pragma unroll
        for (int t = 0; t < K * K; t++) parts[threadIdx.x * (K * K) + t] = taps[t];
    }
}

// The depthwise gradient of a chunk from the parts of its patches, written or added.
template <int K>
DEVICE void sum_taps(const SepKind &kind, uint32_t channels, const float *parts, float *to, bool add) {
    Patches patches = patches_of(kind);
    uint32_t others = patches.rows * kind.tile_n, taps = K ? K * K : kind.kernel * kind.kernel;
    for (uint32_t i = threadIdx.x; i < channels * taps; i += SEP_THREADS) {
        uint32_t channel = i / taps, tap = i - channel * taps;
        float sum = 0.0f;
        for (uint32_t other = 0; other < others; other++) {
            const float *part = parts + (other * kind.chunk + channel) * patches.columns * taps + tap;
            for (uint32_t column = 0; column < patches.columns; column++) sum += part[column * taps];
        }
        to[i] = add ? to[i] + sum : sum;
    }
}

// Grid: for each kind its units x runs of input channels x blocks that share the tiles.
template <bool LARGE>
DEVICE void backward_units(const SepBackwardArgs &args) {
    DYN_SMEM(float, shared);
    uint32_t number = 0;
    while (number + 1 < args.kinds && blockIdx.x >= args.kind[number + 1].first_block) number++;
    const SepKind &kind = args.kind[number];
    uint32_t block = blockIdx.x - kind.first_block;
    uint32_t slot = block % kind.splits;
    block /= kind.splits;
    uint32_t c0 = block % kind.chunks * kind.chunk, channels = min(kind.chunk, kind.c_in - c0);
    const SepBackward &unit = args.unit[kind.first_unit + block / kind.chunks];
    bool weights = unit.d_pointwise != nullptr;
    Planes planes = {kind.tile_n, kind.in_h, kind.in_w, kind.plane, kind.chunk / 4, kind.quads_magic, kind.across_magic,
                     kind.in_h_magic, kind.step, 1};
    Source from = {unit.x, unit.scale, unit.shift, args.n, args.h, args.w, kind.c_in, true, unit.wide != 0};
    float *dz = shared + kind.rows_at;
    float *g = shared + kind.more_at;
    float *pointwise = shared + kind.pointwise_at;
    float *depthwise = shared + kind.depthwise_at;
    float *parts = shared + kind.taps_at;
    uint32_t taps = kind.kernel * kind.kernel, pitch_w = kind.chunk + 4;
    for (uint32_t i = threadIdx.x; i < channels * taps; i += SEP_THREADS) depthwise[i] = unit.depthwise[c0 * taps + i];
    for (uint32_t i = threadIdx.x; i < kind.c_out * kind.chunk; i += SEP_THREADS) {
        uint32_t o = quotient(i, kind.chunk_magic), c = i - o * kind.chunk;
        pointwise[o * pitch_w + c] = c < channels ? unit.pointwise[(size_t)o * kind.c_in + c0 + c] : 0.0f;
    }
    float *d_depthwise = unit.d_depthwise + (size_t)slot * kind.c_in * taps + c0 * taps;
    float *d_pointwise = unit.d_pointwise + (size_t)slot * kind.c_out * kind.c_in + c0;
    // Products of rows: a thread takes every rows_o-th output and every rows_c-th input channel. Where there are fewer such
    // pairs than threads, several threads share the pixels of one.
    uint32_t rows_o = (kind.c_out + 3) / 4, rows_c = (channels + 3) / 4, pairs = rows_o * rows_c;
    uint32_t quads = kind.pixels / 4, sharing = pairs < SEP_THREADS ? min(SEP_THREADS / pairs, quads) : 1;
    for (uint32_t tile = slot; tile < kind.tiles; tile += kind.splits) {
        Corner corner = corner_of(kind, tile);
        bool add = tile != slot;
        if (weights) {
            int y0 = (int)(kind.stride * corner.row) - (int)kind.padding;
            int x0 = (int)(kind.stride * corner.column) - (int)kind.padding;
            load_planes(shared, planes, from, corner.n, y0, x0, c0);
        }
        load_upstream(kind, corner, args.n, unit.upstream, dz);
        BARRIER();
        // Eight pixels a thread, unless half of the threads would idle.
        if (kind.pixels * channels > 16 * SEP_THREADS) {
            multiply_pointwise<2>(kind, corner, args.n, unit, c0, channels, dz, pointwise, g);
        } else {
            multiply_pointwise<1>(kind, corner, args.n, unit, c0, channels, dz, pointwise, g);
        }
        BARRIER();
        // From here on, g becomes y = DW(relu(a*x + b)).
        if (!weights) continue;
#define BACKWARD_PATCHES(K, F, D) backward_patches<K, F, D>(kind, channels, shared, depthwise, g, parts)
        if constexpr (LARGE) {
            SEP_DISPATCH_LARGE(kind.kernel, kind.factor, kind.dilation, BACKWARD_PATCHES)
        } else {
            SEP_DISPATCH_SMALL(kind.kernel, kind.factor, kind.dilation, BACKWARD_PATCHES)
        }
        float acc[4][4] = {};
        if (sharing > 1) {
            uint32_t first = threadIdx.x / pairs, pair = threadIdx.x - first * pairs, o = pair / rows_c, c = pair - o * rows_c;
            if (first < sharing) {
                multiply_rows(dz + o * kind.pitch, kind.pitch, rows_o, g + c * kind.pitch, kind.pitch, rows_c, first, sharing,
                              quads, acc);
            }
        } else {
            for (uint32_t pair = threadIdx.x; pair < pairs; pair += SEP_THREADS) {
                uint32_t o = pair / rows_c, c = pair - o * rows_c;
                float sums[4][4] = {};
                multiply_rows(dz + o * kind.pitch, kind.pitch, rows_o, g + c * kind.pitch, kind.pitch, rows_c, 0, 1, quads,
                              sums);
                for (uint32_t i = 0; i < 4; i++) {
                    for (uint32_t j = 0; j < 4; j++) {
                        if (o + i * rows_o >= kind.c_out || c + j * rows_c >= channels) continue;
                        float *to = d_pointwise + (size_t)(o + i * rows_o) * kind.c_in + c + j * rows_c;
                        *to = add ? *to + sums[i][j] : sums[i][j];
                    }
                }
            }
        }
        BARRIER();
        if (!LARGE && kind.kernel == 3) {
            sum_taps<3>(kind, channels, parts, d_depthwise, add);
        } else if (!LARGE) {
            sum_taps<5>(kind, channels, parts, d_depthwise, add);
        } else {
            sum_taps<0>(kind, channels, parts, d_depthwise, add);
        }
        if (sharing > 1) {
            // In place of dz, which has been read: [4*4][threads].
#pragma unroll
            for (uint32_t i = 0; i < 16; i++) dz[i * SEP_THREADS + threadIdx.x] = acc[i / 4][i % 4];
        }
        BARRIER();
        if (sharing > 1) {
            for (uint32_t i = threadIdx.x; i < 16 * pairs; i += SEP_THREADS) {
                uint32_t pair = i % pairs, element = i / pairs;
                uint32_t o = pair / rows_c + element / 4 * rows_o, c = pair % rows_c + element % 4 * rows_c;
                if (o >= kind.c_out || c >= channels) continue;
                float sum = 0.0f;
                for (uint32_t s = 0; s < sharing; s++) sum += dz[element * SEP_THREADS + s * pairs + pair];
                float *to = d_pointwise + (size_t)o * kind.c_in + c;
                *to = add ? *to + sum : sum;
            }
        }
        BARRIER();
    }
}

// Kernels of 3 and 5 rows.
KERNEL_RESIDENT(sep_unit_backward, SepBackwardArgs, SEP_THREADS, SEP_RESIDENT) { backward_units<false>(args); }

// All others.
KERNEL_RESIDENT(sep_unit_backward_large, SepBackwardArgs, SEP_THREADS, 2) { backward_units<true>(args); }

// The unit's backward up to the depthwise convolution: with dz the gradient that arrives, g = dz*PW, and the gradients of
// both weights. `input.cu` has the rest. Refuses to keep dz and DW(relu(a*x + b)): both are computed again, in shared memory.
//
// Axes: N images, H rows, W columns, C channels. x [N, H, W, C_in], dz [N, H', W', C_out], g [N, H', W', C_in]; weights as in
// `forward.cu`.
#include "depthwise.cuh"
#include "product.cuh"
#include "warp_product.cuh"

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

// bfloat: tensor cores get numbers in bfloat16, not in tf32.
struct SepBackwardArgs {
    uint32_t n, h, w, kinds, bfloat, pad;
    SepKind kind[SEP_KINDS];
    SepBackward unit[SEP_UNITS];
};
static_assert(sizeof(SepBackwardArgs) == 24 + SEP_KIND_BYTES * SEP_KINDS + 200 * SEP_UNITS, "layout of SepBackwardArgs");

// The thread's shares of a tile's z, one after the other: four pixels of four channels from c on, and their place in rows [C_out][pitch].
template <typename Visit>
DEVICE void visit_quads(const SepKind &kind, const Slot *slots, float *rows, Visit visit) {
    uint32_t quads = (kind.c_out + 3) / 4, count = kind.pixels / 4;
    for (uint32_t index = threadIdx.x; index < tile4_count(count, quads); index += SEP_THREADS) {
        Tile4 at = tile4(index, quads, kind.quads_out_magic);
        uint32_t c = 4 * at.quad;
        if (at.slot < count) visit(slots[at.slot], c, rows + c * kind.pitch + 4 * at.slot);
    }
}

// Asks for the first term of the gradient that arrives at a tile: a pixel's channels are copied to where rows will have a channel's
// pixels.
DEVICE void ask_upstream(const SepKind &kind, const Slot *slots, const Upstream &upstream, float *rows) {
    visit_quads(kind, slots, rows, [&](const Slot &pixel, uint32_t c, float *to) {
        const float *grad = upstream.term[0].grad + (size_t)pixel.index * kind.c_out + c;
        const bool there[4] = {0 < pixel.columns, 1 < pixel.columns, 2 < pixel.columns, 3 < pixel.columns};
        copy_piece(to, kind.pitch, there, kind.c_out - c, upstream.wide, [&](uint32_t j) { return grad + j * kind.c_out; });
    });
}

// Four channels of the first `columns` of four neighbouring pixels, zeros of the others.
DEVICE void load_pixels(const float *from, uint32_t stride, uint32_t columns, uint32_t left, bool wide, float4 (&v)[4]) {
    if (wide) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) v[j] = j < columns ? load4(from + j * stride) : splat_quad(0.0f);
    } else {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) v[j] = j < columns ? load_quad(from + j * stride, left, false) : splat_quad(0.0f);
    }
}

DEVICE float4 channel_scale(const UpstreamTerm &term, uint32_t c, uint32_t left, bool wide) {
    return term.scale ? load_quad(term.scale + c, left, wide) : splat_quad(1.0f);
}

// The scale of channels times that of the pixels' sample.
DEVICE float4 with_sample_scale(const UpstreamTerm &term, const Slot &pixel, float4 scale) {
    return term.sample_scale && pixel.columns ? mul_quad(scale, splat_quad(term.sample_scale[pixel.image])) : scale;
}

// dz of a tile into rows [C_out][pitch], after `ask_upstream`; 0 at pixels that do not exist.
DEVICE void take_upstream(const SepKind &kind, const Slot *slots, const Upstream &upstream, float *rows) {
    visit_quads(kind, slots, rows, [&](const Slot &pixel, uint32_t c, float *to) {
        uint32_t left = kind.c_out - c;
        size_t first = (size_t)pixel.index * kind.c_out + c;
        bool wide = upstream.wide;
        // Loads first: what was copied is there by the time that they are.
        float4 scale = channel_scale(upstream.term[0], c, left, wide), v[4];
        if (upstream.b) {
            load_pixels(upstream.z + first, kind.c_out, pixel.columns, left, wide, v);
            float4 b, d;
            load_pair(upstream.b + c, upstream.d + c, left, wide, b, d);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (j < pixel.columns) v[j] = fma_quad(b, v[j], d);
            }
        } else {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) v[j] = splat_quad(0.0f);
        }
        for (uint32_t t = 1; t < upstream.terms; t++) {
            const UpstreamTerm &term = upstream.term[t];
            float4 factor = with_sample_scale(term, pixel, channel_scale(term, c, left, wide)), grad[4];
            load_pixels(term.grad + first, kind.c_out, pixel.columns, left, wide, grad);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) v[j] = fma_quad(factor, grad[j], v[j]);
        }
        copies_done();
        scale = with_sample_scale(upstream.term[0], pixel, scale);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) v[j] = fma_quad(scale, load4(to + j * kind.pitch), v[j]);
        transpose(v);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) put4(to + j * kind.pitch, v[j]);
    });
}

// g of the chunk's channels, to device memory and, with `keep`, to rows [chunk][pitch].
template <int V>
DEVICE void multiply_pointwise(const SepKind &kind, const Slot *slots, const SepBackward &unit, uint32_t c0, uint32_t channels,
                               const float *dz, const float *pointwise, float *g, bool keep) {
    uint32_t pitch_w = kind.weights_pitch, columns = kind.chunk / 4, groups = (kind.pixels + 4 * V - 1) / (4 * V);
    // A whole number of warps' shares.
    uint32_t count = columns % 4 == 0 ? columns / 4 * ((groups + 7) / 8) * 32 : columns * groups;
    for (uint32_t thread = threadIdx.x; thread < count; thread += SEP_THREADS) {
        Share mine = share(thread, columns, groups, kind.share_magic);
        if (!mine.active || 4 * mine.column >= channels) continue;
        float acc[4 * V][4] = {};
#define BACKWARD_MULTIPLY(A, B)                                                                                         \
    multiply<V, A, B>(dz + 4 * mine.group, kind.pitch, 4 * groups, pointwise + 4 * mine.column, pitch_w, kind.c_out, acc)
        // The pitches of the search's networks are known.
        if (V == 1 && kind.pitch == 260 && pitch_w == 24) {
            BACKWARD_MULTIPLY(260, 24);
        } else if (V == 1 && kind.pitch == 132 && pitch_w == 40) {
            BACKWARD_MULTIPLY(132, 40);
        } else if (V == 1 && kind.pitch == 68 && pitch_w == 72) {
            BACKWARD_MULTIPLY(68, 72);
        } else {
            BACKWARD_MULTIPLY(0, 0);
        }
        uint32_t c = 4 * mine.column;
#pragma unroll
        for (uint32_t v = 0; v < V; v++) {
            uint32_t number = mine.group + v * groups;
            if (4 * number >= kind.pixels) continue;
#pragma unroll
            for (uint32_t j = 0; j < 4 && keep; j++) {
                float4 quad = make_float4(acc[4 * v][j], acc[4 * v + 1][j], acc[4 * v + 2][j], acc[4 * v + 3][j]);
                put4(g + (c + j) * kind.pitch + 4 * number, quad);
            }
            Slot pixel = slots[number];
            float *to = unit.g + (size_t)pixel.index * kind.c_in + c0 + c;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++, to += kind.c_in) {
                if (j >= pixel.columns) break;
                const float(&value)[4] = acc[4 * v + j];
                store_quad(to, make_float4(value[0], value[1], value[2], value[3]), channels - c, unit.wide);
            }
        }
    }
}

// The same on tensor cores: a warp has 16 of the chunk's channels, and 32 pixels at a time.
DEVICE void multiply_pointwise_warp(const SepKind &kind, const Slot *slots, const SepBackward &unit, uint32_t c0, const float *dz,
                                    const float *pointwise, float *g, bool keep, bool bfloat) {
    uint32_t across = kind.chunk / 16, run = quotient(warp(), kind.share_magic), n = warp() - run * across;
    uint32_t step = quotient(SEP_THREADS / 32, kind.share_magic);
    uint32_t first = 2 * (lane() / 4), c = 16 * n + 4 * (lane() % 4);
    for (uint32_t block = run; block < kind.pixels / 32 && run < step; block += step) {
        FragmentC acc[2][2] = {};
        warp_multiply(dz + 32 * block, kind.pitch, pointwise + 16 * n, kind.weights_pitch, kind.c_out, bfloat, acc);
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
            uint32_t pixel = 32 * block + 16 * m + first;
            const float4 quads[2] = {pixel_quad(acc[m], 0), pixel_quad(acc[m], 1)};
            if (keep) {
                float *to = g + c * kind.pitch + pixel;
                store2(to, make_float2(quads[0].x, quads[1].x));
                store2(to + kind.pitch, make_float2(quads[0].y, quads[1].y));
                store2(to + 2 * kind.pitch, make_float2(quads[0].z, quads[1].z));
                store2(to + 3 * kind.pitch, make_float2(quads[0].w, quads[1].w));
            }
            Slot slot = slots[pixel / 4];
            float *to = unit.g + (size_t)(slot.index + pixel % 4) * kind.c_in + c0 + c;
            if (pixel % 4 < slot.columns) store4(to, quads[0]);
            if (pixel % 4 + 1 < slot.columns) store4(to + kind.c_in, quads[1]);
        }
    }
}

DEVICE Patches patches_of(const SepKind &kind) {
    return {kind.tile_w / 4, kind.columns_magic, kind.chunk, kind.chunk_magic,
            patch_rows(kind.tile_h, kind.dilation), kind.patch_rows_magic, kind.tile_n};
}

// For the thread's patch: what it adds to the depthwise gradient, to sums [K*K], and DW of the activated input in place of g. Sums
// of at most five rows are the thread's registers. TOGETHER: registers suffice for both products at a time.
template <int K, int F, int D, bool TOGETHER>
DEVICE void backward_patches(const SepKind &kind, uint32_t channels, const float *planes, const float *depthwise, float *g,
                             float *sums) {
    uint32_t dilation = K ? D : kind.dilation;
    Patches patches = patches_of(kind);
    Patch at = patch_of(threadIdx.x, patches, dilation);
    if (threadIdx.x >= patch_count(patches) || at.channel >= channels) return;
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
    const float *taps = depthwise + at.channel * kind.kernel * kind.kernel;
    if constexpr (TOGETHER) {
        over_windows<K, F, D, true, true>(x, step, taps, mine, acc, sums);
    } else {
        convolve<K, F, D>(x, step, taps, kind, acc);
    }
#pragma unroll
    for (uint32_t r = 0; r < 4; r++) {
        uint32_t row = at.row + r * dilation;
        if (row < kind.tile_h) put4(here + row * kind.tile_w, make_float4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]));
    }
    if constexpr (K == 0) {
        for (uint32_t t = 0; t < kind.kernel * kind.kernel; t++) {
            float sum = 0.0f;
            for (uint32_t r = 0; r < 4; r++) {
                const float *row = x + (kind.factor * r + t / kind.kernel) * step + kind.dilation * (t % kind.kernel);
                for (uint32_t j = 0; j < 4; j++) sum = fmaf(mine[r][j], row[kind.factor * j], sum);
            }
            sums[t] += sum;
        }
    } else if constexpr (!TOGETHER && K <= 5) {
        over_windows<K, F, D, false, true>(x, step, nullptr, mine, nullptr, sums);
    } else if constexpr (K > 5) {
        float parts[K * K] = {};
        over_windows<K, F, D, false, true>(x, step, nullptr, mine, nullptr, parts);
        for (int t = 0; t < K * K; t++) sums[t] += parts[t];
    }
}

// The depthwise gradient of a chunk from what its patches have added: parts [patches][K*K].
template <int K>
DEVICE void sum_taps(const SepKind &kind, uint32_t channels, const float *parts, float *to) {
    Patches patches = patches_of(kind);
    uint32_t others = patches.rows * kind.tile_n, taps = K ? K * K : kind.kernel * kind.kernel;
    for (uint32_t i = threadIdx.x; i < channels * taps; i += SEP_THREADS) {
        uint32_t channel = i / taps, tap = i - channel * taps;
        float sum = 0.0f;
        for (uint32_t other = 0; other < others; other++) {
            const float *part = parts + (other * kind.chunk + channel) * patches.columns * taps + tap;
            for (uint32_t column = 0; column < patches.columns; column++) sum += part[column * taps];
        }
        to[i] = sum;
    }
}

// What a thread, or a warp, has added to the gradient of the pointwise weights: [C_out][channels of the chunk].
template <bool TENSOR> struct Products;

// On CUDA cores, a thread takes every rows_o-th output and every rows_c-th input channel: a pair. Where there are fewer pairs than
// threads, `sharing` threads share the pixels of one; where there are more, sharing is 0 and sums lie in device memory.
template <> struct Products<false> {
    uint32_t rows_o, rows_c, pairs, sharing, first, pair;
    float sums[4][4];
};

DEVICE void begin(Products<false> &p, const SepKind &kind, uint32_t channels) {
    p.rows_o = (kind.c_out + 3) / 4;
    p.rows_c = (channels + 3) / 4;
    p.pairs = p.rows_o * p.rows_c;
    p.sharing = p.pairs <= SEP_THREADS ? min(SEP_THREADS / p.pairs, kind.pixels / 4) : 0;
    p.first = threadIdx.x / p.pairs;
    p.pair = threadIdx.x - p.first * p.pairs;
    for (uint32_t i = 0; i < 16; i++) p.sums[i / 4][i % 4] = 0.0f;
}

// Adds dz*y^T of a tile; `fresh`: the block's first. To: the block's part of the gradient, in device memory.
DEVICE void add_tile(Products<false> &p, const SepKind &kind, uint32_t channels, const float *dz, const float *y, bool, bool fresh,
                     float *to) {
    uint32_t quads = kind.pixels / 4;
    if (p.first < p.sharing) {
        // A whole chunk's quads have a magic.
        uint32_t o = channels == kind.chunk ? quotient(p.pair, kind.quads_magic) : p.pair / p.rows_c, c = p.pair - o * p.rows_c;
        multiply_rows(dz + o * kind.pitch, kind.pitch, p.rows_o, y + c * kind.pitch, kind.pitch, p.rows_c, p.first, p.sharing, quads,
                      p.sums);
    }
    for (uint32_t pair = threadIdx.x; pair < p.pairs && p.sharing == 0; pair += SEP_THREADS) {
        uint32_t o = pair / p.rows_c, c = pair - o * p.rows_c;
        float sums[4][4] = {};
        multiply_rows(dz + o * kind.pitch, kind.pitch, p.rows_o, y + c * kind.pitch, kind.pitch, p.rows_c, 0, 1, quads, sums);
        for (uint32_t i = 0; i < 4; i++) {
            for (uint32_t j = 0; j < 4; j++) {
                if (o + i * p.rows_o >= kind.c_out || c + j * p.rows_c >= channels) continue;
                float *sum = to + (size_t)(o + i * p.rows_o) * kind.c_in + c + j * p.rows_c;
                *sum = fresh ? sums[i][j] : *sum + sums[i][j];
            }
        }
    }
}

// Writes the sums, through shared memory [4*4][threads], which nobody reads any more. Called by all threads.
DEVICE void end(const Products<false> &p, const SepKind &kind, uint32_t channels, float *shared, float *to) {
    if (p.sharing == 0) return;
    BARRIER();
    if (p.first < p.sharing) {
#pragma unroll
        for (uint32_t i = 0; i < 16; i++) shared[i * SEP_THREADS + threadIdx.x] = p.sums[i / 4][i % 4];
    }
    BARRIER();
    for (uint32_t i = threadIdx.x; i < 16 * p.pairs; i += SEP_THREADS) {
        uint32_t pair = i % p.pairs, element = i / p.pairs;
        uint32_t o = pair / p.rows_c + element / 4 * p.rows_o, c = pair % p.rows_c + element % 4 * p.rows_c;
        if (o >= kind.c_out || c >= channels) continue;
        float sum = 0.0f;
        for (uint32_t s = 0; s < p.sharing; s++) sum += shared[element * SEP_THREADS + s * p.pairs + pair];
        to[(size_t)o * kind.c_in + c] = sum;
    }
}

// On tensor cores, a warp takes one or two blocks of 16 output x 16 input channels; where there are fewer blocks than warps,
// `parts` warps share the pixels of one.
template <> struct Products<true> {
    uint32_t across, blocks, parts;
    FragmentC sums[2][2];
};

struct WarpBlock {
    uint32_t block, part;
    bool there;
};

DEVICE WarpBlock block_of_warp(const Products<true> &p, uint32_t number) {
    uint32_t w = warp() + number * (SEP_THREADS / 32), part = w / p.blocks;
    return {w - part * p.blocks, part, part < p.parts};
}

DEVICE void begin(Products<true> &p, const SepKind &kind, uint32_t) {
    p.across = kind.chunk / 16;
    p.blocks = kind.c_out / 16 * p.across;
    p.parts = max(SEP_THREADS / 32 / p.blocks, 1u);
    for (uint32_t i = 0; i < 16; i++) p.sums[i / 8][i / 4 % 2].r[i % 4] = 0.0f;
}

DEVICE void add_tile(Products<true> &p, const SepKind &kind, uint32_t, const float *dz, const float *y, bool bfloat, bool, float *) {
#pragma unroll
    for (uint32_t number = 0; number < 2; number++) {
        WarpBlock at = block_of_warp(p, number);
        if (!at.there) continue;
        uint32_t o = at.block / p.across * 16, c = at.block % p.across * 16;
        warp_multiply_rows(dz + o * kind.pitch, y + c * kind.pitch, kind.pitch, 8 * at.part, 8 * p.parts, kind.pixels, bfloat,
                           p.sums[number]);
    }
}

// The same, through shared memory [part][block][16 x 16].
DEVICE void end(const Products<true> &p, const SepKind &kind, uint32_t, float *shared, float *to) {
    BARRIER();
#pragma unroll
    for (uint32_t number = 0; number < 2; number++) {
        WarpBlock at = block_of_warp(p, number);
        if (!at.there) continue;
        float *sums = shared + (at.part * p.blocks + at.block) * 256 + lane() / 4 * 16 + lane() % 4 * 2;
#pragma unroll
        for (uint32_t n = 0; n < 2; n++) {
            const float(&r)[4] = p.sums[number][n].r;
            store2(sums + 8 * n, make_float2(r[0], r[1]));
            store2(sums + 8 * n + 8 * 16, make_float2(r[2], r[3]));
        }
    }
    BARRIER();
    for (uint32_t i = threadIdx.x; i < 256 * p.blocks; i += SEP_THREADS) {
        uint32_t block = i / 256, o = block / p.across * 16 + i % 256 / 16, c = block % p.across * 16 + i % 16;
        float sum = 0.0f;
        for (uint32_t part = 0; part < p.parts; part++) sum += shared[part * p.blocks * 256 + i];
        to[(size_t)o * kind.c_in + c] = sum;
    }
}

// Grid: for each kind its units x runs of input channels x blocks that share the tiles. What a thread adds to the weights'
// gradients stays with it over all tiles of the block: in registers, but for that of a large depthwise kernel.
// TENSOR: products on tensor cores. WEIGHTS: some unit's gradients of weights are wanted; else g alone is made, from dz alone.
template <bool LARGE, bool TENSOR, bool WEIGHTS = true>
DEVICE void backward_units(const SepBackwardArgs &args) {
    DYN_SMEM(float, shared);
    uint32_t number = 0;
    while (number + 1 < args.kinds && blockIdx.x >= args.kind[number + 1].first_block) number++;
    const SepKind &kind = args.kind[number];
    uint32_t block = blockIdx.x - kind.first_block, run = quotient(block, kind.splits_magic), slot = block - run * kind.splits;
    uint32_t index = run / kind.chunks, c0 = (run - index * kind.chunks) * kind.chunk, channels = min(kind.chunk, kind.c_in - c0);
    const SepBackward &unit = args.unit[kind.first_unit + index];
    bool weights = WEIGHTS && unit.d_pointwise != nullptr;
    Planes planes = {kind.tile_n, kind.in_h, kind.in_w, kind.plane, kind.chunk / 4, kind.quads_magic, kind.across_magic,
                     kind.in_h_magic, kind.step};
    Source from = {unit.x, unit.scale, unit.shift, args.n, args.h, args.w, kind.c_in, 1, unit.wide != 0};
    // dz of even tiles and of odd ones, which lie at the same place where there is no room for both.
    auto dz_of = [&](uint32_t odd) { return shared + (odd ? kind.rows_at : kind.next_at); };
    float *g = shared + kind.more_at;
    float *pointwise = shared + kind.pointwise_at;
    float *depthwise = shared + kind.depthwise_at;
    float *parts = shared + kind.taps_at;
    uint32_t taps = kind.kernel * kind.kernel, pitch_w = kind.weights_pitch;
    // What is copied is asked for as soon as its place is free, and waited for when it is needed.
    if (WEIGHTS) copy_floats(depthwise, unit.depthwise + c0 * taps, channels * taps);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < kind.c_out * kind.chunk; i += SEP_THREADS) {
        uint32_t o = quotient(i, kind.chunk_magic), c = i - o * kind.chunk;
        copy1(pointwise + o * pitch_w + c, unit.pointwise + (size_t)o * kind.c_in + c0 + c, c < channels);
    }
    float *d_depthwise = unit.d_depthwise + (size_t)slot * kind.c_in * taps + c0 * taps;
    float *d_pointwise = unit.d_pointwise + (size_t)slot * kind.c_out * kind.c_in + c0;
    Products<TENSOR> products;
    begin(products, kind, channels);
    // K*K is odd: neighbouring threads write to different banks.
    float *my_parts = parts + threadIdx.x * taps;
    bool has_patch = threadIdx.x < patch_count(patches_of(kind));
    float my_taps[25] = {};
    for (uint32_t t = 0; LARGE && weights && has_patch && t < taps; t++) my_parts[t] = 0.0f;
    // Slots of this tile and of the next.
    Slot *slots = reinterpret_cast<Slot *>(shared + kind.slots_at);
    Corner corner = corner_of(kind, slot);
    fill_slots(kind, corner, args.n, slots, threadIdx.x);
    BARRIER();
    bool two = kind.next_at != kind.rows_at;
    ask_upstream(kind, slots, unit.upstream, dz_of(0));
    // The products of rows of one tile go beside the loads for the next.
    uint32_t odd = 0;
    for (uint32_t tile = slot;; tile += kind.splits, odd ^= 1) {
        if (tile != slot && weights) {
            add_tile(products, kind, channels, dz_of(odd ^ 1), g, args.bfloat, tile == slot + kind.splits, d_pointwise);
        }
        bool more = tile < kind.tiles, another = tile + kind.splits < kind.tiles;
        if (more && weights) load_planes(shared, planes, from, origin_of(kind, corner, c0));
        if (another) corner = corner_of(kind, tile + kind.splits);
        const Slot *here = slots + odd * (kind.pixels / 4);
        Slot *next = slots + (odd ^ 1) * (kind.pixels / 4);
        // The next tile's slots, by the last threads: it is they who have loaded least.
        uint32_t thread = SEP_THREADS - 1 - threadIdx.x;
        if (another && thread < kind.pixels / 4) fill_slots(kind, corner, args.n, next, thread);
        // Where there is room, dz of a tile is made while that of the one before is still read.
        if (!two) BARRIER();
        float *dz = dz_of(odd);
        if (more) {
            if (!two && tile != slot) ask_upstream(kind, here, unit.upstream, dz);
            take_upstream(kind, here, unit.upstream, dz);
        }
        copies_done();
        BARRIER();
        if (!more) break;
        if (two && another) ask_upstream(kind, next, unit.upstream, dz_of(odd ^ 1));
        if constexpr (TENSOR) {
            multiply_pointwise_warp(kind, here, unit, c0, dz, pointwise, g, weights, args.bfloat);
        } else if (WEIGHTS && kind.pixels * channels > 16 * SEP_THREADS) {
            // Eight pixels a thread, unless half of the threads would idle.
            multiply_pointwise<2>(kind, here, unit, c0, channels, dz, pointwise, g, weights);
        } else {
            multiply_pointwise<1>(kind, here, unit, c0, channels, dz, pointwise, g, weights);
        }
        BARRIER();
        if (!weights) continue;
        // From here on, g becomes y = DW(relu(a*x + b)).
#define BACKWARD_PATCHES(K, F, D)                                                                                       \
    backward_patches<K, F, D, K == 3 || (K == 5 && !TENSOR)>(kind, channels, shared, depthwise, g, LARGE ? my_parts : my_taps)
        if constexpr (LARGE) {
            SEP_DISPATCH_LARGE(kind.kernel, kind.factor, kind.dilation, BACKWARD_PATCHES)
        } else {
            SEP_DISPATCH_SMALL(kind.kernel, kind.factor, kind.dilation, BACKWARD_PATCHES)
        }
        BARRIER();
    }
    if (!weights) return;
    // What lies in shared memory has been read; parts may take its place.
    if (!LARGE && has_patch) {
#pragma unroll
        for (uint32_t t = 0; t < 25; t++) {
            if (t < taps) my_parts[t] = my_taps[t];
        }
    }
    BARRIER();
    if (LARGE) {
        sum_taps<0>(kind, channels, parts, d_depthwise);
    } else if (kind.kernel == 3) {
        sum_taps<3>(kind, channels, parts, d_depthwise);
    } else {
        sum_taps<5>(kind, channels, parts, d_depthwise);
    }
    end(products, kind, channels, shared, d_pointwise);
}

// Kernels of 3 and 5 rows.
KERNEL_RESIDENT(sep_unit_backward, SepBackwardArgs, SEP_THREADS, 2) { backward_units<false, false>(args); }

// The same with products on tensor cores.
KERNEL_RESIDENT(sep_unit_backward_rounded, SepBackwardArgs, SEP_THREADS, 2) { backward_units<false, true>(args); }

// All others.
KERNEL_RESIDENT(sep_unit_backward_large, SepBackwardArgs, SEP_THREADS, 2) { backward_units<true, false>(args); }

// Where no gradient of weights is wanted, of whatever size the kernels are.
KERNEL_RESIDENT(sep_unit_backward_alone, SepBackwardArgs, SEP_THREADS, SEP_RESIDENT) { backward_units<false, false, false>(args); }

// The same with products on tensor cores.
KERNEL_RESIDENT(sep_unit_backward_alone_rounded, SepBackwardArgs, SEP_THREADS, SEP_RESIDENT) {
    backward_units<false, true, false>(args);
}

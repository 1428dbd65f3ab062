// z = PW(DW(relu(a*x + b))) of all units of a stage. Refuses to normalize.
//
// Axes: N images, H rows, W columns, C channels. x [N, H, W, C_in], depthwise weights [C_in, 1, K, K], pointwise weights
// [C_out, C_in, 1, 1], z [N, H', W', C_out].
#include "depthwise.cuh"
#include "product.cuh"
#include "warp_product.cuh"

#define SEP_WIDE_X 1
#define SEP_WIDE_Z 2

// z: overwritten. partials [tile][2*C_out], overwritten: [sum z | sum z*z] of a tile; null: not wanted. Null scale: relu(x).
struct SepForward {
    const float *x;
    const float *scale;
    const float *shift;
    const float *depthwise;
    const float *pointwise;
    float *z;
    float *partials;
    uint32_t wide, pad;
};

// bfloat: tensor cores get numbers in bfloat16, not in tf32.
struct SepForwardArgs {
    uint32_t n, h, w, kinds, bfloat, pad;
    SepKind kind[SEP_KINDS];
    SepForward unit[SEP_UNITS];
};
static_assert(sizeof(SepForwardArgs) == 24 + SEP_KIND_BYTES * SEP_KINDS + 64 * SEP_UNITS, "layout of SepForwardArgs");

// DW of the chunk's first `channels` channels into rows of pixels.
template <int K, int F, int D>
DEVICE void forward_patches(const SepKind &kind, uint32_t channels, const float *planes, const float *depthwise, float *rows) {
    uint32_t dilation = K ? D : kind.dilation;
    Patches patches = {kind.tile_w / 4, kind.columns_magic, kind.chunk, kind.chunk_magic,
                       patch_rows(kind.tile_h, dilation), kind.patch_rows_magic, kind.tile_n};
    for (uint32_t index = threadIdx.x; index < patch_count(patches); index += SEP_THREADS) {
        Patch at = patch_of(index, patches, dilation);
        if (at.channel >= channels) continue;
        const float *x = planes + at.channel * kind.plane +
                         (at.image * kind.in_h + kind.factor * at.row) * kind.in_w + kind.factor * at.column;
        float acc[4][4] = {};
        convolve<K, F, D>(x, dilation * kind.in_w, depthwise + at.channel * kind.kernel * kind.kernel, kind, acc);
        float *y = rows + at.channel * kind.pitch + at.image * kind.tile_h * kind.tile_w + at.column;
#pragma unroll
        for (uint32_t r = 0; r < 4; r++) {
            uint32_t row = at.row + r * dilation;
            if (row < kind.tile_h) put4(y + row * kind.tile_w, make_float4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]));
        }
    }
}

// z of the first `columns` of four neighbouring pixels, four channels of each: rows [at, at + 4) of `values`, to + j*stride.
template <int ROWS>
DEVICE void store_pixels(float *to, uint32_t stride, uint32_t columns, uint32_t left, bool wide, const float (&values)[ROWS][4],
                         uint32_t at) {
    auto quad = [&](uint32_t j) {
        const float(&value)[4] = values[at + j];
        return make_float4(value[0], value[1], value[2], value[3]);
    };
    if (wide && columns == 4) {
        // Nearly always: no branches between the stores.
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) store4(to + j * stride, quad(j));
    } else {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (j < columns) store_quad(to + j * stride, quad(j), left, wide);
        }
    }
}

// z of the block's output channels from o0 on: what the chunk's rows add to it, and after the last chunk its sums: of every warp
// to `sums`, for `store_sums`, or of the block to where they belong. Called by all threads.
template <int V>
DEVICE void multiply_share(const SepKind &kind, const SepForward &unit, uint32_t tile, uint32_t chunk, uint32_t o0,
                           uint32_t channels, float *rows, const float *pointwise, const Slot *slots, float *sums) {
    uint32_t columns = kind.split / 4, groups = (kind.pixels + 4 * V - 1) / (4 * V);
    Share mine = share(threadIdx.x, columns, groups, kind.share_magic);
    uint32_t o = o0 + 4 * mine.column;
    bool last = chunk + 1 == kind.chunks, wide = unit.wide & SEP_WIDE_Z;
    float sum[4] = {}, square[4] = {};
    if (mine.active && o < kind.c_out) {
        float acc[4 * V][4] = {};
        // Where there are several chunks, z holds the sums in between: registers of one product at a time.
        if (chunk > 0) {
#pragma unroll
            for (uint32_t v = 0; v < V; v++) {
                Slot slot = slot_of(kind, slots, mine.group + v * groups);
#pragma unroll
                for (uint32_t j = 0; j < 4; j++) {
                    if (j >= slot.columns) break;
                    const float *z = unit.z + (size_t)(slot.index + j) * kind.c_out + o;
                    float4 quad = load_quad(z, kind.c_out - o, wide);
                    acc[4 * v + j][0] = quad.x;
                    acc[4 * v + j][1] = quad.y;
                    acc[4 * v + j][2] = quad.z;
                    acc[4 * v + j][3] = quad.w;
                }
            }
        }
#define FORWARD_MULTIPLY(A, B)                                                                                          \
    multiply<V, A, B>(rows + 4 * mine.group, kind.pitch, 4 * groups, pointwise + 4 * mine.column, kind.weights_pitch, channels, acc)
        // The pitches of the search's networks are known.
        if (V == 1 && kind.pitch == 256 && kind.weights_pitch == 24) {
            FORWARD_MULTIPLY(256, 24);
        } else if (V == 1 && kind.pitch == 264 && kind.weights_pitch == 24) {
            FORWARD_MULTIPLY(264, 24);
        } else if (V == 1 && kind.pitch == 144 && kind.weights_pitch == 40) {
            FORWARD_MULTIPLY(144, 40);
        } else if (V == 1 && kind.pitch == 136 && kind.weights_pitch == 40) {
            FORWARD_MULTIPLY(136, 40);
        } else if (V == 1 && kind.pitch == 72 && kind.weights_pitch == 72) {
            FORWARD_MULTIPLY(72, 72);
        } else {
            FORWARD_MULTIPLY(0, 0);
        }
#pragma unroll
        for (uint32_t v = 0; v < V; v++) {
            Slot slot = slot_of(kind, slots, mine.group + v * groups);
            store_pixels(unit.z + (size_t)slot.index * kind.c_out + o, kind.c_out, slot.columns, kind.c_out - o, wide, acc, 4 * v);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (!last || j >= slot.columns) break;
                const float(&value)[4] = acc[4 * v + j];
#pragma unroll
                for (uint32_t c = 0; c < 4; c++) {
                    sum[c] += value[c];
                    square[c] = fmaf(value[c], value[c], square[c]);
                }
            }
        }
    }
    if (last && unit.partials) {
        if (shares_interleave(columns)) {
            sums[threadIdx.x] = warp_column_sum<1, 4, 16>(sum, square);
        } else {
            // The same for all threads of the block.
            float *to = unit.partials + (size_t)tile * 2 * kind.c_out + o0;
            column_sums(mine, columns, groups, sum, square, rows, to, kind.c_out, min(kind.split, kind.c_out - o0));
        }
    }
}

// The same on tensor cores: a warp has 16 output channels, and 32 pixels at a time.
DEVICE void multiply_warp(const SepKind &kind, const SepForward &unit, uint32_t chunk, uint32_t o0, uint32_t channels,
                          const float *rows, const float *pointwise, const Slot *slots, bool bfloat, float *sums) {
    uint32_t across = kind.split / 16, run = quotient(warp(), kind.share_magic), n = warp() - run * across;
    uint32_t step = quotient(SEP_THREADS / 32, kind.share_magic);
    uint32_t first = 2 * (lane() / 4), o = o0 + 16 * n + 4 * (lane() % 4);
    bool last = chunk + 1 == kind.chunks;
    float sum[4] = {}, square[4] = {};
    for (uint32_t block = run; block < kind.pixels / 32 && run < step; block += step) {
        FragmentC acc[2][2] = {};
        warp_multiply(rows + 32 * block, kind.pitch, pointwise + 16 * n, kind.weights_pitch, channels, bfloat, acc);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t pixel = 32 * block + 16 * (i / 2) + first + i % 2;
            Slot slot = slots[pixel / 4];
            if (pixel % 4 >= slot.columns) continue;
            float *z = unit.z + (size_t)(slot.index + pixel % 4) * kind.c_out + o;
            float4 quad = pixel_quad(acc[i / 2], i % 2);
            // Where there are several chunks, z holds the sums in between.
            if (chunk > 0) quad = add_quad(quad, load4(z));
            store4(z, quad);
            const float value[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
            for (uint32_t c = 0; c < 4; c++) {
                sum[c] += value[c];
                square[c] = fmaf(value[c], value[c], square[c]);
            }
        }
    }
    if (last && unit.partials) sums[threadIdx.x] = warp_column_sum<4, 8, 16>(sum, square);
}

// After the products of the last chunk and a barrier: the sums of the warps that have a column, in their order.
template <bool TENSOR>
DEVICE void store_sums(const SepKind &kind, const SepForward &unit, uint32_t tile, uint32_t o0, const float *sums) {
    if (!unit.partials || !shares_interleave(kind.split / 4)) return;
    uint32_t across = kind.split / 16, outputs = min(kind.split, kind.c_out - o0);
    for (uint32_t i = threadIdx.x; i < 2 * outputs; i += SEP_THREADS) {
        bool square = i >= outputs;
        uint32_t column = square ? i - outputs : i, quad = column % 16 / 4;
        uint32_t from = TENSOR ? quad + column_sum_lane<4, 8, 16>(column, square)
                               : ((quad & 1) << 1) + ((quad & 2) << 2) + column_sum_lane<1, 4, 16>(column, square);
        float sum = 0.0f;
        for (uint32_t w = column / 16; w < SEP_THREADS / 32; w += across) sum += sums[32 * w + from];
        unit.partials[(size_t)tile * 2 * kind.c_out + (square ? kind.c_out : 0) + o0 + column] = sum;
    }
}

// Grid: for each kind its tiles x runs of output channels x groups of units that one block computes one after the other.
// TENSOR: products on tensor cores.
template <bool LARGE, bool TENSOR>
DEVICE void forward_units(const SepForwardArgs &args) {
    DYN_SMEM(float, shared);
    uint32_t number = 0;
    while (number + 1 < args.kinds && blockIdx.x >= args.kind[number + 1].first_block) number++;
    const SepKind &kind = args.kind[number];
    uint32_t block = blockIdx.x - kind.first_block, run = block / kind.tiles, tile = block - run * kind.tiles;
    uint32_t group = quotient(run, kind.splits_magic), o0 = (run - group * kind.splits) * kind.split;
    uint32_t first = kind.first_unit + group * kind.per_block;
    uint32_t end = min(first + kind.per_block, kind.first_unit + kind.units);
    Corner at = corner_of(kind, tile);
    Planes planes = {kind.tile_n, kind.in_h, kind.in_w, kind.plane, kind.chunk / 4, kind.quads_magic, kind.across_magic,
                     kind.in_h_magic, kind.step};
    float *rows = shared + kind.rows_at;
    float *pointwise = shared + kind.pointwise_at;
    float *depthwise = shared + kind.depthwise_at;
    float *sums = shared + kind.sums_at;
    Slot *slots = reinterpret_cast<Slot *>(shared + kind.slots_at);
    fill_slots(kind, at, args.n, slots, threadIdx.x);
    uint32_t taps = kind.kernel * kind.kernel;
    uint32_t outputs = min(kind.split, kind.c_out - o0), pitch_w = kind.weights_pitch;
    // Two steps at a time: the products of one, and the loads for the depthwise convolution of the next, whose latencies hide
    // behind them. Weights are copied beside whatever comes before their use.
    uint32_t u = first, chunk = 0;
    for (bool begun = false;; begun = true) {
        const SepForward &unit = args.unit[u];
        uint32_t done = chunk;
        bool last = chunk + 1 == kind.chunks;
        if (begun) {
            u = last ? u + 1 : u;
            chunk = last ? 0 : chunk + 1;
        }
        bool more = u < end;
        const SepForward &next = args.unit[more ? u : first];
        uint32_t c0 = chunk * kind.chunk, channels = min(kind.chunk, kind.c_in - c0);
        if (more) copy_floats(depthwise, next.depthwise + c0 * taps, channels * taps);
        if (begun) {
            uint32_t depth = min(kind.chunk, kind.c_in - done * kind.chunk);
            if constexpr (TENSOR) {
                multiply_warp(kind, unit, done, o0, depth, rows, pointwise, slots, args.bfloat, sums);
            } else if (kind.pixels * kind.split > 16 * SEP_THREADS) {
                // Eight pixels a thread, unless half of the threads would idle.
                multiply_share<2>(kind, unit, tile, done, o0, depth, rows, pointwise, slots, sums);
            } else {
                multiply_share<1>(kind, unit, tile, done, o0, depth, rows, pointwise, slots, sums);
            }
        }
        if (more && (!begun || kind.chunks > 1)) {
            Source from = {next.x, next.scale, next.shift, args.n, args.h, args.w, kind.c_in, 1, (next.wide & SEP_WIDE_X) != 0};
            load_planes(shared, planes, from, origin_of(kind, at, c0));
        }
        copies_done();
        BARRIER();
        if (begun && last) store_sums<TENSOR>(kind, unit, tile, o0, sums);
        if (!more) break;
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < kind.split * kind.chunk; i += SEP_THREADS) {
            uint32_t out = quotient(i, kind.chunk_magic), c = i - out * kind.chunk;
            if (c >= channels) continue;
            copy1(pointwise + c * pitch_w + out, next.pointwise + (size_t)(o0 + out) * kind.c_in + c0 + c, out < outputs);
        }
#define FORWARD_PATCHES(K, F, D) forward_patches<K, F, D>(kind, channels, shared, depthwise, rows)
        if constexpr (LARGE) {
            SEP_DISPATCH_LARGE(kind.kernel, kind.factor, kind.dilation, FORWARD_PATCHES)
        } else {
            SEP_DISPATCH_SMALL(kind.kernel, kind.factor, kind.dilation, FORWARD_PATCHES)
        }
        copies_done();
        BARRIER();
    }
}

// Kernels of 3 and 5 rows.
KERNEL_RESIDENT(sep_unit_forward, SepForwardArgs, SEP_THREADS, SEP_RESIDENT) { forward_units<false, false>(args); }

// The same with products on tensor cores.
KERNEL_RESIDENT(sep_unit_forward_rounded, SepForwardArgs, SEP_THREADS, SEP_RESIDENT) { forward_units<false, true>(args); }

// All others.
KERNEL_RESIDENT(sep_unit_forward_large, SepForwardArgs, SEP_THREADS, 2) { forward_units<true, false>(args); }

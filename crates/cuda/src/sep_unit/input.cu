// The unit's backward through the depthwise convolutions: du = [a*x + b > 0] * sum over the units that read x of DW^T g, with g
// from `backward.cu`, and to that what skip connections bring back. Refuses to add in any order but that of the units.
//
// Axes: N images, H rows, W columns, C channels. x and du [N, H, W, C], g [N, H', W', C], depthwise weights [C, 1, K, K].
//
// DW^T with stride s is a convolution of stride 1 with the flipped taps, over g with s - 1 zeros between its pixels.
#include "depthwise.cuh"

#define SEP_ACCUMULATE 1
#define SEP_WIDE 2
#define SEP_SKIPS 32

struct SepInputUnit {
    const float *g;
    const float *depthwise;
    uint32_t kernel, stride, dilation, padding;
    uint32_t out_h, out_w;
    // Rows and columns of g, with zeros between its pixels, that a tile takes, and floats of a plane of them.
    uint32_t in_h, in_w, plane;
    // What divides by in_h, by in_w / 4 and by the rows of patches.
    uint32_t in_h_magic, across_magic, patch_rows_magic;
};

// Units [first, first + count) read the same x. du: overwritten or added to. partials [tile][2*C], overwritten: [sum du | sum
// du*x] of a tile, of what du holds afterwards; null: not wanted. Null scale: u = x.
struct SepInput {
    const float *x;
    const float *scale;
    const float *shift;
    float *du;
    float *partials;
    uint32_t first, count, flags;
    // Skip connections that read x too.
    uint32_t first_skip, skips, pad;
};

// weight*grad is added to du; grad as du, null weight: 1.
struct SepSkip {
    const float *grad;
    const float *weight;
};

struct SepInputArgs {
    uint32_t n, h, w, c;
    // A tile's images, rows and columns (a multiple of 4) of x; tiles of an image.
    uint32_t tile_n, tile_h, tile_w, tiles_y, tiles_x;
    // tile_n * tile_h * tile_w, and the floats of a row of so many.
    uint32_t pixels, pitch;
    uint32_t chunk, quads_magic;
    // What divides by tile_w / 4, by chunk, by tile_h, by tiles_x and by tiles_y.
    uint32_t columns_magic, chunk_magic, tile_h_magic, tiles_x_magic, tiles_y_magic;
    // In shared memory, in floats: planes of g, at next_at a second set of them, then these, with a second set of taps. 0: there
    // is but one set of both.
    uint32_t rows_at, depthwise_at, next_at, next_taps_at;
    SepInput input[SEP_UNITS];
    SepInputUnit unit[SEP_UNITS];
    SepSkip skip[SEP_SKIPS];
};
static_assert(sizeof(SepInputArgs) == 88 + (64 + 64) * SEP_UNITS + 16 * SEP_SKIPS, "layout of SepInputArgs");

// DW^T of a unit into rows [chunk][pitch], written or added.
template <int K, int D>
DEVICE void input_patches(const SepInputArgs &args, const SepInputUnit &unit, uint32_t channels, const float *planes,
                          const float *depthwise, float *rows, bool add) {
    // What `convolve` reads where the shape is only known at run time.
    SepKind kind;
    kind.kernel = unit.kernel;
    kind.factor = 1;
    kind.dilation = unit.dilation;
    uint32_t dilation = K ? D : unit.dilation;
    Patches patches = {args.tile_w / 4, args.columns_magic, args.chunk, args.chunk_magic,
                       patch_rows(args.tile_h, dilation), unit.patch_rows_magic, args.tile_n};
    for (uint32_t index = threadIdx.x; index < patch_count(patches); index += SEP_THREADS) {
        Patch at = patch_of(index, patches, dilation);
        if (at.channel >= channels) continue;
        const float *g = planes + at.channel * unit.plane + (at.image * unit.in_h + at.row) * unit.in_w + at.column;
        float *to = rows + at.channel * args.pitch + at.image * args.tile_h * args.tile_w + at.column;
        float acc[4][4] = {};
        convolve<K, 1, D, true>(g, dilation * unit.in_w, depthwise + at.channel * unit.kernel * unit.kernel, kind, acc);
#pragma unroll
        for (uint32_t r = 0; r < 4; r++) {
            uint32_t row = at.row + r * dilation;
            if (row >= args.tile_h) continue;
            float4 value = make_float4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
            if (add) value = add_quad(value, load4(to + row * args.tile_w));
            put4(to + row * args.tile_w, value);
        }
    }
}

// Four neighbouring pixels of x: number of the first's first value, and how many of them exist.
struct Place {
    size_t first;
    uint32_t columns;
};

DEVICE Place place_of(const SepInputArgs &args, uint32_t slot, uint32_t n0, uint32_t row0, uint32_t column0, uint32_t c) {
    uint32_t line = quotient(slot, args.columns_magic), column = column0 + 4 * slot - line * args.tile_w;
    uint32_t image = quotient(line, args.tile_h_magic), row = row0 + line - image * args.tile_h;
    bool inside = n0 + image < args.n && row < args.h && column < args.w;
    size_t first = (((size_t)(n0 + image) * args.h + row) * args.w + column) * args.c + c;
    return {first, inside ? min(args.w - column, 4u) : 0};
}

// Grid: tiles, runs of channels, inputs.
KERNEL_RESIDENT(sep_unit_input, SepInputArgs, SEP_THREADS, SEP_RESIDENT) {
    DYN_SMEM(float, shared);
    const SepInput &input = args.input[blockIdx.z];
    uint32_t line = quotient(blockIdx.x, args.tiles_x_magic), image = quotient(line, args.tiles_y_magic);
    uint32_t column0 = (blockIdx.x - line * args.tiles_x) * args.tile_w;
    uint32_t row0 = (line - image * args.tiles_y) * args.tile_h, n0 = image * args.tile_n;
    uint32_t c0 = blockIdx.y * args.chunk, channels = min(args.chunk, args.c - c0);
    float *rows = shared + args.rows_at;
    float *depthwise = shared + args.depthwise_at;
    bool wide = input.flags & SEP_WIDE;
    // With two sets of planes and taps, those of a unit are copied beside the products of the one before.
    uint32_t ahead = args.next_at ? 1 : 0;
    uint32_t quads = args.chunk / 4, slots = args.pixels / 4;
    bool copied = ahead && input.count && wide;
    float *copy = shared + (input.count & 1) * args.next_at;
    for (uint32_t i = 0; input.count && i < input.count + ahead; i++) {
        const SepInputUnit &unit = args.unit[input.first + min(i, input.count - 1)];
        Planes planes = {args.tile_n, unit.in_h, unit.in_w, unit.plane, args.chunk / 4, args.quads_magic, unit.across_magic,
                         unit.in_h_magic, 1};
        Source from = {unit.g, nullptr, nullptr, args.n, unit.out_h, unit.out_w, args.c, unit.stride, wide};
        float *set = shared + (i & 1) * args.next_at;
        if (i < input.count) {
            Origin origin = {n0, c0, (int)row0 - (int)unit.padding, (int)column0 - (int)unit.padding};
            // Divisions by constants, where they are known.
            if (unit.stride == 1) {
                ask_planes<1>(set, planes, from, origin);
            } else if (unit.stride == 2) {
                ask_planes<2>(set, planes, from, origin);
            } else {
                ask_planes<0>(set, planes, from, origin);
            }
            uint32_t taps = unit.kernel * unit.kernel;
            copy_floats(depthwise + (i & 1) * args.next_taps_at, unit.depthwise + c0 * taps, channels * taps);
        } else if (copied) {
            // After the last unit's g comes x, each thread's to places of its own.
            for (uint32_t index = threadIdx.x; index < tile4_count(slots, quads); index += SEP_THREADS) {
                Tile4 at = tile4(index, quads, args.quads_magic);
                uint32_t c = 4 * at.quad;
                if (at.slot >= slots || c >= channels) continue;
                auto [first, columns] = place_of(args, at.slot, n0, row0, column0, c0 + c);
#pragma unroll
                for (uint32_t j = 0; j < 4; j++) {
                    copy4(copy + (c + j) * args.pitch + 4 * at.slot, input.x + first + j * args.c, j < columns);
                }
            }
        }
        if (!ahead) {
            take_planes(set, planes, from, c0);
            BARRIER();
        }
        if (i >= ahead) {
            uint32_t u = i - ahead;
            const SepInputUnit &unit = args.unit[input.first + u];
            const float *planes = shared + (u & 1) * args.next_at, *weights = depthwise + (u & 1) * args.next_taps_at;
#define INPUT_PATCHES(K, F, D) input_patches<K, D>(args, unit, channels, planes, weights, rows, u > 0)
            if ((unit.kernel == 3 || unit.kernel == 5) && unit.dilation <= 2) {
                SEP_DISPATCH_SMALL(unit.kernel, 1, unit.dilation, INPUT_PATCHES)
            } else {
                SEP_DISPATCH_LARGE(unit.kernel, 1, unit.dilation, INPUT_PATCHES)
            }
        }
        if (ahead && i < input.count) take_planes(set, planes, from, c0);
        BARRIER();
    }
    // du, and du*x in place of g's planes.
    copies_done();
    for (uint32_t index = threadIdx.x; index < tile4_count(slots, quads); index += SEP_THREADS) {
        Tile4 at = tile4(index, quads, args.quads_magic);
        uint32_t c = 4 * at.quad;
        if (at.slot >= slots || c >= channels) continue;
        auto [first, columns] = place_of(args, at.slot, n0, row0, column0, c0 + c);
        uint32_t left = channels - c;
        float4 scale = splat_quad(1.0f), shift = splat_quad(0.0f), du[4], x[4];
        if (input.scale) {
            load_pair(input.scale + c0 + c, input.shift + c0 + c, left, wide, scale, shift);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *from = rows + (c + j) * args.pitch + 4 * at.slot;
            du[j] = input.count ? load4(from) : splat_quad(0.0f);
        }
        transpose(du);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (copied) {
                x[j] = load4(copy + (c + j) * args.pitch + 4 * at.slot);
            } else {
                x[j] = j < columns ? load_quad(input.x + first + j * args.c, left, wide) : splat_quad(0.0f);
            }
            du[j] = j < columns ? where_positive(input.scale ? fma_quad(scale, x[j], shift) : x[j], du[j]) : splat_quad(0.0f);
        }
        for (uint32_t t = 0; t < input.skips; t++) {
            const SepSkip &skip = args.skip[input.first_skip + t];
            float4 weight = splat_quad(skip.weight ? *skip.weight : 1.0f);
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                if (j < columns) du[j] = fma_quad(weight, load_quad(skip.grad + first + j * args.c, left, wide), du[j]);
            }
        }
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            if (j >= columns) continue;
            float *to = input.du + first + j * args.c;
            if (input.flags & SEP_ACCUMULATE) du[j] = add_quad(du[j], load_quad(to, left, wide));
            store_quad(to, du[j], left, wide);
        }
        if (input.partials) {
#pragma unroll
            for (int j = 0; j < 4; j++) x[j] = mul_quad(du[j], x[j]);
            transpose(du);
            transpose(x);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                store4(rows + (c + j) * args.pitch + 4 * at.slot, du[j]);
                store4(shared + (c + j) * args.pitch + 4 * at.slot, x[j]);
            }
        }
    }
    if (!input.partials) return;
    BARRIER();
    float *to = input.partials + (size_t)blockIdx.x * 2 * args.c + c0;
    for (uint32_t c = warp(); c < channels; c += SEP_THREADS / 32) {
        float sum = 0.0f, product = 0.0f;
        for (uint32_t pixel = lane(); pixel < args.pixels; pixel += 32) {
            sum += rows[c * args.pitch + pixel];
            product += shared[c * args.pitch + pixel];
        }
        sum = warp_sum(sum);
        product = warp_sum(product);
        if (lane() == 0) {
            to[c] = sum;
            to[args.c + c] = product;
        }
    }
}

// z of pools, with the sums that a norm wants of it.
//
// A thread takes a strip: a few rows of z in one column, so that windows that overlap share the rows of x that they read.
#include "window.cuh"

// Rows of a strip where windows are 3 x 3 with a padding of 1 and x stays as it is, by the stride. Otherwise one.
#define POOL_STRIP_1 4
#define POOL_STRIP_2 2

// z: overwritten. partials [image][chunk][2C], null: not wanted: [sum z | sum z*z] of a chunk's strips, overwritten.
struct PoolForward {
    const float *x;
    float *z;
    float *partials;
    PoolShape shape;
    // Rows of a strip; strips that a block takes, and how many such chunks an image has.
    uint32_t strip, chunk, chunks;
};

struct PoolForwardArgs {
    uint32_t h, w, channels, vector;
    PoolForward unit[POOL_UNITS];
};
static_assert(sizeof(PoolForwardArgs) == 16 + 64 * POOL_UNITS, "layout of PoolForwardArgs");

// z of windows of 3 x 3, from row out_y on; of rows beyond the last, anything. x as in `pool_window`.
template <int V, int STRIDE, int ROWS, bool AVERAGE>
DEVICE void pool_strip(const float *x, uint32_t h, uint32_t w, uint32_t channels, uint32_t out_y, uint32_t out_x,
                       Pack<V> (&z)[ROWS]) {
    constexpr int CELLS = (ROWS - 1) * STRIDE + 3;
    uint32_t column = out_x * STRIDE;
    bool left = column > 0, right = column + 1 < w;
    Pack<V> padding = splat<V>(AVERAGE ? 0.0f : -INFINITY);
    // Sum or maximum of three cells of every row.
    Pack<V> row[CELLS];
#pragma unroll
    for (int k = 0; k < CELLS; k++) {
        uint32_t y = out_y * STRIDE + k - 1;
        // Row -1 is a very large one.
        bool there = y < h;
        const float *cell = x + (y * w + column) * channels;
        Pack<V> a = there && left ? load_pack<V>(cell - channels) : padding;
        Pack<V> b = there ? load_pack<V>(cell) : padding;
        Pack<V> c = there && right ? load_pack<V>(cell + channels) : padding;
        for (int i = 0; i < V; i++) {
            row[k].v[i] = AVERAGE ? a.v[i] + b.v[i] + c.v[i] : larger(larger(a.v[i], b.v[i]), c.v[i]);
        }
    }
    uint32_t columns = pool_cells<STRIDE>(out_x, w);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        float factor = pool_factor(pool_cells<STRIDE>(out_y + k, h), columns);
        for (int i = 0; i < V; i++) {
            float a = row[k * STRIDE].v[i], b = row[k * STRIDE + 1].v[i], c = row[k * STRIDE + 2].v[i];
            z[k].v[i] = AVERAGE ? (a + b + c) * factor : larger(larger(a, b), c);
        }
    }
}

// Stride 0: windows of any kind.
template <int V, int STRIDE, int ROWS>
DEVICE void pool_forward_block(const PoolForwardArgs& args, float *shared) {
    const PoolForward &unit = args.unit[blockIdx.z];
    PoolShape shape = unit.shape;
    uint32_t packs = args.channels / V;
    Threads at = threads_over(packs);
    uint32_t image = blockIdx.y;
    uint32_t strips = (shape.out_h + ROWS - 1) / ROWS * shape.out_w;
    uint32_t first = blockIdx.x * unit.chunk;
    uint32_t end = first + unit.chunk < strips ? first + unit.chunk : strips;
    for (uint32_t start = 0; start < packs; start += at.lanes) {
        uint32_t pack = start + at.lane;
        bool active = at.row < at.rows && pack < packs;
        uint32_t channel = pack * V;
        Pack<V> sums[2] = {splat<V>(0.0f), splat<V>(0.0f)};
        if (active) {
            const float *x = unit.x + (size_t)image * args.h * args.w * args.channels + channel;
            float *to = unit.z + (size_t)image * shape.out_h * shape.out_w * args.channels + channel;
            for (uint32_t strip = first + at.row; strip < end; strip += at.rows) {
                uint32_t out_y = strip / shape.out_w;
                uint32_t out_x = strip - out_y * shape.out_w;
                out_y *= ROWS;
                Pack<V> z[ROWS];
                if constexpr (STRIDE == 0) {
                    uint32_t winner[V];
                    z[0] = pool_window<V>(shape, x, args.h, args.w, args.channels, out_y, out_x, winner);
                } else if (shape.average) {
                    pool_strip<V, STRIDE, ROWS, true>(x, args.h, args.w, args.channels, out_y, out_x, z);
                } else {
                    pool_strip<V, STRIDE, ROWS, false>(x, args.h, args.w, args.channels, out_y, out_x, z);
                }
#pragma unroll
                for (int k = 0; k < ROWS; k++) {
                    if (out_y + k >= shape.out_h) break;
                    store_pack<V>(to + ((out_y + k) * shape.out_w + out_x) * args.channels, z[k]);
                    for (int i = 0; i < V; i++) {
                        sums[0].v[i] += z[k].v[i];
                        sums[1].v[i] = fmaf(z[k].v[i], z[k].v[i], sums[1].v[i]);
                    }
                }
            }
        }
        if (unit.partials) {
            // The same for all threads of the block, as is whether the block has strips.
            sum_rows<V, 2>(at, shared, sums);
            if (active && at.row == 0 && blockIdx.x < unit.chunks) {
                size_t block = (size_t)image * unit.chunks + blockIdx.x;
                float *to = unit.partials + block * 2 * args.channels + channel;
                store_pack<V>(to, sums[0]);
                store_pack<V>(to + args.channels, sums[1]);
            }
        }
    }
}

template <int V>
DEVICE void pool_forward_unit(const PoolForwardArgs& args, float *shared) {
    uint32_t strip = args.unit[blockIdx.z].strip;
    if (strip == POOL_STRIP_1) pool_forward_block<V, 1, POOL_STRIP_1>(args, shared);
    else if (strip == POOL_STRIP_2) pool_forward_block<V, 2, POOL_STRIP_2>(args, shared);
    else pool_forward_block<V, 0, 1>(args, shared);
}

// Grid: chunks of the unit that has most, images, units.
KERNEL_RESIDENT(pool_forward, PoolForwardArgs, 256, 2) {
    DYN_SMEM(float, shared);
    if (args.vector) pool_forward_unit<4>(args, shared);
    else pool_forward_unit<1>(args, shared);
}

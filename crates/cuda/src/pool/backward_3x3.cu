// dx of pools whose windows are 3 x 3 at stride 1 or 2 with a padding of 1, where x stays as it is and channels come in fours.
//
// A thread takes a strip: one column of windows over the rows of z that reach POOL_STRIP rows of x. A maximum is found in two
// steps, in each row and then among three rows; so is the way back: down the column in registers, then along each row to the
// neighbours, once for all pools of an x, through shared memory.
#include "gradient.cuh"

// Rows of x of a strip.
#define POOL_STRIP 4
#define POOL_3X3_THREADS 128

template <int STRIDE>
struct PoolStrip {
    // Rows of z, and the rows of x that their windows read, of which so many lie above the strip's own.
    static constexpr int OUT = POOL_STRIP / STRIDE + 3 - STRIDE;
    static constexpr int CELLS = (OUT - 1) * STRIDE + 3;
    static constexpr int ABOVE = 3 - STRIDE;
};

// Where a thread's strip lies: first row of x and of z (may be -1), column of z, first channel.
struct PoolPlace {
    uint32_t image, y, column, channel;
    int out_y;
};

// From `row`, which may lie outside, to the next, by `step`; outside of `rows` rows the edge repeats.
DEVICE const float *next_row(const float *from, int row, uint32_t rows, uint32_t step) {
    return row >= 0 && row + 1 < (int)rows ? from + step : from;
}

// Whether v comes after `best` and wins all the same.
DEVICE bool beats(float v, float best) { return !(v <= best) && best == best; }

template <int COUNT>
DEVICE void pool_rows(const float *from, int first, uint32_t rows, uint32_t step, Pack<4> (&to)[COUNT]) {
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        to[k] = load_pack<4>(from);
        from = next_row(from, first + k, rows, step);
    }
}

// dz of the strip's windows, divided by the number of cells for an average; 0 of rows that there are none of.
template <int STRIDE, int OUT>
DEVICE void pool_upstream(const PoolBackwardArgs &args, const PoolBackward &unit, PoolPlace at, Pack<4> (&dz)[OUT]) {
    PoolShape shape = unit.shape;
    uint32_t step = shape.out_w * args.channels;
    size_t first = (size_t)at.image * shape.out_h * step + (max(at.out_y, 0) * shape.out_w + at.column) * args.channels + at.channel;
    Pack<4> b = splat<4>(0.0f), d = splat<4>(0.0f);
    for (int k = 0; k < OUT; k++) dz[k] = splat<4>(0.0f);
    bool normalized = false;
#pragma unroll 1
    for (uint32_t t = unit.first_term; t < unit.first_term + unit.terms; t++) {
        const PoolTerm &term = args.term[t];
        Pack<4> grad[OUT];
        pool_rows(term.grad + first, at.out_y, shape.out_h, step, grad);
        float sample = term.sample_scale ? term.sample_scale[at.image] : 1.0f;
        Pack<4> scale = load_pack_or<4>(term.scale, at.channel, 1.0f);
        Pack<4> of_z = load_pack_or<4>(term.b, at.channel, 0.0f), constant = load_pack_or<4>(term.d, at.channel, 0.0f);
        normalized |= term.b != nullptr;
        for (int i = 0; i < 4; i++) {
            scale.v[i] *= sample;
            b.v[i] += of_z.v[i];
            d.v[i] += constant.v[i];
#pragma unroll
            for (int k = 0; k < OUT; k++) dz[k].v[i] = fmaf(scale.v[i], grad[k].v[i], dz[k].v[i]);
        }
    }
    if (normalized) {
        Pack<4> z[OUT];
        pool_rows(unit.z + first, at.out_y, shape.out_h, step, z);
#pragma unroll
        for (int k = 0; k < OUT; k++) {
            for (int i = 0; i < 4; i++) dz[k].v[i] = fmaf(b.v[i], z[k].v[i], dz[k].v[i] + d.v[i]);
        }
    }
    uint32_t columns = pool_cells<STRIDE>(at.column, args.w);
#pragma unroll
    for (int k = 0; k < OUT; k++) {
        int row = at.out_y + k;
        bool there = row >= 0 && row < (int)shape.out_h;
        float factor = shape.average ? pool_factor(pool_cells<STRIDE>(row, args.h), columns) : 1.0f;
        for (int i = 0; i < 4; i++) dz[k].v[i] = there ? dz[k].v[i] * factor : 0.0f;
    }
}

// What the windows of an average leave in each row.
template <int STRIDE, int OUT>
DEVICE void pool_spread(const Pack<4> (&dz)[OUT], Pack<4> (&spread)[POOL_STRIP]) {
#pragma unroll
    for (int k = 0; k < OUT; k++) {
#pragma unroll
        for (int tap = 0; tap < 3; tap++) {
            int row = k * STRIDE + tap - PoolStrip<STRIDE>::ABOVE;
            if (row < 0 || row >= POOL_STRIP) continue;
            for (int i = 0; i < 4; i++) spread[row].v[i] += dz[k].v[i];
        }
    }
}

// What the windows of a maximum leave in each row, and in which of the three columns: a bit of four for each channel.
template <int STRIDE, int OUT>
DEVICE void pool_spread_maximum(const PoolBackwardArgs &args, const float *x, PoolPlace at, const Pack<4> (&dz)[OUT],
                                Pack<4> (&spread)[POOL_STRIP], uint32_t (&columns)[POOL_STRIP]) {
    using Strip = PoolStrip<STRIDE>;
    // Padding repeats the edge. Below and to the right that comes after the edge itself and never wins; above and to the left
    // it is passed over.
    uint32_t column = at.column * STRIDE;
    bool has_left = column > 0;
    uint32_t to_left = has_left ? args.channels : 0, to_right = column + 1 < args.w ? args.channels : 0;
    int first = (int)at.y - Strip::ABOVE;
    uint32_t step = args.w * args.channels;
    const float *cell = x + (size_t)at.image * args.h * step + (max(first, 0) * args.w + column) * args.channels + at.channel;
    Pack<4> largest[Strip::CELLS];
#pragma unroll
    for (int k = 0; k < Strip::CELLS; k++) {
        int row = k - Strip::ABOVE;
        Pack<4> a = load_pack<4>(cell - to_left), b = load_pack<4>(cell), c = load_pack<4>(cell + to_right);
        cell = next_row(cell, first + k, args.h, step);
        for (int i = 0; i < 4; i++) {
            bool middle = beats(b.v[i], a.v[i]) || !has_left;
            float best = middle ? b.v[i] : a.v[i];
            bool last = beats(c.v[i], best);
            largest[k].v[i] = last ? c.v[i] : best;
            if (row >= 0 && row < POOL_STRIP) columns[row] |= (last ? 4u : middle ? 2u : 1u) << (4 * i);
        }
    }
#pragma unroll
    for (int k = 0; k < OUT; k++) {
        bool has_top = at.out_y + k > 0;
        int row = k * STRIDE - Strip::ABOVE;
        for (int i = 0; i < 4; i++) {
            float a = largest[k * STRIDE].v[i], b = largest[k * STRIDE + 1].v[i], c = largest[k * STRIDE + 2].v[i];
            bool middle = beats(b, a) || !has_top;
            bool last = beats(c, middle ? b : a);
            if (row >= 0 && row < POOL_STRIP && !middle && !last) spread[row].v[i] += dz[k].v[i];
            if (row + 1 >= 0 && row + 1 < POOL_STRIP && middle && !last) spread[row + 1].v[i] += dz[k].v[i];
            if (row + 2 >= 0 && row + 2 < POOL_STRIP && last) spread[row + 2].v[i] += dz[k].v[i];
        }
    }
}

DEVICE void add_pack(Pack<4> &to, Pack<4> pack) {
    for (int i = 0; i < 4; i++) to.v[i] += pack.v[i];
}

template <int STRIDE>
DEVICE void pool_backward_strips(const PoolBackwardArgs &args, float *shared) {
    using Strip = PoolStrip<STRIDE>;
    // What the thread's windows leave in the three columns of their cells: [column][row][thread][4].
    constexpr uint32_t ROW = 4 * POOL_3X3_THREADS, COLUMN = POOL_STRIP * ROW;
    float *mine = shared + 4 * threadIdx.x;
    PoolGroup group = args.group[blockIdx.z];
    uint32_t out_w = args.unit[group.first].shape.out_w;
    uint32_t band = blockIdx.x / args.tiles;
    uint32_t channel = (blockIdx.x - band * args.tiles) * args.tile;
    uint32_t packs = (args.channels - channel < args.tile ? args.channels - channel : args.tile) / 4;
    uint32_t pixel = threadIdx.x / packs, strip = pixel / out_w;
    PoolPlace at;
    at.image = blockIdx.y;
    at.column = pixel - strip * out_w;
    at.channel = channel + (threadIdx.x - pixel * packs) * 4;
    at.y = band * args.band + strip * POOL_STRIP;
    at.out_y = (int)(at.y / STRIDE) + STRIDE - 2;
    uint32_t end = group.first + group.count;
    bool active = strip * POOL_STRIP < args.band && at.y < args.h;
    for (uint32_t u = active ? group.first : end; u < end; u++) {
        const PoolBackward &unit = args.unit[u];
        Pack<4> dz[Strip::OUT], spread[POOL_STRIP];
        pool_upstream<STRIDE>(args, unit, at, dz);
        for (int row = 0; row < POOL_STRIP; row++) spread[row] = splat<4>(0.0f);
        // An average leaves the same in all of them.
        uint32_t columns[POOL_STRIP];
        for (int row = 0; row < POOL_STRIP; row++) columns[row] = unit.shape.average ? 0x7777u : 0;
        if (unit.shape.average) pool_spread<STRIDE>(dz, spread);
        else pool_spread_maximum<STRIDE>(args, unit.x, at, dz, spread, columns);
#pragma unroll
        for (int row = 0; row < POOL_STRIP; row++) {
            for (uint32_t column = 0; column < 3; column++) {
                float *sums = mine + column * COLUMN + row * ROW;
                Pack<4> sum = u > group.first ? load_pack<4>(sums) : splat<4>(0.0f);
                for (int i = 0; i < 4; i++) {
                    if (columns[row] >> (4 * i + column) & 1) sum.v[i] += spread[row].v[i];
                }
                put4(sums, make_float4(sum.v[0], sum.v[1], sum.v[2], sum.v[3]));
            }
        }
    }
    BARRIER();
    if (!active) return;
    const PoolBackward &unit = args.unit[group.first];
    float *to = unit.dx + (((size_t)at.image * args.h + at.y) * args.w + at.column * STRIDE) * args.channels + at.channel;
    const float *left = mine - 4 * packs, *right = mine + 4 * packs;
#pragma unroll
    for (int row = 0; row < POOL_STRIP; row++) {
        // At stride 2 a thread has the columns of its windows' middle and right cells.
        Pack<4> dx[STRIDE];
        for (int column = 0; column < STRIDE; column++) dx[column] = load_pack<4>(mine + (1 + column) * COLUMN + row * ROW);
        if (STRIDE == 1 && at.column > 0) add_pack(dx[0], load_pack<4>(left + 2 * COLUMN + row * ROW));
        if (at.column + 1 < out_w) add_pack(dx[STRIDE - 1], load_pack<4>(right + row * ROW));
#pragma unroll
        for (int column = 0; column < STRIDE; column++) {
            if (at.y + row >= args.h || at.column * STRIDE + column >= args.w) continue;
            float *cell = to + (row * args.w + column) * args.channels;
            if (unit.accumulate) add_pack(dx[column], load_pack<4>(cell));
            store_pack<4>(cell, dx[column]);
        }
    }
}

// Grid: bands x runs of channels, images, groups. All units have the same stride; those of a group after the first add up.
KERNEL_RESIDENT(pool_backward_3x3, PoolBackwardArgs, POOL_3X3_THREADS, 4) {
    DYN_SMEM(float, shared);
    if (args.unit[0].shape.stride == 1) pool_backward_strips<1>(args, shared);
    else pool_backward_strips<2>(args, shared);
}

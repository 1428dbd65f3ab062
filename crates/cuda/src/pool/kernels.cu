// Max and average pooling with padding. Refuses to let padding count, and to store which cell won: backward looks for it
// again.
//
// Axes: x [N, H, W, C], z [N, H', W', C]; a window has k x k taps in scan order. Where `relu` is set, x is replaced by
// relu(x), whose derivative at 0 is 0. NaN is the maximum of its window.
#include "channels.cuh"

#define POOL_UNITS 16
#define POOL_TERMS 64

struct PoolShape {
    uint32_t kernel, stride, padding, relu;
    uint32_t average;
    uint32_t out_h, out_w;
};

// z: overwritten. partials [image][chunk][2C], null: not wanted: [sum z | sum z*z] of a chunk's pixels, overwritten.
struct PoolForward {
    const float *x;
    float *z;
    float *partials;
    PoolShape shape;
    // Pixels of z that a block takes, and how many such chunks an image has.
    uint32_t chunk, chunks, pad;
};

struct PoolForwardArgs {
    uint32_t h, w, channels, vector;
    PoolForward unit[POOL_UNITS];
};
static_assert(sizeof(PoolForwardArgs) == 16 + 64 * POOL_UNITS, "layout of PoolForwardArgs");

// Rows (or columns) [first, end) of the window at output row `out`, of `size` there are.
DEVICE uint32_t pool_first(PoolShape shape, uint32_t out) {
    uint32_t start = out * shape.stride;
    return start > shape.padding ? start - shape.padding : 0;
}

DEVICE uint32_t pool_end(PoolShape shape, uint32_t out, uint32_t size) {
    uint32_t end = out * shape.stride + shape.kernel - shape.padding;
    return end < size ? end : size;
}

// The windows of `out_size` there are that hold input row (or column) `in`: [first, end).
DEVICE uint32_t pool_first_window(PoolShape shape, uint32_t in) {
    uint32_t last_tap = in + shape.padding + 1;
    return last_tap > shape.kernel ? (last_tap - shape.kernel + shape.stride - 1) / shape.stride : 0;
}

DEVICE uint32_t pool_end_window(PoolShape shape, uint32_t in, uint32_t out_size) {
    uint32_t end = (in + shape.padding) / shape.stride + 1;
    return end < out_size ? end : out_size;
}

// Value of a window and, for a maximum, its tap; x points at the channel of the image's first pixel.
template <int V>
DEVICE Pack<V> pool_window(PoolShape shape, const float *x, uint32_t h, uint32_t w, uint32_t channels, uint32_t out_y,
                           uint32_t out_x, uint32_t (&winner)[V]) {
    uint32_t y0 = pool_first(shape, out_y), y1 = pool_end(shape, out_y, h);
    uint32_t x0 = pool_first(shape, out_x), x1 = pool_end(shape, out_x, w);
    Pack<V> value = splat<V>(shape.average ? 0.0f : -INFINITY);
    for (int i = 0; i < V; i++) winner[i] = 0;
    for (uint32_t y = y0; y < y1; y++) {
        for (uint32_t column = x0; column < x1; column++) {
            Pack<V> cell = load_pack<V>(x + ((size_t)y * w + column) * channels);
            uint32_t tap = (y + shape.padding - out_y * shape.stride) * shape.kernel + column + shape.padding -
                           out_x * shape.stride;
            for (int i = 0; i < V; i++) {
                float v = cell.v[i];
                if (shape.relu && v <= 0.0f) v = 0.0f;
                if (shape.average) {
                    value.v[i] += v;
                } else if (v > value.v[i] || (v != v && value.v[i] == value.v[i])) {
                    value.v[i] = v;
                    winner[i] = tap;
                } else if (y == y0 && column == x0) {
                    // A first cell of minus infinity.
                    winner[i] = tap;
                }
            }
        }
    }
    if (shape.average) {
        float factor = 1.0f / (float)((y1 - y0) * (x1 - x0));
        for (int i = 0; i < V; i++) value.v[i] *= factor;
    }
    return value;
}

template <int V>
DEVICE void pool_forward_block(const PoolForwardArgs& args, float *shared) {
    PoolForward unit = args.unit[blockIdx.z];
    uint32_t packs = args.channels / V;
    Threads at = threads_over(packs);
    uint32_t image = blockIdx.y;
    uint32_t pixels = unit.shape.out_h * unit.shape.out_w;
    uint32_t first = blockIdx.x * unit.chunk;
    uint32_t end = first + unit.chunk < pixels ? first + unit.chunk : pixels;
    for (uint32_t start = 0; start < packs; start += at.lanes) {
        uint32_t pack = start + at.lane;
        bool active = at.row < at.rows && pack < packs;
        uint32_t channel = pack * V;
        Pack<V> sums[2] = {splat<V>(0.0f), splat<V>(0.0f)};
        if (active) {
            const float *x = unit.x + (size_t)image * args.h * args.w * args.channels + channel;
            for (uint32_t pixel = first + at.row; pixel < end; pixel += at.rows) {
                uint32_t out_y = pixel / unit.shape.out_w;
                uint32_t out_x = pixel - out_y * unit.shape.out_w;
                uint32_t winner[V];
                Pack<V> z = pool_window<V>(unit.shape, x, args.h, args.w, args.channels, out_y, out_x, winner);
                store_pack<V>(unit.z + ((size_t)image * pixels + pixel) * args.channels + channel, z);
                for (int i = 0; i < V; i++) {
                    sums[0].v[i] += z.v[i];
                    sums[1].v[i] = fmaf(z.v[i], z.v[i], sums[1].v[i]);
                }
            }
        }
        if (unit.partials) {
            // The same for all threads of the block, as is whether the block has pixels.
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

// Grid: chunks of the unit that has most, images, units.
KERNEL(pool_forward, PoolForwardArgs, 256) {
    DYN_SMEM(float, shared);
    if (args.vector) pool_forward_block<4>(args, shared);
    else pool_forward_block<1>(args, shared);
}

// One of the gradients that z got: s[n]*scale[c]*grad[n,p,c] + b[c]*z[n,p,c] + d[c]; null scale and sample_scale: 1, null b
// (then d too): 0.
struct PoolTerm {
    const float *grad;
    const float *scale;
    const float *sample_scale;
    const float *b;
    const float *d;
};

// dx: overwritten by the first unit that writes it unless `accumulate` is set, added to by the others.
struct PoolBackward {
    const float *x;
    const float *z;
    float *dx;
    PoolShape shape;
    uint32_t accumulate, first_term, terms;
};

// Units [first, first + count) write the same dx, one after the other, in the same blocks.
struct PoolGroup {
    uint32_t first, count;
};

struct PoolBackwardArgs {
    uint32_t h, w, channels, vector;
    // Rows of an image and channels that a block takes, and the number of such runs of channels.
    uint32_t band, tile, tiles;
    // Floats of shared memory before the winners: those of dz.
    uint32_t gradients;
    PoolGroup group[POOL_UNITS];
    PoolBackward unit[POOL_UNITS];
    PoolTerm term[POOL_TERMS];
};
static_assert(sizeof(PoolBackwardArgs) == 32 + (8 + 64) * POOL_UNITS + 40 * POOL_TERMS, "layout of PoolBackwardArgs");
static_assert(sizeof(PoolBackwardArgs) <= 4096, "kernel arguments");

// dz of the windows that reach the block's rows, and the taps that won, into shared memory.
template <int V>
DEVICE void pool_stage(const PoolBackwardArgs& args, const PoolBackward& unit, uint32_t image, uint32_t channel0,
                       uint32_t packs, uint32_t out_first, uint32_t out_end, float *gradients, uint8_t *winners) {
    PoolShape shape = unit.shape;
    uint32_t count = (out_end - out_first) * shape.out_w * packs;
    size_t image_in = (size_t)image * args.h * args.w * args.channels;
    size_t image_out = (size_t)image * shape.out_h * shape.out_w * args.channels;
    for (uint32_t index = threadIdx.x; index < count; index += blockDim.x) {
        uint32_t pixel = index / packs;
        uint32_t channel = channel0 + (index - pixel * packs) * V;
        uint32_t row = pixel / shape.out_w;
        uint32_t out_x = pixel - row * shape.out_w;
        uint32_t out_y = out_first + row;
        size_t offset = image_out + ((size_t)out_y * shape.out_w + out_x) * args.channels + channel;
        Pack<V> dz = splat<V>(0.0f), b = splat<V>(0.0f);
        bool normalized = false;
        for (uint32_t t = unit.first_term; t < unit.first_term + unit.terms; t++) {
            PoolTerm term = args.term[t];
            float sample = term.sample_scale ? term.sample_scale[image] : 1.0f;
            Pack<V> scale = load_pack_or<V>(term.scale, channel, 1.0f);
            Pack<V> grad = load_pack<V>(term.grad + offset);
            for (int i = 0; i < V; i++) dz.v[i] = fmaf(scale.v[i] * sample, grad.v[i], dz.v[i]);
            if (term.b) {
                normalized = true;
                Pack<V> of_z = load_pack<V>(term.b + channel), constant = load_pack<V>(term.d + channel);
                for (int i = 0; i < V; i++) {
                    b.v[i] += of_z.v[i];
                    dz.v[i] += constant.v[i];
                }
            }
        }
        if (normalized) {
            Pack<V> z = load_pack<V>(unit.z + offset);
            for (int i = 0; i < V; i++) dz.v[i] = fmaf(b.v[i], z.v[i], dz.v[i]);
        }
        uint32_t winner[V];
        for (int i = 0; i < V; i++) winner[i] = 0;
        if (shape.average) {
            uint32_t rows = pool_end(shape, out_y, args.h) - pool_first(shape, out_y);
            uint32_t columns = pool_end(shape, out_x, args.w) - pool_first(shape, out_x);
            float factor = 1.0f / (float)(rows * columns);
            for (int i = 0; i < V; i++) dz.v[i] *= factor;
        } else {
            pool_window<V>(shape, unit.x + image_in + channel, args.h, args.w, args.channels, out_y, out_x, winner);
        }
        store_pack<V>(gradients + index * V, dz);
        for (int i = 0; i < V; i++) winners[index * V + i] = (uint8_t)winner[i];
    }
}

template <int V>
DEVICE void pool_backward_block(const PoolBackwardArgs& args, float *gradients) {
    uint8_t *winners = reinterpret_cast<uint8_t*>(gradients + args.gradients);
    PoolGroup group = args.group[blockIdx.z];
    uint32_t image = blockIdx.y;
    uint32_t band = blockIdx.x / args.tiles;
    uint32_t channel0 = (blockIdx.x - band * args.tiles) * args.tile;
    uint32_t tile = args.channels - channel0 < args.tile ? args.channels - channel0 : args.tile;
    uint32_t packs = tile / V;
    uint32_t first = band * args.band;
    uint32_t end = first + args.band < args.h ? first + args.band : args.h;
    for (uint32_t u = group.first; u < group.first + group.count; u++) {
        PoolBackward unit = args.unit[u];
        PoolShape shape = unit.shape;
        uint32_t out_first = pool_first_window(shape, first);
        uint32_t out_end = pool_end_window(shape, end - 1, shape.out_h);
        // A stride beyond the window can leave rows that no window holds.
        if (out_end < out_first) out_end = out_first;
        pool_stage<V>(args, unit, image, channel0, packs, out_first, out_end, gradients, winners);
        BARRIER();
        uint32_t count = (end - first) * args.w * packs;
        for (uint32_t index = threadIdx.x; index < count; index += blockDim.x) {
            uint32_t pixel = index / packs;
            uint32_t pack = index - pixel * packs;
            uint32_t row = pixel / args.w;
            uint32_t x = pixel - row * args.w;
            uint32_t y = first + row;
            size_t offset =
                (((size_t)image * args.h + y) * args.w + x) * args.channels + channel0 + (size_t)pack * V;
            Pack<V> dx = splat<V>(0.0f);
            uint32_t y1 = pool_end_window(shape, y, shape.out_h), x1 = pool_end_window(shape, x, shape.out_w);
            for (uint32_t out_y = pool_first_window(shape, y); out_y < y1; out_y++) {
                for (uint32_t out_x = pool_first_window(shape, x); out_x < x1; out_x++) {
                    uint32_t at = (((out_y - out_first) * shape.out_w + out_x) * packs + pack) * V;
                    uint32_t tap = (y + shape.padding - out_y * shape.stride) * shape.kernel + x + shape.padding -
                                   out_x * shape.stride;
                    Pack<V> dz = load_pack<V>(gradients + at);
                    for (int i = 0; i < V; i++) {
                        if (shape.average || winners[at + i] == tap) dx.v[i] += dz.v[i];
                    }
                }
            }
            if (shape.relu) {
                Pack<V> cell = load_pack<V>(unit.x + offset);
                for (int i = 0; i < V; i++) dx.v[i] = cell.v[i] > 0.0f ? dx.v[i] : 0.0f;
            }
            if (unit.accumulate) {
                Pack<V> old = load_pack<V>(unit.dx + offset);
                for (int i = 0; i < V; i++) dx.v[i] += old.v[i];
            }
            store_pack<V>(unit.dx + offset, dx);
        }
        BARRIER();
    }
}

// Grid: bands x runs of channels, images, groups.
KERNEL(pool_backward, PoolBackwardArgs, 256) {
    DYN_SMEM(float, gradients);
    if (args.vector) pool_backward_block<4>(args, gradients);
    else pool_backward_block<1>(args, gradients);
}

// dx of pools of any kind: dz and the tap that won, window by window, into shared memory, from which every cell of x takes its
// share.
#include "gradient.cuh"

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

// Weighted sums of candidate operations into a node, and the sums that their backward needs. Refuses to store a normalized
// or a weighted tensor.
//
// Axes: N images, P = H*W pixels of an image, C channels; t counts terms. node, dnode, z: [N, P, C]; scale, shift: [C];
// sample_scale: [N]; weight: one float. A pointer that is null stands for ones (shift: zeros).
#include "channels.cuh"

#define MIX_TERMS 64
// Pixels that a thread of the forward kernel holds in registers while the terms stream past.
#define MIX_PIXELS 2
// Terms that a thread loads at once where there are few blocks, and so few threads to hide each other's waiting.
#define MIX_AHEAD 4
// Terms whose sums a thread of the reduction holds.
#define MIX_GROUP 4

struct MixTerm {
    const float *z;
    const float *scale;
    const float *shift;
    const float *weight;
    const float *sample_scale;
};

// node: overwritten, or added to where `accumulate` is set.
struct MixForwardArgs {
    float *node;
    uint32_t pixels, channels;
    // Pixels of an image that a block takes.
    uint32_t chunk;
    uint32_t terms, accumulate, vector;
    MixTerm term[MIX_TERMS];
};
static_assert(sizeof(MixForwardArgs) == 32 + 40 * MIX_TERMS, "layout of MixForwardArgs");

template <int V, int AHEAD>
DEVICE void mix_forward_block(const MixForwardArgs& args) {
    uint32_t packs = args.channels / V;
    Threads at = threads_over(packs);
    if (at.row >= at.rows) return;
    uint32_t image = blockIdx.y;
    uint32_t first = blockIdx.x * args.chunk;
    uint32_t end = first + args.chunk < args.pixels ? first + args.chunk : args.pixels;
    for (uint32_t pack = at.lane; pack < packs; pack += at.lanes) {
        uint32_t channel = pack * V;
        for (uint32_t pixel = first + at.row; pixel < end; pixel += MIX_PIXELS * at.rows) {
            size_t offset = ((size_t)image * args.pixels + pixel) * args.channels + channel;
            size_t step = (size_t)at.rows * args.channels;
            Pack<V> sum[MIX_PIXELS];
            for (int k = 0; k < MIX_PIXELS; k++) {
                bool old = args.accumulate && pixel + k * at.rows < end;
                sum[k] = old ? load_pack<V>(args.node + offset + k * step) : splat<V>(0.0f);
            }
            Pack<V> shifts = splat<V>(0.0f);
            for (uint32_t t = 0; t < args.terms; t += AHEAD) {
                // Loads first, of several terms at once: their latencies overlap.
                Pack<V> z[AHEAD][MIX_PIXELS], scale[AHEAD], shift[AHEAD];
                float factor[AHEAD], sample[AHEAD];
#pragma unroll
                for (int u = 0; u < AHEAD; u++) {
                    if (t + u >= args.terms) break;
                    const MixTerm &term = args.term[t + u];
                    for (int k = 0; k < MIX_PIXELS; k++) {
                        bool there = pixel + k * at.rows < end;
                        z[u][k] = there ? load_pack<V>(term.z + offset + k * step) : splat<V>(0.0f);
                    }
                    factor[u] = term.weight ? *term.weight : 1.0f;
                    sample[u] = term.sample_scale ? term.sample_scale[image] : 1.0f;
                    scale[u] = load_pack_or<V>(term.scale, channel, 1.0f);
                    shift[u] = load_pack_or<V>(term.shift, channel, 0.0f);
                }
#pragma unroll
                for (int u = 0; u < AHEAD; u++) {
                    if (t + u >= args.terms) break;
                    for (int i = 0; i < V; i++) {
                        float weight = scale[u].v[i] * factor[u] * sample[u];
                        shifts.v[i] = fmaf(shift[u].v[i] * factor[u], sample[u], shifts.v[i]);
                        for (int k = 0; k < MIX_PIXELS; k++) sum[k].v[i] = fmaf(weight, z[u][k].v[i], sum[k].v[i]);
                    }
                }
            }
            for (int k = 0; k < MIX_PIXELS; k++) {
                if (pixel + k * at.rows < end) {
                    for (int i = 0; i < V; i++) sum[k].v[i] += shifts.v[i];
                    store_pack<V>(args.node + offset + k * step, sum[k]);
                }
            }
        }
    }
}

// Grid: chunks of an image, images.
KERNEL(mix_forward, MixForwardArgs, 256) {
    if (args.vector) mix_forward_block<4, 1>(args);
    else mix_forward_block<1, 1>(args);
}

KERNEL(mix_forward_ahead, MixForwardArgs, 256) {
    if (args.vector) mix_forward_block<4, MIX_AHEAD>(args);
    else mix_forward_block<1, MIX_AHEAD>(args);
}

struct MixReduceTerm {
    const float *z;
    const float *sample_scale;
};

// partials [term][image][chunk][2C]: sums over a chunk's pixels of [s*dnode | s*dnode*z]; overwritten.
struct MixReduceArgs {
    const float *dnode;
    float *partials;
    uint32_t pixels, channels;
    uint32_t chunk;
    uint32_t terms, vector, pad;
    MixReduceTerm term[MIX_TERMS];
};
static_assert(sizeof(MixReduceArgs) == 40 + 16 * MIX_TERMS, "layout of MixReduceArgs");

template <int V>
DEVICE void mix_reduce_block(const MixReduceArgs& args, float *shared) {
    uint32_t packs = args.channels / V;
    Threads at = threads_over(packs);
    uint32_t image = blockIdx.y;
    uint32_t first = blockIdx.x * args.chunk;
    uint32_t end = first + args.chunk < args.pixels ? first + args.chunk : args.pixels;
    uint32_t group = blockIdx.z * MIX_GROUP;
    int count = args.terms - group < MIX_GROUP ? (int)(args.terms - group) : MIX_GROUP;
    size_t blocks = (size_t)gridDim.x * gridDim.y;
    size_t block = (size_t)image * gridDim.x + blockIdx.x;
    for (uint32_t start = 0; start < packs; start += at.lanes) {
        uint32_t pack = start + at.lane;
        bool active = at.row < at.rows && pack < packs;
        uint32_t channel = pack * V;
        // The plain sum, then the products.
        Pack<V> sums[1 + MIX_GROUP];
        for (int k = 0; k <= MIX_GROUP; k++) sums[k] = splat<V>(0.0f);
        if (active) {
            for (uint32_t pixel = first + at.row; pixel < end; pixel += at.rows) {
                size_t offset = ((size_t)image * args.pixels + pixel) * args.channels + channel;
                Pack<V> d = load_pack<V>(args.dnode + offset);
                for (int i = 0; i < V; i++) sums[0].v[i] += d.v[i];
                for (int k = 0; k < MIX_GROUP; k++) {
                    if (k < count) {
                        Pack<V> z = load_pack<V>(args.term[group + k].z + offset);
                        for (int i = 0; i < V; i++) sums[1 + k].v[i] = fmaf(d.v[i], z.v[i], sums[1 + k].v[i]);
                    }
                }
            }
        }
        sum_rows<V, 1 + MIX_GROUP>(at, shared, sums);
        if (active && at.row == 0) {
            for (int k = 0; k < MIX_GROUP; k++) {
                if (k < count) {
                    const float *sample = args.term[group + k].sample_scale;
                    float s = sample ? sample[image] : 1.0f;
                    float *to = args.partials + ((group + k) * blocks + block) * 2 * args.channels + channel;
                    Pack<V> plain, products;
                    for (int i = 0; i < V; i++) {
                        plain.v[i] = s * sums[0].v[i];
                        products.v[i] = s * sums[1 + k].v[i];
                    }
                    store_pack<V>(to, plain);
                    store_pack<V>(to + args.channels, products);
                }
            }
        }
    }
}

// Grid: chunks of an image, images, groups of MIX_GROUP terms.
KERNEL(mix_reduce, MixReduceArgs, 256) {
    DYN_SMEM(float, shared);
    if (args.vector) mix_reduce_block<4>(args, shared);
    else mix_reduce_block<1>(args, shared);
}

// Gradients of a dense convolution's weights. Refuses to keep dz: it is formed for some pixels at a time.
//
// Axes: dz [N, H', W', C_out], parts [N, H, W, C_i], weights [C_out, C_in, k_y, k_x]; in shared memory output channels x
// pixels, and rows of the unfolded input x pixels.
#include "gather.cuh"

struct ConvWeightsArgs {
    Conv conv;
    Upstream upstream;
    // Pixels of a tile, tiles, blocks that share them, floats of a row of pixels.
    uint32_t pixels, tiles, slots, pitch;
    // Rows of the unfolded input and output channels of a block, and what divides by the quads of each.
    uint32_t chunk, quads_magic, split, split_magic;
};
static_assert(sizeof(ConvWeightsArgs) == sizeof(Conv) + sizeof(Upstream) + 32, "layout of ConvWeightsArgs");

// dz of a block of output channels: rows of pixels, 0 at pixels and channels that do not exist.
DEVICE void gather_upstream(const ConvWeightsArgs &args, uint32_t o0, uint32_t outputs, uint32_t pixel0, uint32_t end,
                            float *to) {
    const Conv &conv = args.conv;
    uint32_t slots = args.pixels / 4, quads = args.split / 4;
    const Upstream &up = args.upstream;
    bool by_image = up.terms != 1 || up.term[0].sample_scale;
    for (uint32_t index = threadIdx.x; index < tile4_count(slots, quads); index += CONV_THREADS) {
        Tile4 at = tile4(index, quads, args.split_magic);
        uint32_t o = 4 * at.quad, first = pixel0 + 4 * at.slot;
        if (at.slot >= slots || o >= outputs) continue;
        float4 v[4];
        int offset[4];
        bool there[4];
        uint32_t n[4];
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            offset[j] = (int)(j * conv.c_out);
            there[j] = first + j < end;
            n[j] = by_image ? (first + j) / (conv.out_h * conv.out_w) : 0;
        }
        upstream_quads(up, (size_t)first * conv.c_out + o0 + o, offset, there, n, o0 + o, outputs - o, v);
        transpose(v);
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) put4(to + (o + j) * args.pitch + 4 * at.slot, v[j]);
    }
}

// Grid: blocks that share the tiles, blocks of rows of the unfolded input, blocks of output channels of all branches.
KERNEL_RESIDENT(conv_weights, ConvWeightsArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    const Conv &conv = args.conv;
    const ConvBranch &branch = conv.branch[branch_of(conv, blockIdx.z)];
    uint32_t o0 = (blockIdx.z - branch.split) * args.split, outputs = min(args.split, branch.c_out - o0);
    uint32_t taps = conv.kernel_y * conv.kernel_x, total = 4 * taps * part_quads(conv), k0 = blockIdx.y * args.chunk;
    uint32_t depth = min(args.chunk, total - k0), end = conv.n * conv.out_h * conv.out_w;
    float *dz = shared + args.chunk * args.pitch;
    // A thread takes every rows_o-th output channel and every rows_k-th row. Where there are fewer such pairs than threads,
    // several threads share the pixels of one.
    uint32_t rows_o = (outputs + 3) / 4, rows_k = depth / 4, pairs = rows_o * rows_k, quads = args.pixels / 4;
    uint32_t sharing = min(CONV_THREADS / pairs, quads), pair = threadIdx.x % pairs, first = threadIdx.x / pairs;
    float acc[4][4] = {};
    for (uint32_t tile = blockIdx.x; tile < args.tiles; tile += args.slots) {
        uint32_t pixel0 = tile * args.pixels;
        gather_input(conv, branch, shared, args.pitch, k0 / 4, args.chunk / 4, args.quads_magic, pixel0, args.pixels, end);
        gather_upstream(args, branch.first + o0, outputs, pixel0, end, dz);
        BARRIER();
        if (first < sharing) {
            multiply_rows(dz + pair / rows_k * args.pitch, args.pitch, rows_o, shared + pair % rows_k * args.pitch, args.pitch,
                          rows_k, first, sharing, quads, acc);
        }
        BARRIER();
    }
    // [4*4][threads].
#pragma unroll
    for (uint32_t i = 0; i < 16; i++) shared[i * CONV_THREADS + threadIdx.x] = acc[i / 4][i % 4];
    BARRIER();
    float *partials = branch.partials + (size_t)blockIdx.x * branch.c_out * conv.c_in * taps;
    for (uint32_t i = threadIdx.x; i < 16 * pairs; i += CONV_THREADS) {
        uint32_t element = i / pairs, of = i - element * pairs;
        uint32_t o = of / rows_k + element / 4 * rows_o, k = of % rows_k + element % 4 * rows_k;
        ConvRow row = conv_row(conv, taps, (k0 + k) / 4);
        const ConvPart &part = conv.part[row.part];
        uint32_t c = row.c + k % 4;
        if (o >= outputs || c >= part.channels) continue;
        float sum = 0.0f;
        for (uint32_t s = 0; s < sharing; s++) sum += shared[element * CONV_THREADS + s * pairs + of];
        partials[((size_t)(o0 + o) * conv.c_in + part.first + c) * taps + row.tap] = sum;
    }
}

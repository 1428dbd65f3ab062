// z of a dense convolution, and its sums per channel. Refuses biases and groups.
//
// Axes: parts [N, H, W, C_i], z [N, H', W', C_out], weights [C_out, C_in, k_y, k_x]; in shared memory rows of the unfolded
// input x pixels, and rows x output channels.
#include "gather.cuh"

// z: overwritten. partials [tile][2*C_out]: [sum z | sum z*z] of a tile, overwritten; null: not wanted.
struct ConvForwardArgs {
    Conv conv;
    float *z;
    float *partials;
    // Pixels of a tile, floats of a row of them; rows at a time, what divides by the quads of that; output channels of a block.
    uint32_t pixels, pitch, chunk, quads_magic, split;
    // In shared memory: the unfolded input, then this, in floats.
    uint32_t weights_at;
};
static_assert(sizeof(ConvForwardArgs) == sizeof(Conv) + 40, "layout of ConvForwardArgs");

// Grid: tiles, blocks of output channels of all branches.
KERNEL_RESIDENT(conv_forward, ConvForwardArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    const Conv &conv = args.conv;
    const ConvBranch &branch = conv.branch[branch_of(conv, blockIdx.y)];
    uint32_t o0 = (blockIdx.y - branch.split) * args.split, outputs = min(args.split, branch.c_out - o0);
    uint32_t pixel0 = blockIdx.x * args.pixels, end = conv.n * conv.out_h * conv.out_w;
    uint32_t taps = conv.kernel_y * conv.kernel_x, total = 4 * taps * part_quads(conv), quads = args.chunk / 4;
    float *weights = shared + args.weights_at;
    uint32_t pitch_w = args.split + 4, columns = args.split / 4, groups = (args.pixels + 7) / 8;
    Share mine = share(threadIdx.x, columns, groups);
    float acc[8][4] = {};
    for (uint32_t k0 = 0; k0 < total; k0 += args.chunk) {
        uint32_t depth = min(args.chunk, total - k0);
        gather_input(conv, branch, shared, args.pitch, k0 / 4, quads, args.quads_magic, pixel0, args.pixels, end);
        for (uint32_t i = threadIdx.x; i < quads * args.split; i += CONV_THREADS) {
            uint32_t o = quotient(i, args.quads_magic), quad = i - o * quads;
            if (4 * quad >= depth) continue;
            ConvRow row = conv_row(conv, taps, k0 / 4 + quad);
            const ConvPart &part = conv.part[row.part];
            const float *from = branch.weight + ((size_t)(o0 + o) * conv.c_in + part.first + row.c) * taps + row.tap;
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                float weight = o < outputs && row.c + j < part.channels ? from[j * taps] : 0.0f;
                weights[(4 * quad + j) * pitch_w + o] = weight;
            }
        }
        BARRIER();
        if (mine.active) {
            multiply<2>(shared + 4 * mine.group, args.pitch, 4 * groups, weights + 4 * mine.column, pitch_w, depth, acc);
        }
        BARRIER();
    }
    float sum[4] = {}, square[4] = {};
    uint32_t o = 4 * mine.column;
    if (mine.active && o < outputs) {
#pragma unroll
        for (uint32_t v = 0; v < 2; v++) {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t number = 4 * (mine.group + v * groups) + j;
                if (number >= args.pixels || pixel0 + number >= end) continue;
                const float(&z)[4] = acc[4 * v + j];
                store_quad(args.z + (size_t)(pixel0 + number) * conv.c_out + branch.first + o0 + o,
                           make_float4(z[0], z[1], z[2], z[3]), outputs - o, conv.wide_z);
#pragma unroll
                for (uint32_t c = 0; c < 4; c++) {
                    sum[c] += z[c];
                    square[c] = fmaf(z[c], z[c], square[c]);
                }
            }
        }
    }
    if (args.partials) {
        float *to = args.partials + (size_t)blockIdx.x * 2 * conv.c_out + branch.first + o0;
        column_sums(mine, columns, groups, sum, square, shared, to, conv.c_out, outputs);
    }
}

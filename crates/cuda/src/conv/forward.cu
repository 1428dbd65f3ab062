// z of a dense convolution, and its sums per channel. Refuses biases and groups.
//
// Axes: parts [N, H, W, C_i], z [N, H', W', C_out], weights [C_out, C_in, k_y, k_x]; in shared memory rows of the unfolded
// input x pixels, and rows x output channels.
#include "tile.cuh"

// Of every output, z: overwritten; partials [tile][2*C_out]: [sum z | sum z*z] of a tile, overwritten; null: not wanted.
struct ConvForwardArgs {
    Conv conv;
    float *z[CONV_OUTPUTS];
    float *partials[CONV_OUTPUTS];
    // Pixels of a tile, floats of a row of them; rows at a time, what divides by the quads of that; output channels of a block.
    uint32_t pixels, pitch, chunk, quads_magic, split;
    // In shared memory: the unfolded input, then this, in floats.
    uint32_t weights_at;
};
static_assert(sizeof(ConvForwardArgs) == sizeof(Conv) + 16 * CONV_OUTPUTS + 24, "layout of ConvForwardArgs");

template <Operand OPERAND> DEVICE void convolve(const ConvForwardArgs &args, float *shared) {
    const Conv &conv = args.conv;
    const ConvBranch &branch = conv.branch[branch_of(conv, blockIdx.y)];
    uint32_t o0 = (blockIdx.y - branch.split) * args.split, outputs = min(args.split, branch.c_out - o0);
    uint32_t pixel0 = blockIdx.x * args.pixels, end = conv.n * conv.out_h * conv.out_w;
    uint32_t taps = conv.kernel_y * conv.kernel_x, total = 4 * taps * part_quads(conv), quads = args.chunk / 4;
    Tile tile = tile_of<OPERAND>(args.pixels, args.pitch, args.split);
    float *weights = shared + args.weights_at;
    float acc[8][4] = {};
    for (uint32_t k0 = 0; k0 < total; k0 += args.chunk) {
        uint32_t depth = min(args.chunk, total - k0);
        gather_input<put_across<OPERAND>>(conv, branch, shared, args.pitch, k0 / 4, quads, args.quads_magic, pixel0, args.pixels, end);
        for (uint32_t i = threadIdx.x; i < quads * args.split; i += CONV_THREADS) {
            uint32_t o = quotient(i, args.quads_magic), quad = i - o * quads;
            if (4 * quad >= depth) {
                put_line<OPERAND>(weights, tile.weights_pitch, quad, o, splat_quad(0.0f));
                continue;
            }
            ConvRow row = conv_row(conv, taps, k0 / 4 + quad);
            const ConvPart &part = conv.part[row.part];
            const float *from = branch.weight + ((size_t)(o0 + o) * conv.c_in + part.first + row.c) * taps + row.tap;
            float weight[4];
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) weight[j] = o < outputs && row.c + j < part.channels ? from[j * taps] : 0.0f;
            put_line<OPERAND>(weights, tile.weights_pitch, quad, o, make_float4(weight[0], weight[1], weight[2], weight[3]));
        }
        BARRIER();
        multiply_tile<OPERAND>(tile, shared, weights, depth, acc);
        BARRIER();
    }
    share_out<OPERAND>(tile, shared, acc);
    Share mine = tile.mine;
    float *to_z = args.z[branch.output], *partials = args.partials[branch.output];
    uint32_t width = conv.widths[branch.output];
    float sum[4] = {}, square[4] = {};
    uint32_t o = 4 * mine.column;
    if (mine.active && o < outputs) {
#pragma unroll
        for (uint32_t v = 0; v < 2; v++) {
#pragma unroll
            for (uint32_t j = 0; j < 4; j++) {
                uint32_t number = 4 * (mine.group + v * tile.groups) + j;
                if (number >= args.pixels || pixel0 + number >= end) continue;
                const float(&z)[4] = acc[4 * v + j];
                store_quad(to_z + (size_t)(pixel0 + number) * width + branch.first + o0 + o,
                           make_float4(z[0], z[1], z[2], z[3]), outputs - o, conv.wide_z);
#pragma unroll
                for (uint32_t c = 0; c < 4; c++) {
                    sum[c] += z[c];
                    square[c] = fmaf(z[c], z[c], square[c]);
                }
            }
        }
    }
    if (partials) {
        float *to = partials + (size_t)blockIdx.x * 2 * width + branch.first + o0;
        column_sums(mine, tile.columns, tile.groups, sum, square, shared, to, width, outputs);
    }
}

// Grid: tiles, blocks of output channels of all branches.
KERNEL_RESIDENT(conv_forward, ConvForwardArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    convolve<F32>(args, shared);
}

KERNEL_RESIDENT(conv_forward_tf32, ConvForwardArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    convolve<TF32>(args, shared);
}

KERNEL_RESIDENT(conv_forward_bf16, ConvForwardArgs, CONV_THREADS, 2) {
    DYN_SMEM(float, shared);
    convolve<BF16>(args, shared);
}

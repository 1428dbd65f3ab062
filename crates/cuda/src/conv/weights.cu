// Gradients of a dense convolution's weights. Refuses to keep dz: it is formed for some pixels at a time.
//
// Axes: dz [N, H', W', C_out], parts [N, H, W, C_i], weights [C_out, C_in, k_y, k_x]; in shared memory output channels x
// pixels, and rows of the unfolded input x pixels.
#include "gather.cuh"
#include "product.cuh"

struct ConvWeightsArgs {
    Conv conv;
    Upstream upstream[CONV_OUTPUTS];
    // Pixels of a tile, tiles, blocks that share them, floats of a row of pixels.
    uint32_t pixels, tiles, slots, pitch;
    // Rows of the unfolded input and output channels of a block, and what divides by the quads of each.
    uint32_t chunk, quads_magic, split, split_magic;
};
static_assert(sizeof(ConvWeightsArgs) == sizeof(Conv) + CONV_OUTPUTS * sizeof(Upstream) + 32, "layout of ConvWeightsArgs");

// dz of a block of output channels of an output: rows of pixels, 0 at pixels and channels that do not exist.
template <Operand OPERAND>
DEVICE void gather_upstream(const ConvWeightsArgs &args, uint32_t output, uint32_t o0, uint32_t outputs, uint32_t pixel0,
                            uint32_t end, float *to) {
    const Conv &conv = args.conv;
    uint32_t slots = args.pixels / 4, quads = args.split / 4, width = conv.widths[output];
    const Upstream &up = args.upstream[output];
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
            offset[j] = (int)(j * width);
            there[j] = first + j < end;
            n[j] = needs_image(up) ? (first + j) / (conv.out_h * conv.out_w) : 0;
        }
        upstream_quads(up, (size_t)first * width + o0 + o, offset, there, n, o0 + o, outputs - o, v);
        transpose(v);
        put_along<OPERAND>(to, args.pitch, at, v);
    }
}

// How a block's sums, output channels x rows of the unfolded input, are divided: into pieces of SIDE x SIDE, one for a thread on
// CUDA cores, one or two for a warp on tensor cores. Where there are fewer pieces than threads or warps, several share the pixels
// of one, and their sums are added at the end.
template <Operand OPERAND> struct Pieces {
    static constexpr uint32_t SIDE = OPERAND == F32 ? 4 : 16, OWNERS = OPERAND == F32 ? CONV_THREADS : CONV_THREADS / 32;
    // Pieces down and across, all of them, how many share one.
    uint32_t down, across, count, sharing;
};

// `steps`: the smallest shares of the pixels.
template <Operand OPERAND> DEVICE Pieces<OPERAND> pieces_of(uint32_t outputs, uint32_t depth, uint32_t steps) {
    constexpr uint32_t SIDE = Pieces<OPERAND>::SIDE;
    uint32_t down = (outputs + SIDE - 1) / SIDE, across = (depth + SIDE - 1) / SIDE, count = down * across;
    return Pieces<OPERAND>{down, across, count, max(1u, min(Pieces<OPERAND>::OWNERS / count, steps))};
}

// Grid: blocks that share the tiles, blocks of rows of the unfolded input, blocks of output channels of all branches.
template <Operand OPERAND> DEVICE void weight_gradient(const ConvWeightsArgs &args, float *shared) {
    const Conv &conv = args.conv;
    const ConvBranch &branch = conv.branch[branch_of(conv, blockIdx.z)];
    uint32_t o0 = (blockIdx.z - branch.split) * args.split, outputs = min(args.split, branch.c_out - o0);
    uint32_t taps = conv.kernel_y * conv.kernel_x, total = 4 * taps * part_quads(conv), k0 = blockIdx.y * args.chunk;
    uint32_t depth = min(args.chunk, total - k0), end = conv.n * conv.out_h * conv.out_w, pitch = args.pitch;
    float *dz = shared + args.chunk * pitch;
    uint32_t words = args.pixels / PER_WORD<OPERAND>, steps = words / (OPERAND == F32 ? 4 : WORDS_OF_STEP);
    uint32_t owner = OPERAND == F32 ? threadIdx.x : (uint32_t)warp();
    // On CUDA cores every down-th output channel and every across-th row; on tensor cores two fragments of each of two pieces.
    float acc[4][4] = {};
    for (uint32_t tile = blockIdx.x; tile < args.tiles; tile += args.slots) {
        uint32_t pixel0 = tile * args.pixels;
        gather_input<put_along<OPERAND>>(conv, branch, shared, pitch, k0 / 4, args.chunk / 4, args.quads_magic, pixel0, args.pixels, end);
        gather_upstream<OPERAND>(args, branch.output, branch.first + o0, outputs, pixel0, end, dz);
        BARRIER();
        // Made anew for every tile: what loads has no registers to spare.
        Pieces<OPERAND> pieces = pieces_of<OPERAND>(outputs, depth, steps);
        if constexpr (OPERAND == F32) {
            uint32_t piece = owner % pieces.count, first = owner / pieces.count;
            if (first < pieces.sharing) {
                multiply_rows(dz + piece / pieces.across * pitch, pitch, pieces.down, shared + piece % pieces.across * pitch, pitch,
                              pieces.across, first, pieces.sharing, steps, acc);
            }
        } else {
#pragma unroll
            for (uint32_t number = 0; number < 2; number++) {
                uint32_t at = owner + number * pieces.OWNERS, piece = at % pieces.count, first = at / pieces.count;
                if (first >= pieces.sharing) continue;
                FragmentC sums[1][2];
#pragma unroll
                for (uint32_t i = 0; i < 8; i++) sums[0][i / 4].r[i % 4] = acc[2 * number + i / 4][i % 4];
                multiply_words<OPERAND>(Factor{dz + piece / pieces.across * 16 * pitch, pitch, 1},
                                        Factor{shared + piece % pieces.across * 16 * pitch, pitch, 1}, first, pieces.sharing,
                                        words, sums);
#pragma unroll
                for (uint32_t i = 0; i < 8; i++) acc[2 * number + i / 4][i % 4] = sums[0][i / 4].r[i % 4];
            }
        }
        BARRIER();
    }
    // [sharing][height][width].
    Pieces<OPERAND> pieces = pieces_of<OPERAND>(outputs, depth, steps);
    uint32_t height = pieces.down * pieces.SIDE, width = pieces.across * pieces.SIDE;
#pragma unroll
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t at = owner + (OPERAND == F32 ? 0 : i / 8 * pieces.OWNERS);
        uint32_t piece = at % pieces.count, first = at / pieces.count, o = piece / pieces.across, k = piece % pieces.across;
        if (first >= pieces.sharing) continue;
        if constexpr (OPERAND == F32) {
            o += i / 4 * pieces.down;
            k += i % 4 * pieces.across;
        } else {
            o = o * 16 + lane() / 4 + i / 2 % 2 * 8;
            k = k * 16 + i / 4 % 2 * 8 + lane() % 4 * 2 + i % 2;
        }
        shared[(first * height + o) * width + k] = acc[i / 4][i % 4];
    }
    BARRIER();
    float *partials = branch.partials + (size_t)blockIdx.x * branch.c_out * conv.c_in * taps;
    for (uint32_t i = threadIdx.x; i < outputs * depth; i += CONV_THREADS) {
        uint32_t o = i / depth, k = i - o * depth;
        ConvRow row = conv_row(conv, taps, (k0 + k) / 4);
        const ConvPart &part = conv.part[row.part];
        uint32_t c = row.c + k % 4;
        if (c >= part.channels) continue;
        float sum = 0.0f;
        for (uint32_t s = 0; s < pieces.sharing; s++) sum += shared[(s * height + o) * width + k];
        partials[((size_t)(o0 + o) * conv.c_in + part.first + c) * taps + row.tap] = sum;
    }
}

KERNEL_RESIDENT(conv_weights, ConvWeightsArgs, CONV_THREADS, 3) {
    DYN_SMEM(float, shared);
    weight_gradient<F32>(args, shared);
}

KERNEL_RESIDENT(conv_weights_tf32, ConvWeightsArgs, CONV_THREADS, 3) {
    DYN_SMEM(float, shared);
    weight_gradient<TF32>(args, shared);
}

KERNEL_RESIDENT(conv_weights_bf16, ConvWeightsArgs, CONV_THREADS, 3) {
    DYN_SMEM(float, shared);
    weight_gradient<BF16>(args, shared);
}

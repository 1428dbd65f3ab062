// Rows of a table looked up by token, with dropout of whole rows and of positions of the batch:
//   x[t,b,i] = E[token[t,b], i] · r[token[t,b]] · Π_m m[b,i]
//
// Axes: a position p = t·B + b of T·B, i a unit of H, V rows of E. The masks m are the same at every time step.

#include "prelude.cuh"

constexpr int MASKS = 4, WARPS = 8;

struct EmbeddingArgs {
    float *table;                // E [V, H]; backward: gradient, accumulated
    float *x;                    // [P, H]; forward: overwritten; backward: gradient, overwritten with its product with the masks
    const uint32_t *tokens;      // [P], each below V
    const uint32_t *occurrences; // backward: number of distinct tokens, [P + 1] starts, [P] positions in order of token
    const float *rows;           // r [V] or none: 1
    const float *locked[MASKS];  // each [B, H]
    uint32_t positions;
    uint32_t batch;
    uint32_t hidden;
    uint32_t masks;
};
static_assert(sizeof(EmbeddingArgs) == 88);

// `value` at unit i of a position under its masks.
DEVICE float under_masks(const EmbeddingArgs &args, float value, float row, uint32_t position, uint32_t i) {
    size_t at = size_t(position % args.batch) * args.hidden + i;
    value *= row;
    for (uint32_t mask = 0; mask < args.masks; mask++) value *= args.locked[mask][at];
    return value;
}

// A block a position.
KERNEL(embedding_forward, EmbeddingArgs, 128) {
    uint32_t position = blockIdx.x, token = args.tokens[position];
    float row = args.rows ? args.rows[token] : 1.0f;
    for (uint32_t i = threadIdx.x; i < args.hidden; i += 128)
        args.x[size_t(position) * args.hidden + i] =
            under_masks(args, args.table[size_t(token) * args.hidden + i], row, position, i);
}

// A warp a distinct token (blockIdx.x · WARPS + warp) and 32 units (blockIdx.y). Positions of a token are added in their order.
KERNEL(embedding_backward, EmbeddingArgs, 256) {
    uint32_t segment = blockIdx.x * WARPS + warp(), i = blockIdx.y * 32 + lane();
    if (segment >= args.occurrences[0] || i >= args.hidden) return;
    const uint32_t *starts = args.occurrences + 1, *order = starts + args.positions + 1;
    uint32_t begin = starts[segment], end = starts[segment + 1];
    uint32_t token = args.tokens[order[begin]];
    float row = args.rows ? args.rows[token] : 1.0f;
    float *place = args.table + size_t(token) * args.hidden + i;
    float sum = *place;
    for (uint32_t start = begin; start < end; start += 4) {
        // Four positions are under way at a time.
        float *x[4], held[4];
        uint32_t position[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            position[j] = order[start + j < end ? start + j : begin];
            x[j] = args.x + size_t(position[j]) * args.hidden + i;
            held[j] = *x[j];
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (start + j >= end) continue;
            held[j] = under_masks(args, held[j], row, position[j], i);
            *x[j] = held[j];
            sum += held[j];
        }
    }
    *place = sum;
}

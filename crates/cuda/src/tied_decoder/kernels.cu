// What is done to a chunk of logits of a language model's decoder.
//
// Axes: r a row (a position of the text), v a word of the vocabulary V. A block owns a row, except in column sums, where it owns
// 32 words.

#include "prelude.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;

struct CrossEntropyArgs {
    float *logits;            // [R, V] without the bias; overwritten if there is a `scale`, or by log_softmax
    const float *bias;        // [V]
    const uint32_t *targets;  // [R], each below V
    double *losses;           // [R], overwritten with log Σ_v e^l[r,v] − l[r, target]
    double scale;             // of the gradient; with `gradient` only
    uint32_t vocabulary;
    uint32_t gradient;        // 1: logits are overwritten with scale·(softmax − onehot)
};
static_assert(sizeof(CrossEntropyArgs) == 48);

struct Softmax {
    float largest;
    double sum;    // Σ_v e^(l[v] − largest)
};

// Largest logit, with the bias, and sum of exponentials of a row; all threads get the same. A NaN ends up in the sum. `shared`
// holds 2·WARPS doubles.
DEVICE Softmax softmax(const float *row, const float *bias, uint32_t vocabulary, double *shared) {
    const float lowest = -float_of_bits(0x7f800000u);
    float largest = lowest, sum = 0.0f;
    for (uint32_t start = threadIdx.x; start < vocabulary; start += 4 * THREADS) {
        float logits[4], most = lowest;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t v = start + j * THREADS;
            logits[j] = v < vocabulary ? row[v] + bias[v] : lowest;
            if (logits[j] > most) most = logits[j];
        }
        if (most > largest) {
            sum *= expf(largest - most);
            largest = most;
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (start + j * THREADS < vocabulary) sum += expf(logits[j] - largest);
    }
    float *most_of_warps = reinterpret_cast<float *>(shared);
    double *sum_of_warps = shared + WARPS;
    float most = warp_max(largest);
    if (lane() == 0) most_of_warps[warp()] = most;
    BARRIER();
    most = most_of_warps[0];
    for (int w = 1; w < WARPS; w++) most = most_of_warps[w] > most ? most_of_warps[w] : most;
    // A thread without words has −∞ and a sum of 0.
    if (largest != most) sum *= expf(largest - most);
    sum = warp_sum(sum);
    if (lane() == 0) sum_of_warps[warp()] = double(sum);
    BARRIER();
    double all = 0.0;
    for (int w = 0; w < WARPS; w++) all += sum_of_warps[w];
    return Softmax{most, all};
}

KERNEL(tied_decoder_cross_entropy, CrossEntropyArgs, 512) {
    DYN_SMEM(double, shared);
    float *row = args.logits + size_t(blockIdx.x) * args.vocabulary;
    uint32_t target = args.targets[blockIdx.x];
    // Read before it is overwritten: barriers lie between.
    float logit = row[target] + args.bias[target];
    Softmax all = softmax(row, args.bias, args.vocabulary, shared);
    if (threadIdx.x == 0) args.losses[blockIdx.x] = log(all.sum) + double(all.largest) - double(logit);
    if (!args.gradient) return;
    float factor = float(args.scale / all.sum);
#pragma unroll 4
    for (uint32_t v = threadIdx.x; v < args.vocabulary; v += THREADS) {
        float value = expf(row[v] + args.bias[v] - all.largest) * factor;
        row[v] = v == target ? value - float(args.scale) : value;
    }
}

// Makes logits the logarithms of probabilities; targets and losses are not read.
KERNEL(tied_decoder_log_softmax, CrossEntropyArgs, 512) {
    DYN_SMEM(double, shared);
    float *row = args.logits + size_t(blockIdx.x) * args.vocabulary;
    Softmax all = softmax(row, args.bias, args.vocabulary, shared);
    double logarithm = log(all.sum) + double(all.largest);
    for (uint32_t v = threadIdx.x; v < args.vocabulary; v += THREADS)
        row[v] = float(double(row[v] + args.bias[v]) - logarithm);
}

struct ColumnSumsArgs {
    const float *values;   // [R, V]
    float *sums;           // [V], overwritten or accumulated
    uint32_t rows;
    uint32_t columns;
    uint32_t accumulate;
    uint32_t pad;
};
static_assert(sizeof(ColumnSumsArgs) == 32);

// Eight warps take every eighth row of 32 columns and are added in their order.
KERNEL(tied_decoder_column_sums, ColumnSumsArgs, 256) {
    DYN_SMEM(double, shared);
    uint32_t column = blockIdx.x * 32 + lane();
    bool inside = column < args.columns;
    double sum = 0.0;
#pragma unroll 4
    for (uint32_t row = warp(); row < args.rows; row += 8)
        if (inside) sum += double(args.values[size_t(row) * args.columns + column]);
    shared[threadIdx.x] = sum;
    BARRIER();
    if (warp() != 0 || !inside) return;
    double all = args.accumulate ? double(args.sums[column]) : 0.0;
    for (int w = 0; w < 8; w++) all += shared[w * 32 + lane()];
    args.sums[column] = float(all);
}

// The two regularizers of a language model's activations: the size of the output, and its change from one time step to the next.
//
// Axes: an element i of [T, B·H]. A block owns PIECE elements and leaves their part of the sum, in f64.

#include "prelude.cuh"

constexpr int THREADS = 256, PIECE = 4096;

struct RegularizerArgs {
    const float *values;
    float *gradient;      // accumulated, or none
    double *partial;      // [blocks], overwritten
    uint64_t len;
    uint64_t step;        // temporal: elements of a time step
    float factor;         // of the gradient
    uint32_t pad;
};
static_assert(sizeof(RegularizerArgs) == 48);

// Σ o²; gradient += factor·o.
KERNEL(regularizer_activation, RegularizerArgs, 256) {
    DYN_SMEM(double, shared);
    uint64_t begin = uint64_t(blockIdx.x) * PIECE;
    double sum = 0.0;
    for (uint32_t j = threadIdx.x; j < PIECE; j += THREADS) {
        uint64_t i = begin + j;
        if (i >= args.len) break;
        float o = args.values[i];
        sum += double(o) * double(o);
        if (args.gradient) args.gradient[i] += args.factor * o;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) args.partial[blockIdx.x] = sum;
}

// Σ (h_t − h_{t−1})² over t ≥ 1; the gradient of an element has a part from its change and one from the next.
KERNEL(regularizer_temporal, RegularizerArgs, 256) {
    DYN_SMEM(double, shared);
    uint64_t begin = uint64_t(blockIdx.x) * PIECE;
    double sum = 0.0;
    for (uint32_t j = threadIdx.x; j < PIECE; j += THREADS) {
        uint64_t i = begin + j;
        if (i >= args.len) break;
        float h = args.values[i], gradient = args.gradient ? args.gradient[i] : 0.0f;
        if (i >= args.step) {
            float before = args.values[i - args.step];
            double change = double(h) - double(before);
            sum += change * change;
            gradient += args.factor * (h - before);
        }
        if (i + args.step < args.len) gradient -= args.factor * (args.values[i + args.step] - h);
        if (args.gradient) args.gradient[i] = gradient;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) args.partial[blockIdx.x] = sum;
}

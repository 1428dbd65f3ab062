// Softmax rows of architecture parameters into operation weights, and the weights' gradient back. All arithmetic in f64.
//
// Axes: R rows (edges), K columns (operations); everything [R, K]. One block per row.
#include "prelude.cuh"

// weights: overwritten.
struct SoftmaxArgs {
    const float *alphas;
    float *weights;
    uint32_t columns, pad;
};
static_assert(sizeof(SoftmaxArgs) == 24, "layout of SoftmaxArgs");

// An order of all f64 that are not negative, NaN included, so that every one has a place of its own among its row's.
DEVICE uint64_t softmax_key(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// w_k = exp(a_k) / sum over m of exp(a_m). The sum runs over the terms in ascending order, so that rows with the same numbers
// in another order have the same weights in that order. Grid: rows.
KERNEL(softmax_forward, SoftmaxArgs, 32) {
    DYN_SMEM(double, terms);
    double *ascending = terms + args.columns;
    const float *alphas = args.alphas + (size_t)blockIdx.x * args.columns;
    float *weights = args.weights + (size_t)blockIdx.x * args.columns;
    double largest = -INFINITY;
    for (uint32_t k = 0; k < args.columns; k++) {
        if ((double)alphas[k] > largest) largest = (double)alphas[k];
    }
    for (uint32_t k = threadIdx.x; k < args.columns; k += blockDim.x) terms[k] = exp((double)alphas[k] - largest);
    BARRIER();
    for (uint32_t k = threadIdx.x; k < args.columns; k += blockDim.x) {
        uint64_t key = softmax_key(terms[k]);
        uint32_t place = 0;
        for (uint32_t m = 0; m < args.columns; m++) {
            uint64_t other = softmax_key(terms[m]);
            if (other < key || (other == key && m < k)) place++;
        }
        ascending[place] = terms[k];
    }
    BARRIER();
    double sum = 0.0;
    for (uint32_t k = 0; k < args.columns; k++) sum += ascending[k];
    for (uint32_t k = threadIdx.x; k < args.columns; k += blockDim.x) weights[k] = (float)(terms[k] / sum);
}

// grad_alphas: overwritten.
struct SoftmaxBackwardArgs {
    const float *weights;
    const float *grad_weights;
    float *grad_alphas;
    uint32_t columns, pad;
};
static_assert(sizeof(SoftmaxBackwardArgs) == 32, "layout of SoftmaxBackwardArgs");

// da_k = w_k * (dw_k - sum over m of w_m*dw_m). Grid: rows.
KERNEL(softmax_backward, SoftmaxBackwardArgs, 32) {
    size_t row = (size_t)blockIdx.x * args.columns;
    double mean = 0.0;
    for (uint32_t k = 0; k < args.columns; k++) {
        mean += (double)args.weights[row + k] * (double)args.grad_weights[row + k];
    }
    for (uint32_t k = threadIdx.x; k < args.columns; k += blockDim.x) {
        double weight = (double)args.weights[row + k];
        args.grad_alphas[row + k] = (float)(weight * ((double)args.grad_weights[row + k] - mean));
    }
}

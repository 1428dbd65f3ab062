// Batch normalization as per-channel arithmetic in f64, and with its backward the gradient of an operation's weight. Refuses
// to touch an activation: it sees sums over N, H and W and vectors of C numbers.
//
// Axes: C channels. sums: [sum z | sum z*z] or [sum g | sum g*z], 2C f64. coefficients: mean | rstd | scale | shift, 4C.
// upstream: scale | b | d of dz = scale*g + b*z + d, 3C. One entry per normalization, all in one launch. partials [B, 2C],
// null: sums hold what is wanted; otherwise they are first written, as a fold would have.
#include "fold.cuh"

#define NORM_ENTRIES 40
// Channels of a block of norm_statistics; threads that share a sum.
#define NORM_CHANNELS 8
#define NORM_ROWS 16
#define NORM_THREADS (2 * NORM_CHANNELS * NORM_ROWS)
// The same of norm_backward.
#define NORM_BACKWARD_CHANNELS 16
#define NORM_BACKWARD_ROWS 16
#define NORM_BACKWARD_THREADS (2 * NORM_BACKWARD_CHANNELS * NORM_BACKWARD_ROWS)
#define NORM_EPS 1e-5
#define NORM_MOMENTUM 0.1

// Null gamma: 1, null beta: 0; null running_mean: running statistics stay as they are (statistics).
struct NormForward {
    double *sums;
    const float *partials;
    const float *gamma;
    const float *beta;
    float *running_mean;
    float *running_var;
    float *coefficients;
    double count;
    uint32_t channels, blocks;
};

struct NormForwardArgs {
    NormForward entry[NORM_ENTRIES];
};
static_assert(sizeof(NormForwardArgs) == 72 * NORM_ENTRIES, "layout of NormForwardArgs");

DEVICE void norm_set(const NormForward& entry, uint32_t channel, double mean, double var) {
    double rstd = 1.0 / sqrt(var + NORM_EPS);
    double scale = (entry.gamma ? (double)entry.gamma[channel] : 1.0) * rstd;
    double shift = (entry.beta ? (double)entry.beta[channel] : 0.0) - scale * mean;
    float *out = entry.coefficients + channel;
    out[0] = (float)mean;
    out[entry.channels] = (float)rstd;
    out[2 * entry.channels] = (float)scale;
    out[3 * entry.channels] = (float)shift;
}

// Both sums of CHANNELS channels from `first` on, CHANNELS apart in `shared`: those there are, or folded from partials by ROWS threads
// each, and then written too. All threads of the block call this.
template <uint32_t CHANNELS, uint32_t ROWS>
DEVICE void norm_sums(double *shared, double *sums, const float *partials, uint32_t blocks, uint32_t channels, uint32_t first) {
    uint32_t column = threadIdx.x % (2 * CHANNELS), row = threadIdx.x / (2 * CHANNELS);
    uint32_t channel = first + column % CHANNELS, index = column / CHANNELS * channels + channel;
    bool there = channel < channels;
    double sum = 0.0;
    if (there && partials) {
        sum = fold_column<ROWS>(partials, blocks, 2 * channels, index, row);
    } else if (there && row == 0) {
        sum = sums[index];
    }
    fold_rows<ROWS, 2 * CHANNELS>(shared, sum);
    if (there && row == 0 && partials) sums[index] = shared[column];
    BARRIER();
}

// Coefficients from the batch's sums: overwritten. Running statistics, where given: moved towards the batch's, with its
// unbiased variance. Grid: runs of NORM_CHANNELS channels of the widest entry, entries.
KERNEL(norm_statistics, NormForwardArgs, NORM_THREADS) {
    DYN_SMEM(double, shared);
    NormForward entry = args.entry[blockIdx.y];
    uint32_t first = blockIdx.x * NORM_CHANNELS, channel = first + threadIdx.x;
    norm_sums<NORM_CHANNELS, NORM_ROWS>(shared, entry.sums, entry.partials, entry.blocks, entry.channels, first);
    if (threadIdx.x < NORM_CHANNELS && channel < entry.channels) {
        double mean = shared[threadIdx.x] / entry.count;
        double var = shared[NORM_CHANNELS + threadIdx.x] / entry.count - mean * mean;
        // Written so that NaN stays NaN: a loss that has blown up must show.
        if (var < 0.0) var = 0.0;
        norm_set(entry, channel, mean, var);
        if (entry.running_mean) {
            double unbiased = entry.count > 1.0 ? var * entry.count / (entry.count - 1.0) : var;
            float *running_mean = entry.running_mean + channel;
            float *running_var = entry.running_var + channel;
            *running_mean = (float)((1.0 - NORM_MOMENTUM) * (double)*running_mean + NORM_MOMENTUM * mean);
            *running_var = (float)((1.0 - NORM_MOMENTUM) * (double)*running_var + NORM_MOMENTUM * unbiased);
        }
    }
}

// Coefficients from running statistics, which stay as they are. Grid: runs of blockDim.x channels of the widest entry, entries.
KERNEL(norm_from_running, NormForwardArgs, 128) {
    NormForward entry = args.entry[blockIdx.y];
    uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel < entry.channels) {
        norm_set(entry, channel, (double)entry.running_mean[channel], (double)entry.running_var[channel]);
    }
}

// Null coefficients: no normalization, only the gradient of the operation's weight is wanted. Null weight: 1. upstream,
// d_gamma, d_beta: overwritten. d_weight: added to.
struct NormBackward {
    double *sums;
    const float *partials;
    const float *coefficients;
    const float *weight;
    float *upstream;
    float *d_gamma;
    float *d_beta;
    float *d_weight;
    double count;
    uint32_t channels, training;
    uint32_t blocks, pad;
};

struct NormBackwardArgs {
    NormBackward entry[NORM_ENTRIES];
};
static_assert(sizeof(NormBackwardArgs) == 88 * NORM_ENTRIES, "layout of NormBackwardArgs");

// Grid: entries, runs of NORM_BACKWARD_CHANNELS channels; one run: it goes over all channels, so that the weight's gradient, which
// asks for that, has one fixed order.
KERNEL(norm_backward, NormBackwardArgs, NORM_BACKWARD_THREADS) {
    DYN_SMEM(double, shared);
    constexpr uint32_t CHANNELS = NORM_BACKWARD_CHANNELS;
    NormBackward entry = args.entry[blockIdx.x];
    uint32_t c = entry.channels;
    double weight = entry.weight ? (double)*entry.weight : 1.0;
    double d_weight = 0.0;
    for (uint32_t first = blockIdx.y * CHANNELS; first < c; first += gridDim.y * CHANNELS) {
        norm_sums<CHANNELS, NORM_BACKWARD_ROWS>(shared, entry.sums, entry.partials, entry.blocks, c, first);
        uint32_t channel = first + threadIdx.x;
        if (threadIdx.x < CHANNELS && channel < c) {
            double s0 = shared[threadIdx.x], s1 = shared[CHANNELS + threadIdx.x];
            if (entry.coefficients) {
                const float *coefficients = entry.coefficients + channel;
                double mean = coefficients[0];
                double rstd = coefficients[c];
                double scale = coefficients[2 * c];
                d_weight += scale * s1 + (double)coefficients[3 * c] * s0;
                double gradient = weight * s0;
                double sum_normalized = weight * rstd * (s1 - mean * s0);
                double of_z = entry.training ? -scale * rstd * sum_normalized / entry.count : 0.0;
                float *out = entry.upstream + channel;
                out[0] = (float)(weight * scale);
                out[c] = (float)of_z;
                out[2 * c] = entry.training ? (float)(-scale * gradient / entry.count - of_z * mean) : 0.0f;
                if (entry.d_gamma) entry.d_gamma[channel] = (float)sum_normalized;
                if (entry.d_beta) entry.d_beta[channel] = (float)gradient;
            } else {
                d_weight += s1;
            }
        }
        BARRIER();
    }
    if (!entry.d_weight) return;
    d_weight = block_sum(d_weight, shared);
    if (threadIdx.x == 0) *entry.d_weight += (float)d_weight;
}

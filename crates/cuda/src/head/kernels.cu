// What stands between a network's last cell and its loss: the global average pool and the cross-entropy. Refuses to hold the
// linear layer between them.
//
// Axes: N images, P pixels of an image, K features or classes. A cell's output comes as parts [N, P, C_i], K = sum of C_i.
#include "channels.cuh"

#define HEAD_PARTS 64

// A part's channels are features [first, first + channels).
struct HeadPart {
    float *part;
    uint32_t channels, first;
};

// features [N, K]: overwritten by the forward kernel. part: read by the forward kernel; overwritten, or added to where
// `accumulate` is set, by the backward kernel.
struct HeadPoolArgs {
    float *features;
    uint32_t pixels, total;
    // Pixels that a block of the backward kernel takes.
    uint32_t chunk;
    uint32_t accumulate;
    HeadPart part[HEAD_PARTS];
};
static_assert(sizeof(HeadPoolArgs) == 24 + 16 * HEAD_PARTS, "layout of HeadPoolArgs");

// Channels that a block of the forward kernel takes.
#define HEAD_CHANNELS 32

// Grid: runs of HEAD_CHANNELS channels of the widest part, images, parts.
KERNEL(head_pool, HeadPoolArgs, 256) {
    DYN_SMEM(float, shared);
    HeadPart part = args.part[blockIdx.z];
    uint32_t image = blockIdx.y;
    uint32_t column = threadIdx.x % HEAD_CHANNELS;
    uint32_t channel = blockIdx.x * HEAD_CHANNELS + column;
    uint32_t row = threadIdx.x / HEAD_CHANNELS;
    uint32_t rows = blockDim.x / HEAD_CHANNELS;
    float sum = 0.0f;
    if (channel < part.channels) {
        const float *x = part.part + (size_t)image * args.pixels * part.channels + channel;
        for (uint32_t pixel = row; pixel < args.pixels; pixel += rows) sum += x[(size_t)pixel * part.channels];
    }
    shared[threadIdx.x] = sum;
    BARRIER();
    if (row == 0 && channel < part.channels) {
        double total = sum;
        for (uint32_t other = 1; other < rows; other++) total += (double)shared[other * HEAD_CHANNELS + column];
        args.features[(size_t)image * args.total + part.first + channel] = (float)(total / (double)args.pixels);
    }
}

// Grid: chunks of an image, images, parts.
KERNEL(head_pool_backward, HeadPoolArgs, 256) {
    HeadPart part = args.part[blockIdx.z];
    uint32_t image = blockIdx.y;
    uint32_t first = blockIdx.x * args.chunk;
    uint32_t end = first + args.chunk < args.pixels ? first + args.chunk : args.pixels;
    float factor = 1.0f / (float)args.pixels;
    const float *gradient = args.features + (size_t)image * args.total + part.first;
    float *to = part.part + ((size_t)image * args.pixels + first) * part.channels;
    uint32_t count = (end - first) * part.channels;
    for (uint32_t index = threadIdx.x; index < count; index += blockDim.x) {
        float d = gradient[index % part.channels] * factor;
        to[index] = args.accumulate ? to[index] + d : d;
    }
}

// samples [N][2] f64: loss and whether the label's logit is the largest (the first of equal ones counts), overwritten.
// d_logits [N, K], null: not wanted: `scale` times the gradient of a sample's loss, overwritten.
struct CrossEntropyArgs {
    const float *logits;
    const uint32_t *labels;
    float *d_logits;
    double *samples;
    double label_smoothing, scale;
    uint32_t classes, pad;
};
static_assert(sizeof(CrossEntropyArgs) == 56, "layout of CrossEntropyArgs");

// Grid: samples. A block's threads share the classes of its sample.
KERNEL(head_cross_entropy, CrossEntropyArgs, 128) {
    DYN_SMEM(double, shared);
    uint32_t k = args.classes;
    const float *logits = args.logits + (size_t)blockIdx.x * k;
    uint32_t label = args.labels[blockIdx.x];
    // Of every thread's classes the first largest, then of all threads' the largest with the lowest index.
    double top = -INFINITY;
    uint32_t best = k;
    for (uint32_t index = threadIdx.x; index < k; index += blockDim.x) {
        double logit = (double)logits[index];
        if (best == k || logit > top) {
            top = logit;
            best = index;
        }
    }
    double *values = shared;
    uint32_t *indices = reinterpret_cast<uint32_t*>(shared + blockDim.x);
    values[threadIdx.x] = top;
    indices[threadIdx.x] = best;
    BARRIER();
    for (uint32_t half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            double other = values[threadIdx.x + half];
            uint32_t index = indices[threadIdx.x + half];
            double mine = values[threadIdx.x];
            if (other > mine || (other == mine && index < indices[threadIdx.x])) {
                values[threadIdx.x] = other;
                indices[threadIdx.x] = index;
            }
        }
        BARRIER();
    }
    top = values[0];
    best = indices[0];
    BARRIER();
    double total = 0.0, distance = 0.0;
    for (uint32_t index = threadIdx.x; index < k; index += blockDim.x) {
        double below = (double)logits[index] - top;
        total += exp(below);
        distance += below;
    }
    total = block_sum(total, shared);
    distance = block_sum(distance, shared);
    if (args.d_logits) {
        float *d_logits = args.d_logits + (size_t)blockIdx.x * k;
        for (uint32_t index = threadIdx.x; index < k; index += blockDim.x) {
            double hot = index == label ? 1.0 - args.label_smoothing : 0.0;
            double share = exp((double)logits[index] - top) / total;
            d_logits[index] = (float)(args.scale * (share - hot - args.label_smoothing / (double)k));
        }
    }
    if (threadIdx.x == 0) {
        double below = (double)logits[label] - top;
        double mean = args.label_smoothing == 0.0 ? 0.0 : args.label_smoothing * distance / (double)k;
        double *sample = args.samples + 2 * (size_t)blockIdx.x;
        sample[0] = log(total) - (1.0 - args.label_smoothing) * below - mean;
        sample[1] = best == label ? 1.0 : 0.0;
    }
}

// result = [loss | correct] f64: (+)= [weight * mean loss | count of correct samples]; without `counts` the second stays as it
// is where the result is added to, as that of an auxiliary head.
struct LossArgs {
    const double *samples;
    double *result;
    double weight;
    uint32_t n, accumulate, counts, pad;
};
static_assert(sizeof(LossArgs) == 40, "layout of LossArgs");

// Grid: one block.
KERNEL(head_loss, LossArgs, 128) {
    DYN_SMEM(double, shared);
    double loss = 0.0, correct = 0.0;
    for (uint32_t sample = threadIdx.x; sample < args.n; sample += blockDim.x) {
        loss += args.samples[2 * sample];
        correct += args.samples[2 * sample + 1];
    }
    loss = block_sum(loss, shared);
    correct = block_sum(correct, shared);
    if (threadIdx.x == 0) {
        double add = args.weight * (loss / (double)args.n);
        double hits = args.counts ? correct : 0.0;
        args.result[0] = args.accumulate ? args.result[0] + add : add;
        args.result[1] = args.accumulate ? args.result[1] + hits : hits;
    }
}

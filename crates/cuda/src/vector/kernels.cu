// Arithmetic on flat vectors. A block goes over 1024 elements unless a kernel says otherwise. Every output says whether it
// is overwritten or updated. Scalars are f64, rounded to f32 once, as on the CPU.

#include "prelude.cuh"

// A number that the host knew when it laid the launch down, or one that lies in device memory.
struct Scalar {
    const double *at;
    double constant;
};

DEVICE double value_of(Scalar scalar) { return scalar.at ? *scalar.at : scalar.constant; }

// Elements of this thread in a block's 1024.
#define FOR_EACH(i) for (uint32_t i = blockIdx.x * 1024 + threadIdx.x, k = 0; k < 4 && i < args.len; k++, i += 256)

struct LinearArgs {
    float *out;
    const float *x;
    const float *y;
    Scalar factor;
    uint32_t len;
    uint32_t pad;
};
static_assert(sizeof(LinearArgs) == 48);

// out ← x (overwritten)
KERNEL(vector_copy, LinearArgs, 256) {
    FOR_EACH(i) args.out[i] = args.x[i];
}

// out ← factor (overwritten)
KERNEL(vector_fill, LinearArgs, 256) {
    float value = float(value_of(args.factor));
    FOR_EACH(i) args.out[i] = value;
}

// out ← factor·out (updated)
KERNEL(vector_scale, LinearArgs, 256) {
    float factor = float(value_of(args.factor));
    FOR_EACH(i) args.out[i] *= factor;
}

// out ← out + factor·x (updated)
KERNEL(vector_axpy, LinearArgs, 256) {
    float factor = float(value_of(args.factor));
    FOR_EACH(i) args.out[i] += factor * args.x[i];
}

// out ← out + factor·(x − y) (updated)
KERNEL(vector_add_scaled_difference, LinearArgs, 256) {
    float factor = float(value_of(args.factor));
    FOR_EACH(i) args.out[i] += factor * (args.x[i] - args.y[i]);
}

// out ← x + factor·y (overwritten)
KERNEL(vector_perturb, LinearArgs, 256) {
    float factor = float(value_of(args.factor));
    FOR_EACH(i) args.out[i] = args.x[i] + factor * args.y[i];
}

// out ← out + factor·(x − out) (updated); a factor of 1 copies, one that is not finite changes nothing.
KERNEL(vector_average, LinearArgs, 256) {
    double factor = value_of(args.factor);
    if (!isfinite(factor)) return;
    float rate = float(factor);
    FOR_EACH(i) args.out[i] = factor == 1.0 ? args.x[i] : args.out[i] + rate * (args.x[i] - args.out[i]);
}

struct DotArgs {
    const float *x;
    const float *y;
    double *partial;
    double *result;
    uint32_t len;
    uint32_t root;
};
static_assert(sizeof(DotArgs) == 40);

// partial[b] ← Σ x·y over block b's 8192 elements, in f64 (overwritten). Products of floats are exact there.
KERNEL(vector_dot_blocks, DotArgs, 256) {
    DYN_SMEM(double, shared);
    uint32_t start = blockIdx.x * 8192, end = min(args.len, start + 8192);
    double sum = 0;
    for (uint32_t i = start + threadIdx.x; i < end; i += 256) sum = fma(double(args.x[i]), double(args.y[i]), sum);
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) args.partial[blockIdx.x] = sum;
}

// result[0] ← Σ partial[0..len], or its root (overwritten). One block.
KERNEL(vector_dot_finish, DotArgs, 256) {
    DYN_SMEM(double, shared);
    double sum = 0;
    for (uint32_t i = threadIdx.x; i < args.len; i += 256) sum += args.partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) args.result[0] = args.root ? sqrt(sum) : sum;
}

struct ClipArgs {
    double *coefficient;
    const double *norm;
    double limit;
};
static_assert(sizeof(ClipArgs) == 24);

// coefficient ← min(1, limit/(norm + 1e-6)) (overwritten); NaN where the norm is not finite. One thread.
KERNEL(vector_clip_coefficient, ClipArgs, 32) {
    if (threadIdx.x != 0) return;
    double norm = *args.norm;
    *args.coefficient = isfinite(norm) ? fmin(args.limit / (norm + 1e-6), 1.0) : double(NAN);
}

struct GateArgs {
    double *out;
    Scalar value;
    uint32_t count;
    uint32_t pad;
    const double *witnesses[16];
};
static_assert(sizeof(GateArgs) == 160);

// out ← value, or NaN where one of `count` witnesses is not finite (overwritten). One thread.
KERNEL(vector_gate, GateArgs, 32) {
    if (threadIdx.x != 0) return;
    bool finite = true;
    for (uint32_t i = 0; i < args.count; i++) finite = finite && isfinite(*args.witnesses[i]);
    *args.out = finite ? value_of(args.value) : double(NAN);
}

struct CombineArgs {
    double *out;
    uint32_t count;
    uint32_t pad;
    const double *terms[16];
    double factors[16];
};
static_assert(sizeof(CombineArgs) == 272);

// out ← Σ factors·terms, in their order (overwritten; may be one of the terms). One thread.
KERNEL(vector_combine, CombineArgs, 32) {
    if (threadIdx.x != 0) return;
    double sum = 0;
    for (uint32_t i = 0; i < args.count; i++) sum += args.factors[i] * *args.terms[i];
    *args.out = sum;
}

struct FiniteDifferenceArgs {
    double *out;
    const double *norm;
    Scalar clip;
    Scalar virtual_clip;
    Scalar xi;
    double radius;
};
static_assert(sizeof(FiniteDifferenceArgs) == 72);

// out[0..4] ← ε, ε·clip, −ε·clip, −ξ·virtual_clip/(2ε), with ε = radius/(clip·norm) (overwritten). Where the direction is
// so small that ε overflows, there is no difference to take: ∞, 0, 0, 0. What is not finite in the arguments makes all NaN. One thread.
KERNEL(vector_finite_difference, FiniteDifferenceArgs, 32) {
    if (threadIdx.x != 0) return;
    double norm = *args.norm, clip = value_of(args.clip), virtual_clip = value_of(args.virtual_clip), xi = value_of(args.xi);
    double epsilon = args.radius / (clip * norm);
    bool known = isfinite(norm) && isfinite(clip) && isfinite(virtual_clip) && isfinite(xi);
    bool difference = isfinite(epsilon);
    double nothing = known ? 0.0 : double(NAN);
    args.out[0] = known ? epsilon : double(NAN);
    args.out[1] = known && difference ? epsilon * clip : nothing;
    args.out[2] = known && difference ? -(epsilon * clip) : nothing;
    args.out[3] = known && difference ? -xi * virtual_clip / (2 * epsilon) : nothing;
}

struct SgdArgs {
    float *out;
    const float *w;
    float *buffer;
    const float *gradient;
    Scalar coefficient;
    Scalar learning_rate;
    double momentum;
    double weight_decay;
    uint32_t len;
    uint32_t moves;
};
static_assert(sizeof(SgdArgs) == 88);

// b = momentum·buffer + (coefficient·g + weight_decay·w); out ← w − learning_rate·b; buffer ← b if it moves. `out` may be w
// (updated), or another vector (overwritten). A coefficient or a learning rate that is not finite changes nothing, but out ← w.
KERNEL(vector_sgd, SgdArgs, 256) {
    double exact[2] = {value_of(args.coefficient), value_of(args.learning_rate)};
    bool applies = isfinite(exact[0]) && isfinite(exact[1]);
    float coefficient = float(exact[0]), learning_rate = float(exact[1]);
    float momentum = float(args.momentum), weight_decay = float(args.weight_decay);
    FOR_EACH(i) {
        float w = args.w[i];
        if (!applies) {
            args.out[i] = w;
            continue;
        }
        float b = coefficient * args.gradient[i] + weight_decay * w;
        if (args.buffer) b = momentum * args.buffer[i] + b;
        if (args.buffer && args.moves) args.buffer[i] = b;
        args.out[i] = w - learning_rate * b;
    }
}

struct CountArgs {
    uint64_t *steps;
    double *out;
    Scalar learning_rate;
    Scalar gate;
    double beta1;
    double beta2;
    uint64_t start;
};
static_assert(sizeof(CountArgs) == 72);

// steps ← steps + 1 = t (updated); out[0..2] ← learning_rate/(1 − β₁ᵗ), 1/√(1 − β₂ᵗ) (overwritten). A gate that is not finite
// leaves the counter and makes both NaN. One thread.
KERNEL(vector_adam_count, CountArgs, 32) {
    if (threadIdx.x != 0) return;
    bool applies = isfinite(value_of(args.gate)) && isfinite(value_of(args.learning_rate));
    uint64_t t = *args.steps + (applies ? 1 : 0);
    *args.steps = t;
    args.out[0] = applies ? value_of(args.learning_rate) / (1.0 - pow(args.beta1, double(t))) : double(NAN);
    args.out[1] = applies ? 1.0 / sqrt(1.0 - pow(args.beta2, double(t))) : double(NAN);
}

// steps ← steps + 1 = t (updated); out[0] ← 1/max(1, t − 1 − start) (overwritten). A gate as above. One thread.
KERNEL(vector_average_count, CountArgs, 32) {
    if (threadIdx.x != 0) return;
    bool applies = isfinite(value_of(args.gate));
    uint64_t t = *args.steps + (applies ? 1 : 0), averaged = t > 1 + args.start ? t - 1 - args.start : 1;
    *args.steps = t;
    args.out[0] = applies ? 1.0 / double(averaged) : double(NAN);
}

struct AdamArgs {
    float *w;
    float *first;
    float *second;
    const float *gradient;
    const double *corrected;
    double beta1;
    double beta2;
    double epsilon;
    double weight_decay;
    uint32_t len;
    uint32_t pad;
};
static_assert(sizeof(AdamArgs) == 80);

// d = g + weight_decay·w; first ← β₁·first + (1 − β₁)·d; second ← β₂·second + (1 − β₂)·d²;
// w ← w − corrected[0]·(first/(√second·corrected[1] + ε)) (all updated). A correction that is not finite changes nothing.
KERNEL(vector_adam, AdamArgs, 256) {
    double exact[2] = {args.corrected[0], args.corrected[1]};
    if (!isfinite(exact[0]) || !isfinite(exact[1])) return;
    float rate = float(exact[0]), root = float(exact[1]);
    float beta1 = float(args.beta1), beta2 = float(args.beta2);
    float gain1 = float(1.0 - args.beta1), gain2 = float(1.0 - args.beta2);
    float epsilon = float(args.epsilon), weight_decay = float(args.weight_decay);
    FOR_EACH(i) {
        float w = args.w[i], d = args.gradient[i] + weight_decay * w;
        float first = beta1 * args.first[i] + gain1 * d;
        float second = beta2 * args.second[i] + gain2 * (d * d);
        args.first[i] = first;
        args.second[i] = second;
        args.w[i] = w - rate * (first / (sqrtf(second) * root + epsilon));
    }
}

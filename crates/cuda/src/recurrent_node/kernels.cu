// One node of a recurrent cell:
//   u[b,i] = Σ_e W_e·s_e + σ(c_e)·(m_e(h_e) − W_e·s_e)      m_e = Σ_k w_ek·f_k,   W_e = Σ_k w_ek
//   s[b,i] = (u[b,i] − μ[i])·rstd[i]                        (or s = u)
//
// Axes: b a row of the batch B, i a unit of H, e an incoming edge with state s_e [B, H] and gates (c_e, h_e), k one of tanh, relu,
// sigmoid, identity. A block owns COLUMNS units with all rows, so that batch statistics need no other block: eight floats are a
// whole sector of memory, and few columns make many blocks; backward a block has one edge. A thread owns every ROWS-th row of one
// column. Loads of four edges (forward) or four rows (backward) are under way at a time.

#include "prelude.cuh"

constexpr int THREADS = 512, COLUMNS = 8, ROWS = THREADS / COLUMNS, WARPS = THREADS / 32;
constexpr double EPS = 1e-5, MOMENTUM = 0.1;

// What an edge makes of h; below MIXTURE one function, of weight 1.
enum Kind : uint16_t { TANH, RELU, SIGMOID, IDENTITY, MIXTURE };

enum Normalization : uint32_t { NONE, BATCH, RUNNING };

// Bits of `write`: what is added to its former contents instead of replacing them.
constexpr uint16_t ADD_STATE = 1, ADD_MIX = 2;

struct Edge {
    const float *state;   // s_e [B, H]
    float *d_state;       // backward: [B, H]
    float *gates;         // c_e of row b at b·stride, h_e right after it; backward: overwritten with their gradients
    const float *mix;     // w_k of a mixture [4]
    double *d_mix;        // backward, of a mixture or none: [blocks, 4]
    uint32_t stride;
    uint16_t kind;
    uint16_t write;
};
static_assert(sizeof(Edge) == 48);

template <int EDGES> struct NodeArgs {
    float *node;               // s [B, H]; forward: overwritten
    const float *d_node;       // backward: gradient of s
    float *rstd;               // 1/√(variance + ε) [H]; forward: overwritten
    float *running_mean;       // forward: [H] or none; of BATCH updated
    float *running_variance;
    const float *mask;         // forward: [B, H] or none
    float *masked;             // forward, with a mask: s·mask [B, H], overwritten
    uint32_t batch;
    uint32_t hidden;
    uint32_t edges;
    uint32_t normalization;
    Edge edge[EDGES];
};
static_assert(sizeof(NodeArgs<8>) == 456 && sizeof(NodeArgs<64>) == 3144);

DEVICE float sigmoid(float x) {
    float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// Keeps NaN.

struct Mix {
    float tanh;
    float relu;
    float sigmoid;
    float identity;
};

DEVICE Mix mix_of(const Edge &edge) {
    float4 w = load4(edge.mix);
    return Mix{w.x, w.y, w.z, w.w};
}

DEVICE float total(Mix w) { return w.tanh + w.relu + w.sigmoid + w.identity; }

DEVICE float mixture(Mix w, float tanh, float relu, float sigmoid, float identity) {
    float m = w.identity * identity;
    m = fmaf(w.sigmoid, sigmoid, m);
    m = fmaf(w.relu, relu, m);
    return fmaf(w.tanh, tanh, m);
}

// W·s + σ(c)·(m(h) − W·s).
DEVICE float edge_value(const Edge &edge, float s, float c, float h) {
    float carried = s, made = h;
    switch (edge.kind) {
        case TANH: made = tanhf(h); break;
        case RELU: made = relu(h); break;
        case SIGMOID: made = sigmoid(h); break;
        case IDENTITY: break;
        default: {
            Mix w = mix_of(edge);
            carried = total(w) * s;
            made = mixture(w, tanhf(h), relu(h), sigmoid(h), h);
        }
    }
    return fmaf(sigmoid(c), made - carried, carried);
}

// Sums of `a` and of `b` over a column's threads, in a fixed order; each thread gets those of its column. `shared` holds 2·THREADS
// values, and may be used again at once.
DEVICE void column_sums(double &a, double &b, double *shared) {
    uint32_t t = threadIdx.x;
    shared[t] = a;
    shared[THREADS + t] = b;
    for (uint32_t half = THREADS / 2; half >= COLUMNS; half /= 2) {
        BARRIER();
        if (t < half) {
            shared[t] += shared[t + half];
            shared[THREADS + t] += shared[THREADS + t + half];
        }
    }
    BARRIER();
    a = shared[t % COLUMNS];
    b = shared[THREADS + t % COLUMNS];
    BARRIER();
}

template <int EDGES> DEVICE void node_forward(const NodeArgs<EDGES> &args, double *shared) {
    uint32_t column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS, first = threadIdx.x / COLUMNS;
    bool inside = column < args.hidden;
    double sum = 0.0, squares = 0.0;
    for (uint32_t b = first; inside && b < args.batch; b += ROWS) {
        size_t at = size_t(b) * args.hidden + column;
        float u = 0.0f;
        for (uint32_t start = 0; start < args.edges; start += 4) {
            float s[4], c[4], h[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (start + e >= args.edges) continue;
                const Edge &edge = args.edge[start + e];
                const float *gates = edge.gates + size_t(b) * edge.stride + column;
                s[e] = edge.state[at];
                c[e] = gates[0];
                h[e] = gates[args.hidden];
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (start + e >= args.edges) continue;
                float value = edge_value(args.edge[start + e], s[e], c[e], h[e]);
                u = start + e == 0 ? value : u + value;
            }
        }
        args.node[at] = u;
        sum += double(u);
        squares += double(u) * double(u);
    }

    float mean = 0.0f, scale = 1.0f;
    if (args.normalization == BATCH) {
        column_sums(sum, squares, shared);
        double count = double(args.batch), average = sum / count;
        double spread = squares - sum * average;
        if (spread < 0.0) spread = 0.0;
        mean = float(average);
        scale = float(1.0 / sqrt(spread / count + EPS));
        if (inside && first == 0) {
            args.rstd[column] = scale;
            if (args.running_mean) {
                float *means = args.running_mean + column, *variances = args.running_variance + column;
                *means = float((1.0 - MOMENTUM) * double(*means) + MOMENTUM * average);
                *variances = float((1.0 - MOMENTUM) * double(*variances) + MOMENTUM * (spread / (count - 1.0)));
            }
        }
    } else if (args.normalization == RUNNING && inside) {
        mean = args.running_mean[column];
        scale = float(1.0 / sqrt(double(args.running_variance[column]) + EPS));
        if (first == 0) args.rstd[column] = scale;
    } else if (!args.masked) {
        return;
    }
    for (uint32_t b = first; inside && b < args.batch; b += ROWS) {
        size_t at = size_t(b) * args.hidden + column;
        float value = args.node[at];
        if (args.normalization != NONE) {
            value = (value - mean) * scale;
            args.node[at] = value;
        }
        if (args.masked) args.masked[at] = value * args.mask[at];
    }
}

// Gradient of an edge's state and gates for one element with g = du; `sums`: g·σ(c)·f_k(h) of the four functions, then
// g·s·(1 − σ(c)), accumulated.
struct EdgeGradient {
    float state;
    float c;
    float h;
};

DEVICE EdgeGradient edge_gradient(const Edge &edge, float g, float s, float c, float h, float (&sums)[5]) {
    float gate = sigmoid(c);
    float kept = 1.0f - gate, through = g * gate, held = g * kept;
    float value = h, slope = 1.0f, weight = 1.0f;
    switch (edge.kind) {
        case TANH:
            value = tanhf(h);
            slope = fmaf(-value, value, 1.0f);
            break;
        case RELU:
            value = relu(h);
            slope = h > 0.0f ? 1.0f : 0.0f;
            break;
        case SIGMOID:
            value = sigmoid(h);
            slope = value * (1.0f - value);
            break;
        case IDENTITY: break;
        default: {
            Mix w = mix_of(edge);
            float t = tanhf(h), r = relu(h), q = sigmoid(h);
            weight = total(w);
            value = mixture(w, t, r, q, h);
            slope = w.identity + (h > 0.0f ? w.relu : 0.0f);
            slope = fmaf(w.sigmoid, q * (1.0f - q), slope);
            slope = fmaf(w.tanh, fmaf(-t, t, 1.0f), slope);
            sums[0] = fmaf(through, t, sums[0]);
            sums[1] = fmaf(through, r, sums[1]);
            sums[2] = fmaf(through, q, sums[2]);
            sums[3] = fmaf(through, h, sums[3]);
            sums[4] = fmaf(held, s, sums[4]);
        }
    }
    return EdgeGradient{held * weight, through * kept * fmaf(-weight, s, value), through * slope};
}

// One edge a block: each forms the gradient of u anew, which is less work than to wait for one that does.
template <int EDGES> DEVICE void node_backward(const NodeArgs<EDGES> &args, double *shared) {
    uint32_t column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS, first = threadIdx.x / COLUMNS;
    bool inside = column < args.hidden, normalized = args.normalization != NONE;
    float mean = 0.0f, slope = 0.0f, scale = 1.0f;
    if (normalized) {
        double sum = 0.0, product = 0.0;
        if (args.normalization == BATCH) {
            for (uint32_t start = first; inside && start < args.batch; start += 4 * ROWS) {
                float g[4], s[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint32_t b = start + j * ROWS;
                    size_t at = size_t(b) * args.hidden + column;
                    g[j] = b < args.batch ? args.d_node[at] : 0.0f;
                    s[j] = b < args.batch ? args.node[at] : 0.0f;
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (start + j * ROWS >= args.batch) continue;
                    sum += double(g[j]);
                    product += double(g[j]) * double(s[j]);
                }
            }
            column_sums(sum, product, shared);
        }
        mean = float(sum / double(args.batch));
        slope = float(product / double(args.batch));
        scale = inside ? args.rstd[column] : 0.0f;
    }

    const Edge &edge = args.edge[blockIdx.y];
    float sums[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t start = first; inside && start < args.batch; start += 4 * ROWS) {
        float g[4], u[4], s[4], c[4], h[4], before[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t b = start + j * ROWS;
            if (b >= args.batch) continue;
            size_t at = size_t(b) * args.hidden + column;
            const float *gates = edge.gates + size_t(b) * edge.stride + column;
            g[j] = args.d_node[at];
            u[j] = normalized ? args.node[at] : 0.0f;
            s[j] = edge.state[at];
            c[j] = gates[0];
            h[j] = gates[args.hidden];
            before[j] = edge.write & ADD_STATE ? edge.d_state[at] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t b = start + j * ROWS;
            if (b >= args.batch) continue;
            size_t at = size_t(b) * args.hidden + column;
            float *gates = edge.gates + size_t(b) * edge.stride + column;
            float du = normalized ? scale * (g[j] - mean - u[j] * slope) : g[j];
            EdgeGradient gradient = edge_gradient(edge, du, s[j], c[j], h[j], sums);
            edge.d_state[at] = before[j] + gradient.state;
            gates[0] = gradient.c;
            gates[args.hidden] = gradient.h;
        }
    }
    // The same for all threads of the block.
    if (!edge.d_mix) return;
    float *sums_of_warps = reinterpret_cast<float *>(shared);
#pragma unroll
    for (int k = 0; k < 5; k++) {
        float sum = warp_sum(sums[k]);
        if (lane() == 0) sums_of_warps[warp() * 5 + k] = sum;
    }
    BARRIER();
    if (threadIdx.x >= 4) return;
    double sum = 0.0;
    for (int w = 0; w < WARPS; w++) sum += double(sums_of_warps[w * 5 + 4]) + double(sums_of_warps[w * 5 + threadIdx.x]);
    double *place = edge.d_mix + size_t(blockIdx.x) * 4 + threadIdx.x;
    *place = edge.write & ADD_MIX ? *place + sum : sum;
}

KERNEL(recurrent_node_forward, NodeArgs<8>, 512) {
    DYN_SMEM(double, shared);
    node_forward(args, shared);
}

KERNEL(recurrent_node_forward_many, NodeArgs<64>, 512) {
    DYN_SMEM(double, shared);
    node_forward(args, shared);
}

KERNEL(recurrent_node_backward, NodeArgs<8>, 512) {
    DYN_SMEM(double, shared);
    node_backward(args, shared);
}

KERNEL(recurrent_node_backward_many, NodeArgs<64>, 512) {
    DYN_SMEM(double, shared);
    node_backward(args, shared);
}

// Operation weights [edges, operations] and mixtures [edges, 4]; an operation's place in a mixture, ABSENT where it has none.
constexpr uint8_t ABSENT = 255;

struct MixArgs {
    float *weights;           // forward: read; backward: gradients, overwritten
    float *mixes;             // forward: overwritten
    const double *d_mixes;    // backward: [edges, blocks, 4]
    uint32_t edges;
    uint32_t operations;
    uint32_t blocks;
    uint32_t pad;
    uint8_t place[8];         // of the operations
};
static_assert(sizeof(MixArgs) == 48);

KERNEL(recurrent_node_mixes, MixArgs, 32) {
    uint32_t edge = blockIdx.x * 32 + threadIdx.x;
    if (edge >= args.edges) return;
    float *mix = args.mixes + 4 * edge;
    for (int k = 0; k < 4; k++) mix[k] = 0.0f;
    for (uint32_t operation = 0; operation < args.operations; operation++)
        if (args.place[operation] != ABSENT) mix[args.place[operation]] = args.weights[edge * args.operations + operation];
}

// One thread an operation weight; blocks in their order.
KERNEL(recurrent_node_mixes_backward, MixArgs, 32) {
    uint32_t i = blockIdx.x * 32 + threadIdx.x;
    if (i >= args.edges * args.operations) return;
    uint8_t place = args.place[i % args.operations];
    double sum = 0.0;
    if (place != ABSENT) {
        const double *d_mix = args.d_mixes + size_t(i / args.operations) * args.blocks * 4 + place;
        for (uint32_t block = 0; block < args.blocks; block++) sum += d_mix[4 * block];
    }
    args.weights[i] = float(sum);
}

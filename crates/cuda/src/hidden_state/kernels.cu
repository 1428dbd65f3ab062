// The hidden state of a recurrent cell, the mean of some of its states, and what comes back from it.
//
// Axes: an element i of [B, H]; states are the cell's. One thread an element.

#include "prelude.cuh"

constexpr int THREADS = 256, STATES = 65;

struct HiddenStateArgs {
    float *state[STATES];     // forward: those of the mean, read; backward: gradients of all, overwritten
    float *hidden;            // forward: overwritten; backward: gradient from the output, read
    const float *mask[2];     // forward: of the next product's input and of the output, [B, H] or none
    float *masked[2];         // forward: hidden·mask, overwritten, or none
    const float *d_next;      // backward: gradient from the next time step, or none
    uint64_t in_mean[2];      // backward: bit of each state that the mean is of
    uint32_t len;
    uint32_t states;
    float factor;             // 1/number of states of the mean
    uint32_t pad;
};
static_assert(sizeof(HiddenStateArgs) == 600);

KERNEL(hidden_state_forward, HiddenStateArgs, 256) {
    uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= args.len) return;
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t state = 0; state < args.states; state++) sum += args.state[state][i];
    sum *= args.factor;
    args.hidden[i] = sum;
    for (int k = 0; k < 2; k++)
        if (args.masked[k]) args.masked[k][i] = args.mask[k] ? sum * args.mask[k][i] : sum;
}

KERNEL(hidden_state_backward, HiddenStateArgs, 256) {
    uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= args.len) return;
    float d_mean = args.hidden[i];
    if (args.d_next) d_mean += args.d_next[i];
    d_mean *= args.factor;
    for (uint32_t state = 0; state < args.states; state++)
        args.state[state][i] = args.in_mean[state / 64] >> state % 64 & 1 ? d_mean : 0.0f;
}

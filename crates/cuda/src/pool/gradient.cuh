// What the backward of pools is given.
#pragma once
#include "window.cuh"

#define POOL_TERMS 64

// One of the gradients that z got: s[n]*scale[c]*grad[n,p,c] + b[c]*z[n,p,c] + d[c]; null scale and sample_scale: 1, null b
// (then d too): 0.
struct PoolTerm {
    const float *grad;
    const float *scale;
    const float *sample_scale;
    const float *b;
    const float *d;
};

// dx: overwritten by the first unit that writes it unless `accumulate` is set, added to by the others.
struct PoolBackward {
    const float *x;
    const float *z;
    float *dx;
    PoolShape shape;
    uint32_t accumulate, first_term, terms;
};

// Units [first, first + count) write the same dx, one after the other, in the same blocks.
struct PoolGroup {
    uint32_t first, count;
};

struct PoolBackwardArgs {
    uint32_t h, w, channels, vector;
    // Rows of an image and channels that a block takes, and the number of such runs of channels.
    uint32_t band, tile, tiles;
    // Floats of shared memory before the winners: those of dz.
    uint32_t gradients;
    PoolGroup group[POOL_UNITS];
    PoolBackward unit[POOL_UNITS];
    PoolTerm term[POOL_TERMS];
};
static_assert(sizeof(PoolBackwardArgs) == 32 + (8 + 64) * POOL_UNITS + 40 * POOL_TERMS, "layout of PoolBackwardArgs");
static_assert(sizeof(PoolBackwardArgs) <= 4096, "kernel arguments");

// Four neighbouring channels at a time, where C or an address may not allow 16-byte accesses, and the gradient that arrives
// at a kernel's output. Knows no operation.
//
// Axes: N images, P pixels, C channels, channels innermost.
#pragma once
#include "prelude.cuh"

#define UPSTREAM_TERMS 4

// `left` values from p (4 if there are more), then zeros. `wide`: C and the address allow one access of 16 bytes.
DEVICE float4 load_quad(const float *p, uint32_t left, bool wide) {
    if (wide) return load4(p);
    return make_float4(p[0], left > 1 ? p[1] : 0.0f, left > 2 ? p[2] : 0.0f, left > 3 ? p[3] : 0.0f);
}

// Of two arrays at once.
DEVICE void load_pair(const float *p, const float *q, uint32_t left, bool wide, float4 &a, float4 &b) {
    if (wide) {
        a = load4(p);
        b = load4(q);
    } else {
        a = load_quad(p, left, false);
        b = load_quad(q, left, false);
    }
}

DEVICE void store_quad(float *p, float4 v, uint32_t left, bool wide) {
    if (wide) {
        store4(p, v);
    } else {
        p[0] = v.x;
        if (left > 1) p[1] = v.y;
        if (left > 2) p[2] = v.z;
        if (left > 3) p[3] = v.w;
    }
}

// Four quads of neighbouring pixels become four vectors of pixels, one per channel, and back.
DEVICE void transpose(float4 (&v)[4]) {
    float4 x = make_float4(v[0].x, v[1].x, v[2].x, v[3].x), y = make_float4(v[0].y, v[1].y, v[2].y, v[3].y);
    float4 z = make_float4(v[0].z, v[1].z, v[2].z, v[3].z), w = make_float4(v[0].w, v[1].w, v[2].w, v[3].w);
    v[0] = x;
    v[1] = y;
    v[2] = z;
    v[3] = w;
}

// i / n by `magic` = ceil(2^31 / n); exact while i * n is below 2^31.
DEVICE uint32_t quotient(uint32_t i, uint32_t magic) { return (uint32_t)(((uint64_t)(2 * i) * magic) >> 32); }

// How the threads of a block go over pixels x channels, four by four: pixels innermost in shared memory, channels innermost
// in device memory. Eight neighbouring threads have neighbouring pixels, the next eight the next channels: no two meet in
// a bank, and the accesses to device memory are whole sectors.
struct Tile4 {
    uint32_t slot, quad;
};

// Number of `index`es that cover slots of four pixels x quads.
DEVICE uint32_t tile4_count(uint32_t slots, uint32_t quads) { return (slots + 7) / 8 * 8 * quads; }

// `magic` as in `quotient`, for quads.
DEVICE Tile4 tile4(uint32_t index, uint32_t quads, uint32_t magic) {
    Tile4 at;
    uint32_t rest = index >> 3, block = quotient(rest, magic);
    at.quad = rest - block * quads;
    at.slot = block * 8 + (index & 7);
    return at;
}

DEVICE float4 fma_quad(float4 a, float4 b, float4 c) {
    return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w));
}

DEVICE float4 add_quad(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

DEVICE float4 mul_quad(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }

DEVICE float4 splat_quad(float v) { return make_float4(v, v, v, v); }

DEVICE float4 relu_quad(float4 v) { return make_float4(relu(v.x), relu(v.y), relu(v.z), relu(v.w)); }

// v where u > 0, else 0.
DEVICE float4 where_positive(float4 u, float4 v) {
    return make_float4(u.x > 0.0f ? v.x : 0.0f, u.y > 0.0f ? v.y : 0.0f, u.z > 0.0f ? v.z : 0.0f,
                       u.w > 0.0f ? v.w : 0.0f);
}

// grad [N, P, C]; scale [C], null: 1; sample_scale [N], null: 1.
struct UpstreamTerm {
    const float *grad;
    const float *scale;
    const float *sample_scale;
};

// dz[n,p,c] = sum over terms of sample_scale[n]*scale[c]*grad[n,p,c], + b[c]*z[n,p,c] + d[c]; null b: without the last two.
struct Upstream {
    UpstreamTerm term[UPSTREAM_TERMS];
    const float *z;
    const float *b;
    const float *d;
    uint32_t terms;
    uint32_t wide;
};
static_assert(sizeof(Upstream) == 32 + 24 * UPSTREAM_TERMS, "layout of Upstream");

// dz of channels [c, c + 4) of a pixel of image n, whose first value in grad and z is number `at`.
DEVICE float4 upstream_quad(const Upstream &up, size_t at, uint32_t n, uint32_t c, uint32_t left) {
    bool wide = up.wide;
    float4 dz = splat_quad(0.0f);
    if (up.b) {
        float4 z = load_quad(up.z + at, left, wide);
        dz = fma_quad(load_quad(up.b + c, left, wide), z, load_quad(up.d + c, left, wide));
    }
    for (uint32_t t = 0; t < up.terms; t++) {
        float4 scale = up.term[t].scale ? load_quad(up.term[t].scale + c, left, wide) : splat_quad(1.0f);
        if (up.term[t].sample_scale) scale = mul_quad(scale, splat_quad(up.term[t].sample_scale[n]));
        dz = fma_quad(scale, load_quad(up.term[t].grad + at, left, wide), dz);
    }
    return dz;
}

// The same of four pixels: those that are `there` have their first value at number at + offset and are of image n; 0 at the
// others.
DEVICE void upstream_quads(const Upstream &up, size_t at, const int (&offset)[4], const bool (&there)[4],
                           const uint32_t (&n)[4], uint32_t c, uint32_t left, float4 (&dz)[4]) {
    if (!up.wide || up.terms != 1) {
#pragma unroll
        for (int j = 0; j < 4; j++) dz[j] = there[j] ? upstream_quad(up, at + offset[j], n[j], c, left) : splat_quad(0.0f);
        return;
    }
    const UpstreamTerm &term = up.term[0];
    const float *gradient = term.grad + at, *z = up.z + at;
    float4 scale = term.scale ? load4(term.scale + c) : splat_quad(1.0f);
    float4 b = splat_quad(0.0f), d = splat_quad(0.0f);
    if (up.b) {
        b = load4(up.b + c);
        d = load4(up.d + c);
    }
    // Loads before sums, two pixels at a time: latencies overlap, and registers suffice.
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
        float4 grad[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            bool here = there[half + j];
            grad[j] = here ? load4(gradient + offset[half + j]) : splat_quad(0.0f);
            dz[half + j] = here && up.b ? load4(z + offset[half + j]) : splat_quad(0.0f);
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float4 &to = dz[half + j];
            bool here = there[half + j];
            if (up.b) to = fma_quad(b, to, d);
            float4 factor = scale;
            if (term.sample_scale && here) factor = mul_quad(scale, splat_quad(term.sample_scale[n[half + j]]));
            to = here ? fma_quad(factor, grad[j], to) : splat_quad(0.0f);
        }
    }
}

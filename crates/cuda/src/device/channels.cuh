// How the threads of a block lie over pixels x channels, and sums over pixels that stay per channel. Knows no operation.
//
// Axes: P pixels, C channels, channels innermost. A thread owns one pack of V neighbouring channels (V = 4 where C and all
// addresses allow 16-byte accesses, else 1) and walks over pixels, so what belongs to a channel stays in its registers.
#pragma once
#include "prelude.cuh"

template <int V>
struct alignas(4 * V) Pack {
    float v[V];
};

template <int V>
DEVICE Pack<V> load_pack(const float *from) {
    static_assert(V == 1 || V == 4, "one channel or four");
    Pack<V> pack;
    if constexpr (V == 4) {
        float4 four = load4(from);
        pack.v[0] = four.x;
        pack.v[1] = four.y;
        pack.v[2] = four.z;
        pack.v[3] = four.w;
    } else {
        pack.v[0] = *from;
    }
    return pack;
}

template <int V>
DEVICE void store_pack(float *to, Pack<V> pack) {
    if constexpr (V == 4) {
        store4(to, make_float4(pack.v[0], pack.v[1], pack.v[2], pack.v[3]));
    } else {
        *to = pack.v[0];
    }
}

template <int V>
DEVICE Pack<V> splat(float value) {
    Pack<V> pack;
    for (int i = 0; i < V; i++) pack.v[i] = value;
    return pack;
}

// Per-channel values that may be missing: `otherwise` then.
template <int V>
DEVICE Pack<V> load_pack_or(const float *from, uint32_t channel, float otherwise) {
    return from ? load_pack<V>(from + channel) : splat<V>(otherwise);
}

// The block's threads as `rows` pixels x `lanes` packs; the threads that are left over have row == rows or more and idle.
struct Threads {
    uint32_t lanes, rows, lane, row;
};

DEVICE Threads threads_over(uint32_t packs) {
    Threads threads;
    threads.lanes = packs < blockDim.x ? packs : blockDim.x;
    threads.rows = blockDim.x / threads.lanes;
    threads.row = threadIdx.x / threads.lanes;
    threads.lane = threadIdx.x - threads.row * threads.lanes;
    return threads;
}

// Sums `count` packs per thread over the block's rows, in an order that depends on the number of rows alone. On return
// row 0 holds the sums of its lane in `values`. `shared` has count * blockDim.x packs; all threads call this, and those
// that idle bring anything. Ends with a barrier, so `shared` may be used again.
template <int V, int COUNT>
DEVICE void sum_rows(Threads at, float *shared, Pack<V> (&values)[COUNT]) {
    Pack<V> *all = reinterpret_cast<Pack<V>*>(shared);
    for (int k = 0; k < COUNT; k++) all[k * blockDim.x + threadIdx.x] = values[k];
    BARRIER();
    for (uint32_t rows = at.rows; rows > 1;) {
        uint32_t half = (rows + 1) / 2;
        if (at.row + half < rows) {
            for (int k = 0; k < COUNT; k++) {
                Pack<V> *mine = all + k * blockDim.x + threadIdx.x;
                Pack<V> other = mine[half * at.lanes];
                for (int i = 0; i < V; i++) mine->v[i] += other.v[i];
            }
        }
        BARRIER();
        rows = half;
    }
    if (at.row == 0) {
        for (int k = 0; k < COUNT; k++) values[k] = all[k * blockDim.x + threadIdx.x];
    }
    BARRIER();
}

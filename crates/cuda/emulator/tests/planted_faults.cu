// Kernels with one fault each, for the tests that prove that the emulator finds it. Each has a correct twin or a correct
// way to launch it, so that it is the fault that is found.

#include "prelude.cuh"

struct PlantedArgs {
    const float *x;
    float *y;
    uint32_t len;
    uint32_t fault;
};
static_assert(sizeof(PlantedArgs) == 24);

// y[i] ← x[len − 1 − i] within a block, through shared memory. Fault: no barrier between the write and the read.
KERNEL(planted_missing_barrier, PlantedArgs, 64) {
    DYN_SMEM(float, shared);
    uint32_t i = threadIdx.x;
    shared[i] = args.x[i];
    if (!args.fault) BARRIER();
    args.y[i] = shared[blockDim.x - 1 - i];
}

// y[i] ← x[i] + x[i + 1] for all but the last. Fault: for the last as well.
KERNEL(planted_out_of_bounds_read, PlantedArgs, 64) {
    uint32_t i = threadIdx.x, count = args.fault ? args.len : args.len - 1;
    if (i < count) args.y[i] = args.x[i] + args.x[i + 1];
}

// y[−1 + i] ← x[i]. Fault: i = 0.
KERNEL(planted_write_before_start, PlantedArgs, 64) {
    uint32_t i = threadIdx.x;
    if (i < args.len && (i > 0 || args.fault)) args.y[int(i) - 1] = args.x[i];
}

// y[0] ← Σ x over all blocks, one element each. Fault: added in the order in which blocks arrive.
KERNEL(planted_order_dependent_sum, PlantedArgs, 32) {
    if (threadIdx.x != 0) return;
    if (args.fault) {
        args.y[0] += args.x[blockIdx.x];
    } else if (blockIdx.x == 0) {
        float sum = args.y[0];
        for (uint32_t i = 0; i < args.len; i++) sum += args.x[i];
        args.y[0] = sum;
    }
}

// Fault 1: half of the block is at another barrier. Fault 2: thread 40 returns before it. Fault 3: thread 3 leaves its warp.
// Fault 4: half of a warp sums at another line.
KERNEL(planted_mismatch, PlantedArgs, 64) {
    uint32_t i = threadIdx.x;
    if (args.fault == 1 && i >= 32) {
        BARRIER();
    } else if (args.fault == 2 && i == 40) {
        return;
    } else {
        BARRIER();
    }
    float sum = args.x[i];
    if (args.fault == 3 && i == 3) return;
    if (args.fault == 4 && i % 2 == 1) {
        sum = warp_sum(2 * sum);
    } else {
        sum = warp_xor(sum, 1);
    }
    args.y[i] = sum;
}

// y[i] ← shared[i + fault] of 64 floats of shared memory.
KERNEL(planted_shared_overrun, PlantedArgs, 64) {
    DYN_SMEM(float, shared);
    shared[threadIdx.x] = 1.0f;
    BARRIER();
    args.y[threadIdx.x] = shared[threadIdx.x + args.fault];
}

// y[i] ← Σ shared over a block, of which every element is written. Fault: but the last.
KERNEL(planted_uninitialized_shared, PlantedArgs, 64) {
    DYN_SMEM(float, shared);
    if (threadIdx.x < args.len - args.fault) shared[threadIdx.x] = 1.0f;
    BARRIER();
    float sum = 0;
    for (uint32_t i = 0; i < args.len; i++) sum += shared[i];
    args.y[threadIdx.x] = sum;
}

// y[4i..] ← x[4i..] through copies to shared memory, zeros for the last. Fault 1: read before they are there. Fault 2: nobody waits.
KERNEL(planted_copy, PlantedArgs, 32) {
    DYN_SMEM(float, shared);
    uint32_t i = threadIdx.x * 4;
    if (i >= args.len) return;
    copy4(shared + i, args.x + i, i + 4 < args.len);
    if (args.fault == 0) copies_done();
    if (args.fault < 2) store4(args.y + i, load4(shared + i));
    if (args.fault == 1) copies_done();
}

// y[4i..] ← x[4i + fault..], four at once. Fault 1: at an address that is not aligned to 16 bytes.
KERNEL(planted_unaligned_load, PlantedArgs, 32) {
    uint32_t i = threadIdx.x * 4;
    if (i + 8 <= args.len) store4(args.y + i, load4(args.x + i + args.fault));
}

// Dense products of f32 matrices of any size: out[m,n] (+)= scale[m,n]·Σ_k a[m,k]·b[k,n].
//
// Axes: m a row of M, n a column of N, k of K. A block makes a tile of the output from tiles of the factors in shared memory, two
// of them in turn: while one is multiplied, the next is on its way from memory into registers. K may be divided in two ways, both
// of a fixed order:
//   slices   inside a block: the threads are groups, each takes its part of every tile, the sums are added at the end;
//   splits   between blocks (blockIdx.z): each writes its own product to `out` + z·M·N, which matmul_reduce adds up.
// What lies beyond the edge of a factor is 0 in shared memory, on both sides. Tiles are 128, 64 or 32 wide and high, in f32 on
// CUDA cores, or with factors rounded to tf32 or bfloat16 on tensor cores; sums are f32 in all of them.

#include "cuda_cores.cuh"
#include "tensor_cores.cuh"

KERNEL_RESIDENT(matmul_large, MatmulArgs, 256, 2) {
    DYN_SMEM(float, shared);
    multiply_tile<128, 128, 8, 8, 8, 1>(args, shared);
}

KERNEL_RESIDENT(matmul_medium, MatmulArgs, 256, 3) {
    DYN_SMEM(float, shared);
    multiply_tile<64, 64, 16, 4, 4, 1>(args, shared);
}

KERNEL_RESIDENT(matmul_small, MatmulArgs, 256, 3) {
    DYN_SMEM(float, shared);
    multiply_tile<32, 32, 32, 4, 4, 4>(args, shared);
}

KERNEL(matmul_large_tf32, MatmulArgs, 256) {
    DYN_SMEM(uint32_t, shared);
    multiply_tensors<TF32, 128, 64, 32, 1>(args, shared);
}

KERNEL(matmul_medium_tf32, MatmulArgs, 256) {
    DYN_SMEM(uint32_t, shared);
    multiply_tensors<TF32, 64, 32, 16, 1>(args, shared);
}

KERNEL(matmul_small_tf32, MatmulArgs, 256) {
    DYN_SMEM(uint32_t, shared);
    multiply_tensors<TF32, 32, 16, 16, 2>(args, shared);
}

KERNEL(matmul_large_bf16, MatmulArgs, 256) {
    DYN_SMEM(uint32_t, shared);
    multiply_tensors<BF16, 128, 64, 32, 1>(args, shared);
}

KERNEL(matmul_medium_bf16, MatmulArgs, 256) {
    DYN_SMEM(uint32_t, shared);
    multiply_tensors<BF16, 64, 32, 16, 1>(args, shared);
}

KERNEL(matmul_small_bf16, MatmulArgs, 256) {
    DYN_SMEM(uint32_t, shared);
    multiply_tensors<BF16, 32, 16, 16, 2>(args, shared);
}

struct MatmulReduceArgs {
    const float *partial;   // [splits, M, N]
    float *out;             // overwritten or accumulated
    const float *scale;     // [M, N] or none: 1
    uint32_t m;
    uint32_t n;
    uint32_t out_row;
    uint32_t splits;
    uint32_t accumulate;
    uint32_t pad;
};
static_assert(sizeof(MatmulReduceArgs) == 48);

// out (+)= scale·Σ_z partial[z], splits in their order.
KERNEL(matmul_reduce, MatmulReduceArgs, 256) {
    size_t count = size_t(args.m) * args.n;
    size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= count) return;
    double sum = 0.0;
#pragma unroll 4
    for (uint32_t split = 0; split < args.splits; split++) sum += double(args.partial[split * count + i]);
    float value = float(sum);
    if (args.scale) value *= args.scale[i];
    float *place = args.out + i / args.n * args.out_row + i % args.n;
    *place = args.accumulate ? *place + value : value;
}

// What every kernel includes, and nothing else (but mma.cuh): the portable subset of CUDA that these sources are written
// in. nvcc compiles them for devices; a C++ compiler compiles the very same files for the emulator that tests them.
//
//   KERNEL(name, Args, threads) { … }   an entry. `threads` to a block, a multiple of 32. Its one argument is `args`, of type
//                                       Args: plain data by value, at most 4096 bytes; the Rust side has the same fields.
//   KERNEL_RESIDENT(name, Args, threads, blocks) { … }
//                                       the same, with registers for `blocks` blocks on a multiprocessor at once
//   DEVICE float f(…) { … }             a function that kernels call; may be a template.
//   DYN_SMEM(T, name);                  T *name: the block's dynamic shared memory, 16-byte aligned. No static __shared__.
//   threadIdx.x, blockDim.x, blockIdx.{x,y,z}, gridDim.{x,y,z}, lane(), warp()
//   BARRIER();                          all threads of the block, at the same line. Never return before one.
//   warp_xor, warp_down, warp_from, warp_sum, warp_max
//                                       all 32 lanes of the warp, at the same line
//   block_sum(v, shared)                all threads of the block; contains barriers
//   load4, store4, load2, store2        16 and 8 bytes at once, so aligned
//   put4                                store4 to shared memory
//   copy4(to, from, there), copy1       16 or 4 bytes on their way to shared memory, zeros if not `there`; both ends aligned.
//                                       Nobody touches `to` until this thread has called copies_done()
//   copies_done()                       this thread's copies have arrived: for itself, and for others after a BARRIER
//   larger(a, b)                        the larger of two floats; a NaN is larger than any number
//   relu(v)                             larger(v, 0)
//   bf16, to_float, to_bf16             storage in bfloat16, rounded to nearest even
//   round_bf16(v)                       the nearest number in bfloat16, as a float
//
// Rules: no float atomics, no order of blocks or threads that a result depends on, no inline PTX outside mma.cuh and this file. Products
// and sums are not fused behind your back (nvcc gets --fmad=false, g++ -ffp-contract=off): write fmaf where you mean it, so
// that the emulator and the device round alike.

#pragma once

#include <stdint.h>

#ifdef __CUDACC__

#define DARTS_KERNEL(name, Args, threads, ...)                                                                          \
    static_assert(sizeof(Args) <= 4096, "kernel arguments are at most 4096 bytes");                                     \
    static_assert((threads) % 32 == 0 && (threads) <= 1024, "threads of a block");                                      \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Args args)

#define KERNEL(name, Args, threads) DARTS_KERNEL(name, Args, threads, threads)

#define KERNEL_RESIDENT(name, Args, threads, blocks) DARTS_KERNEL(name, Args, threads, threads, blocks)

#define DEVICE static __device__ __forceinline__

#define DYN_SMEM(T, name)                                                                                               \
    extern __shared__ __align__(16) unsigned char darts_dynamic_shared[];                                               \
    T *name = reinterpret_cast<T *>(darts_dynamic_shared)

#define BARRIER() __syncthreads()

template <typename T> DEVICE T warp_xor(T value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
template <typename T> DEVICE T warp_down(T value, int lanes) { return __shfl_down_sync(0xffffffffu, value, lanes); }
template <typename T> DEVICE T warp_from(T value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }

DEVICE float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t bits_of_float(float value) { return __float_as_uint(value); }

DEVICE float4 load4(const float *p) { return *reinterpret_cast<const float4 *>(p); }
DEVICE void store4(float *p, float4 v) { *reinterpret_cast<float4 *>(p) = v; }
// nvcc takes a store of a vector to shared memory apart, into four that meet in a bank.
DEVICE void put4(float *p, float4 v) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}
DEVICE void copy4(float *to, const float *from, bool there) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to), bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copy1(float *to, const float *from, bool there) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to), bytes = there ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }
DEVICE float larger(float a, float b) {
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}
DEVICE float2 load2(const float *p) { return *reinterpret_cast<const float2 *>(p); }
DEVICE void store2(float *p, float2 v) { *reinterpret_cast<float2 *>(p) = v; }

#else

#include "emulator.h"

#endif

DEVICE float relu(float v) { return larger(v, 0.0f); }

// Lane of the thread in its warp, and warp of the thread in its block.
DEVICE int lane() { return threadIdx.x & 31; }
DEVICE int warp() { return threadIdx.x >> 5; }

// Sum over a warp; every lane gets the same bits. The order is fixed: lanes 16 apart first.
#define DARTS_WARP_REDUCE(name, expression)                                                                             \
    template <typename T> DEVICE T name(T a) {                                                                          \
        for (int mask = 16; mask > 0; mask >>= 1) {                                                                     \
            T b = warp_xor(a, mask);                                                                                    \
            a = (expression);                                                                                           \
        }                                                                                                               \
        return a;                                                                                                       \
    }
DARTS_WARP_REDUCE(warp_sum, a + b)
DARTS_WARP_REDUCE(warp_max, a > b || a != a ? a : b)  // a NaN wins

// Sum over a block; every thread gets the same bits. Warps are added in their order. `shared` holds blockDim.x / 32
// values and may be used again at once afterwards.
template <typename T> DEVICE T block_sum(T value, T *shared) {
    value = warp_sum(value);
    BARRIER();
    if (lane() == 0) shared[warp()] = value;
    BARRIER();
    T sum = shared[0];
    for (uint32_t i = 1; i < blockDim.x / 32; i++) sum += shared[i];
    BARRIER();
    return sum;
}

// Storage in bfloat16: the upper half of a float.
struct bf16 {
    uint16_t bits;
};

DEVICE float to_float(bf16 value) { return float_of_bits(uint32_t(value.bits) << 16); }

// Rounds to nearest, ties to even; a NaN stays one.
DEVICE bf16 to_bf16(float value) {
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{uint16_t((bits >> 16) | 0x40u)};
    return bf16{uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// The nearest number in bfloat16, ties to even.
DEVICE float round_bf16(float value) {
#ifdef __CUDACC__
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %1;" : "=r"(pair) : "f"(value));
    return float_of_bits(pair << 16);
#else
    return to_float(to_bf16(value));
#endif
}

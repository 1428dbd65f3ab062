// What stands behind prelude.cuh when a kernel is compiled for the emulator: CUDA's built-in names, as far as the portable
// subset has them, over the fibers of emulator.cpp.

#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct uint3 {
    uint32_t x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

namespace emulator {

// What the running fiber sees of itself. The scheduler writes it before each switch; a block never leaves its OS thread.
struct Position {
    uint3 thread, threads, block, grid;
    unsigned char *shared;
    uint32_t shared_bytes;
};
extern __thread Position position;

struct Entry {
    const char *name;
    uint32_t args_bytes;
    uint32_t threads;
    void (*run)(const void *args);
    const Entry *next;
};

struct Registration {
    Entry entry;
    Registration(const char *name, uint32_t args_bytes, uint32_t threads, void (*run)(const void *));
};

// One lane's share of an exchange within a warp.
struct alignas(16) Lane {
    unsigned char bytes[64];
};

using Combine = void (*)(const Lane *in, Lane *out);

// All 32 lanes hand in `in`; the last to arrive makes all `out`s of all `in`s.
void exchange(const void *in, size_t in_bytes, void *out, size_t out_bytes, Combine combine, const char *what, const char *file,
              int line);
void barrier(const char *file, int line);
// A copy that the running thread asks for: `to` is poison until `copies_done` makes it, so that who reads it before reads no number.
void copy(void *to, const void *from, size_t bytes, bool there);
void copies_done();
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

template <typename T> struct Shuffle {
    T value;
    int argument;
};

template <typename T, int (*source)(int lane, int argument)> void shuffle(const Lane *in, Lane *out) {
    for (int lane = 0; lane < 32; lane++) {
        Shuffle<T> mine, theirs;
        memcpy(&mine, in[lane].bytes, sizeof mine);
        int from = source(lane, mine.argument);
        if (from < 0 || from > 31) fail("a warp exchange with lane %d", from);
        memcpy(&theirs, in[from].bytes, sizeof theirs);
        memcpy(out[lane].bytes, &theirs.value, sizeof(T));
    }
}

inline int source_xor(int lane, int mask) { return lane ^ mask; }
inline int source_down(int lane, int lanes) { return lane + lanes < 32 ? lane + lanes : lane; }
inline int source_from(int, int lane) { return lane; }

template <typename T, int (*source)(int, int)>
T shuffled(T value, int argument, const char *what, const char *file, int line) {
    static_assert(sizeof(Shuffle<T>) <= sizeof(Lane) && __is_trivially_copyable(T), "values of warp exchanges are small");
    Shuffle<T> in{value, argument};
    T out;
    exchange(&in, sizeof in, &out, sizeof out, &shuffle<T, source>, what, file, line);
    return out;
}

template <typename T> T *aligned(T *p, size_t to) {
    if (reinterpret_cast<uintptr_t>(p) % to != 0) fail("an access of %zu bytes at the unaligned address %p", to, (const void *)p);
    return p;
}

}  // namespace emulator

#define threadIdx (::emulator::position.thread)
#define blockDim (::emulator::position.threads)
#define blockIdx (::emulator::position.block)
#define gridDim (::emulator::position.grid)

#define KERNEL(name, Args, threads)                                                                                     \
    static_assert(sizeof(Args) <= 4096, "kernel arguments are at most 4096 bytes");                                     \
    static_assert((threads) % 32 == 0 && (threads) <= 1024, "threads of a block");                                      \
    static void name(const Args &args);                                                                                 \
    static void name##_entry(const void *args) { name(*static_cast<const Args *>(args)); }                              \
    static const ::emulator::Registration name##_registration(#name, sizeof(Args), threads, &name##_entry);             \
    static void name(const Args &args)

#define KERNEL_RESIDENT(name, Args, threads, blocks) KERNEL(name, Args, threads)

#define DEVICE static inline

#define DYN_SMEM(T, name) T *name = reinterpret_cast<T *>(::emulator::position.shared)

#define BARRIER() ::emulator::barrier(__FILE__, __LINE__)

#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <typename T> T warp_xor(T value, int mask, EMULATOR_SITE) {
    return emulator::shuffled<T, emulator::source_xor>(value, mask, "warp_xor", file, line);
}
template <typename T> T warp_down(T value, int lanes, EMULATOR_SITE) {
    return emulator::shuffled<T, emulator::source_down>(value, lanes, "warp_down", file, line);
}
template <typename T> T warp_from(T value, int lane, EMULATOR_SITE) {
    return emulator::shuffled<T, emulator::source_from>(value, lane, "warp_from", file, line);
}

DEVICE float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
DEVICE uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

DEVICE float4 load4(const float *p) { return *reinterpret_cast<const float4 *>(emulator::aligned(p, 16)); }
DEVICE void put4(float *p, float4 v) { *reinterpret_cast<float4 *>(emulator::aligned(p, 16)) = v; }
DEVICE void store4(float *p, float4 v) { *reinterpret_cast<float4 *>(emulator::aligned(p, 16)) = v; }
DEVICE void copy4(float *to, const float *from, bool there) { emulator::copy(to, from, 16, there); }
DEVICE void copy1(float *to, const float *from, bool there) { emulator::copy(to, from, 4, there); }
DEVICE void copies_done() { emulator::copies_done(); }
DEVICE float2 load2(const float *p) { return *reinterpret_cast<const float2 *>(emulator::aligned(p, 8)); }
DEVICE void store2(float *p, float2 v) { *reinterpret_cast<float2 *>(emulator::aligned(p, 8)) = v; }
DEVICE float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
DEVICE float2 make_float2(float x, float y) { return float2{x, y}; }
DEVICE uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return uint4{x, y, z, w}; }

#define EMULATOR_MIN_MAX(T)                                                                                             \
    DEVICE T min(T a, T b) { return b < a ? b : a; }                                                                    \
    DEVICE T max(T a, T b) { return a < b ? b : a; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(uint32_t)
EMULATOR_MIN_MAX(int64_t)
EMULATOR_MIN_MAX(uint64_t)
#undef EMULATOR_MIN_MAX
DEVICE float min(float a, float b) { return fminf(a, b); }
DEVICE float max(float a, float b) { return fmaxf(a, b); }
DEVICE float larger(float a, float b) { return a > b || a != a ? a : b; }
DEVICE double min(double a, double b) { return fmin(a, b); }
DEVICE double max(double a, double b) { return fmax(a, b); }

// Tensor-core products of one warp, and the loads of their operands: the only file with much PTX. On the CPU, twins with the same
// layout of fragments (emulator_mma.h) stand in.
//
//   mma_bf16(c, a, b)      c += a·b: a 16×16, b 16×8 in bfloat16, c 16×8 in float
//   mma_tf32(c, a, b)      c += a·b: a 16×8, b 8×8 in tf32 (each operand through to_tf32), c 16×8 in float
//
// All 32 lanes take part, at the same line. Fragments, with g = lane/4 and t = lane%4:
//
//   c.r[0..2] = C[g][2t, 2t+1],  c.r[2..4] = C[g+8][2t, 2t+1]                                     (both)
//   bf16: a.r[0] = A[g][2t, 2t+1], a.r[1] = A[g+8][…], a.r[2] = A[g][2t+8, …], a.r[3] = A[g+8][2t+8, …]
//         b.r[0] = B[2t, 2t+1][g], b.r[1] = B[2t+8, 2t+9][g]                                      (lower half first)
//   tf32: a.r[0] = A[g][t], a.r[1] = A[g+8][t], a.r[2] = A[g][t+4], a.r[3] = A[g+8][t+4]
//         b.r[0] = B[t][g], b.r[1] = B[t+4][g]
//
// Operands in bfloat16 come from shared memory, `pitch` elements from row to row, every row at a multiple of 16 bytes (so pitch
// is a multiple of 8; an odd multiple of 8 avoids bank conflicts). K and N that are not whole tiles are zeros there: what
// nobody wrote may be NaN, and NaN·0 is NaN.
//
//   load_a(p, pitch)             A[16][16] from p[m·pitch + k]
//   load_a_transposed(p, pitch)  A[16][16] from p[k·pitch + m]
//   load_b(b0, b1, p, pitch)             B[16][16], two tiles of n, from p[n·pitch + k]: a weight [out][in] as it is stored
//   load_b_transposed(b0, b1, p, pitch)  B[16][16], two tiles of n, from p[k·pitch + n]
//
// Operands in tf32 are read with plain loads by the layout above; a pitch ≡ 4 (mod 32) words for [row][k] and ≡ 8 for [k][row]
// avoids bank conflicts.
//
// The order of the sums over K is the hardware's, and differs from the emulator's (exact products, one rounding): compare with
// a tolerance of a few 2⁻²⁴·Σ|a·b|.

#pragma once

#include "prelude.cuh"

// What the factors of a product are rounded to. In f32, not at all: CUDA cores.
enum Operand { F32, TF32, BF16 };

struct FragmentA {
    uint32_t r[4];
};
struct FragmentB {
    uint32_t r[2];
};
struct FragmentC {
    float r[4];
};

#ifdef __CUDACC__

// Two numbers of an operand in one register, rounded to nearest even.
DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE void mma_bf16(FragmentC &c, FragmentA a, FragmentB b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
        : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

DEVICE void mma_tf32(FragmentC &c, FragmentA a, FragmentB b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c.r[0]), "+f"(c.r[1]), "+f"(c.r[2]), "+f"(c.r[3])
        : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}

// Rounds to nearest, ties away from zero, as the tensor cores want it; raw float bits are no operand.
DEVICE uint32_t to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

// Four 8×8 matrices of 16-bit numbers; lane l gives the address of row l%8 of matrix l/8.
DEVICE void load_matrices(uint32_t (&r)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(uint32_t(__cvta_generic_to_shared(row)))
                 : "memory");
}

DEVICE void load_matrices_transposed(uint32_t (&r)[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(uint32_t(__cvta_generic_to_shared(row)))
                 : "memory");
}

#else

#include "emulator_mma.h"

#endif

DEVICE FragmentA load_a(const bf16 *p, uint32_t pitch) {
    FragmentA a;
    load_matrices(a.r, p + (lane() % 16) * pitch + lane() / 16 * 8);
    return a;
}

DEVICE FragmentA load_a_transposed(const bf16 *p, uint32_t pitch) {
    FragmentA a;
    load_matrices_transposed(a.r, p + (lane() % 8 + lane() / 16 * 8) * pitch + lane() / 8 % 2 * 8);
    return a;
}

DEVICE void load_b(FragmentB &b0, FragmentB &b1, const bf16 *p, uint32_t pitch) {
    uint32_t r[4];
    load_matrices(r, p + (lane() % 8 + lane() / 16 * 8) * pitch + lane() / 8 % 2 * 8);
    b0 = FragmentB{{r[0], r[1]}};
    b1 = FragmentB{{r[2], r[3]}};
}

DEVICE void load_b_transposed(FragmentB &b0, FragmentB &b1, const bf16 *p, uint32_t pitch) {
    uint32_t r[4];
    load_matrices_transposed(r, p + (lane() % 16) * pitch + lane() / 16 * 8);
    b0 = FragmentB{{r[0], r[1]}};
    b1 = FragmentB{{r[2], r[3]}};
}

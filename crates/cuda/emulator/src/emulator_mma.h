// The twins of mma.cuh's PTX: the lanes hand in their fragments, the last to arrive computes for all. Included by mma.cuh,
// after the fragments are defined.

#pragma once

namespace emulator {

struct MmaOperands {
    FragmentA a;
    FragmentB b;
    FragmentC c;
};

inline float bf16_half(uint32_t pair, int half) { return float_of_bits(half ? pair & 0xffff0000u : pair << 16); }

// C[16][8] += A[16][K]·B[K][8], each product exact, each sum rounded once to float.
template <int K> void multiply(const double (&a)[16][K], const double (&b)[K][8], const Lane *in, Lane *out) {
    for (int lane = 0; lane < 32; lane++) {
        MmaOperands mine;
        memcpy(&mine, in[lane].bytes, sizeof mine);
        FragmentC c;
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = mine.c.r[i];
            for (int k = 0; k < K; k++) sum += a[row][k] * b[k][column];
            c.r[i] = float(sum);
        }
        memcpy(out[lane].bytes, &c, sizeof c);
    }
}

inline void multiply_bf16(const Lane *in, Lane *out) {
    double a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        MmaOperands mine;
        memcpy(&mine, in[lane].bytes, sizeof mine);
        for (int i = 0; i < 4; i++)
            for (int half = 0; half < 2; half++)
                a[lane / 4 + i % 2 * 8][lane % 4 * 2 + i / 2 * 8 + half] = bf16_half(mine.a.r[i], half);
        for (int i = 0; i < 2; i++)
            for (int half = 0; half < 2; half++) b[lane % 4 * 2 + i * 8 + half][lane / 4] = bf16_half(mine.b.r[i], half);
    }
    multiply<16>(a, b, in, out);
}

inline double tf32_of_bits(uint32_t bits) {
    bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    if (finite && (bits & 0x1fffu)) fail("an operand of mma_tf32 that did not come from to_tf32: bits %08x", bits);
    return float_of_bits(bits);
}

inline void multiply_tf32(const Lane *in, Lane *out) {
    double a[16][8], b[8][8];
    for (int lane = 0; lane < 32; lane++) {
        MmaOperands mine;
        memcpy(&mine, in[lane].bytes, sizeof mine);
        for (int i = 0; i < 4; i++) a[lane / 4 + i % 2 * 8][lane % 4 + i / 2 * 4] = tf32_of_bits(mine.a.r[i]);
        for (int i = 0; i < 2; i++) b[lane % 4 + i * 4][lane / 4] = tf32_of_bits(mine.b.r[i]);
    }
    multiply<8>(a, b, in, out);
}

template <bool transposed> void gather_matrices(const Lane *in, Lane *out) {
    for (int lane = 0; lane < 32; lane++) {
        uint32_t r[4];
        for (int matrix = 0; matrix < 4; matrix++) {
            uint16_t pair[2];
            for (int i = 0; i < 2; i++) {
                int row = transposed ? lane % 4 * 2 + i : lane / 4, column = transposed ? lane / 4 : lane % 4 * 2 + i;
                const uint16_t *address;
                memcpy(&address, in[matrix * 8 + row].bytes, sizeof address);
                pair[i] = address[column];
            }
            r[matrix] = uint32_t(pair[0]) | (uint32_t(pair[1]) << 16);
        }
        memcpy(out[lane].bytes, r, sizeof r);
    }
}

inline const void *row_in_shared(const void *row) {
    aligned(static_cast<const unsigned char *>(row), 16);
    auto *at = static_cast<const unsigned char *>(row);
    if (at < position.shared || at + 16 > position.shared + position.shared_bytes)
        fail("a row of load_matrices is not in shared memory");
    return row;
}

}  // namespace emulator

DEVICE void mma_bf16(FragmentC &c, FragmentA a, FragmentB b, EMULATOR_SITE) {
    emulator::MmaOperands in{a, b, c};
    emulator::exchange(&in, sizeof in, &c, sizeof c, &emulator::multiply_bf16, "mma_bf16", file, line);
}

DEVICE void mma_tf32(FragmentC &c, FragmentA a, FragmentB b, EMULATOR_SITE) {
    emulator::MmaOperands in{a, b, c};
    emulator::exchange(&in, sizeof in, &c, sizeof c, &emulator::multiply_tf32, "mma_tf32", file, line);
}

DEVICE uint32_t pack_bf16(float low, float high) {
    return uint32_t(to_bf16(low).bits) | (uint32_t(to_bf16(high).bits) << 16);
}

DEVICE uint32_t to_tf32(float value) {
    uint32_t bits = bits_of_float(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & ~0x1fffu;
}

DEVICE void load_matrices(uint32_t (&r)[4], const bf16 *row, EMULATOR_SITE) {
    const void *in = emulator::row_in_shared(row);
    emulator::exchange(&in, sizeof in, r, sizeof r, &emulator::gather_matrices<false>, "load_matrices", file, line);
}

DEVICE void load_matrices_transposed(uint32_t (&r)[4], const bf16 *row, EMULATOR_SITE) {
    const void *in = emulator::row_in_shared(row);
    emulator::exchange(&in, sizeof in, r, sizeof r, &emulator::gather_matrices<true>, "load_matrices_transposed", file, line);
}

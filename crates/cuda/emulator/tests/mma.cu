// One tile of a product by each way to load it, and the conversions between number formats.

#include "mma.cuh"

struct TestMmaArgs {
    const float *a;
    const float *b;
    float *c;
    uint32_t a_transposed;
    uint32_t b_transposed;
};
static_assert(sizeof(TestMmaArgs) == 32);

DEVICE void store_c(float *c, FragmentC fragment, uint32_t column) {
    for (int i = 0; i < 4; i++) c[(lane() / 4 + i / 2 * 8) * 16 + column + lane() % 4 * 2 + i % 2] += fragment.r[i];
}

// c[16][16] += a·b with a [16][16], or [k][m] if transposed, and b [n][k] (two tiles of n), or [k][n] if transposed.
KERNEL(test_mma_bf16, TestMmaArgs, 32) {
    DYN_SMEM(bf16, shared);
    bf16 *a = shared, *b = shared + 16 * 24;
    for (uint32_t i = threadIdx.x; i < 256; i += 32) {
        a[i / 16 * 24 + i % 16] = to_bf16(args.a[i]);
        b[i / 16 * 24 + i % 16] = to_bf16(args.b[i]);
    }
    BARRIER();
    FragmentA fragment = args.a_transposed ? load_a_transposed(a, 24) : load_a(a, 24);
    FragmentB b0, b1;
    if (args.b_transposed)
        load_b_transposed(b0, b1, b, 24);
    else
        load_b(b0, b1, b, 24);
    FragmentC c0 = {}, c1 = {};
    mma_bf16(c0, fragment, b0);
    mma_bf16(c1, fragment, b1);
    store_c(args.c, c0, 0);
    store_c(args.c, c1, 8);
}

// The same with a [16][16] and b [k][n], in tf32: K in two steps of 8. Fault (a_transposed): a is not rounded.
KERNEL(test_mma_tf32, TestMmaArgs, 32) {
    int g = lane() / 4, t = lane() % 4;
    for (int column = 0; column < 16; column += 8) {
        FragmentC c = {};
        for (int k = 0; k < 16; k += 8) {
            FragmentA a;
            FragmentB b;
            for (int i = 0; i < 4; i++) {
                float value = args.a[(g + i % 2 * 8) * 16 + k + t + i / 2 * 4];
                a.r[i] = args.a_transposed ? bits_of_float(value) : to_tf32(value);
            }
            for (int i = 0; i < 2; i++) b.r[i] = to_tf32(args.b[(k + t + i * 4) * 16 + column + g]);
            mma_tf32(c, a, b);
        }
        store_c(args.c, c, column);
    }
}

// c[i] ← a[i] in bfloat16; c[32 + i] ← a[i] in tf32; c[64 + i] ← a warp's exchanges.
KERNEL(test_conversions, TestMmaArgs, 32) {
    float value = args.a[lane()];
    args.c[lane()] = to_float(to_bf16(value));
    args.c[32 + lane()] = float_of_bits(to_tf32(value));
    args.c[64 + lane()] = warp_xor(float(lane()), 5);
    args.c[96 + lane()] = warp_down(float(lane()), 4);
    args.c[128 + lane()] = warp_from(float(lane()), 7);
    args.c[160 + lane()] = float(warp_sum(lane()));
    args.c[192 + lane()] = warp_max(float(lane() ^ 9));
}

// Arithmetic on flat vectors. One thread an element unless a kernel says otherwise. Outputs are overwritten or updated
// in place as each kernel says.

#include "prelude.cuh"

// y ← y + factor·x
struct AxpyArgs {
    const float *x;
    float *y;
    const float *factor;
    uint32_t len;
    uint32_t pad;
};
static_assert(sizeof(AxpyArgs) == 32);

KERNEL(vector_axpy, AxpyArgs, 256) {
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < args.len) args.y[i] = fmaf(*args.factor, args.x[i], args.y[i]);
}

// Sets floats to one value. One thread an element; overwritten.
#include "prelude.cuh"

struct FillArgs {
    float *out;
    uint64_t len;
    float value;
    uint32_t pad;
};
static_assert(sizeof(FillArgs) == 24, "layout of FillArgs");

// Grid: runs of 4 * blockDim.x floats.
KERNEL(fill_floats, FillArgs, 256) {
    uint64_t first = (uint64_t)blockIdx.x * 4 * blockDim.x + threadIdx.x;
    for (uint32_t k = 0; k < 4; k++) {
        uint64_t i = first + (uint64_t)k * blockDim.x;
        if (i < args.len) args.out[i] = args.value;
    }
}

// Augmented batches of images that lie on the device as bytes. N images of the batch, H rows, W columns, three channels.

#include "prelude.cuh"

struct Example {
    uint32_t index;
    int32_t down;
    int32_t right;
    uint32_t flip;
    uint32_t cutout[4];
};
static_assert(sizeof(Example) == 32);

struct AugmentArgs {
    const uint8_t *pixels;
    const uint32_t *labels;
    const float *table;
    const Example *examples;
    float *images;
    uint32_t *out_labels;
    uint32_t height;
    uint32_t width;
};
static_assert(sizeof(AugmentArgs) == 56);

// images[n] ← the image of examples[n], cropped, mirrored, normalized, with its square cut out; out_labels[n] ← its class (both
// overwritten). A thread makes a pixel, a row of blocks an image: blockIdx.y is n.
KERNEL(augment_images, AugmentArgs, 256) {
    uint32_t pixel = blockIdx.x * 256 + threadIdx.x, n = blockIdx.y;
    Example example = args.examples[n];
    if (pixel == 0) args.out_labels[n] = args.labels[example.index];
    uint32_t size = args.height * args.width;
    if (pixel >= size) return;
    uint32_t y = pixel / args.width, x = pixel % args.width;
    float *out = args.images + (uint64_t(n) * size + pixel) * 3;
    if (y >= example.cutout[0] && y < example.cutout[1] && x >= example.cutout[2] && x < example.cutout[3]) {
        for (int c = 0; c < 3; c++) out[c] = 0;
        return;
    }
    int32_t row = int32_t(y) + example.down;
    int32_t column = int32_t(example.flip ? args.width - 1 - x : x) + example.right;
    bool inside = row >= 0 && row < int32_t(args.height) && column >= 0 && column < int32_t(args.width);
    const uint8_t *in = args.pixels + ((uint64_t(example.index) * args.height + row) * args.width + column) * 3;
    for (int c = 0; c < 3; c++) out[c] = args.table[3 * (inside ? in[c] : 0) + c];
}

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

struct Colours {
    uint32_t kinds[4];
    float amounts[4];
};
static_assert(sizeof(Colours) == 32);

struct ColourArgs {
    uint8_t *pixels;
    const Colours *colours;
    uint32_t image_pixels;
    uint32_t pad;
};
static_assert(sizeof(ColourArgs) == 24);

enum Kind : uint32_t { NOTHING, BRIGHTNESS, CONTRAST, SATURATION, HUE };

// Cut off at 0 and 255, rounded towards 0.
DEVICE uint32_t to_byte(float value) { return value > 0.0f ? value < 255.0f ? uint32_t(value) : 255u : 0u; }

// Luma of ITU-R 601 in 16 bits after the point.
DEVICE uint32_t gray(const uint32_t *pixel) { return (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16; }

// Six sixths are a circle.
DEVICE float wrapped(float hue) { return hue >= 6.0f ? hue - 6.0f : hue; }

// The hexcone model: M − C·max(0, min(k, 4 − k, 1)), k = (n + h) mod 6, for n = 5, 3, 1.
DEVICE void turn_hue(uint32_t *pixel, float sixths) {
    float r = float(pixel[0]), g = float(pixel[1]), b = float(pixel[2]);
    float most = r > g ? r : g, least = r < g ? r : g;
    most = most > b ? most : b, least = least < b ? least : b;
    float chroma = most - least;
    float inverse = chroma > 0.0f ? 1.0f / chroma : 0.0f;
    float hue = most == r ? (g - b) * inverse : most == g ? (b - r) * inverse + 2.0f : (r - g) * inverse + 4.0f;
    hue = wrapped(wrapped(hue + (hue < 0.0f ? 6.0f : 0.0f)) + sixths);
    for (int c = 0; c < 3; c++) {
        float k = wrapped(float(5 - 2 * c) + hue);
        k = k < 4.0f - k ? k : 4.0f - k;
        k = k < 0.0f ? 0.0f : k > 1.0f ? 1.0f : k;
        pixel[c] = to_byte(most - chroma * k + 0.5f);
    }
}

// The changes first..last of a pixel; `mean` is that of the gray image before its contrast is changed.
DEVICE void change(uint32_t *pixel, const Colours &colours, int first, int last, float mean) {
    for (int i = first; i < last; i++) {
        float amount = colours.amounts[i];
        switch (colours.kinds[i]) {
        case BRIGHTNESS:
            for (int c = 0; c < 3; c++) pixel[c] = to_byte(amount * float(pixel[c]));
            break;
        case CONTRAST:
            for (int c = 0; c < 3; c++) pixel[c] = to_byte(mean + amount * (float(pixel[c]) - mean));
            break;
        case SATURATION: {
            float luma = float(gray(pixel));
            for (int c = 0; c < 3; c++) pixel[c] = to_byte(luma + amount * (float(pixel[c]) - luma));
            break;
        }
        case HUE: turn_hue(pixel, amount); break;
        default: break;
        }
    }
}

// pixels[n] ← the same image with its colours changed (in place), each change rounded to bytes. A block makes an image; a thread
// meets the same pixels twice: for the mean that a change of contrast needs, and to change them.
KERNEL(augment_colour, ColourArgs, 512) {
    DYN_SMEM(uint32_t, shared);
    const Colours &colours = args.colours[blockIdx.x];
    uint8_t *image = args.pixels + uint64_t(blockIdx.x) * args.image_pixels * 3;
    int contrast = 4;
    for (int i = 3; i >= 0; i--)
        if (colours.kinds[i] == CONTRAST) contrast = i;
    uint32_t sum = 0;
    for (uint32_t i = threadIdx.x; i < args.image_pixels && contrast < 4; i += 512) {
        uint32_t pixel[3] = {image[3 * i], image[3 * i + 1], image[3 * i + 2]};
        change(pixel, colours, 0, contrast, 0.0f);
        sum += gray(pixel);
    }
    sum = block_sum(sum, shared);
    float mean = float(uint32_t(double(sum) / double(args.image_pixels) + 0.5));
    for (uint32_t i = threadIdx.x; i < args.image_pixels; i += 512) {
        uint32_t pixel[3] = {image[3 * i], image[3 * i + 1], image[3 * i + 2]};
        change(pixel, colours, 0, 4, mean);
        for (int c = 0; c < 3; c++) image[3 * i + c] = uint8_t(pixel[c]);
    }
}

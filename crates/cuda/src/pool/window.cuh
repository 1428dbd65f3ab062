// Max and average pooling with padding. Refuses to let padding count, and to store which cell won: backward looks for it
// again.
//
// Axes: x [N, H, W, C], z [N, H', W', C]; a window has k x k taps in scan order. Where `relu` is set, x is replaced by
// relu(x), whose derivative at 0 is 0. NaN is the maximum of its window.
#pragma once
#include "channels.cuh"

#define POOL_UNITS 16

struct PoolShape {
    uint32_t kernel, stride, padding, relu;
    uint32_t average;
    uint32_t out_h, out_w;
};

// Rows (or columns) [first, end) of the window at output row `out`, of `size` there are.
DEVICE uint32_t pool_first(PoolShape shape, uint32_t out) {
    uint32_t start = out * shape.stride;
    return start > shape.padding ? start - shape.padding : 0;
}

DEVICE uint32_t pool_end(PoolShape shape, uint32_t out, uint32_t size) {
    uint32_t end = out * shape.stride + shape.kernel - shape.padding;
    return end < size ? end : size;
}

// The windows of `out_size` there are that hold input row (or column) `in`: [first, end).
DEVICE uint32_t pool_first_window(PoolShape shape, uint32_t in) {
    uint32_t last_tap = in + shape.padding + 1;
    return last_tap > shape.kernel ? (last_tap - shape.kernel + shape.stride - 1) / shape.stride : 0;
}

DEVICE uint32_t pool_end_window(PoolShape shape, uint32_t in, uint32_t out_size) {
    uint32_t end = (in + shape.padding) / shape.stride + 1;
    return end < out_size ? end : out_size;
}

// Value of a window and, for a maximum, its tap; x points at the channel of the image's first pixel.
template <int V>
DEVICE Pack<V> pool_window(PoolShape shape, const float *x, uint32_t h, uint32_t w, uint32_t channels, uint32_t out_y,
                           uint32_t out_x, uint32_t (&winner)[V]) {
    uint32_t y0 = pool_first(shape, out_y), y1 = pool_end(shape, out_y, h);
    uint32_t x0 = pool_first(shape, out_x), x1 = pool_end(shape, out_x, w);
    Pack<V> value = splat<V>(shape.average ? 0.0f : -INFINITY);
    for (int i = 0; i < V; i++) winner[i] = 0;
    for (uint32_t y = y0; y < y1; y++) {
        for (uint32_t column = x0; column < x1; column++) {
            Pack<V> cell = load_pack<V>(x + ((size_t)y * w + column) * channels);
            uint32_t tap = (y + shape.padding - out_y * shape.stride) * shape.kernel + column + shape.padding -
                           out_x * shape.stride;
            for (int i = 0; i < V; i++) {
                float v = cell.v[i];
                if (shape.relu && v <= 0.0f) v = 0.0f;
                if (shape.average) {
                    value.v[i] += v;
                } else if (v > value.v[i] || (v != v && value.v[i] == value.v[i])) {
                    value.v[i] = v;
                    winner[i] = tap;
                } else if (y == y0 && column == x0) {
                    // A first cell of minus infinity.
                    winner[i] = tap;
                }
            }
        }
    }
    if (shape.average) {
        float factor = 1.0f / (float)((y1 - y0) * (x1 - x0));
        for (int i = 0; i < V; i++) value.v[i] *= factor;
    }
    return value;
}

// Rows (or columns) of a window of 3 with a padding of 1 at output row `out`, of `size` there are.
template <int STRIDE>
DEVICE uint32_t pool_cells(uint32_t out, uint32_t size) {
    return 1 + (out > 0) + (out * STRIDE + 1 < size);
}

// 1 / (rows * columns) of a window of up to 3 x 3 cells.
DEVICE float pool_factor(uint32_t rows, uint32_t columns) {
    float full = columns == 3 ? 1.0f / 9.0f : columns == 2 ? 1.0f / 6.0f : 1.0f / 3.0f;
    float part = columns == 3 ? 1.0f / 6.0f : columns == 2 ? 1.0f / 4.0f : 1.0f / 2.0f;
    float one = columns == 3 ? 1.0f / 3.0f : columns == 2 ? 1.0f / 2.0f : 1.0f;
    return rows == 3 ? full : rows == 2 ? part : one;
}

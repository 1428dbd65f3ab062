// Depthwise convolutions over tiles of images in shared memory. Shared by the kernels of the unit.
//
// Axes: N images, H rows, W columns, C channels, innermost in device memory. In shared memory a channel is a plane of rows:
// the columns are innermost, so that a thread reads the window of four neighbouring outputs as a few vectors.
//
// A stride s and a dilation d are reduced first: with g = gcd(s, d), only every g-th row and column of the input is ever
// read; on these, the convolution has stride f = s/g ("factor") and dilation e = d/g. A thread computes a patch of four
// columns and four rows that lie e apart.
#pragma once
#include "quads.cuh"

#define SEP_KINDS 4
#define SEP_UNITS 16
#define SEP_THREADS 256

// Blocks that share a multiprocessor: what registers allow without spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SEP_RESIDENT 3
#else
#define SEP_RESIDENT 2
#endif

// What units of one shape share: the shape, and how their images are cut into tiles.
struct SepKind {
    // K; f, e and g as above; s; zeros around the image.
    uint32_t kernel, factor, dilation, step, stride, padding;
    uint32_t c_in, c_out, out_h, out_w;
    // Images, rows and columns of z (a multiple of 4) in a tile; tiles of an image; tiles of all images.
    uint32_t tile_n, tile_h, tile_w, tiles_y, tiles_x, tiles;
    // Rows and columns of the input of a tile; floats of a plane that holds all its images.
    uint32_t in_h, in_w, plane;
    // tile_n * tile_h * tile_w, and the floats of a row of so many.
    uint32_t pixels, pitch;
    // Input channels at a time, such runs there are, and what divides by the quads of one and of C_out.
    uint32_t chunk, chunks, quads_magic, quads_out_magic;
    // What divides by tile_w / 4, by chunk, by the rows of patches, by tile_h, by in_w / 4, by in_h, and by what `share` divides by.
    uint32_t columns_magic, chunk_magic, patch_rows_magic, tile_h_magic, across_magic, in_h_magic, share_magic;
    // What divides by tiles_x and by tiles_y.
    uint32_t tiles_x_magic, tiles_y_magic;
    // Forward: output channels of a block, and such runs. Backward: blocks that share the tiles. What divides by them.
    uint32_t split, splits, splits_magic;
    // Units of this kind; forward: how many a block computes of the same x.
    uint32_t first_unit, units, per_block;
    uint32_t first_block;
    // Where things lie in shared memory, in floats: planes are first.
    uint32_t rows_at, next_at, more_at, pointwise_at, depthwise_at, taps_at, sums_at, slots_at;
    // Floats from a row of pointwise weights to the next.
    uint32_t weights_pitch;
};
#define SEP_KIND_BYTES 200
static_assert(sizeof(SepKind) == SEP_KIND_BYTES, "layout of SepKind");

// First image, row and column of z in a tile.
struct Corner {
    uint32_t n, row, column;
};

DEVICE Corner corner_of(const SepKind &kind, uint32_t tile) {
    uint32_t line = quotient(tile, kind.tiles_x_magic), image = quotient(line, kind.tiles_y_magic);
    return {image * kind.tile_n, (line - image * kind.tiles_y) * kind.tile_h, (tile - line * kind.tiles_x) * kind.tile_w};
}

// Four neighbouring pixels of z: the index of the first, how many of them exist (0: not even it), and their image.
struct Slot {
    uint32_t index, columns, image, pad;
};

// Of all of a tile's pixels, four by four. `thread`: the caller's number among the block's threads, in whatever order; those beyond
// the slots need not call.
DEVICE void fill_slots(const SepKind &kind, const Corner &corner, uint32_t images, Slot *slots, uint32_t thread) {
#pragma unroll 1
    for (uint32_t i = thread; i < kind.pixels / 4; i += SEP_THREADS) {
        uint32_t line = quotient(i, kind.columns_magic), column = corner.column + 4 * i - line * kind.tile_w;
        uint32_t image = quotient(line, kind.tile_h_magic), row = corner.row + line - image * kind.tile_h;
        Slot slot;
        slot.image = corner.n + image;
        bool exists = slot.image < images && row < kind.out_h && column < kind.out_w;
        slot.index = (slot.image * kind.out_h + row) * kind.out_w + column;
        slot.columns = exists ? min(kind.out_w - column, 4u) : 0;
        slot.pad = 0;
        slots[i] = slot;
    }
}

// The four pixels at this number; none behind the last.
DEVICE Slot slot_of(const SepKind &kind, const Slot *slots, uint32_t number) {
    return number < kind.pixels / 4 ? slots[number] : Slot{0, 0, 0, 0};
}

// A tile's input: `images` times `rows` rows of `columns` floats make a plane, and there are 4 * quads planes. Neighbours lie
// `step` apart in the image. The magics divide by quads, columns / 4, rows.
struct Planes {
    uint32_t images, rows, columns, plane, quads, quads_magic, across_magic, rows_magic, step;
};

// Images [n, h, w, c]; activated, relu(scale*x + shift) (null scale: relu(x)). With `up` > 1, they hold up - 1 zeros between neighbouring
// pixels. wide: C and the addresses allow accesses of 16 bytes.
struct Source {
    const float *x, *scale, *shift;
    uint32_t n, h, w, c, up;
    bool wide;
};

// The first image, row and column of a tile's input, and the first of its channels [c0, c0 + 4*quads).
struct Origin {
    uint32_t n, c;
    int row, column;
};

DEVICE Origin origin_of(const SepKind &kind, const Corner &corner, uint32_t c0) {
    return {corner.n, c0, (int)(kind.stride * corner.row) - (int)kind.padding, (int)(kind.stride * corner.column) - (int)kind.padding};
}

// What a thread brings at a time, four neighbouring pixels of four channels from c on. to: where they lie in the first channel's plane.
struct Piece {
    uint32_t slot, c, to;
};

// The thread's pieces of a tile, one after the other. There are none of quads of which no channel exists.
template <typename Visit>
DEVICE void visit_pieces(const Planes &p, uint32_t c0, uint32_t channels, Visit visit) {
    uint32_t slots = p.images * p.rows * (p.columns / 4);
    for (uint32_t index = threadIdx.x; index < tile4_count(slots, p.quads); index += SEP_THREADS) {
        Tile4 at = tile4(index, p.quads, p.quads_magic);
        uint32_t c = c0 + 4 * at.quad;
        if (at.slot < slots && c < channels) visit(Piece{at.slot, c, 4 * at.quad * p.plane + 4 * at.slot});
    }
}

// The pixels of a piece, and which of them there are. UP: `up` where it is a constant, else 0.
template <int UP>
DEVICE void pixels_of(const Piece &piece, const Planes &p, const Source &from, const Origin &origin, const float *(&pixel)[4],
                      bool (&there)[4]) {
    uint32_t across = p.columns / 4, up = UP ? UP : from.up;
    uint32_t line = quotient(piece.slot, p.across_magic), image = quotient(line, p.rows_magic);
    // Rows and columns before the first are large numbers.
    uint32_t y = (uint32_t)origin.row + (line - image * p.rows) * p.step;
    uint32_t x = (uint32_t)origin.column + 4 * (piece.slot - line * across) * p.step;
    bool inside = origin.n + image < from.n && y / up < from.h && y % up == 0;
    uint32_t number = (origin.n + image) * from.h + (inside ? y / up : 0);
    const float *row = from.x + (size_t)number * (from.w * from.c) + piece.c;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t at_x = x + j * p.step;
        there[j] = inside && at_x / up < from.w && at_x % up == 0;
        // Of a pixel that is not there it may be beyond all memory.
        if constexpr (UP == 1) {
            pixel[j] = j == 0 ? row + (ptrdiff_t)(int)x * (int)from.c : pixel[j - 1] + p.step * from.c;
        } else {
            pixel[j] = row + (size_t)(at_x / up) * from.c;
        }
    }
}

// A tile's input, activated, into planes. What lies outside of the image is 0, after the activation; the planes of a quad of which no
// channel exists stay as they are.
DEVICE void load_planes(float *planes, const Planes &p, const Source &from, const Origin &origin) {
    visit_pieces(p, origin.c, from.c, [&](const Piece &piece) {
        const float *pixel[4];
        bool there[4];
        pixels_of<1>(piece, p, from, origin, pixel, there);
        uint32_t left = from.c - piece.c;
        float4 v[4];
        // Loads first, all at once: their latencies overlap.
        if (from.wide) {
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = there[j] ? load4(pixel[j]) : splat_quad(0.0f);
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = there[j] ? load_quad(pixel[j], left, false) : splat_quad(0.0f);
        }
        if (from.scale) {
            float4 scale, shift;
            load_pair(from.scale + piece.c, from.shift + piece.c, left, from.wide, scale, shift);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (there[j]) v[j] = fma_quad(scale, v[j], shift);
            }
        }
        // Before the ReLU, whose results then lie where they have to.
        transpose(v);
#pragma unroll
        for (int j = 0; j < 4; j++) put4(planes + piece.to + j * p.plane, relu_quad(v[j]));
    });
}

// Asks for `count` neighbouring floats, all threads of the block together. As in other loops of few turns of which none waits, unrolling
// would cost more instructions than it saves.
DEVICE void copy_floats(float *to, const float *from, uint32_t count) {
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count; i += SEP_THREADS) copy1(to + i, from + i, true);
}

// Asks for four channels, of which `left` exist, of those of four pixels that are there: of number j from `pixel(j)`, to + j*pitch.
// Zeros for all others.
template <typename Pixel>
DEVICE void copy_piece(float *to, uint32_t pitch, const bool (&there)[4], uint32_t left, bool wide, Pixel pixel) {
    if (wide) {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) copy4(to + j * pitch, pixel(j), there[j]);
    } else {
#pragma unroll
        for (uint32_t j = 0; j < 4; j++) {
            // A loop, so that nobody who takes the other branch issues its instructions.
#pragma unroll 1
            for (uint32_t c = 0; c < 4; c++) copy1(to + j * pitch + c, pixel(j) + c, there[j] && c < left);
        }
    }
}

// Asks for a tile's input, not activated: a pixel's channels are copied to where a channel's pixels will lie, and the thread may do
// something else until it calls `take_planes`.
template <int UP>
DEVICE void ask_planes(float *planes, const Planes &p, const Source &from, const Origin &origin) {
    visit_pieces(p, origin.c, from.c, [&](const Piece &piece) {
        const float *pixel[4];
        bool there[4];
        pixels_of<UP>(piece, p, from, origin, pixel, there);
        copy_piece(planes + piece.to, p.plane, there, from.c - piece.c, from.wide, [&](uint32_t j) { return pixel[j]; });
    });
}

// What was asked for has come: channels' pixels instead of pixels' channels, each thread where it has copied to.
DEVICE void take_planes(float *planes, const Planes &p, const Source &from, uint32_t c0) {
    copies_done();
    visit_pieces(p, c0, from.c, [&](const Piece &piece) {
        float *to = planes + piece.to;
        float4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] = load4(to + j * p.plane);
        transpose(v);
#pragma unroll
        for (int j = 0; j < 4; j++) put4(to + j * p.plane, v[j]);
    });
}

// The patch of a thread: rows row, row + e, row + 2e, row + 3e and columns [column, column + 4) of an image of the tile, of
// one channel of the chunk.
struct Patch {
    uint32_t channel, image, row, column;
};

// Runs of four rows in each of the e classes of rows.
DEVICE uint32_t patch_rows(uint32_t rows, uint32_t dilation) {
    return (((rows + dilation - 1) / dilation + 3) / 4) * dilation;
}

// How the patches of a tile follow each other: columns, then channels of the chunk, whether they exist or not, then rows of
// patches, then images; and what divides by the first three numbers.
struct Patches {
    uint32_t columns, columns_magic, channels, channels_magic, rows, rows_magic, images;
};

DEVICE uint32_t patch_count(const Patches &p) { return p.columns * p.channels * p.rows * p.images; }

DEVICE Patch patch_of(uint32_t index, const Patches &p, uint32_t dilation) {
    Patch patch;
    uint32_t rest = quotient(index, p.columns_magic);
    patch.column = 4 * (index - rest * p.columns);
    uint32_t next = quotient(rest, p.channels_magic);
    patch.channel = rest - next * p.channels;
    patch.image = quotient(next, p.rows_magic);
    uint32_t row = next - patch.image * p.rows;
    patch.row = row / dilation * 4 * dilation + row % dilation;
    return patch;
}

// Vectors that a window of four outputs takes.
#define SEP_VECTORS(K, F, D) ((3 * (F) + (D) * ((K)-1) + 4) / 4)

template <int VECTORS>
DEVICE void load_window(const float *x, float (&v)[4 * VECTORS]) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        float4 four = load4(x + 4 * i);
        v[4 * i] = four.x;
        v[4 * i + 1] = four.y;
        v[4 * i + 2] = four.z;
        v[4 * i + 3] = four.w;
    }
}

// Goes over the windows of a patch's outputs, each of which is loaded once. x points at the first window's first value; the input
// rows of neighbouring taps are `step` floats apart. CONVOLVE: y[r][j] += the window of output (r, j) times the taps w [K, K].
// CORRELATE: sums[K*t + u] += g[r][j] times the value of x that tap (t, u) of output (r, j) reads, summed over the patch. What is
// not asked for may be null. FLIP: the taps come in the opposite order, the last first.
template <int K, int F, int D, bool CONVOLVE, bool CORRELATE, bool FLIP = false>
DEVICE void over_windows(const float *x, uint32_t step, const float *w, const float (*g)[4], float (*y)[4], float *sums) {
    float taps[K * K];
#pragma unroll
    for (int i = 0; i < 3 * F + K; i++) {
        float v[4 * SEP_VECTORS(K, F, D)];
        load_window<SEP_VECTORS(K, F, D)>(x + i * step, v);
        // A row of taps when it is first needed: with K = 7, only four of them fit registers.
#pragma unroll
        for (int u = 0; u < K; u++) {
            if (CONVOLVE && i < K) taps[i * K + u] = w[FLIP ? K * K - 1 - (i * K + u) : i * K + u];
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            if (i < F * r || i >= F * r + K) continue;
#pragma unroll
            for (int u = 0; u < K; u++) {
                int tap = (i - F * r) * K + u;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if constexpr (CONVOLVE) y[r][j] = fmaf(taps[tap], v[F * j + D * u], y[r][j]);
                    if constexpr (CORRELATE) sums[tap] = fmaf(g[r][j], v[F * j + D * u], sums[tap]);
                }
            }
        }
    }
}

// `over_windows` that convolves; with K = 0 the shape is only known at run time.
template <int K, int F, int D, bool FLIP = false>
DEVICE void convolve(const float *x, uint32_t step, const float *w, const SepKind &kind, float (&acc)[4][4]) {
    if constexpr (K == 0) {
        for (uint32_t t = 0; t < kind.kernel; t++) {
            for (uint32_t u = 0; u < kind.kernel; u++) {
                uint32_t number = t * kind.kernel + u;
                float tap = w[FLIP ? kind.kernel * kind.kernel - 1 - number : number];
#pragma unroll
                for (uint32_t r = 0; r < 4; r++) {
                    const float *row = x + (kind.factor * r + t) * step + kind.dilation * u;
#pragma unroll
                    for (uint32_t j = 0; j < 4; j++) acc[r][j] = fmaf(tap, row[kind.factor * j], acc[r][j]);
                }
            }
        }
    } else {
        over_windows<K, F, D, true, false, FLIP>(x, step, w, nullptr, acc, nullptr);
    }
}

// Calls CALL(K, F, D) with the shape as constants: small kernels, whose products fit few registers.
#define SEP_DISPATCH_SMALL(k, f, e, CALL)                                                                               \
    if ((k) == 3 && (f) == 1 && (e) == 1) {                                                                             \
        CALL(3, 1, 1);                                                                                                  \
    } else if ((k) == 5 && (f) == 1 && (e) == 1) {                                                                      \
        CALL(5, 1, 1);                                                                                                  \
    } else if ((k) == 3 && (f) == 1 && (e) == 2) {                                                                      \
        CALL(3, 1, 2);                                                                                                  \
    } else if ((k) == 5 && (f) == 1 && (e) == 2) {                                                                      \
        CALL(5, 1, 2);                                                                                                  \
    } else if ((k) == 3 && (f) == 2 && (e) == 1) {                                                                      \
        CALL(3, 2, 1);                                                                                                  \
    } else if ((k) == 5 && (f) == 2 && (e) == 1) {                                                                      \
        CALL(5, 2, 1);                                                                                                  \
    }

// The same for all others; CALL(0, 0, 0) where there is no code with the shape as constants.
#define SEP_DISPATCH_LARGE(k, f, e, CALL)                                                                               \
    if ((k) == 7 && (f) == 1 && (e) == 1) {                                                                             \
        CALL(7, 1, 1);                                                                                                  \
    } else if ((k) == 7 && (f) == 2 && (e) == 1) {                                                                      \
        CALL(7, 2, 1);                                                                                                  \
    } else {                                                                                                            \
        CALL(0, 0, 0);                                                                                                  \
    }

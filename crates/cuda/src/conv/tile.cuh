// A block's product pixels x columns, summed over rows, in f32 on CUDA cores or on tensor cores. However it is made, a thread ends
// up with its share of it (product.cuh). Where that needs fewer threads or warps than there are, they are slices, which take the
// rows in turn, and whose sums are added at the end.
#pragma once
#include "gather.cuh"
#include "product.cuh"

// Pixels and columns of the block, floats between rows of either factor, slices, and the thread's share.
struct Tile {
    uint32_t pixels, pitch, split, weights_pitch, columns, groups, slices;
    Share mine;
};

// On tensor cores a warp has at most two pieces of 32 pixels x 16 columns, of [2][2] fragments.
constexpr uint32_t PIECES = 2, PIECE_PIXELS = 32, PIECE_COLUMNS = 16;
constexpr uint32_t CONV_WARPS = CONV_THREADS / 32;

// Threads that a slice of shares takes.
DEVICE uint32_t slice_threads(const Tile &tile) {
    return tile.columns % 4 == 0 ? tile.columns / 4 * ((tile.groups + 7) / 8) * 32 : tile.columns * tile.groups;
}

DEVICE uint32_t piece_count(const Tile &tile) { return tile.pixels / PIECE_PIXELS * (tile.split / PIECE_COLUMNS); }

template <Operand OPERAND> DEVICE Tile tile_of(uint32_t pixels, uint32_t pitch, uint32_t split) {
    Tile tile{pixels, pitch, split, split + (OPERAND == F32 ? 4 : 8), split / 4, (pixels + 7) / 8, 0, {}};
    if constexpr (OPERAND == F32) {
        uint32_t threads = slice_threads(tile);
        tile.slices = min(CONV_WARPS, CONV_THREADS / threads);
        tile.mine = share(threadIdx.x % threads, tile.columns, tile.groups);
    } else {
        tile.slices = max(1u, CONV_WARPS / piece_count(tile));
        tile.mine = share(threadIdx.x, tile.columns, tile.groups);
    }
    return tile;
}

// Where a piece of the warp begins, and its slice; not there if that is none.
struct Piece {
    uint32_t pixel, column, slice;
    bool there;
};

DEVICE Piece piece_of(const Tile &tile, uint32_t number) {
    uint32_t count = piece_count(tile), across = tile.split / PIECE_COLUMNS;
    uint32_t at = warp() + number * CONV_WARPS, slice = at / count, piece = at - slice * count, row = piece / across;
    return Piece{row * PIECE_PIXELS, (piece - row * across) * PIECE_COLUMNS, slice, slice < tile.slices};
}

// acc += the product of `rows` rows of pixels and of weights. In f32 acc[4*v + j][c] is of pixel 4*(group + v*groups) + j and
// column 4*column + c of the share; else acc[4*piece + 2*i + j] is a fragment.
template <Operand OPERAND>
DEVICE void multiply_tile(const Tile &tile, const float *pixels, const float *weights, uint32_t rows, float (&acc)[8][4]) {
    if constexpr (OPERAND == F32) {
        uint32_t slice = threadIdx.x / slice_threads(tile);
        if (tile.mine.active && slice < min(tile.slices, rows)) {
            multiply<2>(pixels + slice * tile.pitch + 4 * tile.mine.group, tile.slices * tile.pitch, 4 * tile.groups,
                        weights + slice * tile.weights_pitch + 4 * tile.mine.column, tile.slices * tile.weights_pitch,
                        (rows - slice + tile.slices - 1) / tile.slices, acc);
        }
    } else {
        uint32_t words = (rows + PER_WORD<OPERAND> - 1) / PER_WORD<OPERAND>;
#pragma unroll
        for (uint32_t number = 0; number < PIECES; number++) {
            Piece piece = piece_of(tile, number);
            if (!piece.there) continue;
            FragmentC sums[2][2];
#pragma unroll
            for (uint32_t i = 0; i < 16; i++) sums[i / 8][i / 4 % 2].r[i % 4] = acc[4 * number + i / 4][i % 4];
            multiply_words<OPERAND>(Factor{pixels + piece.pixel, 1, tile.pitch},
                                    Factor{weights + piece.column, 1, tile.weights_pitch}, piece.slice, tile.slices, words, sums);
#pragma unroll
            for (uint32_t i = 0; i < 16; i++) acc[4 * number + i / 4][i % 4] = sums[i / 8][i / 4 % 2].r[i % 4];
        }
    }
}

// Adds the slices up, and turns fragments into shares, through `shared` [slice][split][pixels + 4], which nobody reads any more; all
// threads. Afterwards the shares are those of the first slice.
template <Operand OPERAND> DEVICE void share_out(Tile &tile, float *shared, float (&acc)[8][4]) {
    uint32_t pitch = tile.pixels + 4, first = 4 * tile.mine.column * pitch + 4 * tile.mine.group;
    if constexpr (OPERAND == F32) {
        uint32_t slice = threadIdx.x / slice_threads(tile);
        bool active = tile.mine.active && slice < tile.slices;
        tile.mine.active = active && slice == 0;
        if (tile.slices == 1) return;
        if (active) {
            float *to = shared + slice * tile.split * pitch + first;
#pragma unroll
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t v = i / 4, c = i % 4;
                put4(to + c * pitch + 4 * v * tile.groups,
                     make_float4(acc[4 * v][c], acc[4 * v + 1][c], acc[4 * v + 2][c], acc[4 * v + 3][c]));
            }
        }
    } else {
#pragma unroll
        for (uint32_t number = 0; number < PIECES; number++) {
            Piece piece = piece_of(tile, number);
            if (!piece.there) continue;
            float *to = shared + (piece.slice * tile.split + piece.column + lane() % 4 * 2) * pitch + piece.pixel + lane() / 4;
#pragma unroll
            for (uint32_t i = 0; i < 16; i++) {
                uint32_t pixel = i / 8 * 16 + i / 2 % 2 * 8, column = i / 4 % 2 * 8 + i % 2;
                to[column * pitch + pixel] = acc[4 * number + i / 4][i % 4];
            }
        }
    }
    BARRIER();
    if (!tile.mine.active) return;
#pragma unroll
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t v = i / 4, c = i % 4;
        float4 sum = splat_quad(0.0f);
        for (uint32_t slice = 0; slice < tile.slices; slice++) {
            sum = add_quad(sum, load4(shared + slice * tile.split * pitch + first + c * pitch + 4 * v * tile.groups));
        }
        acc[4 * v][c] = sum.x;
        acc[4 * v + 1][c] = sum.y;
        acc[4 * v + 2][c] = sum.z;
        acc[4 * v + 3][c] = sum.w;
    }
}

// A block's product pixels x columns, summed over rows, in f32 on CUDA cores or on tensor cores. However it is made, a thread ends
// up with its share of it (product.cuh).
#pragma once
#include "gather.cuh"
#include "product.cuh"

// Pixels and columns of the block, floats between rows of either factor, and the thread's share.
struct Tile {
    uint32_t pixels, pitch, split, weights_pitch, columns, groups;
    Share mine;
};

template <Operand OPERAND> DEVICE Tile tile_of(uint32_t pixels, uint32_t pitch, uint32_t split) {
    Tile tile{pixels, pitch, split, split + (OPERAND == F32 ? 4 : 8), split / 4, (pixels + 7) / 8, {}};
    tile.mine = share(threadIdx.x, tile.columns, tile.groups);
    return tile;
}

// A warp has at most two pieces of 32 pixels x 16 columns, eight warps all of them: [piece][16 pixels][8 columns] fragments.
constexpr uint32_t PIECES = 2, PIECE_PIXELS = 32, PIECE_COLUMNS = 16;

// Where the warp's piece begins; false: it has none.
struct Piece {
    uint32_t pixel, column;
    bool there;
};

DEVICE Piece piece_of(const Tile &tile, uint32_t number) {
    uint32_t across = tile.split / PIECE_COLUMNS, at = warp() + number * (CONV_THREADS / 32), row = at / across;
    return Piece{row * PIECE_PIXELS, (at - row * across) * PIECE_COLUMNS, row * PIECE_PIXELS < tile.pixels};
}

// acc += the product of `rows` rows of pixels and of weights. In f32 acc[4*v + j][c] is of pixel 4*(group + v*groups) + j and
// column 4*column + c of the share; else acc[4*piece + 2*i + j] is a fragment.
template <Operand OPERAND>
DEVICE void multiply_tile(const Tile &tile, const float *pixels, const float *weights, uint32_t rows, float (&acc)[8][4]) {
    if constexpr (OPERAND == F32) {
        if (tile.mine.active) {
            multiply<2>(pixels + 4 * tile.mine.group, tile.pitch, 4 * tile.groups, weights + 4 * tile.mine.column,
                        tile.weights_pitch, rows, acc);
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
                                    Factor{weights + piece.column, 1, tile.weights_pitch}, 0, 1, words, sums);
#pragma unroll
            for (uint32_t i = 0; i < 16; i++) acc[4 * number + i / 4][i % 4] = sums[i / 8][i / 4 % 2].r[i % 4];
        }
    }
}

// Turns fragments into shares, through `shared` [split][pixels + 4], which nobody reads any more; all threads.
template <Operand OPERAND> DEVICE void share_out(const Tile &tile, float *shared, float (&acc)[8][4]) {
    if constexpr (OPERAND != F32) {
        uint32_t pitch = tile.pixels + 4;
#pragma unroll
        for (uint32_t number = 0; number < PIECES; number++) {
            Piece piece = piece_of(tile, number);
            if (!piece.there) continue;
            float *to = shared + (piece.column + lane() % 4 * 2) * pitch + piece.pixel + lane() / 4;
#pragma unroll
            for (uint32_t i = 0; i < 16; i++) {
                uint32_t pixel = i / 8 * 16 + i / 2 % 2 * 8, column = i / 4 % 2 * 8 + i % 2;
                to[column * pitch + pixel] = acc[4 * number + i / 4][i % 4];
            }
        }
        BARRIER();
        if (!tile.mine.active) return;
#pragma unroll
        for (uint32_t v = 0; v < 2; v++)
#pragma unroll
            for (uint32_t c = 0; c < 4; c++) {
                float4 four = load4(shared + (4 * tile.mine.column + c) * pitch + 4 * (tile.mine.group + v * tile.groups));
                acc[4 * v][c] = four.x;
                acc[4 * v + 1][c] = four.y;
                acc[4 * v + 2][c] = four.z;
                acc[4 * v + 3][c] = four.w;
            }
    }
}

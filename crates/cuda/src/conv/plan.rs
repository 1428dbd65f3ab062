//! How a convolution is cut into blocks: from shapes alone, so that sums have the same order on every device. Pushes nothing.
//!
//! Figures in the costs are estimates: a wrong one costs speed, never a result.

use super::ConvShape;
use crate::images::Images;
use crate::precision::Precision;
use crate::quads::{Filling, SHARED_FLOATS, THREADS, column_sums_len, pieces, shares_fit, tile4_rounds};

/// Blocks of a launch for the gradients of weights that fill a large device, three to a multiprocessor.
const BLOCKS: usize = 396;

/// Of the kernels forward and for the gradient of the input, two blocks have registers on a multiprocessor: of three, smaller ones,
/// a forward of 64 → 16 channels took 24 µs instead of 17.
const FILLING: Filling = Filling { together: 1, resident: 2 };

/// What the sizes of a block's product are multiples of, and how its factors lie in shared memory: `words.cuh`, `tile.cuh`.
struct Grain {
    pixels: usize,
    columns: usize,
    rows: usize,
    /// Numbers of a word, of the axis that is summed over.
    per_word: usize,
    /// Words between rows of pixels and between rows of weights, beside their own.
    gaps: [usize; 2],
}

impl Grain {
    const fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self { pixels: 4, columns: 4, rows: 4, per_word: 1, gaps: [0, 4] },
            Precision::Tf32 => Self { pixels: 32, columns: 16, rows: 8, per_word: 1, gaps: [8, 8] },
            Precision::Bf16 => Self { pixels: 32, columns: 16, rows: 16, per_word: 2, gaps: [8, 8] },
        }
    }
}

/// A product [pixels, rows] × [rows, columns], as a block has it.
#[derive(Debug, Copy, Clone)]
pub(super) struct Product {
    /// Pixels at a time.
    pub(super) pixels: usize,
    /// Tiles of so many pixels.
    pub(super) tiles: usize,
    /// Floats between rows of pixels.
    pub(super) pitch: usize,
    /// Rows at a time.
    pub(super) chunk: usize,
    /// Columns of a block.
    pub(super) split: usize,
    /// Where the second factor begins in shared memory.
    pub(super) weights_at: usize,
    pub(super) floats: usize,
    /// Blocks that leave sums of their own, per column.
    pub(super) partials: usize,
}

/// Blocks of output channels.
pub(super) fn splits(c_out: &[usize], split: usize) -> usize {
    c_out.iter().map(|c| c.div_ceil(split)).sum()
}

/// Slices of a block, which take rows in turn: `tile.cuh` counts them alike.
fn slices(precision: Precision, pixels: usize, split: usize) -> usize {
    let (columns, groups) = (split / 4, pixels.div_ceil(8));
    match precision {
        Precision::F32 if columns.is_multiple_of(4) => (8 / (columns / 4 * groups.div_ceil(8))).max(1),
        Precision::F32 => (THREADS / (columns * groups)).clamp(1, 8),
        Precision::Tf32 | Precision::Bf16 => (8 / (pixels / 32 * (split / 16))).max(1),
    }
}

/// The cheapest cut of `times` products of `pixels` pixels, `rows` rows and of columns in groups.
fn product(
    precision: Precision,
    times: usize,
    pixels: usize,
    rows: usize,
    columns: &[usize],
    gathered: usize,
) -> Product {
    let grain = Grain::of(precision);
    let widest = columns.iter().copied().max().unwrap_or(0);
    let cuts = pieces(widest, 128).take(6).flat_map(|split| {
        let sizes = (1..=16).map(|i| 32 * i).filter(move |&size| size < pixels.next_multiple_of(4) + 32);
        sizes.flat_map(move |size| pieces(rows, 64).take(3).map(move |chunk| (split, size, chunk)))
    });
    let rated = cuts.filter_map(|(split, size, chunk)| {
        let size = size.min(pixels.next_multiple_of(grain.pixels));
        let (split, chunk) = (split.next_multiple_of(grain.columns), chunk.next_multiple_of(grain.rows));
        let (columns_4, groups) = (split / 4, size.div_ceil(8));
        let (pitch, words) = (size.next_multiple_of(8) + grain.gaps[0], chunk / grain.per_word);
        let weights_at = words * pitch;
        let sums = column_sums_len(columns_4, groups) + 2 * split;
        let slices = slices(precision, size, split);
        // On tensor cores the result passes through shared memory.
        let result = if precision == Precision::F32 && slices == 1 { 0 } else { slices * split * (size + 4) };
        let floats = (weights_at + words * (split + grain.gaps[1])).max(sums).max(result);
        if floats > SHARED_FLOATS || !shares_fit(columns_4, groups) {
            return None;
        }
        let tiles = pixels.div_ceil(size);
        let weights = (chunk / 4 * split).div_ceil(THREADS) * 60;
        let multiplied = match precision {
            Precision::F32 => (chunk * 44).div_ceil(slices),
            // 28 for eight words of a piece of 32 pixels × 16 columns, of which a warp has one or two.
            Precision::Tf32 | Precision::Bf16 => {
                (words / 8 * 28).div_ceil(slices) * (size * split).div_ceil(32 * 16 * 8)
            }
        };
        let chunks = rows.div_ceil(chunk);
        let instructions =
            chunks * (tile4_rounds(size, chunk) * gathered + weights + multiplied + 250) + 500 + 50 * (slices - 1);
        let bytes = 4 * size * (rows + split);
        let product = Product { pixels: size, tiles, pitch, chunk, split, weights_at, floats, partials: times * tiles };
        let blocks = times * tiles * splits(columns, split);
        Some((FILLING.cost(blocks, floats, instructions, bytes), product))
    });
    rated
        .min_by_key(|&(cost, _)| cost)
        .map_or_else(|| unreachable!("32 pixels and 16 columns always fit"), |(_, product)| product)
}

/// Quads of the input's channels if it is one part; more parts whose channels are no quads have a few more.
fn quads(images: Images) -> usize {
    images.c.div_ceil(4)
}

pub(super) fn forward(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> Product {
    let rows = 4 * quads(images) * shape.kernel.0 * shape.kernel.1;
    product(precision, 1, images.n * shape.output.0 * shape.output.1, rows, c_out, 130)
}

pub(super) fn input(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> Product {
    let (y, x) = shape.stride;
    let pixels = images.n * images.h.div_ceil(y) * images.w.div_ceil(x);
    let taps = shape.kernel.0.div_ceil(y) * shape.kernel.1.div_ceil(x);
    let rows = c_out.iter().map(|c| 4 * c.div_ceil(4)).sum::<usize>() * taps;
    product(precision, y * x, pixels, rows, &[4 * quads(images)], 250)
}

/// The product of dz and the unfolded input over pixels, as a block has it.
#[derive(Debug, Copy, Clone)]
pub(super) struct Weights {
    /// Pixels at a time.
    pub(super) pixels: usize,
    pub(super) tiles: usize,
    /// Floats between rows of pixels: threads read one vector, or a word, of each of neighbouring rows.
    pub(super) pitch: usize,
    /// Blocks that share the tiles.
    pub(super) slots: usize,
    /// Rows of the unfolded input of a block.
    pub(super) chunk: usize,
    /// Output channels of a block.
    pub(super) split: usize,
    pub(super) floats: usize,
}

pub(super) fn weights(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> Weights {
    let grain = Grain::of(precision);
    let rows = 4 * quads(images) * shape.kernel.0 * shape.kernel.1;
    let first = |c: usize| pieces(c, 64).next().unwrap_or(4).next_multiple_of(grain.columns);
    let (chunk, split) = (first(rows), first(c_out.iter().copied().max().unwrap_or(1)));
    let all = images.n * shape.output.0 * shape.output.1;
    // Whole steps of the product.
    let step = 8 * grain.per_word;
    let pixels = (8192 / (chunk + split)).clamp(64, 256).min(all.next_multiple_of(step)) / step * step;
    let tiles = all.div_ceil(pixels);
    let blocks = rows.div_ceil(chunk) * splits(c_out, split);
    let c_out: usize = c_out.iter().sum();
    // More blocks leave more partial gradients: no more of them than there is input and output.
    let affordable = all * (shape.c_in + c_out) / (2 * c_out * shape.depth());
    let slots = BLOCKS.div_ceil(blocks).min(affordable.max(8)).min(tiles).max(1);
    let pitch = pixels / grain.per_word + 4;
    let floats = ((chunk + split) * pitch).max(16 * THREADS);
    Weights { pixels, tiles, pitch, slots, chunk, split, floats }
}

//! How a convolution is cut into blocks: from shapes alone, so that sums have the same order on every device. Pushes nothing.
//!
//! Figures in the costs are estimates: a wrong one costs speed, never a result.

use super::ConvShape;
use crate::images::Images;
use crate::quads::{Filling, SHARED_FLOATS, THREADS, column_sums_len, pieces, shares_fit, tile4_rounds};

/// Blocks of a launch that fill a large device, each multiprocessor with two, twice.
const BLOCKS: usize = 528;

const FILLING: Filling = Filling { together: 1, resident: 2 };

/// A product [pixels, rows] × [rows, columns], as a block has it.
#[derive(Debug, Copy, Clone)]
pub(super) struct Product {
    /// Pixels at a time; a multiple of 4.
    pub(super) pixels: usize,
    /// Tiles of so many pixels.
    pub(super) tiles: usize,
    /// Rows at a time; a multiple of 4.
    pub(super) chunk: usize,
    /// Columns of a block; a multiple of 4.
    pub(super) split: usize,
    /// Where the second factor begins in shared memory.
    pub(super) weights_at: usize,
    pub(super) floats: usize,
    /// Blocks that leave sums of their own, per column.
    pub(super) partials: usize,
}

impl Product {
    /// Floats between rows of pixels.
    pub(super) const fn pitch(&self) -> usize {
        self.pixels.next_multiple_of(8)
    }
}

/// Blocks of output channels.
pub(super) fn splits(c_out: &[usize], split: usize) -> usize {
    c_out.iter().map(|c| c.div_ceil(split)).sum()
}

/// The cheapest cut of `times` products of `pixels` pixels, `rows` rows and of columns in groups.
fn product(times: usize, pixels: usize, rows: usize, columns: &[usize], gathered: usize) -> Product {
    let widest = columns.iter().copied().max().unwrap_or(0);
    let cuts = pieces(widest, 128).take(6).flat_map(|split| {
        let sizes = (1..=16).map(|i| 32 * i).filter(move |&size| size < pixels.next_multiple_of(4) + 32);
        sizes.flat_map(move |size| {
            pieces(rows, 64).take(3).map(move |chunk| (split, size.min(pixels.next_multiple_of(4)), chunk))
        })
    });
    let rated = cuts.filter_map(|(split, size, chunk)| {
        let (columns_4, groups) = (split / 4, size.div_ceil(8));
        let weights_at = chunk * size.next_multiple_of(8);
        let sums = column_sums_len(columns_4, groups) + 2 * split;
        let floats = (weights_at + chunk * (split + 4)).max(sums);
        if floats > SHARED_FLOATS || !shares_fit(columns_4, groups) {
            return None;
        }
        let tiles = pixels.div_ceil(size);
        let weights = (chunk / 4 * split).div_ceil(THREADS) * 60;
        let chunks = rows.div_ceil(chunk);
        let instructions = chunks * (tile4_rounds(size, chunk) * gathered + weights + chunk * 44 + 250) + 500;
        let bytes = 4 * size * (rows + split);
        let product = Product { pixels: size, tiles, chunk, split, weights_at, floats, partials: times * tiles };
        let blocks = times * tiles * splits(columns, split);
        Some((FILLING.cost(blocks, floats, instructions, bytes), product))
    });
    rated
        .min_by_key(|&(cost, _)| cost)
        .map_or_else(|| unreachable!("32 pixels and 4 columns always fit"), |(_, product)| product)
}

/// Quads of the input's channels if it is one part; more parts whose channels are no quads have a few more.
fn quads(images: Images) -> usize {
    images.c.div_ceil(4)
}

pub(super) fn forward(images: Images, shape: ConvShape, c_out: &[usize]) -> Product {
    let rows = 4 * quads(images) * shape.kernel.0 * shape.kernel.1;
    product(1, images.n * shape.output.0 * shape.output.1, rows, c_out, 130)
}

pub(super) fn input(images: Images, shape: ConvShape, c_out: &[usize]) -> Product {
    let (y, x) = shape.stride;
    let pixels = images.n * images.h.div_ceil(y) * images.w.div_ceil(x);
    let taps = shape.kernel.0.div_ceil(y) * shape.kernel.1.div_ceil(x);
    let rows = c_out.iter().map(|c| 4 * c.div_ceil(4)).sum::<usize>() * taps;
    product(y * x, pixels, rows, &[4 * quads(images)], 250)
}

/// The product of dz and the unfolded input over pixels, as a block has it.
#[derive(Debug, Copy, Clone)]
pub(super) struct Weights {
    /// Pixels at a time; a multiple of 8.
    pub(super) pixels: usize,
    pub(super) tiles: usize,
    /// Blocks that share the tiles.
    pub(super) slots: usize,
    /// Rows of the unfolded input of a block.
    pub(super) chunk: usize,
    /// Output channels of a block.
    pub(super) split: usize,
    pub(super) floats: usize,
}

impl Weights {
    /// Floats between rows of pixels: threads read one vector of each of neighbouring rows.
    pub(super) const fn pitch(&self) -> usize {
        self.pixels + 4
    }
}

pub(super) fn weights(images: Images, shape: ConvShape, c_out: &[usize]) -> Weights {
    let rows = 4 * quads(images) * shape.kernel.0 * shape.kernel.1;
    let first = |c: usize| pieces(c, 64).next().unwrap_or(4);
    let (chunk, split) = (first(rows), first(c_out.iter().copied().max().unwrap_or(1)));
    let all = images.n * shape.output.0 * shape.output.1;
    let pixels = (8192 / (chunk + split)).clamp(64, 256).min(all.next_multiple_of(8)) / 8 * 8;
    let tiles = all.div_ceil(pixels);
    let blocks = rows.div_ceil(chunk) * splits(c_out, split);
    let c_out: usize = c_out.iter().sum();
    // More blocks leave more partial gradients: no more of them than there is input and output.
    let affordable = all * (shape.c_in + c_out) / (2 * c_out * shape.depth());
    let slots = BLOCKS.div_ceil(blocks).min(affordable.max(8)).min(tiles).max(1);
    let floats = ((chunk + split) * (pixels + 4)).max(16 * THREADS);
    Weights { pixels, tiles, slots, chunk, split, floats }
}

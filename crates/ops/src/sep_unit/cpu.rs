//! What forward and backward on the CPU share: the padded, activated image and the geometry of a unit on it. Refuses
//! to know about threads.
//!
//! Axes: rows and columns of the image with a margin around it, channels padded (C′, see [`padded`](crate::simd::padded)), contiguous in
//! that order; so inner loops have neither borders nor tails.

use super::UnitShape;
use super::cpu_depthwise::{Grid, Memory, Put, Row, Tap, Taps, apply, apply_grid};
use crate::ahead::Ahead;
use crate::images::{Affine, Images};
use crate::simd::{InstructionSet, Kernel, Lanes, for_vectors, round_up};
use std::ops::Range;

/// Bytes that a strip may take. Shorter ones with all that belongs to them (dz, the depthwise output, the activated rows around it)
/// would stay in a first-level cache, but more of the time would go into weights and their gradients, which every strip passes.
const STRIP_BYTES: usize = 15 * 1024;
/// Pixels in a register tile of a product: strips are multiples of it where they can.
const TILE_ROWS: usize = 12;

/// An image with `margin` zeros on every side.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) struct Padded {
    /// Zeros on every side.
    pub(super) margin: usize,
    /// Rows, both margins included.
    pub(super) h: usize,
    /// Columns, both margins included.
    pub(super) w: usize,
    /// C′.
    pub(super) c: usize,
}

impl Padded {
    pub(super) fn new(h: usize, w: usize, c: usize, margin: usize) -> Self {
        Self { margin, h: h + 2 * margin, w: w + 2 * margin, c }
    }

    /// Floats of the image.
    pub(super) fn len(self) -> usize {
        self.h * self.w * self.c
    }

    /// Floats of a row.
    pub(super) fn row(self) -> usize {
        self.w * self.c
    }

    /// Offset of a pixel, counted from the corner of the margin.
    pub(super) fn at(self, row: usize, column: usize) -> usize {
        (row * self.w + column) * self.c
    }

    /// Zeros the margin.
    #[inline(always)]
    pub(super) fn clear_margin(self, image: &mut [f32]) {
        let edge = self.margin * self.c;
        let inside = self.at(self.margin, 0)..self.at(self.h - self.margin, 0);
        image[..inside.start].fill(0.0);
        image[inside.end..self.len()].fill(0.0);
        for row in image[inside].chunks_exact_mut(self.row()) {
            row[..edge].fill(0.0);
            row[self.row() - edge..].fill(0.0);
        }
    }

    /// Fills the inside of `out` with relu(a·x + b) of one image x `[H, W, C]`.
    #[inline(always)]
    pub(super) fn activate<L: Lanes>(
        self,
        lanes: L,
        images: Images,
        x: &[f32],
        affine: Option<Affine>,
        out: &mut [f32],
    ) {
        let (c, w) = (images.c, images.w);
        assert!(x.len() == images.image_len() && out.len() >= self.len(), "sep_unit: an image of {images:?}");
        for row in 0..images.h {
            let from = &x[row * w * c..][..w * c];
            let to = &mut out[self.at(row + self.margin, self.margin)..][..w * self.c];
            for_vectors!(lanes: L, self.c, channel => {
                let here = c - channel;
                // SAFETY: `from` has w pixels of c floats, `to` w pixels of C′ in which the vector lies, the affine c floats; a vector at
                // the end of the channels is read up to c.
                unsafe {
                    let (from, to) = (from.as_ptr().add(channel), to.as_mut_ptr().add(channel));
                    let affine = affine.map(|Affine { scale, shift }| {
                        (
                            lanes.load_up_to(scale[channel..].as_ptr(), here),
                            lanes.load_up_to(shift[channel..].as_ptr(), here),
                        )
                    });
                    let whole = here >= lanes.count();
                    for pixel in 0..w {
                        let at = from.add(pixel * c);
                        let value = if whole { lanes.load(at) } else { lanes.load_first(at, here) };
                        let value = match affine {
                            Some((scale, shift)) => lanes.mul_add(scale, value, shift),
                            None => value,
                        };
                        lanes.store(to.add(pixel * self.c), lanes.relu(value));
                    }
                }
            });
        }
    }
}

/// One unit on images of one size.
pub(super) struct Geometry {
    pub(super) shape: UnitShape,
    /// The padded input.
    pub(super) input: Padded,
    /// Rows and columns of z.
    pub(super) out: (usize, usize),
    /// C_out padded.
    pub(super) c_out: usize,
    /// Taps of the depthwise convolution on the padded input, from the first pixel that an output pixel reads.
    taps: Taps,
    /// The same as a grid, where they are one.
    grid: Option<Grid>,
    /// Rows of z that are computed at a time.
    pub(super) strip_rows: usize,
}

impl Geometry {
    /// `lanes` is the number of floats in a short vector.
    pub(super) fn new(shape: UnitShape, images: Images, input: Padded, lanes: usize) -> Self {
        let out = images.strided(shape.stride);
        let taps = Taps::new((0..shape.kernel * shape.kernel).map(|tap| {
            let (row, column) = (tap / shape.kernel * shape.dilation, tap % shape.kernel * shape.dilation);
            Tap { input: input.at(row, column), weight: tap * input.c }
        }));
        let grid = if shape.stride == 1 { Grid::new(shape.kernel, shape.dilation, input.row()) } else { None };
        let c_out = round_up(shape.c_out, lanes);
        let pixel_bytes = input.c.max(c_out) * size_of::<f32>();
        Self { shape, input, out: (out.h, out.w), c_out, taps, grid, strip_rows: strip_rows(out.h, out.w, pixel_bytes) }
    }

    /// Rows `rows` of the depthwise output, `[rows, W', C′]` (overwritten).
    #[inline(always)]
    pub(super) fn depthwise_rows<L: Lanes>(
        &self,
        lanes: L,
        weights: &[f32],
        activated: &[f32],
        rows: Range<usize>,
        y: &mut [f32],
        ahead: &mut Ahead,
    ) {
        let (pixels, channels) = (self.out.1, self.input.c);
        let mut y = Memory::new(y, (pixels, channels), false);
        for (index, row) in rows.enumerate() {
            y.begin(index);
            let input = &activated[self.first_input(row)..];
            match self.grid {
                Some(grid) => apply_grid(lanes, grid, weights, input, (pixels, channels), &mut y, ahead),
                None => {
                    let row = Row { pixels, channels, input_step: self.shape.stride * channels, first: 0, step: 1 };
                    apply(lanes, &self.taps, weights, input, row, &mut y, ahead);
                }
            }
        }
    }

    /// Vectors of at most `lanes` floats in the depthwise output of an image.
    pub(super) fn vectors(&self, lanes: usize) -> usize {
        self.out.0 * self.out.1 * self.input.c.div_ceil(lanes)
    }

    /// Offset in the padded input of the first pixel that output pixel (row, 0) reads.
    pub(super) fn first_input(&self, row: usize) -> usize {
        let inset = self.input.margin - self.shape.padding();
        self.input.at(row * self.shape.stride + inset, inset)
    }

    /// Floats of the packed depthwise weights, `[k², C′]`.
    pub(super) fn depthwise_len(&self) -> usize {
        self.shape.kernel * self.shape.kernel * self.input.c
    }

    /// Packs depthwise weights `[C, 1, k, k]` to `[k², C′]` (overwritten).
    pub(super) fn pack_depthwise(&self, weights: &[f32], packed: &mut [f32]) {
        let taps = self.shape.kernel * self.shape.kernel;
        packed.fill(0.0);
        for (channel, weights) in weights.chunks_exact(taps).enumerate() {
            for (tap, &weight) in weights.iter().enumerate() {
                packed[tap * self.input.c + channel] = weight;
            }
        }
    }
}

/// How many rows of `w` pixels make a strip: of those that fit, the largest number among those that leave the fewest pixels
/// over whole register tiles.
fn strip_rows(h: usize, w: usize, pixel_bytes: usize) -> usize {
    let most = (STRIP_BYTES / (pixel_bytes * w).max(1)).clamp(1, h.max(1));
    (1..=most).rev().min_by_key(|rows| rows * w % TILE_ROWS).unwrap_or(1)
}

/// The largest padding of some units.
pub(super) fn margin(shapes: impl Iterator<Item = UnitShape>) -> usize {
    shapes.map(UnitShape::padding).max().unwrap_or(0)
}

/// Floats in a short vector of an instruction set: C′ is a multiple of it.
pub(super) fn short_lanes_of(set: InstructionSet) -> usize {
    struct Count;
    impl Kernel for Count {
        type Output = usize;

        #[inline(always)]
        fn run<L: Lanes>(self, _lanes: L) -> usize {
            L::Short::LANES
        }
    }
    set.run(Count)
}

/// Cuts `len` floats off the beginning of `memory`, and what is left of their last cache line.
pub(super) fn carve<'a>(memory: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (piece, rest) = std::mem::take(memory).split_at_mut(carved_len(len));
    *memory = rest;
    &mut piece[..len]
}

/// Floats that `carve` cuts off for `len`.
pub(super) fn carved_len(len: usize) -> usize {
    round_up(len, crate::aligned::FLOATS_PER_LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_fill_whole_tiles_where_they_can() {
        assert_eq!(strip_rows(32, 32, 64), 6, "192 pixels are 16 tiles");
        assert_eq!(strip_rows(8, 8, 256), 6, "48 pixels are 4 tiles");
        assert_eq!(strip_rows(1, 1, 4), 1);
        assert_eq!(strip_rows(28, 28, 1 << 20), 1, "one row, whatever it takes");
    }
}

//! Max and average pooling with padding. Refuses to let padding count: it never wins a maximum and is no part of an
//! average's divisor.
//!
//! Axes: x `[N, H, W, C]`, z `[N, H', W', C]` with H' = (H + 2p − k)/s + 1. Where `relu` is set, x is replaced by relu(x) first.
//!
//! - Max: the first maximum in scan order (row by row) gets the whole gradient; it is searched for again in backward, so that
//!   forward stores no indices. A NaN in the window is the maximum.
//! - Average: the mean of the real (unpadded) cells.

use crate::images::{Images, Upstream, Write};
use crate::profile::{self, Work};
use crate::simd::InstructionSet;

mod cpu;
mod cpu_rows;
pub mod reference;
#[cfg(test)]
mod tests;

/// What is taken of a window.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum PoolKind {
    /// The largest cell.
    Max,
    /// The mean of the real cells.
    Average,
}

/// Geometry of a pool.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct PoolShape {
    /// What is taken of a window.
    pub kind: PoolKind,
    /// Rows and columns of the window, k.
    pub kernel: usize,
    /// Distance of windows, s.
    pub stride: usize,
    /// Cells added on every side, p; less than k, and at most k/2.
    pub padding: usize,
    /// Whether x goes through a ReLU first, whose derivative at 0 is 0.
    pub relu: bool,
}

impl PoolShape {
    /// The search space's 3×3 pool, padding 1.
    pub const fn three_by_three(kind: PoolKind, stride: usize) -> Self {
        Self { kind, kernel: 3, stride, padding: 1, relu: false }
    }

    /// Shape of z for an x of shape `images`.
    ///
    /// # Panics
    /// If the stride is 0 or the padded image is smaller than the window.
    pub const fn output(self, images: Images) -> Images {
        let (h, w) = (images.h + 2 * self.padding, images.w + 2 * self.padding);
        assert!(self.stride > 0 && h >= self.kernel && w >= self.kernel, "pool: the window does not fit the image");
        Images { h: (h - self.kernel) / self.stride + 1, w: (w - self.kernel) / self.stride + 1, ..images }
    }

    fn check(self, operation: &str, images: Images, x: &[f32]) {
        assert!(
            self.stride > 0 && self.kernel > 0 && 2 * self.padding <= self.kernel && self.padding < self.kernel,
            "{operation}: {self:?}, expected a window and a stride of at least 1 and a padding of at most half the window"
        );
        assert_eq!(x.len(), images.len(), "{operation}: x of {images:?}");
    }

    /// Input rows (or columns) of the window at output row `out`, of `size` there are.
    #[inline(always)]
    fn window(self, out: usize, size: usize) -> std::ops::Range<usize> {
        let start = out * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(size)
    }
}

/// z = pool(x), on the selected instruction set; `sums` is overwritten with `[Σz | Σz²]` per channel.
///
/// # Shapes
/// x `[N, H, W, C]` = `images`; z `shape.output(images)`, overwritten; sums 2·C.
///
/// # Panics
/// If a slice does not have the length of its shape, or the padding is more than half of the window.
pub fn forward(images: Images, x: &[f32], shape: PoolShape, z: &mut [f32], sums: Option<&mut [f64]>) {
    forward_on(InstructionSet::selected(), images, x, shape, z, sums);
}

/// [`forward`] on a given instruction set.
///
/// # Panics
/// As [`forward`].
pub fn forward_on(
    set: InstructionSet,
    images: Images,
    x: &[f32],
    shape: PoolShape,
    z: &mut [f32],
    sums: Option<&mut [f64]>,
) {
    shape.check("pool::forward", images, x);
    assert_eq!(z.len(), shape.output(images).len(), "pool::forward: z of {shape:?} for an x of {images:?}");
    if let Some(sums) = &sums {
        assert_eq!(sums.len(), 2 * images.c, "pool::forward: sums for an x of {images:?}");
    }
    let _span = profile::span("pool forward", || shape.work(images, x.len() + z.len()));
    cpu::forward(set, images, x, shape, z, sums);
}

/// dx of the pool, overwritten or added to as `write` says; with `relu` the gradient with respect to x before it. On the
/// selected instruction set.
///
/// # Shapes
/// x, dx `[N, H, W, C]` = `images`; upstream as z of [`forward`].
///
/// # Panics
/// If a slice does not have the length of its shape, or the padding is more than half of the window.
pub fn backward(images: Images, x: &[f32], shape: PoolShape, upstream: Upstream, dx: &mut [f32], write: Write) {
    backward_on(InstructionSet::selected(), images, x, shape, upstream, dx, write);
}

/// [`backward`] on a given instruction set.
///
/// # Panics
/// As [`backward`].
pub fn backward_on(
    set: InstructionSet,
    images: Images,
    x: &[f32],
    shape: PoolShape,
    upstream: Upstream,
    dx: &mut [f32],
    write: Write,
) {
    shape.check("pool::backward", images, x);
    assert_eq!(dx.len(), images.len(), "pool::backward: dx of {images:?}");
    upstream.check("pool::backward", shape.output(images));
    let _span = profile::span("pool backward", || {
        let dx = dx.len() * if write == Write::Accumulate { 2 } else { 1 };
        let x = if shape.kind == PoolKind::Max { x.len() } else { 0 };
        shape.work(images, dx + x + upstream.floats())
    });
    cpu::backward(set, images, x, shape, upstream, dx, write);
}

impl PoolShape {
    fn work(self, images: Images, floats: usize) -> Work {
        Work { flops: self.output(images).len() * self.kernel * self.kernel, floats }
    }
}

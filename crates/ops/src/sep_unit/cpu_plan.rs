//! A unit's backward on images of one size: where its gradients lie, which taps lead back onto the input, and how the
//! weight gradients of the tasks are added up. Refuses to touch pixels.

use super::cpu::{Geometry, Padded, carved_len};
use super::cpu_depthwise::{Grid, Tap, Taps};
use super::{UnitBackward, UnitShape};
use crate::images::Images;
use rayon::prelude::*;

/// A unit on images of one size, backward.
pub(super) struct Plan {
    pub(super) geometry: Geometry,
    /// Gradient of the depthwise output, padded as far as the call's units need.
    pub(super) gradient: Padded,
    /// How much of its margin this unit needs, ⌈padding/s⌉.
    margin: usize,
    pub(super) back: Back,
    pub(super) with_weights: bool,
}

/// How the gradient of the depthwise output goes back onto the input.
pub(super) enum Back {
    /// At stride 1: the same square of taps, with the weights in reverse order.
    Reversed(Grid),
    /// Taps by the row and the column of the input, modulo the stride.
    Classes(Vec<Taps>),
}

impl Plan {
    /// `margin` is the largest [`Plan::margin`] of the call's units.
    pub(super) fn new(unit: &UnitBackward, images: Images, input: Padded, margin: usize, lanes: usize) -> Self {
        let shape = unit.shape;
        let (k, s, d, padding) = (shape.kernel, shape.stride, shape.dilation, shape.padding());
        let geometry = Geometry::new(shape, images, input, lanes);
        // Output pixel o reads input o·s + t·d − padding with tap t; so input i = s·j + a is read by o = j + (a + padding − t·d)/s for
        // the taps where that is whole. The smallest o is −⌈padding/s⌉, the largest less than ⌈padding/s⌉ past the end.
        let gradient = Padded::new(geometry.out.0, geometry.out.1, input.c, margin);
        let margin = Self::margin(shape);
        let reader = |class: usize, tap: usize| {
            let distance = class + padding + margin * s;
            distance.checked_sub(tap * d).filter(|distance| distance % s == 0).map(|distance| distance / s)
        };
        let grid = if s == 1 { Grid::new(k, d, gradient.row()) } else { None };
        let classes = (0..s * s)
            .map(|class| {
                Taps::new((0..k * k).filter_map(|tap| {
                    let row = reader(class / s, tap / k)?;
                    let column = reader(class % s, tap % k)?;
                    Some(Tap { input: gradient.at(row, column), weight: tap * input.c })
                }))
            })
            .collect();
        let back = grid.map_or(Back::Classes(classes), Back::Reversed);
        Self { geometry, gradient, margin, back, with_weights: unit.weights.is_some() }
    }

    /// Zeros that a unit needs around the gradient of its depthwise output.
    pub(super) fn margin(shape: UnitShape) -> usize {
        shape.padding().div_ceil(shape.stride)
    }

    /// Offset in the padded gradient of the first pixel that input pixel (row, 0) reads.
    pub(super) fn first_gradient(&self, row: usize) -> usize {
        let inset = self.gradient.margin - self.margin;
        self.gradient.at(row / self.geometry.shape.stride + inset, inset)
    }

    /// Packs depthwise weights `[k², C′]` in the order of the taps back (overwritten).
    pub(super) fn pack_back(&self, depthwise: &[f32], back: &mut [f32]) {
        match self.back {
            Back::Classes(_) => back.copy_from_slice(depthwise),
            Back::Reversed(_) => {
                let c = self.geometry.input.c;
                for (to, from) in back.chunks_exact_mut(c).zip(depthwise.chunks_exact(c).rev()) {
                    to.copy_from_slice(from);
                }
            }
        }
    }

    /// Rows of the input, of `h`, that nothing but the first `rows` rows of z has to do with.
    pub(super) fn rows_back(&self, rows: usize, h: usize) -> usize {
        if rows == self.geometry.out.0 {
            h
        } else {
            // Input row i reads the rows of z up to i/s + margin.
            (rows.saturating_sub(self.margin) * self.geometry.shape.stride).min(h)
        }
    }

    /// Vectors of at most `lanes` floats that one image's depthwise sums make, here and back.
    pub(super) fn vectors(&self, images: Images, lanes: usize) -> usize {
        let back = images.image_pixels() * self.geometry.input.c.div_ceil(lanes);
        if self.with_weights { back + self.geometry.vectors(lanes) } else { back }
    }

    pub(super) fn pointwise_len(&self) -> usize {
        self.geometry.shape.c_out * self.geometry.input.c
    }

    pub(super) fn packed_len(&self) -> usize {
        2 * carved_len(self.geometry.depthwise_len()) + carved_len(self.pointwise_len())
    }

    /// Floats of a task's weight gradients: `[k², C′]` and `[C_out, C′]`.
    pub(super) fn weights_len(&self) -> usize {
        if self.with_weights { self.geometry.depthwise_len() + self.pointwise_len() } else { 0 }
    }

    /// Adds up the tasks' weight gradients, in the order of the tasks: those of this unit begin at `first` in every
    /// `stride` floats of `partials`.
    pub(super) fn reduce(
        &self,
        partials: &[f32],
        stride: usize,
        first: usize,
        depthwise: &mut [f32],
        pointwise: &mut [f32],
    ) {
        const BLOCK: usize = 16;
        let (c, taps) = (self.geometry.shape.c_in, self.geometry.shape.kernel.pow(2));
        let sum = |at: usize| {
            let mut sums = [0.0_f64; BLOCK];
            for partial in partials.chunks_exact(stride) {
                let values = &partial[at..stride.min(at + BLOCK)];
                sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            sums
        };
        for channel in (0..c).step_by(BLOCK) {
            for tap in 0..taps {
                let sums = sum(first + tap * self.geometry.input.c + channel);
                for (i, &value) in sums[..BLOCK.min(c - channel)].iter().enumerate() {
                    depthwise[(channel + i) * taps + tap] = value as f32;
                }
            }
        }
        let first = first + self.geometry.depthwise_len();
        pointwise.par_chunks_exact_mut(c).with_min_len(32).enumerate().for_each(|(row, values)| {
            for (block, values) in values.chunks_mut(BLOCK).enumerate() {
                let sums = sum(first + row * self.geometry.input.c + block * BLOCK);
                values.iter_mut().zip(sums).for_each(|(to, value)| *to = value as f32);
            }
        });
    }
}

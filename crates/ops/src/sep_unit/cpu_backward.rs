//! Backward on the CPU: a task is a run of images. Per image and unit, in strips of rows: dz is formed, goes through the
//! pointwise weights into a padded gradient of the depthwise output, the depthwise output is recomputed, and both weight
//! gradients are added to; then the padded gradient is correlated back onto the input. Refuses to compute weight
//! gradients that nobody asked for.
//!
//! At stride s, input pixels are taken by their position modulo s: each of the s² classes has its own taps, so none is
//! multiplied with a zero between strided pixels.

use super::cpu::{Geometry, Padded, carve, carved_len, lanes_of, margin};
use super::cpu_depthwise::{Row, apply, apply_grid};
use super::cpu_finish::Finish;
use super::cpu_plan::{Back, Plan};
use super::cpu_weights::{Window, accumulate_weights};
use super::{Gradient, UnitBackward};
use crate::images::{Affine, Images, Upstream, Write};
use crate::matrix::{self, Layout, Output, Packed, Runs, Strip};
use crate::scratch;
use crate::shared::{Shared, chunks};
use crate::simd::{InstructionSet, Kernel, Lanes, round_up};
use crate::upstream;
use rayon::prelude::*;
use std::ops::Range;

/// As [`super::backward_on`], of arguments that have been checked.
pub(super) fn backward(
    set: InstructionSet,
    images: Images,
    x: &[f32],
    affine: Option<Affine>,
    units: &mut [UnitBackward],
    gradient: Gradient,
) {
    let lanes = lanes_of(set);
    let c = round_up(images.c, lanes);
    let input = Padded::new(images.h, images.w, c, margin(units.iter().map(|unit| unit.shape)));
    let plans: Vec<_> = units.iter().map(|unit| Plan::new(unit, images, input, lanes)).collect();

    let packed_len = plans.iter().map(Plan::packed_len).sum();
    let mut memory = scratch::take(packed_len);
    let mut rest = &mut memory[..];
    let mut weights_len = 0;
    let tasks: Vec<_> = plans
        .iter()
        .zip(&*units)
        .map(|(plan, unit)| {
            let depthwise = carve(&mut rest, plan.geometry.depthwise_len());
            plan.geometry.pack_depthwise(unit.depthwise, depthwise);
            let back = carve(&mut rest, plan.geometry.depthwise_len());
            plan.pack_back(depthwise, back);
            let packed = carve(&mut rest, plan.pointwise_len());
            let first = weights_len;
            weights_len += plan.weights_len();
            Unit {
                plan,
                depthwise,
                back,
                pointwise: set.run(Pack { geometry: &plan.geometry, weights: unit.pointwise, packed }),
                upstream: unit.upstream,
                weights: first..weights_len,
            }
        })
        .collect();

    let chunks: Vec<_> = chunks(images.n).collect();
    let Gradient { du, write, sums } = gradient;
    let sizes = Sizes::new(&plans, input, images);
    let task_len = sizes.task_len();
    let mut partial_weights = scratch::take(weights_len * chunks.len());
    let mut partial_sums = scratch::take_sums(2 * images.c * chunks.len());
    let du = Shared::new(du);
    let partials = Shared::new(&mut partial_weights);
    scratch::reserve(chunks.len(), task_len);
    chunks.par_iter().zip(partial_sums.par_chunks_exact_mut(2 * images.c)).enumerate().for_each(
        |(index, (chunk, partial_sums))| {
            let mut memory = scratch::take(task_len);
            let mut rest = &mut memory[..];
            // SAFETY: every index occurs once.
            let weights = unsafe { partials.part(index * weights_len..(index + 1) * weights_len) };
            weights.fill(0.0);
            set.run(Chunk {
                images,
                range: chunk.clone(),
                x,
                affine,
                input,
                units: &tasks,
                buffers: sizes.carve(&mut rest),
                weights,
                du,
                write,
                sums: sums.is_some().then_some(partial_sums),
            });
        },
    );
    drop(tasks);
    let mut first = 0;
    for (plan, unit) in plans.iter().zip(units) {
        if let Some((depthwise, pointwise)) = &mut unit.weights {
            plan.reduce(&partial_weights, weights_len, first, depthwise, pointwise);
        }
        first += plan.weights_len();
    }
    if let Some(sums) = sums {
        sums.fill(0.0);
        for partial in partial_sums.chunks_exact(2 * images.c) {
            sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
        }
    }
}

/// Packs pointwise weights for `[P, C_out]·[C_out, C_in]`.
struct Pack<'a> {
    geometry: &'a Geometry,
    weights: &'a [f32],
    packed: &'a mut [f32],
}

impl<'a> Kernel for Pack<'a> {
    type Output = Packed<'a>;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Packed<'a> {
        let (k, n) = (self.geometry.shape.c_out, self.geometry.shape.c_in);
        matrix::pack(lanes, Layout { k, n, k_stride: n, n_stride: 1 }, self.weights, self.packed)
    }
}

/// Sizes of a task's buffers.
struct Sizes {
    activated: usize,
    d_activated: usize,
    gradient: usize,
    dz: usize,
    y: usize,
    sums: usize,
}

/// A task's buffers.
struct Buffers<'a> {
    /// relu(a·x + b), padded.
    activated: &'a mut [f32],
    /// Its gradient, `[H, W, C′]`.
    d_activated: &'a mut [f32],
    /// Gradient of a unit's depthwise output, padded.
    gradient: &'a mut [f32],
    /// A strip of dz.
    dz: &'a mut [f32],
    /// A strip of the depthwise output.
    y: &'a mut [f32],
    /// `[Σdu | Σdu·x]` of an image.
    sums: &'a mut [f32],
}

impl Sizes {
    fn new(plans: &[Plan], input: Padded, images: Images) -> Self {
        let most = |size: fn(&Plan) -> usize| plans.iter().map(size).max().unwrap_or(0);
        Self {
            activated: input.len(),
            d_activated: images.image_pixels() * input.c,
            gradient: most(|plan| plan.gradient.len()),
            dz: most(|plan| plan.geometry.strip_rows * plan.geometry.out.1 * plan.geometry.c_out),
            y: most(|plan| plan.geometry.strip_rows * plan.geometry.out.1 * plan.geometry.input.c),
            sums: 2 * input.c,
        }
    }

    fn task_len(&self) -> usize {
        let sizes = [self.activated, self.d_activated, self.gradient, self.dz, self.y, self.sums];
        sizes.into_iter().map(carved_len).sum()
    }

    fn carve<'a>(&self, memory: &mut &'a mut [f32]) -> Buffers<'a> {
        Buffers {
            activated: carve(memory, self.activated),
            d_activated: carve(memory, self.d_activated),
            gradient: carve(memory, self.gradient),
            dz: carve(memory, self.dz),
            y: carve(memory, self.y),
            sums: carve(memory, self.sums),
        }
    }
}

/// A unit as tasks see it.
struct Unit<'a> {
    plan: &'a Plan,
    depthwise: &'a [f32],
    /// Depthwise weights in the order of the taps back.
    back: &'a [f32],
    pointwise: Packed<'a>,
    upstream: Upstream<'a>,
    /// Where its weight gradients are among a task's.
    weights: Range<usize>,
}

/// A task: some images back through all units.
struct Chunk<'a> {
    images: Images,
    range: Range<usize>,
    x: &'a [f32],
    affine: Option<Affine<'a>>,
    input: Padded,
    units: &'a [Unit<'a>],
    buffers: Buffers<'a>,
    /// Weight gradients of all units, added to.
    weights: &'a mut [f32],
    du: Shared<'a, f32>,
    write: Write,
    /// `[Σdu | Σdu·x]`, added to.
    sums: Option<&'a mut [f64]>,
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let len = self.images.image_len();
        for image in self.range.clone() {
            let x = &self.x[image * len..][..len];
            self.input.activate(lanes, self.images, x, self.affine, self.buffers.activated);
            if self.units.is_empty() {
                self.buffers.d_activated.fill(0.0);
            }
            for (index, unit) in self.units.iter().enumerate() {
                let weights = &mut self.weights[unit.weights.clone()];
                unit.strips(lanes, self.images, image, &mut self.buffers, weights);
                if index == 0 {
                    unit.correlate::<L, false>(lanes, self.images, &mut self.buffers);
                } else {
                    unit.correlate::<L, true>(lanes, self.images, &mut self.buffers);
                }
            }
            self.finish(lanes, image, x);
        }
    }
}

impl Unit<'_> {
    /// Fills the padded gradient of the depthwise output of one image, and adds to the weight gradients.
    #[inline(always)]
    fn strips<L: Lanes>(&self, lanes: L, images: Images, image: usize, buffers: &mut Buffers, weights: &mut [f32]) {
        let Plan { geometry, gradient, .. } = self.plan;
        let (shape, input) = (geometry.shape, geometry.input);
        let (h, w) = geometry.out;
        let c = input.c;
        let (d_depthwise, d_pointwise) = weights.split_at_mut(weights.len().min(geometry.depthwise_len()));
        gradient.clear_margin(buffers.gradient);
        for first in (0..h).step_by(geometry.strip_rows) {
            let rows = geometry.strip_rows.min(h - first);
            let pixels = first * w..(first + rows) * w;
            upstream::form(lanes, &self.upstream, shape.output(images), image, pixels, buffers.dz, geometry.c_out);
            let dz = Strip { data: buffers.dz, rows: rows * w, stride: geometry.c_out };
            let inside = gradient.at(first + gradient.margin, gradient.margin);
            matrix::product_in_runs(
                lanes,
                dz,
                self.pointwise,
                Output { data: &mut buffers.gradient[inside..], stride: c, columns: c },
                Runs { run: w, gap: gradient.row() - w * c },
                None,
            );
            if self.plan.with_weights {
                for r in 0..rows {
                    let y = &mut buffers.y[r * w * c..];
                    geometry.depthwise_row(lanes, self.depthwise, buffers.activated, first + r, y);
                }
                let y = Strip { data: buffers.y, rows: rows * w, stride: c };
                matrix::accumulate_outer(lanes, dz, shape.c_out, y, c, d_pointwise);
                let window = Window {
                    kernel: shape.kernel,
                    rows,
                    pixels: w,
                    channels: c,
                    gradient_row: gradient.row(),
                    input_row: shape.stride * input.row(),
                    input_step: shape.stride * c,
                    tap_row: shape.dilation * input.row(),
                    tap_step: shape.dilation * c,
                };
                let input = &buffers.activated[geometry.first_input(first)..];
                accumulate_weights(lanes, window, &buffers.gradient[inside..], input, d_depthwise);
            }
        }
    }

    /// Correlates the padded gradient onto the gradient of the activated input: added if `ADD`, else overwritten.
    #[inline(always)]
    fn correlate<L: Lanes, const ADD: bool>(&self, lanes: L, images: Images, buffers: &mut Buffers) {
        let Plan { geometry, gradient, back, .. } = self.plan;
        let (s, c) = (geometry.shape.stride, geometry.input.c);
        for row in 0..images.h {
            let from = &buffers.gradient[gradient.at(row / s, 0)..];
            let to = &mut buffers.d_activated[row * images.w * c..];
            match back {
                Back::Reversed(grid) => apply_grid::<L, ADD>(lanes, *grid, self.back, from, to, (images.w, c)),
                Back::Classes(classes) => {
                    for column in 0..s.min(images.w) {
                        let pixels = (images.w - column).div_ceil(s);
                        let row_of_class = Row { pixels, channels: c, input_step: c, output_step: s * c };
                        let taps = &classes[row % s * s + column];
                        apply::<L, ADD>(lanes, taps, self.back, from, &mut to[column * c..], row_of_class);
                    }
                }
            }
        }
    }
}

impl Chunk<'_> {
    /// du of one image, and its sums.
    #[inline(always)]
    fn finish<L: Lanes>(&mut self, lanes: L, image: usize, x: &[f32]) {
        let Images { c, .. } = self.images;
        let padded = self.input.c;
        let len = self.images.image_len();
        // SAFETY: every image belongs to one chunk, and a chunk writes it once.
        let du = unsafe { self.du.part(image * len..(image + 1) * len) };
        let finish = Finish {
            images: self.images,
            input: self.input,
            activated: self.buffers.activated,
            gradient: self.buffers.d_activated,
            x,
        };
        let row_sums = &mut *self.buffers.sums;
        for row in 0..self.images.h {
            row_sums.fill(0.0);
            for channel in (0..c).step_by(L::LANES) {
                // Each case has its own loop: a branch in it would cost more than its arithmetic.
                macro_rules! channels {
                    ($($add:literal $sums:literal $whole:literal),*) => {
                        match (self.write == Write::Accumulate, self.sums.is_some(), c - channel >= L::LANES) {
                            $(($add, $sums, $whole) => {
                                finish.row::<L, $add, $sums, $whole>(lanes, row, channel, du, row_sums)
                            })*
                        }
                    };
                }
                channels!(
                    false false true, false true true, true false true, true true true,
                    false false false, false true false, true false false, true true false
                );
            }
            // f32 carries no more than a row.
            if let Some(sums) = self.sums.as_deref_mut() {
                for (half, row) in sums.chunks_exact_mut(c).zip(row_sums.chunks_exact(padded)) {
                    half.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
                }
            }
        }
    }
}

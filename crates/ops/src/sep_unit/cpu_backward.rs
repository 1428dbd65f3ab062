//! Backward on the CPU: a task is a run of images. Per image and unit, in strips of rows: dz is formed, goes through the
//! pointwise weights into a padded gradient of the depthwise output, the depthwise output is recomputed, and both weight
//! gradients are added to; then the padded gradient is correlated back onto the input. Refuses to compute weight
//! gradients that nobody asked for.
//!
//! At stride s, input pixels are taken by their position modulo s: each of the s² classes has its own taps, so none is
//! multiplied with a zero between strided pixels.

use super::cpu::{Geometry, Padded, carve, carved_len, margin, short_lanes_of};
use super::cpu_depthwise::{Memory, Put, Row, apply, apply_grid};
use super::cpu_finish::{Finish, Operands, To};
use super::cpu_plan::{Back, Plan};
use super::cpu_weights::{Window, accumulate_weights};
use super::{Gradient, UnitBackward};
use crate::ahead::{Ahead, Run};
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
    let lanes = short_lanes_of(set);
    let c = round_up(images.c, lanes);
    let input = Padded::new(images.h, images.w, c, margin(units.iter().map(|unit| unit.shape)));
    let around_gradient = units.iter().map(|unit| Plan::margin(unit.shape)).max().unwrap_or(0);
    let plans: Vec<_> = units.iter().map(|unit| Plan::new(unit, images, input, around_gradient, lanes)).collect();

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
        self.input.clear_margin(self.buffers.activated);
        let mut clear = None;
        for image in self.range.clone() {
            self.image(lanes, image, &mut clear);
        }
    }
}

impl Chunk<'_> {
    /// One image back through all units: all but the last add to the gradient of the activated image, which the last one, row by
    /// row, makes du of.
    #[inline(always)]
    fn image<L: Lanes>(&mut self, lanes: L, image: usize, clear: &mut Option<Padded>) {
        let (images, input) = (self.images, self.input);
        let here = image * images.image_len()..(image + 1) * images.image_len();
        let next = here.end..here.end + images.image_len();
        let x = &self.x[here.clone()];
        let Buffers { activated, d_activated, gradient, dz, y, sums: row_sums } = &mut self.buffers;
        input.activate(lanes, images, x, self.affine, activated);
        let activated = &**activated;
        let mut strips = Strips { images, image, activated, gradient, clear, dz, y };
        let others = &self.units[..self.units.len().saturating_sub(1)];
        for (index, unit) in others.iter().enumerate() {
            let mut ahead = Ahead::new(self.units[index + 1].runs(images, image), unit.plan.vectors(images, L::LANES));
            let mut to = To::Sum(Memory::new(d_activated, (images.w, input.c), index > 0));
            unit.image(lanes, &mut strips, &mut self.weights[unit.weights.clone()], &mut to, &mut ahead);
        }
        // SAFETY: every image belongs to one chunk, and a chunk writes it once.
        let du = unsafe { self.du.part(here) };
        let former = (!others.is_empty()).then_some(&**d_activated);
        let add = self.write == Write::Accumulate;
        let operands = Operands { activated, former, x, du, add, sums: self.sums.as_deref_mut() };
        let mut finish = Finish::new(images, input, operands, row_sums);
        let Some(unit) = self.units.last() else {
            return finish.zeros(lanes);
        };
        // This thread most likely goes on with the next image.
        let runs = self.units[0].runs(images, image + 1);
        let runs = runs.chain(self.x.get(next.clone()).map(Run::from));
        let runs = runs.chain([self.du.run(next)]);
        let mut ahead = Ahead::new(runs, unit.plan.vectors(images, L::LANES));
        let weights = &mut self.weights[unit.weights.clone()];
        unit.image(lanes, &mut strips, weights, &mut To::Finish(finish), &mut ahead);
    }
}

/// An image on its way back through a unit.
struct Strips<'a> {
    images: Images,
    image: usize,
    activated: &'a [f32],
    gradient: &'a mut [f32],
    /// The shape of `gradient` of which the margin is clear.
    clear: &'a mut Option<Padded>,
    dz: &'a mut [f32],
    y: &'a mut [f32],
}

impl Unit<'_> {
    /// What it reads of an image beside x.
    fn runs(&self, images: Images, image: usize) -> impl Iterator<Item = Run> {
        self.upstream.runs(self.plan.geometry.shape.output(images), image)
    }

    /// Puts the gradient of the activated image into `to`, and adds to the weight gradients. Rows go back as soon as the strips that
    /// they depend on are there, while those are in the first-level cache.
    #[inline(always)]
    fn image<L: Lanes>(&self, lanes: L, strips: &mut Strips, weights: &mut [f32], to: &mut To, ahead: &mut Ahead) {
        let Strips { images, image, activated, ref mut gradient, ref mut clear, ref mut dz, ref mut y } = *strips;
        let Plan { geometry, gradient: padded, .. } = self.plan;
        let (shape, input) = (geometry.shape, geometry.input);
        let (h, w) = geometry.out;
        let c = input.c;
        let (d_depthwise, d_pointwise) = weights.split_at_mut(weights.len().min(geometry.depthwise_len()));
        if **clear != Some(*padded) {
            padded.clear_margin(gradient);
            **clear = Some(*padded);
        }
        let mut back = 0;
        for first in (0..h).step_by(geometry.strip_rows) {
            let rows = geometry.strip_rows.min(h - first);
            let pixels = first * w..(first + rows) * w;
            upstream::form(lanes, &self.upstream, shape.output(images), image, pixels, dz, geometry.c_out);
            let dz = Strip { data: dz, rows: rows * w, stride: geometry.c_out };
            let inside = padded.at(first + padded.margin, padded.margin);
            matrix::product_in_runs(
                lanes,
                dz,
                self.pointwise,
                Output { data: &mut gradient[inside..], stride: c, columns: c },
                Runs { run: w, gap: padded.row() - w * c },
                None,
            );
            if self.plan.with_weights {
                geometry.depthwise_rows(lanes, self.depthwise, activated, first..first + rows, y, ahead);
                let y = Strip { data: y, rows: rows * w, stride: c };
                matrix::accumulate_outer(lanes, dz, shape.c_out, y, c, d_pointwise);
                let window = Window {
                    kernel: shape.kernel,
                    rows,
                    pixels: w,
                    channels: c,
                    gradient_row: padded.row(),
                    input_row: shape.stride * input.row(),
                    input_step: shape.stride * c,
                    tap_row: shape.dilation * input.row(),
                    tap_step: shape.dilation * c,
                };
                let activated = &activated[geometry.first_input(first)..];
                accumulate_weights(lanes, window, &gradient[inside..], activated, d_depthwise);
            }
            let ready = self.plan.rows_back(first + rows, images.h);
            for row in back..ready {
                to.begin(row);
                self.correlate(lanes, images, gradient, row, to, ahead);
                to.end();
            }
            back = ready;
        }
    }

    /// Correlates the padded gradient onto one row of the activated image.
    #[inline(always)]
    fn correlate<L: Lanes>(
        &self,
        lanes: L,
        images: Images,
        gradient: &[f32],
        row: usize,
        to: &mut To,
        ahead: &mut Ahead,
    ) {
        let Plan { geometry, back, .. } = self.plan;
        let (step, channels) = (geometry.shape.stride, geometry.input.c);
        let from = &gradient[self.plan.first_gradient(row)..];
        match back {
            Back::Reversed(grid) => apply_grid(lanes, *grid, self.back, from, (images.w, channels), to, ahead),
            Back::Classes(classes) => {
                for first in 0..step.min(images.w) {
                    let pixels = (images.w - first).div_ceil(step);
                    let pixels = Row { pixels, channels, input_step: channels, first, step };
                    apply(lanes, &classes[row % step * step + first], self.back, from, pixels, to, ahead);
                }
            }
        }
    }
}

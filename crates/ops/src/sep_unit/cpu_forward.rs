//! Forward on the CPU: a task is a run of images; an image is activated once into scratch memory, then every unit goes
//! over it in strips of rows that stay in the first-level cache between the depthwise and the pointwise half.

use super::UnitForward;
use super::cpu::{Geometry, Padded, carve, carved_len, margin, short_lanes_of};
use crate::ahead::{Ahead, Run};
use crate::images::{Affine, Images};
use crate::matrix::{self, Layout, Output, Packed, Strip};
use crate::scratch;
use crate::shared::{Shared, chunks};
use crate::simd::{InstructionSet, Kernel, Lanes, round_up};
use rayon::prelude::*;
use std::ops::Range;

/// As [`super::forward_on`], of arguments that have been checked.
pub(super) fn forward(
    set: InstructionSet,
    images: Images,
    x: &[f32],
    affine: Option<Affine>,
    units: &mut [UnitForward],
) {
    let lanes = short_lanes_of(set);
    let c = round_up(images.c, lanes);
    let input = Padded::new(images.h, images.w, c, margin(units.iter().map(|unit| unit.shape)));
    let geometries: Vec<_> = units.iter().map(|unit| Geometry::new(unit.shape, images, input, lanes)).collect();

    let packed_len: usize = geometries.iter().map(|g| carved_len(g.depthwise_len()) + pointwise_len(g)).sum();
    let mut memory = scratch::take(packed_len);
    let mut rest = &mut memory[..];
    let weights: Vec<_> = geometries
        .iter()
        .zip(&*units)
        .map(|(geometry, unit)| {
            let depthwise = carve(&mut rest, geometry.depthwise_len());
            geometry.pack_depthwise(unit.depthwise, depthwise);
            let pointwise = carve(&mut rest, images.c * geometry.c_out);
            Weights { depthwise, pointwise: set.run(Pack { geometry, weights: unit.pointwise, packed: pointwise }) }
        })
        .collect();

    let sums_len: usize = units.iter().map(|unit| 2 * unit.shape.c_out).sum();
    let chunks: Vec<_> = chunks(images.n).collect();
    let mut partial_sums = scratch::take_sums(sums_len * chunks.len());
    let strip_len = geometries.iter().map(|g| g.strip_rows * g.out.1 * c).max().unwrap_or(0);
    let sums_width = geometries.iter().map(|g| 2 * g.c_out).max().unwrap_or(0);
    let task_len = carved_len(input.len()) + carved_len(strip_len) + carved_len(sums_width);
    {
        let outputs: Vec<_> = units
            .iter_mut()
            .zip(&geometries)
            .zip(&weights)
            .map(|((unit, geometry), weights)| Unit {
                geometry,
                depthwise: weights.depthwise,
                pointwise: weights.pointwise,
                with_sums: unit.sums.is_some(),
                z: Shared::new(unit.z),
            })
            .collect();
        scratch::reserve(chunks.len(), task_len);
        chunks.par_iter().zip(partial_sums.par_chunks_exact_mut(sums_len)).for_each(|(chunk, sums)| {
            let mut memory = scratch::take(task_len);
            let mut rest = &mut memory[..];
            set.run(Chunk {
                images,
                range: chunk.clone(),
                x,
                affine,
                input,
                units: &outputs,
                activated: carve(&mut rest, input.len()),
                strip: carve(&mut rest, strip_len),
                strip_sums: carve(&mut rest, sums_width),
                sums,
            });
        });
    }
    let mut first = 0;
    for unit in units {
        let len = 2 * unit.shape.c_out;
        if let Some(sums) = unit.sums.as_deref_mut() {
            sums.fill(0.0);
            for partial in partial_sums.chunks_exact(sums_len) {
                sums.iter_mut().zip(&partial[first..first + len]).for_each(|(sum, partial)| *sum += partial);
            }
        }
        first += len;
    }
}

fn pointwise_len(geometry: &Geometry) -> usize {
    carved_len(geometry.shape.c_in * geometry.c_out)
}

/// Packed weights of a unit.
struct Weights<'a> {
    depthwise: &'a [f32],
    pointwise: Packed<'a>,
}

/// Packs pointwise weights for `[P, C_in]·[C_in, C_out]`.
struct Pack<'a> {
    geometry: &'a Geometry,
    weights: &'a [f32],
    packed: &'a mut [f32],
}

impl<'a> Kernel for Pack<'a> {
    type Output = Packed<'a>;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Packed<'a> {
        let (k, n) = (self.geometry.shape.c_in, self.geometry.shape.c_out);
        matrix::pack(lanes, Layout { k, n, k_stride: 1, n_stride: k }, self.weights, self.packed)
    }
}

/// A unit as tasks see it.
struct Unit<'a> {
    geometry: &'a Geometry,
    depthwise: &'a [f32],
    pointwise: Packed<'a>,
    with_sums: bool,
    z: Shared<'a, f32>,
}

/// A task: some images through all units.
struct Chunk<'a> {
    images: Images,
    range: Range<usize>,
    x: &'a [f32],
    affine: Option<Affine<'a>>,
    input: Padded,
    units: &'a [Unit<'a>],
    activated: &'a mut [f32],
    strip: &'a mut [f32],
    strip_sums: &'a mut [f32],
    /// `[Σz | Σz²]` of every unit, added to.
    sums: &'a mut [f64],
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let len = self.images.image_len();
        self.input.clear_margin(self.activated);
        for image in self.range {
            let x = &self.x[image * len..][..len];
            self.input.activate(lanes, self.images, x, self.affine, self.activated);
            let next = self.x.get((image + 1) * len..(image + 2) * len).map(Run::from);
            let mut first = 0;
            for (index, unit) in self.units.iter().enumerate() {
                let geometry = unit.geometry;
                let c_out = geometry.shape.c_out;
                let strip_sums = &mut self.strip_sums[..2 * geometry.c_out];
                let z_len = geometry.out.0 * geometry.out.1 * c_out;
                // SAFETY: every image belongs to one chunk, and a chunk goes over it once per unit.
                let z = unsafe { unit.z.part(image * z_len..(image + 1) * z_len) };
                let sums = &mut self.sums[first..first + 2 * c_out];
                let next = next.filter(|_| index + 1 == self.units.len());
                let mut ahead = Ahead::new([Run::from(&*z)].into_iter().chain(next), geometry.vectors(L::LANES));
                unit.image(lanes, self.activated, (self.strip, strip_sums), z, sums, &mut ahead);
                first += 2 * c_out;
            }
        }
    }
}

impl Unit<'_> {
    /// z of one image; its sums are added to `sums`, strip by strip: f32 carries no more than a strip, which is short enough
    /// for the variance to be taken from the sums.
    #[inline(always)]
    fn image<L: Lanes>(
        &self,
        lanes: L,
        activated: &[f32],
        (strip, strip_sums): (&mut [f32], &mut [f32]),
        z: &mut [f32],
        sums: &mut [f64],
        ahead: &mut Ahead,
    ) {
        let geometry = self.geometry;
        let (h, w) = geometry.out;
        let (c, c_out) = (geometry.input.c, geometry.shape.c_out);
        for first in (0..h).step_by(geometry.strip_rows) {
            let rows = geometry.strip_rows.min(h - first);
            geometry.depthwise_rows(lanes, self.depthwise, activated, first..first + rows, strip, ahead);
            strip_sums.fill(0.0);
            matrix::product(
                lanes,
                Strip { data: strip, rows: rows * w, stride: c },
                self.pointwise,
                Output { data: &mut z[first * w * c_out..], stride: c_out, columns: c_out },
                self.with_sums.then_some(&mut *strip_sums),
            );
            for (half, strip_sums) in sums.chunks_exact_mut(c_out).zip(strip_sums.chunks_exact(geometry.c_out)) {
                half.iter_mut().zip(strip_sums).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
    }
}

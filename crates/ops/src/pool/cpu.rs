//! Pools on the CPU: one image a task. A window is taken apart into rows, then columns, so that at stride 1 every loop runs
//! over a whole row of pixels × channels. Refuses to store which cell won.
//!
//! What is read by column has a margin of zeros around it, of −∞ where a maximum is looked for.

use super::cpu_rows::{Largest, Sum, Windows, add, add_won, join};
use super::{PoolKind, PoolShape};
use crate::channels::{add_run, add_up, dot_products, fold, longest_period, period};
use crate::images::{Images, Upstream, Write};
use crate::scratch;
use crate::simd::{InstructionSet, Kernel, Lanes, MAX_LANES};
use crate::upstream;
use rayon::prelude::*;
use std::ops::Range;

pub(super) fn forward(
    set: InstructionSet,
    images: Images,
    x: &[f32],
    shape: PoolShape,
    z: &mut [f32],
    sums: Option<&mut [f64]>,
) {
    let c = images.c;
    let out = shape.output(images);
    if images.is_empty() {
        return sums.map_or((), |sums| sums.fill(0.0));
    }
    let floats = (images.w + 2 * shape.padding) * c + 2 * longest_period(c);
    scratch::reserve(images.n, floats);
    let mut chunks = scratch::take(4 * images.n * c);
    let chunks: &mut [f64] = bytemuck::cast_slice_mut(&mut chunks);
    let wanted = sums.is_some();
    let images_of_x = x.par_chunks(images.image_len());
    let tasks = z.par_chunks_mut(out.image_len()).zip(images_of_x).zip(chunks.par_chunks_mut(2 * c));
    tasks.for_each(|((z, x), chunk)| {
        let mut scratch = scratch::take(floats);
        set.run(ForwardImage { images, shape, x, z, sums: wanted.then_some(chunk), scratch: &mut scratch });
    });
    if let Some(sums) = sums {
        add_up(chunks, sums);
    }
}

struct ForwardImage<'a> {
    images: Images,
    shape: PoolShape,
    x: &'a [f32],
    z: &'a mut [f32],
    sums: Option<&'a mut [f64]>,
    scratch: &'a mut [f32],
}

impl Kernel for ForwardImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { images, shape, x, z, sums, scratch } = self;
        let (c, width, out) = (images.c, images.w * images.c, shape.output(images));
        let (columns, patterns) = scratch.split_at_mut(width + 2 * shape.padding * c);
        let inside = shape.padding * c..shape.padding * c + width;
        let nothing = if shape.kind == PoolKind::Max { f32::NEG_INFINITY } else { 0.0 };
        columns[..inside.start].fill(nothing);
        columns[inside.end..].fill(nothing);
        let period = period::<L>(c);
        let patterns = &mut patterns[..2 * period];
        patterns.fill(0.0);
        let (plain, squares) = patterns.split_at_mut(period);
        for (oy, z) in z.chunks_exact_mut(out.w * c).enumerate() {
            let window = shape.window(oy, images.h);
            let x = &x[window.start * width..window.end * width];
            let row = &mut columns[inside.clone()];
            match (shape.kind, shape.relu) {
                (PoolKind::Max, _) => join(lanes, Largest, x, width, window.len(), row),
                (PoolKind::Average, true) => join(lanes, Sum::<true>, x, width, window.len(), row),
                (PoolKind::Average, false) => join(lanes, Sum::<false>, x, width, window.len(), row),
            }
            let (runs, run) = shape.runs(out.w);
            for (index, z) in z.chunks_exact_mut(run * c).take(runs).enumerate() {
                let columns = &columns[index * shape.stride * c..];
                match shape.kind {
                    PoolKind::Max => join(lanes, Largest, columns, c, shape.kernel, z),
                    PoolKind::Average => join(lanes, Sum::<false>, columns, c, shape.kernel, z),
                }
            }
            match shape.kind {
                PoolKind::Max if shape.relu => z.iter_mut().for_each(|z| *z = if *z < 0.0 { 0.0 } else { *z }),
                PoolKind::Max => {}
                PoolKind::Average => shape.divide(images.w, window.len(), c, z),
            }
            if sums.is_some() {
                add_run(lanes, z, plain);
                dot_products(lanes, period, z, &[&*z], squares);
            }
        }
        if let Some(sums) = sums {
            sums.fill(0.0);
            let (plain_sums, square_sums) = sums.split_at_mut(c);
            fold(plain, plain_sums);
            fold(squares, square_sums);
        }
    }
}

impl PoolShape {
    /// The windows of an output row of `count`, as (runs, windows of a run): windows that begin at neighbouring pixels are one run.
    #[inline(always)]
    fn runs(self, count: usize) -> (usize, usize) {
        if self.stride == 1 { (1, count) } else { (count, 1) }
    }

    /// Divides a row of sums by the numbers of real cells, of which every window has `rows` rows.
    #[inline(always)]
    fn divide(self, width: usize, rows: usize, c: usize, row: &mut [f32]) {
        let count = row.len() / c;
        let mut column = 0;
        while column < count {
            let cells = self.window(column, width).len();
            let mut end = column + 1;
            while end < count && self.window(end, width).len() == cells {
                end += 1;
            }
            let factor = 1.0 / (rows * cells) as f32;
            for value in &mut row[column * c..end * c] {
                *value *= factor;
            }
            column = end;
        }
    }
}

pub(super) fn backward(
    set: InstructionSet,
    images: Images,
    x: &[f32],
    shape: PoolShape,
    upstream: Upstream,
    dx: &mut [f32],
    write: Write,
) {
    if images.is_empty() {
        return;
    }
    let sizes = Sizes::new(images, shape);
    let floats = sizes.dz + sizes.row + sizes.cells;
    scratch::reserve(images.n, floats);
    let tasks = dx.par_chunks_mut(images.image_len()).zip(x.par_chunks(images.image_len())).enumerate();
    tasks.for_each(|(image, (dx, x))| {
        let mut scratch = scratch::take(floats);
        set.run(BackwardImage { images, image, shape, x, upstream, dx, write, sizes, scratch: &mut scratch });
    });
}

/// Floats of a task's buffers.
#[derive(Copy, Clone)]
struct Sizes {
    /// A row of dz with margins.
    dz: usize,
    /// Numbers of winners with margins, or a row of the image.
    row: usize,
    /// The image with margins, if its maxima are looked for.
    cells: usize,
}

impl Sizes {
    fn new(images: Images, shape: PoolShape) -> Self {
        let (c, out, padding) = (images.c, shape.output(images), 2 * shape.padding);
        let margins = 2 * shape.margin() * c;
        // The pixels of dz are whole vectors until they are moved together.
        let dz = margins + out.w * c.next_multiple_of(MAX_LANES);
        match shape.kind {
            PoolKind::Max => {
                Self { dz, row: margins + out.w * c, cells: (images.h + padding) * (images.w + padding) * c }
            }
            PoolKind::Average => Self { dz, row: images.w * c, cells: 0 },
        }
    }
}

impl PoolShape {
    /// Pixels to put on either side of an output row for every image column to find k windows, at stride 1: k − 1 − p.
    fn margin(self) -> usize {
        self.kernel - 1 - self.padding
    }
}

struct BackwardImage<'a> {
    images: Images,
    image: usize,
    shape: PoolShape,
    x: &'a [f32],
    upstream: Upstream<'a>,
    dx: &'a mut [f32],
    write: Write,
    sizes: Sizes,
    scratch: &'a mut [f32],
}

impl Kernel for BackwardImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { images, image, shape, x, upstream, dx, write, sizes, scratch } = self;
        let (c, width, out) = (images.c, images.w * images.c, shape.output(images));
        let (dz, scratch) = scratch.split_at_mut(sizes.dz);
        let (row, cells) = scratch.split_at_mut(sizes.row);
        if shape.kind == PoolKind::Max {
            row.fill(-1.0);
            let padded = width + 2 * shape.padding * c;
            cells.fill(f32::NEG_INFINITY);
            for (to, from) in cells.chunks_exact_mut(padded).skip(shape.padding).zip(x.chunks_exact(width)) {
                to[shape.padding * c..][..width].copy_from_slice(from);
            }
        }
        let stride = c.next_multiple_of(L::LANES);
        let inside = shape.margin() * c..shape.margin() * c + out.w * c;
        // Rows of dx that a window has reached.
        let mut reached = 0;
        for oy in 0..out.h {
            let end = if oy + 1 < out.h { shape.window(oy, images.h).end } else { images.h };
            if write == Write::Overwrite {
                dx[reached * width..end * width].fill(0.0);
            }
            reached = end;
            let pixels = oy * out.w..(oy + 1) * out.w;
            let dz_row = &mut dz[inside.start..][..out.w * stride];
            upstream::form(lanes, &upstream, out, image, pixels, dz_row, stride);
            if stride != c {
                for pixel in 1..out.w {
                    dz_row.copy_within(pixel * stride..pixel * stride + c, pixel * c);
                }
            }
            let to = To { images, shape, oy, dx };
            match shape.kind {
                PoolKind::Max => to.give(lanes, cells, (row, dz), inside.clone()),
                PoolKind::Average => to.spread(lanes, x, row, dz, inside.clone()),
            }
        }
    }
}

/// Where the gradient of output row `oy` goes.
struct To<'a> {
    images: Images,
    shape: PoolShape,
    oy: usize,
    dx: &'a mut [f32],
}

impl To<'_> {
    /// Adds each dz to dx at the first largest cell of its window. `cells` is the image with margins, `inside` where dz lies between
    /// its margins, `winner` as long as both and −1 in the margins.
    #[inline(always)]
    fn give<L: Lanes>(self, lanes: L, cells: &[f32], (winner, dz): (&mut [f32], &mut [f32]), inside: Range<usize>) {
        let Self { images, shape, oy, dx } = self;
        let (c, width, kernel) = (images.c, images.w * images.c, shape.kernel);
        let padded = width + 2 * shape.padding * c;
        let (runs, run) = shape.runs(inside.len() / c);
        for index in 0..runs {
            let at = inside.start + index * run * c..inside.start + (index + 1) * run * c;
            let cells = &cells[oy * shape.stride * padded + index * shape.stride * c..];
            let windows = Windows { cells, kernel, row: padded, step: c };
            windows.search(lanes, shape.relu, &mut winner[at.clone()], &mut dz[at]);
        }
        for y in shape.window(oy, images.h) {
            let number = (y + shape.padding - oy * shape.stride) * kernel;
            let dx = &mut dx[y * width..(y + 1) * width];
            if shape.stride == 1 {
                add_won(lanes, (winner, dz), c, kernel, number + kernel - 1, dx);
            } else {
                for (index, at) in inside.clone().step_by(c).enumerate() {
                    for column in shape.window(index, images.w) {
                        let number = number + column + shape.padding - index * shape.stride;
                        let won = (&winner[at..at + c], &dz[at..at + c]);
                        add_won(lanes, won, 0, 1, number, &mut dx[column * c..(column + 1) * c]);
                    }
                }
            }
        }
    }

    /// Spreads each dz over the cells of its window: over columns into `row`, then over rows.
    #[inline(always)]
    fn spread<L: Lanes>(self, lanes: L, x: &[f32], row: &mut [f32], dz: &mut [f32], inside: Range<usize>) {
        let Self { images, shape, oy, dx } = self;
        let (c, width, kernel) = (images.c, images.w * images.c, shape.kernel);
        let window = shape.window(oy, images.h);
        shape.divide(images.w, window.len(), c, &mut dz[inside.clone()]);
        if shape.stride == 1 {
            dz[..inside.start].fill(0.0);
            dz[inside.end..].fill(0.0);
            join(lanes, Sum::<false>, dz, c, kernel, row);
        } else {
            row.fill(0.0);
            for (index, at) in inside.step_by(c).enumerate() {
                for column in shape.window(index, images.w) {
                    add(lanes, &dz[at..at + c], None, &mut row[column * c..(column + 1) * c]);
                }
            }
        }
        for y in window {
            let here = y * width..(y + 1) * width;
            add(lanes, row, shape.relu.then_some(&x[here.clone()]), &mut dx[here]);
        }
    }
}

//! Pools on the CPU: one image a task. A window is taken apart into rows, then columns, so that nearly every loop runs over a
//! whole row of pixels × channels. Refuses to store which cell won.

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
    let floats = images.w * c + 2 * longest_period(c);
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
        let (c, out) = (images.c, shape.output(images));
        let (rows, patterns) = scratch.split_at_mut(images.w * c);
        let period = period::<L>(c);
        let patterns = &mut patterns[..2 * period];
        patterns.fill(0.0);
        let (plain, squares) = patterns.split_at_mut(period);
        for (oy, z) in z.chunks_exact_mut(out.w * c).enumerate() {
            window_row(lanes, shape, images, oy, x, rows, z);
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

/// Output row `oy` into `z`; `rows` holds a row of the image meanwhile.
#[inline(always)]
fn window_row<L: Lanes>(
    lanes: L,
    shape: PoolShape,
    images: Images,
    oy: usize,
    x: &[f32],
    rows: &mut [f32],
    z: &mut [f32],
) {
    let (c, width) = (images.c, images.w * images.c);
    let count = z.len() / c;
    let window = shape.window(oy, images.h);
    let image_rows = x[window.start * width..window.end * width].chunks_exact(width);
    match shape.kind {
        PoolKind::Max => {
            rows.fill(f32::NEG_INFINITY);
            for x in image_rows {
                largest(lanes, rows, x);
            }
            z.fill(if shape.relu { 0.0 } else { f32::NEG_INFINITY });
            for tap in 0..shape.kernel {
                for (to, from, run) in shape.runs(tap, images.w, count) {
                    largest(lanes, &mut z[to * c..][..run * c], &rows[from * c..][..run * c]);
                }
            }
        }
        PoolKind::Average => {
            rows.fill(0.0);
            for x in image_rows {
                if shape.relu {
                    for (sum, &x) in rows.iter_mut().zip(x) {
                        *sum += if x > 0.0 { x } else { 0.0 };
                    }
                } else {
                    add(rows, x);
                }
            }
            z.fill(0.0);
            for tap in 0..shape.kernel {
                for (to, from, run) in shape.runs(tap, images.w, count) {
                    add(&mut z[to * c..][..run * c], &rows[from * c..][..run * c]);
                }
            }
            shape.divide(images.w, window.len(), c, z);
        }
    }
}

/// to\[i\] ← the larger of to\[i\] and x\[i\]; NaN if either is.
#[inline(always)]
fn largest<L: Lanes>(lanes: L, to: &mut [f32], x: &[f32]) {
    let len = to.len().min(x.len());
    for i in (0..len).step_by(L::LANES) {
        // SAFETY: i < len, and both slices have at least len floats.
        unsafe {
            let (to, x) = (to.as_mut_ptr().add(i), x.as_ptr().add(i));
            let larger = lanes.max_or_nan(lanes.load_up_to(to, len - i), lanes.load_up_to(x, len - i));
            lanes.store_up_to(to, larger, len - i);
        }
    }
}

/// to\[i\] += x\[i\].
#[inline(always)]
fn add(to: &mut [f32], x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += x;
    }
}

impl PoolShape {
    /// The runs of pixels that a tap connects, as (first pixel of the output row of `count`, first pixel of the input row of `width`,
    /// pixels). An iterator and not a callback: a callback that is not inlined is compiled for the baseline.
    #[inline(always)]
    fn runs(self, tap: usize, width: usize, count: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let columns = self.columns(tap, width, count);
        let (runs, run) = match self.stride {
            1 => (usize::from(!columns.is_empty()), columns.len()),
            _ => (columns.len(), 1),
        };
        (columns.start..columns.start + runs)
            .map(move |column| (column, column * self.stride + tap - self.padding, run))
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
    let out = shape.output(images);
    let floats = images.w * images.c + out.w * images.c + out.w * images.c.next_multiple_of(MAX_LANES);
    scratch::reserve(images.n, floats);
    let tasks = dx.par_chunks_mut(images.image_len()).zip(x.par_chunks(images.image_len())).enumerate();
    tasks.for_each(|(image, (dx, x))| {
        let mut scratch = scratch::take(floats);
        set.run(BackwardImage { images, image, shape, x, upstream, dx, write, scratch: &mut scratch });
    });
}

struct BackwardImage<'a> {
    images: Images,
    image: usize,
    shape: PoolShape,
    x: &'a [f32],
    upstream: Upstream<'a>,
    dx: &'a mut [f32],
    write: Write,
    scratch: &'a mut [f32],
}

impl Kernel for BackwardImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { images, image, shape, x, upstream, dx, write, scratch } = self;
        let (c, out) = (images.c, shape.output(images));
        let (rows, scratch) = scratch.split_at_mut(images.w * c);
        let (z, dz) = scratch.split_at_mut(out.w * c);
        let stride = c.next_multiple_of(L::LANES);
        if write == Write::Overwrite {
            dx.fill(0.0);
        }
        for oy in 0..out.h {
            let pixels = oy * out.w..(oy + 1) * out.w;
            upstream::form(lanes, &upstream, out, image, pixels, &mut dz[..out.w * stride], stride);
            if stride != c {
                for pixel in 1..out.w {
                    dz.copy_within(pixel * stride..pixel * stride + c, pixel * c);
                }
            }
            let dz = &mut dz[..out.w * c];
            match shape.kind {
                PoolKind::Max => {
                    window_row(lanes, shape, images, oy, x, rows, z);
                    max_row(lanes, shape, images, oy, (x, z), dz, dx);
                }
                PoolKind::Average => average_row(shape, images, oy, x, rows, dz, dx),
            }
        }
    }
}

/// Gives each dz of output row `oy` to the first cell that equals the maximum.
#[inline(always)]
fn max_row<L: Lanes>(
    lanes: L,
    shape: PoolShape,
    images: Images,
    oy: usize,
    (x, z): (&[f32], &[f32]),
    dz: &mut [f32],
    dx: &mut [f32],
) {
    let c = images.c;
    if shape.relu {
        // All cells are at most 0: they tie at relu(x) = 0, where the derivative is 0.
        for (dz, &z) in dz.iter_mut().zip(z) {
            *dz = if z > 0.0 { *dz } else { 0.0 };
        }
    }
    let rows = shape.window(oy, images.h);
    for (ox, (z, dz)) in z.chunks_exact(c).zip(dz.chunks_exact(c)).enumerate() {
        let window = Window { rows: rows.clone(), columns: shape.window(ox, images.w), width: images.w, c };
        let whole = c / L::LANES * L::LANES;
        for channel in (0..whole).step_by(L::LANES) {
            window.give::<L, true>(lanes, channel, (x, dx), (z, dz));
        }
        if whole < c {
            window.give::<L, false>(lanes, whole, (x, dx), (z, dz));
        }
    }
}

/// The cells of an image that one output pixel is taken from.
struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
    /// Columns of the image.
    width: usize,
    c: usize,
}

impl Window {
    /// Adds dz to dx at the first cell, in scan order, where x is the maximum z: for a vector of channels from `channel` on, `WHOLE` or
    /// cut at C.
    #[inline(always)]
    fn give<L: Lanes, const WHOLE: bool>(
        &self,
        lanes: L,
        channel: usize,
        (x, dx): (&[f32], &mut [f32]),
        (z, dz): (&[f32], &[f32]),
    ) {
        let here = if WHOLE { L::LANES } else { self.c - channel };
        let len = self.rows.end * self.width * self.c;
        assert!(x.len() >= len && dx.len() >= len && z.len() >= self.c && dz.len() >= self.c, "pool: window");
        assert!(channel + here <= self.c && self.columns.end <= self.width, "pool: window");
        // SAFETY: the cells lie in rows and columns of an image of which `x` and `dx` hold at least `rows.end` rows; of every pixel the
        // channels channel..channel + here are touched, which are below C.
        unsafe {
            let z = lanes.load_up_to(z.as_ptr().add(channel), here);
            let mut left = lanes.load_up_to(dz.as_ptr().add(channel), here);
            for row in self.rows.clone() {
                let mut at = (row * self.width + self.columns.start) * self.c + channel;
                for _ in self.columns.clone() {
                    let dx = dx.as_mut_ptr().add(at);
                    let given = lanes.where_equal(lanes.load_up_to(x.as_ptr().add(at), here), z, left);
                    lanes.store_up_to(dx, lanes.add(lanes.load_up_to(dx, here), given), here);
                    // What was given leaves 0; an infinite gradient leaves NaN, which is as good as lost.
                    left = lanes.mul_add(given, lanes.splat(-1.0), left);
                    at += self.c;
                }
            }
        }
    }
}

/// Spreads dz of output row `oy` over the cells of its windows, first over columns into `rows`, then over rows.
#[inline(always)]
fn average_row(
    shape: PoolShape,
    images: Images,
    oy: usize,
    x: &[f32],
    rows: &mut [f32],
    dz: &mut [f32],
    dx: &mut [f32],
) {
    let (c, width) = (images.c, images.w * images.c);
    let count = dz.len() / c;
    let window = shape.window(oy, images.h);
    shape.divide(images.w, window.len(), c, dz);
    rows.fill(0.0);
    for tap in 0..shape.kernel {
        for (from, to, run) in shape.runs(tap, images.w, count) {
            add(&mut rows[to * c..][..run * c], &dz[from * c..][..run * c]);
        }
    }
    for y in window {
        let dx = &mut dx[y * width..][..width];
        if shape.relu {
            for ((dx, &sum), &x) in dx.iter_mut().zip(&*rows).zip(&x[y * width..][..width]) {
                *dx += if x > 0.0 { sum } else { 0.0 };
            }
        } else {
            add(dx, rows);
        }
    }
}

//! Between an image in parts and strips of unfolded pixels: gathers a strip, activating on the way, and scatters the gradient of a
//! strip back, masked by the activation. Refuses to multiply.
//!
//! A strip's row belongs to an output pixel and holds, tap after tap, the channels of all parts under that tap: index
//! (ky·k_x + kx)·C_in + i. Rows of the strip whose input pixels follow each other at one distance are handled as a run: per
//! vector of channels one loop over pixels.
//!
//! What differs between gathering and scattering, and between activations, is a type and not a closure: a closure that is
//! not inlined would be compiled for the baseline.

use super::{Activation, ConvShape, Input};
use crate::images::{Affine, Images};
use crate::shared::Shared;
use crate::simd::{Lanes, MAX_LANES};
use std::ops::Range;

/// A branch's view of one image.
#[derive(Copy, Clone)]
pub(super) struct Window<'a> {
    pub(super) input: Input<'a>,
    pub(super) shape: ConvShape,
    pub(super) offset: (isize, isize),
    /// Number of the image.
    pub(super) image: usize,
}

/// Rows `row..row + count` of a strip at tap `tap`, whose input pixels are `pixel`, `pixel + step`, …
#[derive(Copy, Clone)]
struct Run {
    row: usize,
    tap: usize,
    count: usize,
    pixel: usize,
    step: usize,
}

/// The number of every lane.
const LANE: [f32; MAX_LANES] = {
    let mut lanes = [0.0; MAX_LANES];
    let mut lane = 0;
    while lane < MAX_LANES {
        lanes[lane] = lane as f32;
        lane += 1;
    }
    lanes
};

/// Where the vector of channels that should begin at `c` does begin: further in front where it would reach past `count` and so many
/// channels are there, so that no vector is cut.
const fn whole_from<L: Lanes>(c: usize, count: usize) -> usize {
    if c + L::LANES > count && count >= L::LANES { count - L::LANES } else { c }
}

/// What is done with the runs of a strip.
trait Visit<L: Lanes> {
    /// A run of pixels inside the image.
    fn inside(&mut self, lanes: L, run: Run);
    /// `count` rows from `row` on whose tap lies outside.
    fn outside(&mut self, row: usize, tap: usize, count: usize);
}

/// Visits every tap of the output pixels `pixels`.
#[inline(always)]
fn walk<L: Lanes>(lanes: L, window: &Window, pixels: Range<usize>, visit: &mut impl Visit<L>) {
    let ConvShape { kernel, stride, output, .. } = window.shape;
    let Images { h, w, .. } = window.input.images;
    if kernel == (1, 1) && stride == (1, 1) && window.offset == (0, 0) && output == (h, w) {
        let run = Run { row: 0, tap: 0, count: pixels.len(), pixel: pixels.start, step: 1 };
        return visit.inside(lanes, run);
    }
    let mut at = pixels.start;
    while at < pixels.end {
        let (oy, ox) = (at / output.1, at % output.1);
        let count = (output.1 - ox).min(pixels.end - at);
        let row = at - pixels.start;
        for tap in 0..kernel.0 * kernel.1 {
            let y = (oy * stride.0 + tap / kernel.1) as isize + window.offset.0;
            let x = (ox * stride.1 + tap % kernel.1) as isize + window.offset.1;
            // Rows before `first` lie left of the image, rows from `end` on right of it.
            let steps_to = |column: isize| (column - x).max(0).unsigned_abs().div_ceil(stride.1);
            let (first, end) = if y < 0 || y >= h as isize {
                (count, count)
            } else {
                (steps_to(0).min(count), steps_to(w as isize).min(count))
            };
            visit.outside(row, tap, first);
            visit.outside(row + end, tap, count - end);
            if first < end {
                let pixel = y as usize * w + (x + (first * stride.1) as isize) as usize;
                visit.inside(lanes, Run { row: row + first, tap, count: end - first, pixel, step: stride.1 });
            }
        }
        at += count;
    }
}

/// An activation of some channels of one part.
trait Activate: Copy {
    /// Coefficients of a vector of channels.
    type Coefficients<L: Lanes>: Copy;
    /// Those of channel `c` on.
    fn coefficients<L: Lanes>(self, lanes: L, c: usize) -> Self::Coefficients<L>;
    /// The activated x.
    fn apply<L: Lanes>(lanes: L, coefficients: Self::Coefficients<L>, x: L::V) -> L::V;
    /// d where the activation has derivative 1, else 0.
    fn mask<L: Lanes>(lanes: L, coefficients: Self::Coefficients<L>, x: L::V, d: L::V) -> L::V;
}

#[derive(Copy, Clone)]
struct Identity;

impl Activate for Identity {
    type Coefficients<L: Lanes> = ();

    #[inline(always)]
    fn coefficients<L: Lanes>(self, _: L, _: usize) {}

    #[inline(always)]
    fn apply<L: Lanes>(_: L, (): (), x: L::V) -> L::V {
        x
    }

    #[inline(always)]
    fn mask<L: Lanes>(_: L, (): (), _: L::V, d: L::V) -> L::V {
        d
    }
}

#[derive(Copy, Clone)]
struct Relu;

impl Activate for Relu {
    type Coefficients<L: Lanes> = ();

    #[inline(always)]
    fn coefficients<L: Lanes>(self, _: L, _: usize) {}

    #[inline(always)]
    fn apply<L: Lanes>(lanes: L, (): (), x: L::V) -> L::V {
        lanes.max(x, lanes.zero())
    }

    #[inline(always)]
    fn mask<L: Lanes>(lanes: L, (): (), x: L::V, d: L::V) -> L::V {
        lanes.where_positive(x, d)
    }
}

/// relu(a·x + b), of the channels of one part.
#[derive(Copy, Clone)]
struct AffineRelu<'a>(Affine<'a>);

impl Activate for AffineRelu<'_> {
    type Coefficients<L: Lanes> = (L::V, L::V);

    #[inline(always)]
    fn coefficients<L: Lanes>(self, lanes: L, c: usize) -> (L::V, L::V) {
        let (a, b) = (&self.0.scale[c..], &self.0.shift[c..]);
        // SAFETY: as many floats are read as the slices have, at most.
        unsafe { (lanes.load_up_to(a.as_ptr(), a.len()), lanes.load_up_to(b.as_ptr(), b.len())) }
    }

    #[inline(always)]
    fn apply<L: Lanes>(lanes: L, (a, b): (L::V, L::V), x: L::V) -> L::V {
        lanes.max(lanes.mul_add(a, x, b), lanes.zero())
    }

    #[inline(always)]
    fn mask<L: Lanes>(lanes: L, (a, b): (L::V, L::V), x: L::V, d: L::V) -> L::V {
        lanes.where_positive(lanes.mul_add(a, x, b), d)
    }
}

/// Channels of one part in one image, and where they lie.
struct Source<'a> {
    x: &'a [f32],
    /// Index of the part.
    index: usize,
    /// Where `x` lies in the part.
    floats: Range<usize>,
    /// Which channels of the concatenated input it is.
    channels: Range<usize>,
}

/// The parts of one image that have channels.
fn sources<'a>(window: &Window<'a>) -> impl Iterator<Item = Source<'a>> {
    let Images { n, h, w, .. } = window.input.images;
    let image = window.image;
    let mut first = 0;
    window.input.parts.iter().enumerate().filter_map(move |(index, &part)| {
        let len = part.len() / n;
        let channels = first..first + len / (h * w);
        first = channels.end;
        let floats = image * len..(image + 1) * len;
        (len > 0).then(|| Source { x: &part[floats.clone()], index, floats, channels })
    })
}

impl Source<'_> {
    /// The coefficients of this part's channels.
    fn affine<'a>(&self, affine: Affine<'a>) -> AffineRelu<'a> {
        let channels = self.channels.clone();
        AffineRelu(Affine { scale: &affine.scale[channels.clone()], shift: &affine.shift[channels] })
    }
}

/// Activated pixels into `strip`, `depth` floats a row (overwritten).
#[inline(always)]
pub(super) fn gather<L: Lanes>(lanes: L, window: &Window, pixels: Range<usize>, strip: &mut [f32]) {
    assert!(strip.len() >= pixels.len() * window.shape.depth(), "conv: strip of {pixels:?}");
    for source in sources(window) {
        let shape = window.shape;
        match window.input.activation {
            Activation::None => {
                walk(lanes, window, pixels.clone(), &mut Gather { source: &source, shape, strip, activate: Identity });
            }
            Activation::Relu => {
                walk(lanes, window, pixels.clone(), &mut Gather { source: &source, shape, strip, activate: Relu });
            }
            Activation::AffineRelu(affine) => {
                let activate = source.affine(affine);
                walk(lanes, window, pixels.clone(), &mut Gather { source: &source, shape, strip, activate });
            }
        }
    }
}

/// Adds the gradient of a strip, masked by the activation, to those parts that have a gradient; `store` overwrites
/// instead, right where every input pixel is met exactly once.
///
/// # Safety
/// No other task touches this image's pixels of the gradients.
#[inline(always)]
pub(super) unsafe fn scatter<L: Lanes>(
    lanes: L,
    window: &Window,
    pixels: Range<usize>,
    d_strip: &[f32],
    gradients: &[Option<Shared<f32>>],
    store: bool,
) {
    assert!(d_strip.len() >= pixels.len() * window.shape.depth(), "conv: strip of {pixels:?}");
    for source in sources(window) {
        let Some(Some(gradient)) = gradients.get(source.index) else { continue };
        // SAFETY: the caller promises that this image is this task's alone; no other part of it is alive here.
        let gradient = unsafe { gradient.part(source.floats.clone()) };
        let (source, shape, pixels) = (&source, window.shape, pixels.clone());
        match window.input.activation {
            Activation::None => {
                let activate = Identity;
                walk(lanes, window, pixels, &mut Scatter { source, shape, d_strip, gradient, store, activate });
            }
            Activation::Relu => {
                let activate = Relu;
                walk(lanes, window, pixels, &mut Scatter { source, shape, d_strip, gradient, store, activate });
            }
            Activation::AffineRelu(affine) => {
                let activate = source.affine(affine);
                walk(lanes, window, pixels, &mut Scatter { source, shape, d_strip, gradient, store, activate });
            }
        }
    }
}

struct Gather<'a, A> {
    source: &'a Source<'a>,
    shape: ConvShape,
    strip: &'a mut [f32],
    activate: A,
}

impl<L: Lanes, A: Activate> Visit<L> for Gather<'_, A> {
    #[inline(always)]
    fn inside(&mut self, lanes: L, run: Run) {
        let (count, depth) = (self.source.channels.len(), self.shape.depth());
        let first = run.row * depth + run.tap * self.shape.c_in + self.source.channels.start;
        let x = &self.source.x[run.pixel * count..][..((run.count - 1) * run.step + 1) * count];
        let strip = &mut self.strip[first..][..(run.count - 1) * depth + count];
        for c in (0..count).step_by(L::LANES) {
            let c = whole_from::<L>(c, count);
            let coefficients = self.activate.coefficients(lanes, c);
            let here = count - c;
            // SAFETY: the slices hold `count` floats every step·count, and every depth floats, for run.count pixels.
            unsafe {
                let (mut from, mut to) = (x.as_ptr().add(c), strip.as_mut_ptr().add(c));
                if here >= L::LANES {
                    for _ in 0..run.count {
                        lanes.store(to, A::apply(lanes, coefficients, lanes.load(from)));
                        (from, to) = (from.wrapping_add(run.step * count), to.wrapping_add(depth));
                    }
                } else {
                    for _ in 0..run.count {
                        let x = lanes.load_first(from, here);
                        lanes.store_first(to, A::apply(lanes, coefficients, x), here);
                        (from, to) = (from.wrapping_add(run.step * count), to.wrapping_add(depth));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn outside(&mut self, row: usize, tap: usize, count: usize) {
        let (channels, depth) = (&self.source.channels, self.shape.depth());
        for row in row..row + count {
            let first = row * depth + tap * self.shape.c_in;
            self.strip[first + channels.start..first + channels.end].fill(0.0);
        }
    }
}

struct Scatter<'a, A> {
    source: &'a Source<'a>,
    shape: ConvShape,
    d_strip: &'a [f32],
    gradient: &'a mut [f32],
    store: bool,
    activate: A,
}

impl<L: Lanes, A: Activate> Visit<L> for Scatter<'_, A> {
    #[inline(always)]
    fn inside(&mut self, lanes: L, run: Run) {
        let (count, depth) = (self.source.channels.len(), self.shape.depth());
        let first = run.row * depth + run.tap * self.shape.c_in + self.source.channels.start;
        let d_strip = &self.d_strip[first..][..(run.count - 1) * depth + count];
        let pixels = run.pixel * count..(run.pixel + (run.count - 1) * run.step + 1) * count;
        let (x, gradient) = (&self.source.x[pixels.clone()], &mut self.gradient[pixels]);
        for first in (0..count).step_by(L::LANES) {
            let c = whole_from::<L>(first, count);
            let coefficients = self.activate.coefficients(lanes, c);
            let here = count - c;
            // SAFETY: the slices hold `count` floats every depth floats, and every step·count, for run.count pixels.
            unsafe {
                let mut d = d_strip.as_ptr().add(c);
                let (mut x, mut to) = (x.as_ptr().add(c), gradient.as_mut_ptr().add(c));
                if here >= L::LANES {
                    // The lanes of channels that the vector before has had.
                    let (lane, again) = (lanes.load(LANE.as_ptr()), lanes.splat((first - c) as f32));
                    for _ in 0..run.count {
                        let mut value = A::mask(lanes, coefficients, lanes.load(x), lanes.load(d));
                        if !self.store {
                            let fresh = lanes.where_greater(again, lane, lanes.zero(), value);
                            value = lanes.add(fresh, lanes.load(to));
                        }
                        lanes.store(to, value);
                        d = d.wrapping_add(depth);
                        (x, to) = (x.wrapping_add(run.step * count), to.wrapping_add(run.step * count));
                    }
                } else {
                    for _ in 0..run.count {
                        let value = lanes.load_first(d, here);
                        let mut value = A::mask(lanes, coefficients, lanes.load_first(x, here), value);
                        if !self.store {
                            value = lanes.add(value, lanes.load_first(to, here));
                        }
                        lanes.store_first(to, value, here);
                        d = d.wrapping_add(depth);
                        (x, to) = (x.wrapping_add(run.step * count), to.wrapping_add(run.step * count));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn outside(&mut self, _: usize, _: usize, _: usize) {}
}

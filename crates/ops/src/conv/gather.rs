//! Between an image in parts and strips of unfolded pixels: gathers a strip, activating on the way, and scatters the gradient of a
//! strip back, masked by the activation. Refuses to multiply.
//!
//! A strip's row belongs to an output pixel and holds, tap after tap, the channels of all parts under that tap: index
//! (ky·k_x + kx)·C_in + i.

use super::{Activation, ConvShape, Input};
use crate::images::{Affine, Images};
use crate::shared::Shared;
use crate::simd::Lanes;
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

/// Pixel of its image under a tap, for `count` output pixels from `first` on; calls `action(row · depth + tap · C_in, pixel)`.
#[inline(always)]
fn for_each_tap(window: &Window, pixels: Range<usize>, mut action: impl FnMut(usize, Option<usize>)) {
    let ConvShape { kernel, stride, output, c_in } = window.shape;
    let Images { h, w, .. } = window.input.images;
    let (mut oy, mut ox) = (pixels.start / output.1.max(1), pixels.start % output.1.max(1));
    let mut at = 0;
    for _ in pixels {
        let y0 = (oy * stride.0) as isize + window.offset.0;
        let x0 = (ox * stride.1) as isize + window.offset.1;
        for y in y0..y0 + kernel.0 as isize {
            for x in x0..x0 + kernel.1 as isize {
                let inside = y >= 0 && x >= 0 && y < h as isize && x < w as isize;
                action(at, inside.then_some(y as usize * w + x as usize));
                at += c_in;
            }
        }
        ox += 1;
        if ox == output.1 {
            (oy, ox) = (oy + 1, 0);
        }
    }
}

/// The parts with their channels and where these begin.
fn parts<'a>(input: &Input<'a>) -> impl Iterator<Item = (usize, &'a [f32], Range<usize>)> {
    let pixels = input.images.pixels();
    let mut first = 0;
    input.parts.iter().enumerate().map(move |(index, &part)| {
        let channels = first..first + part.len() / pixels;
        first = channels.end;
        (index, part, channels)
    })
}

/// Activated pixels into `strip`, `depth` floats a row (overwritten).
#[inline(always)]
pub(super) fn gather<L: Lanes>(lanes: L, window: &Window, pixels: Range<usize>, strip: &mut [f32]) {
    assert!(strip.len() >= pixels.len() * window.shape.depth(), "conv: strip of {pixels:?}");
    let zero = lanes.zero();
    for (_, part, channels) in parts(&window.input) {
        let source = Source::new(window, part, channels);
        match window.input.activation {
            Activation::None => source.gather(lanes, window, pixels.clone(), strip, |_, x| x),
            Activation::Relu => source.gather(lanes, window, pixels.clone(), strip, |_, x| lanes.max(x, zero)),
            Activation::AffineRelu(affine) => {
                let coefficients = |c: usize| source.coefficients(lanes, affine, c);
                source.gather(lanes, window, pixels.clone(), strip, |c, x| {
                    let (a, b) = coefficients(c);
                    lanes.max(lanes.mul_add(a, x, b), zero)
                });
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
    for (index, part, channels) in parts(&window.input) {
        let Some(Some(gradient)) = gradients.get(index) else { continue };
        let source = Source::new(window, part, channels);
        // SAFETY: the caller promises that this image is this task's alone; no other part of it is alive here.
        let gradient = unsafe { gradient.part(source.floats.clone()) };
        match window.input.activation {
            Activation::None => source.scatter(lanes, window, pixels.clone(), d_strip, gradient, store, |_, _, d| d),
            Activation::Relu => source
                .scatter(lanes, window, pixels.clone(), d_strip, gradient, store, |_, x, d| lanes.where_positive(x, d)),
            Activation::AffineRelu(affine) => {
                let coefficients = |c: usize| source.coefficients(lanes, affine, c);
                source.scatter(lanes, window, pixels.clone(), d_strip, gradient, store, |c, x, d| {
                    let (a, b) = coefficients(c);
                    lanes.where_positive(lanes.mul_add(a, x, b), d)
                });
            }
        }
    }
}

/// One image of one part.
struct Source<'a> {
    x: &'a [f32],
    /// Where it lies in the part.
    floats: Range<usize>,
    /// Which channels of the concatenated input it is.
    channels: Range<usize>,
}

impl<'a> Source<'a> {
    fn new(window: &Window, part: &'a [f32], channels: Range<usize>) -> Self {
        let len = window.input.images.image_pixels() * channels.len();
        let floats = window.image * len..(window.image + 1) * len;
        Self { x: &part[floats.clone()], floats, channels }
    }

    /// a and b of the part's channels from `c` on.
    #[inline(always)]
    fn coefficients<L: Lanes>(&self, lanes: L, affine: Affine, c: usize) -> (L::V, L::V) {
        let range = self.channels.start + c..self.channels.end;
        let (a, b) = (&affine.scale[range.clone()], &affine.shift[range]);
        // SAFETY: as many floats are read as the slices have, at most.
        unsafe { (lanes.load_up_to(a.as_ptr(), a.len()), lanes.load_up_to(b.as_ptr(), b.len())) }
    }

    #[inline(always)]
    fn gather<L: Lanes>(
        &self,
        lanes: L,
        window: &Window,
        pixels: Range<usize>,
        strip: &mut [f32],
        activate: impl Fn(usize, L::V) -> L::V,
    ) {
        let count = self.channels.len();
        for_each_tap(window, pixels, |at, pixel| {
            let to = &mut strip[at + self.channels.start..][..count];
            let Some(pixel) = pixel else { return to.fill(0.0) };
            let from = &self.x[pixel * count..][..count];
            for c in (0..count).step_by(L::LANES) {
                // SAFETY: c < count, and both slices have count floats.
                unsafe {
                    let x = lanes.load_up_to(from.as_ptr().add(c), count - c);
                    lanes.store_up_to(to.as_mut_ptr().add(c), activate(c, x), count - c);
                }
            }
        });
    }

    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "an inner loop with all it touches")]
    fn scatter<L: Lanes>(
        &self,
        lanes: L,
        window: &Window,
        pixels: Range<usize>,
        d_strip: &[f32],
        gradient: &mut [f32],
        store: bool,
        mask: impl Fn(usize, L::V, L::V) -> L::V,
    ) {
        let count = self.channels.len();
        for_each_tap(window, pixels, |at, pixel| {
            let Some(pixel) = pixel else { return };
            let d = &d_strip[at + self.channels.start..][..count];
            let x = &self.x[pixel * count..][..count];
            let to = &mut gradient[pixel * count..][..count];
            for c in (0..count).step_by(L::LANES) {
                let here = count - c;
                // SAFETY: c < count, and the three slices have count floats.
                unsafe {
                    let x = lanes.load_up_to(x.as_ptr().add(c), here);
                    let mut d = mask(c, x, lanes.load_up_to(d.as_ptr().add(c), here));
                    if !store {
                        d = lanes.add(d, lanes.load_up_to(to.as_ptr().add(c), here));
                    }
                    lanes.store_up_to(to.as_mut_ptr().add(c), d, here);
                }
            }
        });
    }
}

//! Forms the gradient that arrives at a kernel's output, some pixels of one image at a time, into scratch memory.
//! Refuses to keep it: dz of a whole batch never exists.

use crate::images::{Images, Upstream};
use crate::simd::{Lanes, for_vectors, padded};
use std::ops::Range;

/// Bytes of every operand that are gone over channel by channel before the next are: all operands of a block fit a
/// first-level cache.
const BLOCK_BYTES: usize = 4 * 1024;

/// What enters one pass over a strip: out = grad·scale + (former out, or z·b + d, or 0).
struct Pass<'a> {
    grad: &'a [f32],
    scale: Option<&'a [f32]>,
    sample_scale: f32,
    start: Start<'a>,
}

/// What a pass adds to.
enum Start<'a> {
    Zero,
    Former,
    BatchNorm { z: &'a [f32], b: &'a [f32], d: &'a [f32] },
}

/// dz of the pixels `pixels` (row-major, of image number `image`) into `out`: a pixel every `stride` floats, C floats
/// written and zeros up to C padded (overwritten). `images` is the shape of z; the caller has checked `upstream` against it.
#[inline(always)]
pub(crate) fn form<L: Lanes>(
    lanes: L,
    upstream: &Upstream,
    images: Images,
    image: usize,
    pixels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let count = pixels.len();
    assert!(pixels.end <= images.image_pixels() && image < images.n, "upstream::form: pixels {pixels:?}");
    assert!(stride >= padded::<L>(images.c) && out.len() >= count * stride, "upstream::form: strip too short");
    let block = (BLOCK_BYTES / (stride * size_of::<f32>())).max(1);
    let first = image * images.image_pixels() + pixels.start;
    for start in (0..count).step_by(block) {
        let pixels = first + start..first + count.min(start + block);
        form_block(lanes, upstream, (image, images.c), pixels, &mut out[start * stride..], stride);
    }
}

/// As [`form`], of pixels counted through the whole batch.
#[inline(always)]
fn form_block<L: Lanes>(
    lanes: L,
    upstream: &Upstream,
    (image, c): (usize, usize),
    pixels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let count = pixels.len();
    let floats = pixels.start * c..pixels.end * c;
    for (index, term) in upstream.terms.iter().enumerate() {
        let start = match upstream.bn {
            _ if index > 0 => Start::Former,
            Some(bn) => Start::BatchNorm { z: &bn.z[floats.clone()], b: bn.b, d: bn.d },
            None => Start::Zero,
        };
        let pass = Pass {
            grad: &term.grad[floats.clone()],
            scale: term.scale,
            sample_scale: term.sample_scale.map_or(1.0, |scale| scale[image]),
            start,
        };
        pass.run(lanes, c, count, out, stride);
    }
    if upstream.terms.is_empty() {
        match upstream.bn {
            // No gradient of its own: 0·z + b·z + d.
            Some(bn) => {
                let z = &bn.z[floats];
                let start = Start::BatchNorm { z, b: bn.b, d: bn.d };
                Pass { grad: z, scale: None, sample_scale: 0.0, start }.run(lanes, c, count, out, stride);
            }
            None => out[..count * stride].fill(0.0),
        }
    }
}

impl Pass<'_> {
    #[inline(always)]
    fn run<L: Lanes>(&self, lanes: L, c: usize, count: usize, out: &mut [f32], stride: usize) {
        assert!(self.grad.len() >= count * c && out.len() >= count * stride, "upstream: pass");
        for_vectors!(lanes: L, padded::<L>(c), channel => {
            let here = c - channel;
            // SAFETY: `grad` and z have count·c floats, `out` count·stride with stride at least c padded, the
            // per-channel slices c; loads of C's last vector stop at channel c.
            unsafe {
                let sample_scale = lanes.splat(self.sample_scale);
                let scale = match self.scale {
                    Some(scale) => lanes.mul(lanes.load_up_to(scale[channel..].as_ptr(), here), sample_scale),
                    None => sample_scale,
                };
                let grad = self.grad.as_ptr().add(channel);
                let to = out.as_mut_ptr().add(channel);
                match self.start {
                    Start::Zero => {
                        pixels(lanes, count, here, (grad, c), (to, stride), |_, grad| lanes.mul(scale, grad))
                    }
                    Start::Former => pixels(lanes, count, here, (grad, c), (to, stride), |pixel, grad| {
                        lanes.mul_add(scale, grad, lanes.load(to.add(pixel * stride)))
                    }),
                    Start::BatchNorm { z, b, d } => {
                        assert!(z.len() >= count * c, "upstream: z");
                        let z = z.as_ptr().add(channel);
                        let b = lanes.load_up_to(b[channel..].as_ptr(), here);
                        let d = lanes.load_up_to(d[channel..].as_ptr(), here);
                        pixels(lanes, count, here, (grad, c), (to, stride), |pixel, grad| {
                            let z = lanes.load_up_to(z.add(pixel * c), here);
                            lanes.mul_add(scale, grad, lanes.mul_add(b, z, d))
                        });
                    }
                }
            }
        });
    }
}

/// Writes `value(pixel, vector at from)` for every pixel; the vector has `here` floats, then zeros.
///
/// # Safety
/// `count` pixels of min(here, LANES) floats at `from`, of LANES floats at `to`.
#[inline(always)]
unsafe fn pixels<L: Lanes>(
    lanes: L,
    count: usize,
    here: usize,
    (from, from_stride): (*const f32, usize),
    (to, to_stride): (*mut f32, usize),
    value: impl Fn(usize, L::V) -> L::V,
) {
    // SAFETY: pixel < count.
    unsafe {
        if here >= L::LANES {
            for pixel in 0..count {
                lanes.store(to.add(pixel * to_stride), value(pixel, lanes.load(from.add(pixel * from_stride))));
            }
        } else {
            for pixel in 0..count {
                let vector = lanes.load_first(from.add(pixel * from_stride), here);
                lanes.store(to.add(pixel * to_stride), value(pixel, vector));
            }
        }
    }
}

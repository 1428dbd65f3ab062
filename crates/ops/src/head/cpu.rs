//! The global average pool on the CPU: one image a task. Refuses anything that is not bound by reading the parts once.

use crate::channels::{add_run, fold, longest_period, period};
use crate::images::{Images, Write};
use crate::scratch;
use crate::shared::Shared;
use crate::simd::{InstructionSet, Kernel, Lanes};
use rayon::prelude::*;

pub(super) fn pool(set: InstructionSet, images: Images, parts: &[&[f32]], out: &mut [f32]) {
    let channels = |part: &[f32]| part.len() / images.pixels();
    let features = out.len() / images.n;
    if features == 0 {
        return;
    }
    let longest = parts.iter().map(|part| longest_period(channels(part).max(1))).max().unwrap_or(0);
    let floats = longest + 2 * features;
    scratch::reserve(images.n, floats);
    out.par_chunks_mut(features).enumerate().for_each(|(image, out)| {
        let mut scratch = scratch::take(floats);
        set.run(PoolImage { images, image, parts, out, scratch: &mut scratch });
    });
}

struct PoolImage<'a> {
    images: Images,
    image: usize,
    parts: &'a [&'a [f32]],
    out: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl Kernel for PoolImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { images, image, parts, out, scratch } = self;
        let (sums, patterns) = scratch.split_at_mut(2 * out.len());
        let sums: &mut [f64] = bytemuck::cast_slice_mut(sums);
        sums.fill(0.0);
        let mut first = 0;
        for part in parts {
            let c = part.len() / images.pixels();
            if c == 0 {
                continue;
            }
            let pattern = &mut patterns[..period::<L>(c)];
            pattern.fill(0.0);
            add_run(lanes, &part[image * images.image_pixels() * c..][..images.image_pixels() * c], pattern);
            fold(pattern, &mut sums[first..first + c]);
            first += c;
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = (*sum / images.image_pixels() as f64) as f32;
        }
    }
}

pub(super) fn pool_backward(images: Images, d_out: &[f32], d_parts: &mut [&mut [f32]], write: Write) {
    let features = d_out.len() / images.n;
    let factor = 1.0 / images.image_pixels() as f32;
    let parts: Vec<_> = d_parts.iter_mut().map(|part| (part.len() / images.n, Shared::new(part))).collect();
    (0..images.n).into_par_iter().for_each(|image| {
        let mut d_out = &d_out[image * features..][..features];
        for &(len, part) in &parts {
            let (here, rest) = d_out.split_at(len / images.image_pixels());
            d_out = rest;
            if here.is_empty() {
                continue;
            }
            // SAFETY: a part's images are disjoint, and `image` is different in every task.
            let part = unsafe { part.part(image * len..(image + 1) * len) };
            for pixel in part.chunks_exact_mut(here.len()) {
                for (to, &d) in pixel.iter_mut().zip(here) {
                    let d = d * factor;
                    *to = if write == Write::Accumulate { *to + d } else { d };
                }
            }
        }
    });
}

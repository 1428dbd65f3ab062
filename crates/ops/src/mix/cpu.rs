//! Weighted sums on the CPU: one image a task; in it, a block of the node at a time, past which the terms stream four by
//! four. Refuses to keep sums of more than an image in f32.

use super::{ReduceTerm, Term};
use crate::channels::{add_pattern, add_products, add_run, block_len, dot_products, fold, longest_period, period};
use crate::images::{Images, Write};
use crate::scratch;
use crate::simd::{InstructionSet, Kernel, Lanes};
use rayon::prelude::*;

/// Terms that pass a block together: their accumulators or coefficients and the node fit the registers of every set.
const GROUP: usize = 4;

pub(super) fn forward(set: InstructionSet, images: Images, terms: &[Term], node: &mut [f32], write: Write) {
    let floats = (terms.len() + 1) * longest_period(images.c);
    scratch::reserve(images.n, floats);
    node.par_chunks_mut(images.image_len()).enumerate().for_each(|(image, node)| {
        let mut patterns = scratch::take(floats);
        set.run(ForwardImage { images, image, terms, node, write, patterns: &mut patterns });
    });
}

struct ForwardImage<'a> {
    images: Images,
    image: usize,
    terms: &'a [Term<'a>],
    node: &'a mut [f32],
    write: Write,
    patterns: &'a mut [f32],
}

impl Kernel for ForwardImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { images, image, terms, node, write, patterns } = self;
        let period = period::<L>(images.c);
        let patterns = &mut patterns[..(terms.len() + 1) * period];
        patterns.fill(0.0);
        let (shift, scales) = patterns.split_at_mut(period);
        for (term, pattern) in terms.iter().zip(scales.chunks_exact_mut(period)) {
            let sample_scale = term.sample_scale.map_or(1.0, |s| s[image]);
            add_pattern(term.scale, sample_scale, pattern);
            if let Some(values) = term.shift {
                add_pattern(values, sample_scale, shift);
            }
        }
        let mut first = image * images.image_len();
        for block in node.chunks_mut(block_len(period)) {
            for row in block.chunks_mut(period) {
                match write {
                    Write::Overwrite => row.copy_from_slice(&shift[..row.len()]),
                    Write::Accumulate => {
                        for (node, shift) in row.iter_mut().zip(&*shift) {
                            *node += shift;
                        }
                    }
                }
            }
            let floats = first..first + block.len();
            for (terms, scales) in terms.chunks(GROUP).zip(scales.chunks(GROUP * period)) {
                let mut z = [&[][..]; GROUP];
                for (z, term) in z.iter_mut().zip(terms) {
                    *z = &term.z[floats.clone()];
                }
                add_products(lanes, period, scales, &z[..terms.len()], block);
            }
            first = floats.end;
        }
    }
}

pub(super) fn reduce(set: InstructionSet, images: Images, dnode: &[f32], terms: &mut [ReduceTerm]) {
    let c = images.c;
    let floats = (terms.len() + 1) * longest_period(c);
    scratch::reserve(images.n, floats);
    // Per image: Σdnode, then Σdnode·z of every term.
    let per_image = (terms.len() + 1) * c;
    let mut sums = scratch::take(2 * images.n * per_image);
    let sums: &mut [f64] = bytemuck::cast_slice_mut(&mut sums);
    let z: &[ReduceTerm] = terms;
    sums.par_chunks_mut(per_image).enumerate().for_each(|(image, sums)| {
        let mut patterns = scratch::take(floats);
        set.run(ReduceImage { images, image, dnode, terms: z, sums, patterns: &mut patterns });
    });
    for (t, term) in terms.iter_mut().enumerate() {
        let (plain, products) = term.sums.split_at_mut(c);
        for (n, sums) in sums.chunks_exact(per_image).enumerate() {
            let s = term.sample_scale.map_or(1.0, |s| f64::from(s[n]));
            for channel in 0..c {
                plain[channel] += s * sums[channel];
                products[channel] += s * sums[(t + 1) * c + channel];
            }
        }
    }
}

struct ReduceImage<'a> {
    images: Images,
    image: usize,
    dnode: &'a [f32],
    terms: &'a [ReduceTerm<'a>],
    sums: &'a mut [f64],
    patterns: &'a mut [f32],
}

impl Kernel for ReduceImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { images, image, dnode, terms, sums, patterns } = self;
        let period = period::<L>(images.c);
        let patterns = &mut patterns[..(terms.len() + 1) * period];
        patterns.fill(0.0);
        let (plain, products) = patterns.split_at_mut(period);
        let range = image * images.image_len()..(image + 1) * images.image_len();
        let mut first = range.start;
        for d in dnode[range].chunks(block_len(period)) {
            add_run(lanes, d, plain);
            let floats = first..first + d.len();
            for (terms, sums) in terms.chunks(GROUP).zip(products.chunks_mut(GROUP * period)) {
                let mut z = [&[][..]; GROUP];
                for (z, term) in z.iter_mut().zip(terms) {
                    *z = &term.z[floats.clone()];
                }
                dot_products(lanes, period, d, &z[..terms.len()], sums);
            }
            first = floats.end;
        }
        sums.fill(0.0);
        for (pattern, sums) in patterns.chunks_exact(period).zip(sums.chunks_exact_mut(images.c)) {
            fold(pattern, sums);
        }
    }
}

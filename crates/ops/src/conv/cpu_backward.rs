//! Dense convolution backward on the CPU: a fixed number of images a task. A strip of dz is formed, multiplied with the
//! unfolded input for the gradient of the weights and with the weights for that of the input, which is folded back at once.
//! Refuses to store an unfolded input or a dz.

use super::cpu::{output, pack_all, packing_len, product_by_blocks, strip_rows, ticks, ticks_of};
use super::gather::{Window, gather, scatter};
use super::{Branch, ConvShape, Gradients, Input};
use crate::ahead::Ahead;
use crate::channels::{add_run, add_up, dot_products, fold, longest_period, period};
use crate::images::{Images, Upstream, Write};
use crate::matrix::{Output, Packed, Strip, accumulate_outer};
use crate::scratch;
use crate::shared::Shared;
use crate::simd::{InstructionSet, Kernel, Lanes, MAX_LANES, MAX_SHORT_LANES, padded};
use crate::upstream;
use rayon::prelude::*;
use std::ops::Range;

/// Most tasks, each of which keeps a gradient of the weights of its own.
const CHUNKS: usize = 32;

pub(super) fn backward(
    set: InstructionSet,
    input: Input,
    shape: ConvShape,
    branches: &[Branch],
    upstream: Upstream,
    gradients: Gradients,
) {
    let Gradients { weights, parts, write, sums } = gradients;
    let images = input.images;
    let out = output(images, shape, branches);
    if images.is_empty() {
        weights.into_iter().flatten().for_each(|weight| weight.fill(0.0));
        return sums.map_or((), |sums| sums.fill(0.0));
    }
    let wants_parts = parts.iter().any(Option::is_some);
    let lengths = branches.iter().map(|branch| packing_len(shape, branch));
    let mut data = scratch::take(lengths.map(|(packed, reordered)| packed + reordered).sum());
    let packed = if wants_parts { pack_all(set, shape, branches, true, &mut data) } else { Vec::new() };
    let d_parts: Vec<_> = parts.iter_mut().map(|part| part.as_mut().map(|part| Shared::new(part))).collect();

    let per_chunk = images.n.div_ceil(CHUNKS);
    let chunks = images.n.div_ceil(per_chunk);
    let weights_len: usize = branches.iter().map(|branch| columns(branch) * shape.depth()).sum();
    let weights_len = if weights.is_some() { weights_len } else { 0 };
    let mut chunk_weights = scratch::take(chunks * weights_len);
    let mut chunk_sums = scratch::take(4 * chunks * images.c);
    let chunk_sums: &mut [f64] = bytemuck::cast_slice_mut(&mut chunk_sums);
    let call = Call {
        input,
        shape,
        branches,
        upstream,
        packed: &packed,
        d_parts: &d_parts,
        write,
        wants_weights: weights.is_some(),
        wants_parts,
        wants_sums: sums.is_some(),
    };
    let floats = call.scratch_len();
    scratch::reserve(chunks, floats);
    let shared = Shared::new(&mut chunk_weights);
    chunk_sums.par_chunks_mut(2 * images.c).enumerate().for_each(|(chunk, sums)| {
        let mut scratch = scratch::take(floats);
        // SAFETY: every chunk has its own range, and `chunk` is different in every task.
        let weights = unsafe { shared.part(chunk * weights_len..(chunk + 1) * weights_len) };
        let images = chunk * per_chunk..((chunk + 1) * per_chunk).min(out.n);
        set.run(BackwardChunk { call: &call, images, weights, sums, scratch: &mut scratch });
    });
    if let Some(sums) = sums {
        add_up(chunk_sums, sums);
    }
    if let Some(weights) = weights {
        let mut first = 0;
        for (branch, weight) in branches.iter().zip(weights) {
            let len = columns(branch) * shape.depth();
            let chunks = chunk_weights.chunks_exact(weights_len).map(|chunk| &chunk[first..first + len]);
            add_up_weights(set, shape, branch, chunks, weight);
            first += len;
        }
    }
}

/// Columns of a chunk's gradient of a branch's weights.
fn columns(branch: &Branch) -> usize {
    branch.c_out.next_multiple_of(MAX_SHORT_LANES)
}

/// Sum over chunks, in order, of gradients `[depth, columns]` into `[C_out, C_in, k_y, k_x]` (overwritten).
fn add_up_weights<'a>(
    set: InstructionSet,
    shape: ConvShape,
    branch: &Branch,
    chunks: impl Iterator<Item = &'a [f32]> + Clone,
    weight: &mut [f32],
) {
    let taps = shape.kernel.0 * shape.kernel.1;
    let mut total = scratch::take(2 * columns(branch) * shape.depth());
    let total: &mut [f64] = bytemuck::cast_slice_mut(&mut total);
    total.fill(0.0);
    for chunk in chunks {
        set.run(AddWide { chunk, total });
    }
    for (k, row) in total.chunks_exact(columns(branch)).enumerate() {
        let (tap, i) = (k / shape.c_in, k % shape.c_in);
        for (o, &value) in row[..branch.c_out].iter().enumerate() {
            weight[(o * shape.c_in + i) * taps + tap] = value as f32;
        }
    }
}

struct AddWide<'a> {
    chunk: &'a [f32],
    total: &'a mut [f64],
}

impl Kernel for AddWide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for (total, &value) in self.total.iter_mut().zip(self.chunk) {
            *total += f64::from(value);
        }
    }
}

/// What all tasks share.
struct Call<'a> {
    input: Input<'a>,
    shape: ConvShape,
    branches: &'a [Branch<'a>],
    upstream: Upstream<'a>,
    packed: &'a [Packed<'a>],
    d_parts: &'a [Option<Shared<'a, f32>>],
    write: Write,
    wants_weights: bool,
    wants_parts: bool,
    wants_sums: bool,
}

impl Call<'_> {
    /// Floats a strip of dz takes: branches are read padded, which reaches beyond the last row.
    fn dz_len(&self, out: Images) -> usize {
        strip_rows(self.shape) * out.c.next_multiple_of(MAX_LANES) + MAX_LANES
    }

    fn scratch_len(&self) -> usize {
        let out = output(self.input.images, self.shape, self.branches);
        let strips = strip_rows(self.shape) * self.shape.depth() + self.dz_len(out);
        strips.max(2 * longest_period(self.input.images.c)).max(2 * self.longest_period_of_a_part())
    }

    fn longest_period_of_a_part(&self) -> usize {
        let pixels = self.input.images.pixels();
        let periods = self.input.parts.iter().map(|part| longest_period((part.len() / pixels).max(1)));
        periods.max().unwrap_or(0)
    }

    /// Whether every input pixel is met exactly once.
    fn meets_every_pixel_once(&self) -> bool {
        let Images { h, w, .. } = self.input.images;
        let ConvShape { kernel, stride, output, .. } = self.shape;
        let only = matches!(self.branches, [branch] if branch.offset == (0, 0));
        only && kernel == (1, 1) && stride == (1, 1) && output == (h, w)
    }
}

struct BackwardChunk<'a> {
    call: &'a Call<'a>,
    images: Range<usize>,
    weights: &'a mut [f32],
    sums: &'a mut [f64],
    scratch: &'a mut [f32],
}

impl Kernel for BackwardChunk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { call, images, weights, sums, scratch } = self;
        weights.fill(0.0);
        sums.fill(0.0);
        for image in images {
            let store = call.write == Write::Overwrite && call.meets_every_pixel_once();
            if call.write == Write::Overwrite && !store {
                // SAFETY: this task alone has this image, and the loan ends here.
                unsafe { call.gradients(image, |_, _, _, du| du.fill(0.0)) };
            }
            image_strips(lanes, call, image, store, weights, scratch);
            if call.wants_sums {
                // SAFETY: as above.
                unsafe {
                    call.gradients(image, |channels, c, x, du| channel_sums(lanes, channels, c, (x, du), sums, scratch))
                };
            }
        }
    }
}

impl Call<'_> {
    /// Calls `action(first channel, channels, x, du)` for one image of every part that has a gradient.
    ///
    /// # Safety
    /// No other task touches this image, and no other loan of it is alive.
    #[inline(always)]
    unsafe fn gradients(&self, image: usize, mut action: impl FnMut(usize, usize, &[f32], &mut [f32])) {
        let Images { n, h, w, .. } = self.input.images;
        let mut first = 0;
        for (index, part) in self.input.parts.iter().enumerate() {
            let len = part.len() / n;
            if let Some(Some(gradient)) = self.d_parts.get(index) {
                let floats = image * len..(image + 1) * len;
                // SAFETY: the caller's promise.
                let du = unsafe { gradient.part(floats.clone()) };
                action(first, len / (h * w), &part[floats], du);
            }
            first += len / (h * w);
        }
    }
}

/// Adds Σdu and Σdu·x of one image of a part to `sums` of all input channels.
#[inline(always)]
fn channel_sums<L: Lanes>(
    lanes: L,
    first: usize,
    c: usize,
    (x, du): (&[f32], &[f32]),
    sums: &mut [f64],
    scratch: &mut [f32],
) {
    if c == 0 {
        return;
    }
    let period = period::<L>(c);
    let patterns = &mut scratch[..2 * period];
    patterns.fill(0.0);
    let (plain, products) = patterns.split_at_mut(period);
    add_run(lanes, du, plain);
    dot_products(lanes, period, du, &[x], products);
    let half = sums.len() / 2;
    fold(plain, &mut sums[first..first + c]);
    fold(products, &mut sums[half + first..half + first + c]);
}

/// All strips of one image.
#[inline(always)]
fn image_strips<L: Lanes>(lanes: L, call: &Call, image: usize, store: bool, weights: &mut [f32], scratch: &mut [f32]) {
    let Call { input, shape, branches, .. } = *call;
    let out = output(input.images, shape, branches);
    let (depth, rows) = (shape.depth(), strip_rows(shape));
    let (dz, scratch) = scratch.split_at_mut(call.dz_len(out));
    let strip = &mut scratch[..rows * depth];
    let stride = padded::<L>(out.c);
    // This thread most likely goes on with the next image.
    let gradients = call.d_parts.iter().zip(input.parts).filter_map(|(gradient, part)| {
        let len = part.len() / input.images.n;
        gradient.map(|gradient| gradient.run((image + 1) * len..(image + 2) * len))
    });
    let runs = call.upstream.runs(out, image + 1).chain(input.runs(image + 1)).chain(gradients);
    let products = usize::from(call.wants_weights) + usize::from(call.wants_parts);
    let mut ahead = Ahead::new(runs, products * ticks(out, shape, branches));
    for start in (0..out.image_pixels()).step_by(rows) {
        let pixels = start..(start + rows).min(out.image_pixels());
        let rows = pixels.len();
        upstream::form(lanes, &call.upstream, out, image, pixels.clone(), &mut dz[..rows * stride], stride);
        let mut column = 0;
        if call.wants_weights {
            let mut gathered = None;
            let mut rest = &mut weights[..];
            for branch in branches {
                let window = Window { input, shape, offset: branch.offset, image };
                if gathered != Some(branch.offset) {
                    gather(lanes, &window, pixels.clone(), strip);
                    gathered = Some(branch.offset);
                }
                let (here, others) = std::mem::take(&mut rest).split_at_mut(columns(branch) * depth);
                let other = Strip { data: &dz[column..], rows, stride };
                let strip = Strip { data: strip, rows, stride: depth };
                accumulate_outer(lanes, strip, depth, other, columns(branch), here);
                ahead.tick(ticks_of(rows));
                rest = others;
                column += branch.c_out;
            }
        }
        column = 0;
        if call.wants_parts {
            for (branch, &packed) in branches.iter().zip(call.packed) {
                let dz = Strip { data: &dz[column..], rows, stride };
                let output = Output { data: &mut strip[..], stride: depth, columns: depth };
                product_by_blocks(lanes, dz, packed, output, None, &mut ahead);
                let window = Window { input, shape, offset: branch.offset, image };
                // SAFETY: this task alone has this image.
                unsafe { scatter(lanes, &window, pixels.clone(), strip, call.d_parts, store) };
                column += branch.c_out;
            }
        }
    }
}

//! Dense convolution forward on the CPU: one image a task; in it, a strip of pixels is unfolded into scratch memory and
//! multiplied with the packed weights while it is in the first-level cache. Refuses to know gradients.

use super::gather::{Window, gather};
use super::{Branch, ConvShape, Input};
use crate::ahead::{Ahead, Run};
use crate::channels::add_up;
use crate::images::Images;
use crate::matrix::{Layout, Output, Packed, Strip, pack, product};
use crate::scratch;
use crate::simd::{InstructionSet, Kernel, Lanes, MAX_LANES, padded};
use rayon::prelude::*;

/// Output pixels that a product is made of at a time, between which memory is asked for: a multiple of every register tile.
const BLOCK: usize = 24;

/// Output pixels of a strip: a multiple of every register tile, about 24 KiB of unfolded input.
pub(super) fn strip_rows(shape: ConvShape) -> usize {
    (6144 / shape.depth().max(1)).clamp(12, 96) / 12 * 12
}

/// [`product`] of a strip in blocks of pixels, each of which is a tick of `ahead`.
#[inline(always)]
pub(super) fn product_by_blocks<L: Lanes>(
    lanes: L,
    strip: Strip,
    packed: Packed,
    output: Output,
    mut sums: Option<&mut [f32]>,
    ahead: &mut Ahead,
) {
    let Output { data, stride, columns } = output;
    for start in (0..strip.rows).step_by(BLOCK) {
        let rows = BLOCK.min(strip.rows - start);
        let block = Strip { data: &strip.data[start * strip.stride..], rows, ..strip };
        let output = Output { data: &mut data[start * stride..], stride, columns };
        product(lanes, block, packed, output, sums.as_deref_mut());
        ahead.tick(1);
    }
}

/// Ticks that the product of a strip of `rows` pixels is.
pub(super) fn ticks_of(rows: usize) -> usize {
    rows.div_ceil(BLOCK)
}

/// Ticks that the products of all branches and strips of an image are.
pub(super) fn ticks(out: Images, shape: ConvShape, branches: &[Branch]) -> usize {
    let rows = strip_rows(shape);
    let (strips, rest) = (out.image_pixels() / rows, out.image_pixels() % rows);
    (strips * ticks_of(rows) + ticks_of(rest)) * branches.len()
}

/// Shape of z.
pub(super) fn output(images: Images, shape: ConvShape, branches: &[Branch]) -> Images {
    let c = branches.iter().map(|branch| branch.c_out).sum();
    Images { n: images.n, h: shape.output.0, w: shape.output.1, c }
}

/// A branch's weights as a matrix `[C_out, depth]`, taps first within a row as in a strip (`into` overwritten).
pub(super) fn reorder<'a>(shape: ConvShape, weight: &'a [f32], into: &'a mut [f32]) -> &'a [f32] {
    let taps = shape.kernel.0 * shape.kernel.1;
    if taps == 1 {
        return weight;
    }
    for (to, from) in into.chunks_exact_mut(shape.depth()).zip(weight.chunks_exact(shape.depth())) {
        for (i, &value) in from.iter().enumerate() {
            to[i % taps * shape.c_in + i / taps] = value;
        }
    }
    into
}

/// Packs a `[C_out, depth]` matrix for z = strip·Wᵀ, or for dstrip = dz·W.
pub(super) struct Pack<'a> {
    pub(super) weight: &'a [f32],
    pub(super) depth: usize,
    pub(super) transposed: bool,
    pub(super) data: &'a mut [f32],
}

impl<'a> Kernel for Pack<'a> {
    type Output = Packed<'a>;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Packed<'a> {
        let c_out = self.weight.len() / self.depth.max(1);
        let layout = if self.transposed {
            Layout { k: c_out, n: self.depth, k_stride: self.depth, n_stride: 1 }
        } else {
            Layout { k: self.depth, n: c_out, k_stride: 1, n_stride: self.depth }
        };
        pack(lanes, layout, self.weight, &mut self.data[..layout.packed_len::<L>()])
    }
}

/// Floats that packing a branch takes at most, either way, and its reordered weights.
pub(super) fn packing_len(shape: ConvShape, branch: &Branch) -> (usize, usize) {
    let (k, n) = (shape.depth(), branch.c_out);
    ((k * n.next_multiple_of(MAX_LANES)).max(n * k.next_multiple_of(MAX_LANES)), k * n)
}

/// Packs all branches into `data`, which has [`packing_len`] floats for each.
pub(super) fn pack_all<'a>(
    set: InstructionSet,
    shape: ConvShape,
    branches: &'a [Branch<'a>],
    transposed: bool,
    mut data: &'a mut [f32],
) -> Vec<Packed<'a>> {
    let mut packed = Vec::with_capacity(branches.len());
    for branch in branches {
        let (packed_len, reordered_len) = packing_len(shape, branch);
        let (here, rest) = std::mem::take(&mut data).split_at_mut(packed_len + reordered_len);
        let (here, reordered) = here.split_at_mut(packed_len);
        let weight = reorder(shape, branch.weight, reordered);
        packed.push(set.run(Pack { weight, depth: shape.depth(), transposed, data: here }));
        data = rest;
    }
    packed
}

pub(super) fn forward(
    set: InstructionSet,
    input: Input,
    shape: ConvShape,
    branches: &[Branch],
    z: &mut [f32],
    sums: Option<&mut [f64]>,
) {
    let out = output(input.images, shape, branches);
    if out.is_empty() || input.images.is_empty() {
        z.fill(0.0);
        return sums.map_or((), |sums| sums.fill(0.0));
    }
    let lengths = branches.iter().map(|branch| packing_len(shape, branch));
    let mut data = scratch::take(lengths.map(|(packed, reordered)| packed + reordered).sum());
    let packed = &*pack_all(set, shape, branches, false, &mut data);

    let widest = branches.iter().map(|branch| branch.c_out.next_multiple_of(MAX_LANES)).max().unwrap_or(0);
    let floats = strip_rows(shape) * shape.depth() + 2 * widest;
    scratch::reserve(out.n, floats);
    let mut chunks = scratch::take(4 * out.n * out.c);
    let chunks: &mut [f64] = bytemuck::cast_slice_mut(&mut chunks);
    let wanted = sums.is_some();
    let tasks = z.par_chunks_mut(out.image_len()).zip(chunks.par_chunks_mut(2 * out.c)).enumerate();
    tasks.for_each(|(image, (z, chunk))| {
        let mut scratch = scratch::take(floats);
        let sums = wanted.then_some(chunk);
        set.run(ForwardImage { input, shape, branches, packed, image, z, sums, scratch: &mut scratch });
    });
    if let Some(sums) = sums {
        add_up(chunks, sums);
    }
}

struct ForwardImage<'a> {
    input: Input<'a>,
    shape: ConvShape,
    branches: &'a [Branch<'a>],
    packed: &'a [Packed<'a>],
    image: usize,
    z: &'a mut [f32],
    sums: Option<&'a mut [f64]>,
    scratch: &'a mut [f32],
}

impl Kernel for ForwardImage<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { input, shape, branches, packed, image, z, mut sums, scratch } = self;
        let out = output(input.images, shape, branches);
        let (depth, rows) = (shape.depth(), strip_rows(shape));
        let (strip, strip_sums) = scratch.split_at_mut(rows * depth);
        if let Some(sums) = &mut sums {
            sums.fill(0.0);
        }
        // z is written soon, and this thread most likely goes on with the next image.
        let runs = [Run::from(&*z)].into_iter().chain(input.runs(image + 1));
        let mut ahead = Ahead::new(runs, ticks(out, shape, branches));
        for start in (0..out.image_pixels()).step_by(rows) {
            let pixels = start..(start + rows).min(out.image_pixels());
            let mut gathered = None;
            let mut column = 0;
            for (branch, &packed) in branches.iter().zip(packed) {
                if gathered != Some(branch.offset) {
                    let window = Window { input, shape, offset: branch.offset, image };
                    gather(lanes, &window, pixels.clone(), strip);
                    gathered = Some(branch.offset);
                }
                let strip = Strip { data: strip, rows: pixels.len(), stride: depth };
                let output = Output { data: &mut z[start * out.c + column..], stride: out.c, columns: branch.c_out };
                let columns = padded::<L>(branch.c_out);
                let strip_sums = &mut strip_sums[..2 * columns];
                if let Some(sums) = &mut sums {
                    strip_sums.fill(0.0);
                    product_by_blocks(lanes, strip, packed, output, Some(strip_sums), &mut ahead);
                    for c in 0..branch.c_out {
                        sums[column + c] += f64::from(strip_sums[c]);
                        sums[out.c + column + c] += f64::from(strip_sums[columns + c]);
                    }
                } else {
                    product_by_blocks(lanes, strip, packed, output, None, &mut ahead);
                }
                column += branch.c_out;
            }
        }
    }
}

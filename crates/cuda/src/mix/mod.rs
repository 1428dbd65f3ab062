//! Weighted sums of candidate operations into the nodes of a cell, and the sums that their backward needs. Refuses to store a
//! normalized or a weighted tensor.
//!
//! Axes: N images, P = H·W pixels, C channels; t counts terms. As `darts_ops::mix`, with one thing more: a term's weight may
//! lie in device memory by itself, so that nothing has to be multiplied out when operation weights change.

use crate::args;
use crate::channels::{pointer, rows, sum_rows_bytes, vector};
use crate::fold::{self, Fold};
use crate::images::{Images, Write};
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FORWARD: Kernel = Kernel::new("mix_forward", 256);
static FORWARD_AHEAD: Kernel = Kernel::new("mix_forward_ahead", 256);
static REDUCE: Kernel = Kernel::new("mix_reduce", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FORWARD, &FORWARD_AHEAD, &REDUCE];

const TERMS: usize = 64;
/// Pixels that a thread of the forward kernel holds in registers.
const FORWARD_PIXELS: usize = 2;
/// Blocks with so many pixels to a thread that fill a large device.
const BLOCKS: usize = 256;
/// Pixels that a thread of the reduction goes over before its block adds up.
const REDUCE_PIXELS: usize = 8;
/// Terms that a thread of the reduction holds the sums of.
const GROUP: u32 = 4;

args! {
    struct TermArgs: 40 {
        z: u64,
        scale: u64,
        shift: u64,
        weight: u64,
        sample_scale: u64,
    }

    struct ForwardArgs: 2592 {
        node: u64,
        pixels: u32,
        channels: u32,
        chunk: u32,
        terms: u32,
        accumulate: u32,
        vector: u32,
        term: [TermArgs; TERMS],
    }

    struct ReduceTermArgs: 16 {
        z: u64,
        sample_scale: u64,
    }

    struct ReduceArgs: 1064 {
        dnode: u64,
        partials: u64,
        pixels: u32,
        channels: u32,
        chunk: u32,
        terms: u32,
        vector: u32,
        pad: u32,
        term: [ReduceTermArgs; TERMS],
    }
}

/// One term of a weighted sum.
#[derive(Debug, Copy, Clone)]
pub struct Term {
    /// z_t `[N, H, W, C]`.
    pub z: View,
    /// scale_t `[C]`; none: 1.
    pub scale: Option<View>,
    /// shift_t `[C]`; none: 0.
    pub shift: Option<View>,
    /// w_t, one float that multiplies scale and shift; none: 1.
    pub weight: Option<View>,
    /// s_t `[N]`; none: 1.
    pub sample_scale: Option<View>,
}

/// One term of a reduction.
#[derive(Debug, Copy, Clone)]
pub struct ReduceTerm {
    /// z_t `[N, H, W, C]`.
    pub z: View,
    /// s_t `[N]`; none: 1.
    pub sample_scale: Option<View>,
    /// \[Σ s_t·dnode | Σ s_t·dnode·z_t\], 2·C, overwritten.
    pub sums: View<f64>,
}

/// node\[n,p,c\] = Σ_t s_t\[n\]·w_t·(scale_t\[c\]·z_t\[n,p,c\] + shift_t\[c\]), or that added to node, as `write` says. Without
/// terms the sum is 0. One launch for every 64 terms.
///
/// # Shapes
/// node `[N, H, W, C]` = `images`; the rest at [`Term`].
///
/// # Panics
/// If a view does not have the length of its shape.
pub fn forward(program: &mut Program, images: Images, terms: &[Term], node: View, write: Write) {
    const OPERATION: &str = "mix::forward";
    assert_eq!(node.len, images.len(), "{OPERATION}: node of {images:?}");
    for (t, term) in terms.iter().enumerate() {
        let fits = |view: Option<View>, len: usize| view.is_none_or(|view| view.len == len);
        assert_eq!(term.z.len, images.len(), "{OPERATION}: z of term {t} for a node of {images:?}");
        assert!(fits(term.scale, images.c) && fits(term.shift, images.c), "{OPERATION}: scale or shift of term {t}");
        assert!(fits(term.weight, 1), "{OPERATION}: weight of term {t}");
        assert!(fits(term.sample_scale, images.n), "{OPERATION}: sample scale of term {t}");
    }
    if images.is_empty() {
        return;
    }
    let launches = terms.len().div_ceil(TERMS).max(1);
    for (launch, terms) in (0..launches).map(|launch| (launch, &terms[(launch * TERMS).min(terms.len())..])) {
        let terms = &terms[..terms.len().min(TERMS)];
        let addresses = terms.iter().flat_map(|t| [t.z.address, pointer(t.scale), pointer(t.shift)]);
        let vector = vector(images.c, addresses.chain([node.address]));
        let rows = rows(images.c, vector, FORWARD.threads);
        let many = images.n * images.image_pixels().div_ceil(FORWARD_PIXELS * rows) >= BLOCKS;
        let (kernel, chunk) = if many { (&FORWARD, FORWARD_PIXELS * rows) } else { (&FORWARD_AHEAD, rows) };
        let mut args = ForwardArgs {
            node: node.address,
            pixels: images.image_pixels() as u32,
            channels: images.c as u32,
            chunk: chunk as u32,
            terms: terms.len() as u32,
            accumulate: if launch > 0 { 1 } else { write.flag() },
            vector: vector.into(),
            term: [TermArgs { z: 0, scale: 0, shift: 0, weight: 0, sample_scale: 0 }; TERMS],
        };
        for (to, term) in args.term.iter_mut().zip(terms) {
            *to = TermArgs {
                z: term.z.address,
                scale: pointer(term.scale),
                shift: pointer(term.shift),
                weight: pointer(term.weight),
                sample_scale: pointer(term.sample_scale),
            };
        }
        let grid = [blocks(images.image_pixels(), chunk as u32), images.n as u32, 1];
        program.push(kernel, grid, 0, &args);
    }
}

/// Pixels of an image that a block of the reduction takes, whether or not it takes four channels at once: the number of
/// partial sums depends on the shape alone.
fn reduce_chunk(images: Images) -> usize {
    REDUCE_PIXELS * rows(images.c, images.c.is_multiple_of(4), REDUCE.threads)
}

/// Floats of scratch memory that [`reduce`] of `terms` terms wants.
pub fn reduce_scratch_len(images: Images, terms: usize) -> usize {
    terms * 2 * images.c * images.n * images.image_pixels().div_ceil(reduce_chunk(images))
}

/// Sums of \[s_t·dnode | s_t·dnode·z_t\] over images and pixels for every term. Sums that the last launch of `program` was to
/// deliver are delivered with them.
///
/// # Shapes
/// dnode `[N, H, W, C]` = `images`; `scratch` at least [`reduce_scratch_len`], overwritten; the rest at [`ReduceTerm`].
///
/// # Panics
/// If a view does not have the length of its shape, or there are no pixels.
pub fn reduce(program: &mut Program, images: Images, dnode: View, terms: &[ReduceTerm], scratch: View) {
    const OPERATION: &str = "mix::reduce";
    assert!(!images.is_empty(), "{OPERATION}: no pixels to sum over in {images:?}");
    assert_eq!(dnode.len, images.len(), "{OPERATION}: dnode of {images:?}");
    for (t, term) in terms.iter().enumerate() {
        assert_eq!(term.z.len, images.len(), "{OPERATION}: z of term {t} for a node of {images:?}");
        assert_eq!(term.sums.len, 2 * images.c, "{OPERATION}: sums of term {t}");
        assert!(term.sample_scale.is_none_or(|s| s.len == images.n), "{OPERATION}: sample scale of term {t}");
    }
    let scratch = scratch.slice(0..reduce_scratch_len(images, terms.len()));
    let chunk = reduce_chunk(images);
    let per_term = reduce_scratch_len(images, 1);
    let mut folds = fold::join_last(program, terms.iter().map(|term| (View::none(), Some(term.sums))), scratch);
    for (launch, terms) in terms.chunks(TERMS).enumerate() {
        let first = launch * TERMS;
        let partials = scratch.slice(first * per_term..(first + terms.len()) * per_term);
        let vector = vector(images.c, terms.iter().map(|t| t.z.address).chain([dnode.address, partials.address]));
        let mut args = ReduceArgs {
            dnode: dnode.address,
            partials: partials.address,
            pixels: images.image_pixels() as u32,
            channels: images.c as u32,
            chunk: chunk as u32,
            terms: terms.len() as u32,
            vector: vector.into(),
            pad: 0,
            term: [ReduceTermArgs { z: 0, sample_scale: 0 }; TERMS],
        };
        for (to, term) in args.term.iter_mut().zip(terms) {
            *to = ReduceTermArgs { z: term.z.address, sample_scale: pointer(term.sample_scale) };
        }
        let groups = blocks(terms.len(), GROUP);
        let grid = [blocks(images.image_pixels(), chunk as u32), images.n as u32, groups];
        program.push(&REDUCE, grid, sum_rows_bytes(vector, REDUCE.threads, 1 + GROUP), &args);
        folds.extend(
            terms
                .iter()
                .enumerate()
                .map(|(t, term)| Fold { partials: partials.slice(t * per_term..(t + 1) * per_term), sums: term.sums }),
        );
    }
    fold::partials(program, &folds);
}

//! Max and average pooling with padding. Refuses to let padding count: it never wins a maximum and is no part of an average's
//! divisor; and to store which cell won: backward looks for it again.
//!
//! Axes: x `[N, H, W, C]`, z `[N, H', W', C]` with H' = (H + 2p − k)/s + 1. Where `relu` is set, x is replaced by relu(x) first.
//! The first maximum in scan order gets the whole gradient. All pools of a stage go in one launch. Windows of 3 × 3, which a
//! search is made of, have code of their own.

use crate::args;
use crate::channels::{self, pointer, sum_rows_bytes, vector};
use crate::fold::{self, Fold};
use crate::images::{Images, Write};
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FORWARD: Kernel = Kernel::new("pool_forward", 256);
static BACKWARD: Kernel = Kernel::new("pool_backward", 256);
static BACKWARD_3X3: Kernel = Kernel::new("pool_backward_3x3", 128);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD, &BACKWARD_3X3];

const UNITS: usize = 16;
const TERMS: usize = 64;
/// Rows of a strip that a thread of the forward kernel takes where windows are 3 × 3, at stride 1 and 2.
const STRIPS_3X3: [usize; 2] = [4, 2];
/// Rows of x of a strip that a thread of the backward kernel takes where windows are 3 × 3.
const BACKWARD_STRIP: usize = 4;
/// Pixels that a thread of the forward kernel goes over before its block adds up, where there are many.
const PIXELS: usize = 4;
/// Blocks of the backward kernel that fill a large device.
const BLOCKS: usize = 400;
/// Bytes of shared memory that a block of the backward kernel takes where it can do with as few.
const SHARED: usize = 48 * 1024;
/// Largest kernel of a pool: a tap is a byte.
const LARGEST_KERNEL: usize = 15;

args! {
    struct ShapeArgs: 28 {
        kernel: u32,
        stride: u32,
        padding: u32,
        relu: u32,
        average: u32,
        out_h: u32,
        out_w: u32,
    }

    struct ForwardUnit: 64 {
        x: u64,
        z: u64,
        partials: u64,
        shape: ShapeArgs,
        strip: u32,
        chunk: u32,
        chunks: u32,
    }

    struct ForwardArgs: 1040 {
        h: u32,
        w: u32,
        channels: u32,
        vector: u32,
        unit: [ForwardUnit; UNITS],
    }

    struct BackwardTerm: 40 {
        grad: u64,
        scale: u64,
        sample_scale: u64,
        b: u64,
        d: u64,
    }

    struct BackwardUnit: 64 {
        x: u64,
        z: u64,
        dx: u64,
        shape: ShapeArgs,
        accumulate: u32,
        first_term: u32,
        terms: u32,
    }

    struct Group: 8 {
        first: u32,
        count: u32,
    }

    struct BackwardArgs: 3744 {
        h: u32,
        w: u32,
        channels: u32,
        vector: u32,
        band: u32,
        tile: u32,
        tiles: u32,
        gradients: u32,
        group: [Group; UNITS],
        unit: [BackwardUnit; UNITS],
        term: [BackwardTerm; TERMS],
    }
}

/// What is taken of a window.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum PoolKind {
    /// The largest cell.
    Max,
    /// The mean of the real cells.
    Average,
}

/// Geometry of a pool.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct PoolShape {
    /// What is taken of a window.
    pub kind: PoolKind,
    /// Rows and columns of the window, k; at most 15.
    pub kernel: usize,
    /// Distance of windows, s.
    pub stride: usize,
    /// Cells added on every side, p; less than k, and at most k/2.
    pub padding: usize,
    /// Whether x goes through a ReLU first, whose derivative at 0 is 0.
    pub relu: bool,
}

impl PoolShape {
    /// Shape of z for an x of shape `images`.
    ///
    /// # Panics
    /// If the stride is 0 or the padded image is smaller than the window.
    pub const fn output(self, images: Images) -> Images {
        let (h, w) = (images.h + 2 * self.padding, images.w + 2 * self.padding);
        assert!(self.stride > 0 && h >= self.kernel && w >= self.kernel, "pool: the window does not fit the image");
        Images { h: (h - self.kernel) / self.stride + 1, w: (w - self.kernel) / self.stride + 1, ..images }
    }

    fn args(self, operation: &str, images: Images) -> ShapeArgs {
        assert!(
            (1..=LARGEST_KERNEL).contains(&self.kernel)
                && self.stride > 0
                && 2 * self.padding <= self.kernel
                && self.padding < self.kernel,
            "{operation}: {self:?}, expected a window of 1 to {LARGEST_KERNEL}, a stride and a padding of at most half"
        );
        let out = self.output(images);
        ShapeArgs {
            kernel: self.kernel as u32,
            stride: self.stride as u32,
            padding: self.padding as u32,
            relu: self.relu.into(),
            average: (self.kind == PoolKind::Average).into(),
            out_h: out.h as u32,
            out_w: out.w as u32,
        }
    }

    /// Whether the code for windows of 3 × 3 is for it.
    fn is_3x3(self) -> bool {
        self.kernel == 3 && self.padding == 1 && self.stride <= 2 && !self.relu
    }

    /// Rows of z whose windows reach into a band of rows of x.
    fn rows_of_band(self, band: usize) -> usize {
        (band + self.kernel - 2) / self.stride + 1
    }
}

/// One pool of a forward call.
#[derive(Debug, Copy, Clone)]
pub struct Forward {
    /// x `[N, H, W, C]`.
    pub x: View,
    /// What is taken of it.
    pub shape: PoolShape,
    /// z, of shape `shape.output(images)`, overwritten.
    pub z: View,
    /// \[Σz | Σz²\] per channel, 2·C, overwritten.
    pub sums: Option<View<f64>>,
}

/// One pool of a backward call.
#[derive(Debug, Copy, Clone)]
pub struct Backward<'a> {
    /// x `[N, H, W, C]`.
    pub x: View,
    /// What was taken of it.
    pub shape: PoolShape,
    /// z, as forward wrote it; read where a term has a batch norm.
    pub z: View,
    /// The gradients that z got; they add up.
    pub terms: &'a [Term],
    /// Gradient of x (before a ReLU): `[N, H, W, C]`. Pools that follow each other and have the same dx add up.
    pub dx: View,
    /// What happens to the former contents of dx.
    pub write: Write,
}

/// A gradient that z got: s\[n\]·scale\[c\]·grad\[n,p,c\] + b\[c\]·z\[n,p,c\] + d\[c\].
#[derive(Debug, Copy, Clone)]
pub struct Term {
    /// grad, of the shape of z.
    pub grad: View,
    /// scale `[C]`; none: 1.
    pub scale: Option<View>,
    /// s `[N]`; none: 1.
    pub sample_scale: Option<View>,
    /// b and d `[C]`; none: 0.
    pub bn: Option<[View; 2]>,
}

/// How threads of the forward kernel lie over an image of z.
struct Strips {
    /// Rows of a strip.
    rows: usize,
    /// Strips of a block.
    chunk: usize,
    /// Blocks of an image.
    chunks: usize,
}

impl Strips {
    fn new(out: Images, shape: PoolShape) -> Self {
        let rows = if shape.is_3x3() { STRIPS_3X3[shape.stride - 1] } else { 1 };
        let strips = out.h.div_ceil(rows) * out.w;
        let threads = channels::rows(out.c, out.c.is_multiple_of(4), FORWARD.threads);
        let chunk = channels::chunk(out.n, strips, threads, PIXELS / rows);
        Self { rows, chunk, chunks: strips.div_ceil(chunk) }
    }
}

/// Floats of scratch memory that [`forward`] wants for the sums of one pool of `shape`.
///
/// # Panics
/// As [`PoolShape::output`].
pub fn forward_scratch_len(images: Images, shape: PoolShape) -> usize {
    let out = shape.output(images);
    2 * out.c * out.n * Strips::new(out, shape).chunks
}

/// z of all `pools`, which read inputs of one shape.
///
/// # Shapes
/// `images`: of every x; `scratch` at least the sum of [`forward_scratch_len`] over the pools with sums, overwritten; the rest
/// at [`Forward`]. Sums that the last launch of `program` was to deliver are delivered with those of the pools.
///
/// # Panics
/// If a view does not have the length of its shape, or a pool's geometry is none.
pub fn forward(program: &mut Program, images: Images, pools: &[Forward], scratch: View) {
    const OPERATION: &str = "pool::forward";
    let mut folds = fold::join_last(program, pools.iter().map(|pool| (pool.z, pool.sums)), scratch);
    let mut used = 0;
    for pools in pools.chunks(UNITS) {
        let mut units = Vec::with_capacity(pools.len());
        for pool in pools {
            let out = pool.shape.output(images);
            assert_eq!(pool.x.len, images.len(), "{OPERATION}: x of {images:?}");
            assert_eq!(pool.z.len, out.len(), "{OPERATION}: z of {out:?}");
            let partials = pool.sums.map(|sums| {
                assert_eq!(sums.len, 2 * images.c, "{OPERATION}: sums of {out:?}");
                let len = forward_scratch_len(images, pool.shape);
                let partials = scratch.slice(used..used + len);
                used += len;
                folds.push(Fold { partials, sums });
                partials
            });
            let strips = Strips::new(out, pool.shape);
            units.push(ForwardUnit {
                x: pool.x.address,
                z: pool.z.address,
                partials: pointer(partials),
                shape: pool.shape.args(OPERATION, images),
                strip: strips.rows as u32,
                chunk: strips.chunk as u32,
                chunks: strips.chunks as u32,
            });
        }
        let vector = vector(images.c, units.iter().flat_map(|unit| [unit.x, unit.z, unit.partials]));
        let mut unit = [units[0]; UNITS];
        unit[..units.len()].copy_from_slice(&units);
        let args = ForwardArgs {
            h: images.h as u32,
            w: images.w as u32,
            channels: images.c as u32,
            vector: vector.into(),
            unit,
        };
        let chunks = units.iter().map(|unit| unit.chunks).max().unwrap_or(0);
        let grid = [chunks, images.n as u32, units.len() as u32];
        program.push(&FORWARD, grid, sum_rows_bytes(vector, FORWARD.threads, 2), &args);
    }
    fold::partials(program, &folds);
}

/// The pieces of dx that blocks of the backward kernel take.
#[derive(Debug, PartialEq)]
struct Pieces {
    /// Rows of x.
    band: usize,
    /// Channels.
    tile: usize,
    /// Floats of dz that the largest piece keeps in shared memory; it keeps as many bytes for the winners.
    gradients: usize,
}

/// The pieces of dx that blocks of the kernel for windows of 3 × 3 take: whole rows, so that neighbours are at hand. None if
/// that kernel cannot do `pools`.
fn pieces_3x3(images: Images, pools: &[Backward], vector: bool) -> Option<Pieces> {
    let shape = pools[0].shape;
    let adds = |pair: &[Backward]| pair[0].dx.address != pair[1].dx.address || pair[1].write == Write::Accumulate;
    let (columns, packs, threads) = (shape.output(images).w, images.c / 4, BACKWARD_3X3.threads as usize);
    let fits = pools.iter().all(|pool| pool.shape.is_3x3() && pool.shape.stride == shape.stride);
    if !vector || !fits || !pools.windows(2).all(adds) || columns > threads {
        return None;
    }
    let tile = packs.div_ceil(packs.div_ceil(threads / columns));
    let strips = (threads / (columns * tile)).min(images.h.div_ceil(BACKWARD_STRIP));
    Some(Pieces { band: BACKWARD_STRIP * strips, tile: 4 * tile, gradients: 0 })
}

impl Pieces {
    /// As many rows, then as many channels, as the shared memory holds and as leave enough blocks, or the most that keep a
    /// block's threads busy.
    fn new(images: Images, shapes: &[PoolShape]) -> Self {
        let gradients = |band: usize, tile: usize| {
            let of = |shape: &PoolShape| shape.rows_of_band(band) * shape.output(images).w * tile;
            shapes.iter().map(of).max().unwrap_or(0).next_multiple_of(4)
        };
        // Less than 8 channels are less than memory moves at once.
        let tiles = || std::iter::once(images.c).chain([64, 32, 16, 8].into_iter().filter(|&tile| tile < images.c));
        let candidates = [8, 4].into_iter().flat_map(|band| tiles().map(move |tile| (band, tile)));
        let mut fitting = candidates
            .chain([(2, 4), (1, 4), (1, 1)])
            .map(|(band, tile)| Self { band, tile: tile.min(images.c), gradients: gradients(band, tile.min(images.c)) })
            .filter(|pieces| 5 * pieces.gradients <= SHARED);
        let blocks = |pieces: &Self| images.n * images.h.div_ceil(pieces.band) * images.c.div_ceil(pieces.tile);
        let busy = |pieces: &Self| pieces.band.min(images.h) * images.w * pieces.tile / 4 >= BACKWARD.threads as usize;
        let candidate = fitting.next().map(|first| {
            let smaller = fitting.take_while(busy);
            smaller.fold(first, |best, next| if blocks(&best) < BLOCKS { next } else { best })
        });
        candidate.unwrap_or_else(|| panic!("pool::backward: rows of {} pixels are too long", images.w))
    }
}

/// dx of all `pools`, which read inputs of one shape; with `relu` the gradient with respect to x before it.
///
/// # Shapes
/// `images`: of every x; the rest at [`Backward`].
///
/// # Panics
/// If a view does not have the length of its shape, a pool's geometry is none, or an image's rows are too long for a block.
pub fn backward(program: &mut Program, images: Images, pools: &[Backward]) {
    // Gradients add up, so a pool with more terms than a launch has room for is several that add to the same dx.
    let mut pieces = Vec::with_capacity(pools.len());
    for pool in pools {
        assert!(!pool.terms.is_empty(), "pool::backward: no gradient arrived");
        let parts = pool.terms.chunks(TERMS).enumerate();
        pieces.extend(parts.map(|(part, terms)| {
            let write = if part > 0 { Write::Accumulate } else { pool.write };
            Backward { terms, write, ..*pool }
        }));
    }
    let mut rest = &pieces[..];
    while !rest.is_empty() {
        let mut terms = 0;
        let fits = |pool: &&Backward| {
            terms += pool.terms.len();
            terms <= TERMS
        };
        let count = rest.iter().take(UNITS).take_while(fits).count();
        let (now, later) = rest.split_at(count);
        push_backward(program, images, now);
        rest = later;
    }
}

fn push_backward(program: &mut Program, images: Images, pools: &[Backward]) {
    const OPERATION: &str = "pool::backward";
    let mut units: Vec<BackwardUnit> = Vec::with_capacity(pools.len());
    let mut groups: Vec<Group> = Vec::with_capacity(pools.len());
    let mut terms: Vec<BackwardTerm> = Vec::new();
    for (index, pool) in pools.iter().enumerate() {
        let out = pool.shape.output(images);
        assert_eq!((pool.x.len, pool.dx.len), (images.len(), images.len()), "{OPERATION}: x and dx of {images:?}");
        for term in pool.terms {
            let fits = |view: Option<View>, len: usize| view.is_none_or(|view| view.len == len);
            assert_eq!(term.grad.len, out.len(), "{OPERATION}: gradient for a z of {out:?}");
            assert!(fits(term.scale, out.c) && fits(term.sample_scale, out.n), "{OPERATION}: scale of a gradient");
            let [b, d] = term.bn.map_or([None; 2], |bn| bn.map(Some));
            assert!(fits(b, out.c) && fits(d, out.c), "{OPERATION}: b and d of a batch norm");
            assert!(b.is_none() || pool.z.len == out.len(), "{OPERATION}: z of {out:?}");
            terms.push(BackwardTerm {
                grad: term.grad.address,
                scale: pointer(term.scale),
                sample_scale: pointer(term.sample_scale),
                b: pointer(b),
                d: pointer(d),
            });
        }
        match (groups.last_mut(), units.last()) {
            (Some(group), Some(last)) if last.dx == pool.dx.address => group.count += 1,
            _ => groups.push(Group { first: index as u32, count: 1 }),
        }
        units.push(BackwardUnit {
            x: pool.x.address,
            z: pool.z.address,
            dx: pool.dx.address,
            shape: pool.shape.args(OPERATION, images),
            accumulate: pool.write.flag(),
            first_term: (terms.len() - pool.terms.len()) as u32,
            terms: pool.terms.len() as u32,
        });
    }
    let of_units = units.iter().flat_map(|unit| [unit.x, unit.z, unit.dx]);
    let vector =
        vector(images.c, of_units.chain(terms.iter().flat_map(|term| [term.grad, term.scale, term.b, term.d])));
    let (kernel, pieces, shared) = match pieces_3x3(images, pools, vector) {
        Some(pieces) => {
            (&BACKWARD_3X3, pieces, 3 * BACKWARD_STRIP as u32 * sum_rows_bytes(true, BACKWARD_3X3.threads, 1))
        }
        None => {
            let shapes: Vec<PoolShape> = pools.iter().map(|pool| pool.shape).collect();
            let pieces = Pieces::new(images, &shapes);
            let shared = 5 * pieces.gradients as u32;
            (&BACKWARD, pieces, shared)
        }
    };
    let tiles = images.c.div_ceil(pieces.tile);
    let mut args = BackwardArgs {
        h: images.h as u32,
        w: images.w as u32,
        channels: images.c as u32,
        vector: (vector && pieces.tile.is_multiple_of(4)).into(),
        band: pieces.band as u32,
        tile: pieces.tile as u32,
        tiles: tiles as u32,
        gradients: pieces.gradients as u32,
        group: [groups[0]; UNITS],
        unit: [units[0]; UNITS],
        term: [terms[0]; TERMS],
    };
    args.group[..groups.len()].copy_from_slice(&groups);
    args.unit[..units.len()].copy_from_slice(&units);
    args.term[..terms.len()].copy_from_slice(&terms);
    let grid = [blocks(images.h, pieces.band as u32) * tiles as u32, images.n as u32, groups.len() as u32];
    program.push(kernel, grid, shared, &args);
}

#[cfg(test)]
mod tests {
    use super::{Pieces, PoolKind, PoolShape};
    use crate::images::Images;

    #[test]
    fn blocks_of_the_backward_kernel_fit_shared_memory_at_every_size() {
        let shape = PoolShape { kind: PoolKind::Max, kernel: 3, stride: 1, padding: 1, relu: false };
        for (size, c) in [(1, 1), (8, 64), (32, 16), (32, 36), (56, 96), (28, 192), (500, 17), (2000, 3)] {
            let pieces = Pieces::new(Images { n: 1, h: size, w: size, c }, &[shape]);
            assert!(5 * pieces.gradients <= super::SHARED && pieces.tile <= c, "{size} {c}: {pieces:?}");
        }
        let search = Pieces::new(Images { n: 64, h: 32, w: 32, c: 16 }, &[shape; 2]);
        assert_eq!((search.band, search.tile), (8, 8));
    }
}

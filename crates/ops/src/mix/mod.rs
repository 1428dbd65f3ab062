//! Weighted sums of candidate operations into the nodes of a cell, with the batch norm of each candidate folded in as an
//! affine, and the sums that its backward needs. Refuses to store a normalized or a weighted tensor.
//!
//! Axes: N images, P = H·W pixels, C channels; t counts terms.
//!
//! - [`forward`]: node\[n,p,c\] (+)= Σ_t s_t\[n\]·(scale_t\[c\]·z_t\[n,p,c\] + shift_t\[c\]). For a candidate with weight w and batch norm
//!   (scale, shift) the caller passes w·scale and w·shift; s_t are masks of path dropout.
//! - [`reduce`]: per term and channel \[Σ s_t·dnode | Σ s_t·dnode·z_t\], from which the weight's gradient, Σ_c scale·S₁ + shift·S₀, and the
//!   coefficients of [`batch_norm::backward`](crate::batch_norm::backward) follow. There is no backward kernel: the gradient
//!   of each z_t is formed on the fly by the kernel that made z_t ([`Upstream`](crate::images::Upstream)).
//!
//! Both are one pass over memory: a block of the node stays in the first-level cache while all terms stream past it.

use crate::images::{Images, Write};
use crate::profile::{self, Work};
use crate::simd::InstructionSet;

mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

/// One term of a weighted sum.
#[derive(Debug, Copy, Clone)]
pub struct Term<'a> {
    /// z_t `[N, H, W, C]`.
    pub z: &'a [f32],
    /// scale_t `[C]`.
    pub scale: &'a [f32],
    /// shift_t `[C]`; none: 0.
    pub shift: Option<&'a [f32]>,
    /// s_t `[N]`; none: 1.
    pub sample_scale: Option<&'a [f32]>,
}

/// One term of a reduction.
#[derive(Debug)]
pub struct ReduceTerm<'a> {
    /// z_t `[N, H, W, C]`.
    pub z: &'a [f32],
    /// s_t `[N]`; none: 1.
    pub sample_scale: Option<&'a [f32]>,
    /// \[Σ s_t·dnode | Σ s_t·dnode·z_t\], 2·C, overwritten.
    pub sums: &'a mut [f64],
}

/// node\[n,p,c\] = Σ_t s_t\[n\]·(scale_t\[c\]·z_t\[n,p,c\] + shift_t\[c\]), or that added to node, as `write` says. Without terms
/// the sum is 0.
///
/// # Shapes
/// node `[N, H, W, C]` = `images`; the rest at [`Term`].
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn forward(images: Images, terms: &[Term], node: &mut [f32], write: Write) {
    forward_on(InstructionSet::selected(), images, terms, node, write);
}

/// [`forward`] on a given instruction set.
///
/// # Panics
/// As [`forward`].
pub fn forward_on(set: InstructionSet, images: Images, terms: &[Term], node: &mut [f32], write: Write) {
    assert_eq!(node.len(), images.len(), "mix::forward: node of {images:?}");
    for (t, term) in terms.iter().enumerate() {
        assert_eq!(term.z.len(), images.len(), "mix::forward: z of term {t} for a node of {images:?}");
        assert_eq!(term.scale.len(), images.c, "mix::forward: scale of term {t}");
        assert!(term.shift.is_none_or(|s| s.len() == images.c), "mix::forward: shift of term {t}");
        assert!(term.sample_scale.is_none_or(|s| s.len() == images.n), "mix::forward: sample scale of term {t}");
    }
    if !images.is_empty() {
        let _span = profile::span("mix forward", || Work {
            flops: 2 * terms.len() * node.len(),
            floats: (terms.len() + if write == Write::Accumulate { 2 } else { 1 }) * node.len(),
        });
        cpu::forward(set, images, terms, node, write);
    }
}

/// Sums of \[s_t·dnode | s_t·dnode·z_t\] over images and pixels for every term, in one pass over dnode and all z.
///
/// # Shapes
/// dnode `[N, H, W, C]` = `images`; the rest at [`ReduceTerm`].
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn reduce(images: Images, dnode: &[f32], terms: &mut [ReduceTerm]) {
    reduce_on(InstructionSet::selected(), images, dnode, terms);
}

/// [`reduce`] on a given instruction set.
///
/// # Panics
/// As [`reduce`].
pub fn reduce_on(set: InstructionSet, images: Images, dnode: &[f32], terms: &mut [ReduceTerm]) {
    assert_eq!(dnode.len(), images.len(), "mix::reduce: dnode of {images:?}");
    for (t, term) in terms.iter_mut().enumerate() {
        assert_eq!(term.z.len(), images.len(), "mix::reduce: z of term {t} for a node of {images:?}");
        assert_eq!(term.sums.len(), 2 * images.c, "mix::reduce: sums of term {t}");
        assert!(term.sample_scale.is_none_or(|s| s.len() == images.n), "mix::reduce: sample scale of term {t}");
        term.sums.fill(0.0);
    }
    if !images.is_empty() && !terms.is_empty() {
        let _span = profile::span("mix reduce", || Work {
            flops: 2 * terms.len() * dnode.len(),
            floats: (terms.len() + 1) * dnode.len(),
        });
        cpu::reduce(set, images, dnode, terms);
    }
}

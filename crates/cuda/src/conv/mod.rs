//! Dense convolution of a list of tensors, as a product of the unfolded input with the weights. Refuses biases and groups (the
//! depthwise case is [`sep_unit`](crate::sep_unit)), and to build more of the unfolded input than a block of threads multiplies.
//!
//! Axes: the input is the channel concatenation of parts `[N, H, W, C_i]`, never built; z is `[N, H', W', ΣC_out]`. Several
//! branches read the same input from different offsets and write neighbouring channel ranges of z: a factorized reduce is
//! two 1×1 branches of stride 2 with offsets (0, 0) and (1, 1).
//!
//! z\[n, y, x, o\] = Σ_{ky,kx,i} weight\[o, i, ky, kx\] · ũ\[n, y·s_y + ky + offset_y, x·s_x + kx + offset_x, i\], where ũ is the activated
//! input and 0 outside of the image (after the activation: the halo is 0, not relu(b)).
//!
//! The factors of all three products, which are ũ, the weights and the gradient dz at z, are rounded to a [`Precision`] as they are
//! loaded and multiplied on CUDA cores (f32) or on tensor cores; sums are f32. Where u > 0 and what is summed over channels is
//! decided by numbers that were not rounded.

use crate::images::{Affine, Images, Upstream, Write};
use crate::precision::Precision;
use crate::program::{Kernel, Program};
use crate::view::View;

mod launch;
mod plan;
#[cfg(test)]
mod tests;

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[
    &launch::FORWARD[0],
    &launch::FORWARD[1],
    &launch::FORWARD[2],
    &launch::WEIGHTS[0],
    &launch::WEIGHTS[1],
    &launch::WEIGHTS[2],
    &launch::INPUT[0],
    &launch::INPUT[1],
    &launch::INPUT[2],
];

/// Parts and branches that a launch has room for.
const PARTS: usize = 16;
const BRANCHES: usize = 8;

/// What the input goes through first.
#[derive(Debug, Copy, Clone)]
pub enum Activation {
    /// Nothing.
    None,
    /// relu(x), whose derivative at 0 is 0.
    Relu,
    /// relu(a·x + b), with one coefficient per channel of the concatenated input.
    AffineRelu(Affine),
}

/// Geometry that all branches share.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct ConvShape {
    /// Rows and columns of the kernel.
    pub kernel: (usize, usize),
    /// Distance of windows in rows and columns.
    pub stride: (usize, usize),
    /// H' and W'.
    pub output: (usize, usize),
    /// Channels of the concatenated input.
    pub c_in: usize,
}

impl ConvShape {
    /// Floats in a row of the weights: C_in·k_y·k_x.
    pub const fn depth(self) -> usize {
        self.c_in * self.kernel.0 * self.kernel.1
    }

    /// A square kernel, padded so that a stride s leaves ⌈H/s⌉ × ⌈W/s⌉ of an input of shape `images`: its shape, and the offset
    /// of its branch.
    ///
    /// # Panics
    /// If `stride` is 0.
    pub const fn padded(images: Images, kernel: usize, stride: usize) -> (Self, (isize, isize)) {
        let out = images.strided(stride);
        let offset = -(((kernel - 1) / 2) as isize);
        let shape = Self { kernel: (kernel, kernel), stride: (stride, stride), output: (out.h, out.w), c_in: images.c };
        (shape, (offset, offset))
    }
}

/// One branch: a range of channels of z.
#[derive(Debug, Copy, Clone)]
pub struct Branch {
    /// Row and column of the input under tap (0, 0) of output (0, 0): minus the padding, or 1 for a factorized reduce's second.
    pub offset: (isize, isize),
    /// Channels it writes.
    pub c_out: usize,
    /// Weights `[C_out, C_in, k_y, k_x]`.
    pub weight: View,
}

/// z of all branches; `sums` is overwritten with `[Σz | Σz²]` per channel.
///
/// # Shapes
/// parts `[N, H, W, C_i]` with ΣC_i = `images.c`, at most 16; z `[N, H', W', ΣC_out]` of at most 8 branches, overwritten; sums
/// 2·ΣC_out; scratch [`forward_scratch_len`] if there are sums.
///
/// # Panics
/// If a view does not have the length of its shape.
#[expect(clippy::too_many_arguments, reason = "the CPU kernel's arguments, then scratch")]
pub fn forward(
    program: &mut Program,
    precision: Precision,
    images: Images,
    parts: &[View],
    activation: Activation,
    shape: ConvShape,
    branches: &[Branch],
    z: View,
    sums: Option<View<f64>>,
    scratch: View,
) {
    const OPERATION: &str = "conv::forward";
    let out = check(OPERATION, images, parts, activation, shape, branches);
    assert_eq!(z.len, out.len(), "{OPERATION}: z of {out:?}");
    assert!(sums.is_none_or(|sums| sums.len == 2 * out.c), "{OPERATION}: sums of {out:?}");
    if !images.is_empty() && !out.is_empty() {
        launch::forward(program, precision, images, parts, activation, shape, branches, z, sums, scratch);
    }
}

/// Floats of scratch memory that a forward call with sums takes, whose branches write so many channels each.
pub fn forward_scratch_len(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> usize {
    // The cut depends on the input's channels, not on how they are divided into parts.
    plan::forward(precision, images, shape, c_out).partials * 2 * c_out.iter().sum::<usize>()
}

/// Gradients of the weights and of the parts.
///
/// `d_weights`, one view per branch, is overwritten; none: not computed. `d_parts` has one entry per part, each written as `write`
/// says (none: not computed), or is empty. A part's gradient is that of u = a·x + b with [`Activation::AffineRelu`] (masked by
/// u > 0), else that of x. `sums` is overwritten with `[Σdu | Σdu·x]` per input channel, of what the `d_parts` hold afterwards;
/// 0 for parts without a gradient.
///
/// # Shapes
/// As [`forward`]; `upstream` as z, at most four terms; weights as those of the branches; d_parts as the parts; sums
/// 2·`images.c`; scratch [`backward_scratch_len`].
///
/// # Panics
/// If a view does not have the length of its shape.
#[expect(clippy::too_many_arguments, reason = "the CPU kernel's arguments, then scratch")]
pub fn backward(
    program: &mut Program,
    precision: Precision,
    images: Images,
    parts: &[View],
    activation: Activation,
    shape: ConvShape,
    branches: &[Branch],
    upstream: Upstream,
    d_weights: Option<&[View]>,
    d_parts: &[Option<View>],
    write: Write,
    sums: Option<View<f64>>,
    scratch: View,
) {
    const OPERATION: &str = "conv::backward";
    let out = check(OPERATION, images, parts, activation, shape, branches);
    if let Some(weights) = d_weights {
        assert_eq!(weights.len(), branches.len(), "{OPERATION}: gradients of the branches' weights");
        for (gradient, branch) in weights.iter().zip(branches) {
            assert_eq!(gradient.len, branch.weight.len, "{OPERATION}: gradient of a branch's weights");
        }
    }
    assert!(
        d_parts.is_empty() || d_parts.len() == parts.len(),
        "{OPERATION}: gradients of {} parts, expected 0 or {}",
        d_parts.len(),
        parts.len()
    );
    for (gradient, part) in d_parts.iter().zip(parts) {
        assert!(gradient.is_none_or(|gradient| gradient.len == part.len), "{OPERATION}: gradient of a part");
    }
    assert!(sums.is_none_or(|sums| sums.len == 2 * images.c), "{OPERATION}: sums of {images:?}");
    if images.is_empty() || out.is_empty() {
        return;
    }
    let input = launch::Input { images, parts, d_parts, activation, shape, branches };
    let mut used = 0;
    if let Some(weights) = d_weights {
        used = launch::weights(program, precision, &input, upstream, weights, scratch);
    }
    if sums.is_some() || d_parts.iter().any(Option::is_some) {
        launch::input(program, precision, &input, upstream, write, sums, scratch.slice(used..scratch.len));
    }
}

/// Floats of scratch memory that a backward call takes, whose branches write so many channels each: for the gradients of the
/// weights, then for the sums.
pub fn backward_scratch_len(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> usize {
    let weights = plan::weights(precision, images, shape, c_out).slots * c_out.iter().sum::<usize>() * shape.depth();
    weights + plan::input(precision, images, shape, c_out).partials * 2 * images.c
}

/// Panics unless everything fits; the shape of z.
fn check(
    operation: &str,
    images: Images,
    parts: &[View],
    activation: Activation,
    shape: ConvShape,
    branches: &[Branch],
) -> Images {
    assert_eq!(shape.c_in, images.c, "{operation}: input channels of {shape:?} for {images:?}");
    assert!(
        shape.kernel.0 > 0 && shape.kernel.1 > 0 && shape.stride.0 > 0 && shape.stride.1 > 0,
        "{operation}: {shape:?}, expected a kernel and a stride of at least 1"
    );
    assert!(
        parts.len() <= PARTS && branches.len() <= BRANCHES,
        "{operation}: {} parts and {} branches, expected at most {PARTS} and {BRANCHES}",
        parts.len(),
        branches.len()
    );
    let pixels = images.pixels().max(1);
    let total: usize = parts.iter().map(|part| part.len).sum();
    assert!(
        total == images.len() && parts.iter().all(|part| part.len.is_multiple_of(pixels)),
        "{operation}: parts with {total} floats, expected channels of {images:?}"
    );
    if let Activation::AffineRelu(affine) = activation {
        assert_eq!(affine.scale.len, images.c, "{operation}: scale of the affine");
        assert_eq!(affine.shift.len, images.c, "{operation}: shift of the affine");
    }
    for branch in branches {
        assert_eq!(branch.weight.len, branch.c_out * shape.depth(), "{operation}: weights of a branch of {shape:?}");
        assert!(branch.c_out > 0, "{operation}: a branch without channels");
    }
    let c = branches.iter().map(|branch| branch.c_out).sum();
    Images { n: images.n, h: shape.output.0, w: shape.output.1, c }
}

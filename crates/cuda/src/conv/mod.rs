//! Dense convolution of a list of tensors, as a product of the unfolded input with the weights. Refuses biases and groups (the
//! depthwise case is [`sep_unit`](crate::sep_unit)), and to build more of the unfolded input than a block of threads multiplies.
//!
//! Axes: the input is the channel concatenation of parts `[N, H, W, C_i]`, never built; z is `[N, H', W', ΣC_out]`. Several
//! branches read the same input from different offsets and write neighbouring channel ranges of z: a factorized reduce is
//! two 1×1 branches of stride 2 with offsets (0, 0) and (1, 1). Convolutions of one geometry that read the same input, each with a
//! z of its own, go in one launch.
//!
//! z\[n, y, x, o\] = Σ_{ky,kx,i} weight\[o, i, ky, kx\] · ũ\[n, y·s_y + ky + offset_y, x·s_x + kx + offset_x, i\], where ũ is the activated
//! input and 0 outside of the image (after the activation: the halo is 0, not relu(b)).
//!
//! The factors of all three products, which are ũ, the weights and the gradient dz at z, are rounded to a [`Precision`] as they are
//! loaded and multiplied on CUDA cores (f32) or on tensor cores; sums are f32. Where u > 0 and what is summed over channels is
//! decided by numbers that were not rounded.

use crate::fold::Pending;
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

/// Parts of an input that a call has room for.
const PARTS: usize = 16;
/// Branches of all outputs that a call has room for.
pub const BRANCHES: usize = 8;
/// Outputs that a call has room for.
pub const OUTPUTS: usize = 4;

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

    /// Shape of the z of these branches.
    fn output(self, images: Images, branches: &[Branch]) -> Images {
        let c = branches.iter().map(|branch| branch.c_out).sum();
        Images { n: images.n, h: self.output.0, w: self.output.1, c }
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

/// One convolution of a forward call.
#[derive(Debug, Copy, Clone)]
pub struct Output<'a> {
    /// Its branches, one or more.
    pub branches: &'a [Branch],
    /// z `[N, H', W', ΣC_out]`, overwritten.
    pub z: View,
    /// `[Σz | Σz²]` per channel, 2·ΣC_out, overwritten.
    pub sums: Option<View<f64>>,
}

/// One convolution of a backward call.
#[derive(Debug, Copy, Clone)]
pub struct OutputBackward<'a> {
    /// Its branches, one or more.
    pub branches: &'a [Branch],
    /// The gradient that arrives at z; at most four terms.
    pub upstream: Upstream<'a>,
    /// Gradients of the branches' weights, overwritten when the pending ones are folded; none: not computed, of no output.
    pub weights: Option<&'a [View]>,
}

/// z of all outputs. Sums that the last launch of `program` was to deliver are delivered with those of the outputs.
///
/// # Shapes
/// parts `[N, H, W, C_i]` with ΣC_i = `images.c`, at most 16; at most [`OUTPUTS`] outputs with [`BRANCHES`] branches in all; scratch
/// [`forward_scratch_len`] if there are sums.
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
    outputs: &[Output],
    scratch: View,
) {
    const OPERATION: &str = "conv::forward";
    let branches: Vec<&[Branch]> = outputs.iter().map(|output| output.branches).collect();
    check(OPERATION, images, parts, activation, shape, &branches);
    for output in outputs {
        let out = shape.output(images, output.branches);
        assert_eq!(output.z.len, out.len(), "{OPERATION}: z of {out:?}");
        assert!(output.sums.is_none_or(|sums| sums.len == 2 * out.c), "{OPERATION}: sums of {out:?}");
    }
    let input = launch::Input { images, parts, d_parts: &[], activation, shape, outputs: branches };
    if !input.is_empty() {
        launch::forward(program, precision, &input, outputs, scratch);
    }
}

/// Floats of scratch memory that a forward call with sums takes, whose branches write so many channels each.
pub fn forward_scratch_len(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> usize {
    // The cut depends on the input's channels, not on how they are divided into parts.
    plan::forward(precision, images, shape, c_out).partials * 2 * c_out.iter().sum::<usize>()
}

/// Gradients of the weights and of the parts.
///
/// `d_parts` has one entry per part, each written as `write` says (none: not computed), or is empty. A part's gradient is that of
/// u = a·x + b with [`Activation::AffineRelu`] (masked by u > 0), else that of x; contributions of all outputs add up. `sums` is
/// overwritten with `[Σdu | Σdu·x]` per input channel, of what the `d_parts` hold afterwards; 0 for parts without a gradient.
///
/// # Shapes
/// As [`forward`]; upstreams as z; weights as those of the branches; d_parts as the parts; sums 2·`images.c`; scratch
/// [`backward_scratch_len`]; of the room of `pending` [`backward_partials_len`].
///
/// # Panics
/// If a view does not have the length of its shape.
#[expect(clippy::too_many_arguments, reason = "the CPU kernel's arguments, then scratch and what is pending")]
pub fn backward(
    program: &mut Program,
    precision: Precision,
    images: Images,
    parts: &[View],
    activation: Activation,
    shape: ConvShape,
    outputs: &[OutputBackward],
    d_parts: &[Option<View>],
    write: Write,
    sums: Option<View<f64>>,
    scratch: View,
    pending: &mut Pending,
) {
    const OPERATION: &str = "conv::backward";
    let branches: Vec<&[Branch]> = outputs.iter().map(|output| output.branches).collect();
    check(OPERATION, images, parts, activation, shape, &branches);
    let wants_weights = outputs.iter().any(|output| output.weights.is_some());
    for output in outputs {
        assert_eq!(output.weights.is_some(), wants_weights, "{OPERATION}: gradients of the weights of some outputs");
        let weights = output.weights.unwrap_or(&[]);
        assert!(
            !wants_weights || weights.len() == output.branches.len(),
            "{OPERATION}: gradients of branches' weights"
        );
        for (gradient, branch) in weights.iter().zip(output.branches) {
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
    let input = launch::Input { images, parts, d_parts, activation, shape, outputs: branches };
    if input.is_empty() {
        return;
    }
    if wants_weights {
        launch::weights(program, precision, &input, outputs, pending);
    }
    if sums.is_some() || d_parts.iter().any(Option::is_some) {
        launch::input(program, precision, &input, outputs, write, sums, scratch);
    }
}

/// Floats of scratch memory that a backward call with sums takes, whose branches write so many channels each.
pub fn backward_scratch_len(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> usize {
    plan::input(precision, images, shape, c_out).partials * 2 * images.c
}

/// Floats of partial gradients that a backward call for the weights leaves to be folded, whose branches write so many channels each.
pub fn backward_partials_len(precision: Precision, images: Images, shape: ConvShape, c_out: &[usize]) -> usize {
    plan::weights(precision, images, shape, c_out).slots * c_out.iter().sum::<usize>() * shape.depth()
}

/// Panics unless everything fits.
fn check(
    operation: &str,
    images: Images,
    parts: &[View],
    activation: Activation,
    shape: ConvShape,
    outputs: &[&[Branch]],
) {
    assert_eq!(shape.c_in, images.c, "{operation}: input channels of {shape:?} for {images:?}");
    assert!(
        shape.kernel.0 > 0 && shape.kernel.1 > 0 && shape.stride.0 > 0 && shape.stride.1 > 0,
        "{operation}: {shape:?}, expected a kernel and a stride of at least 1"
    );
    let branches = outputs.iter().map(|branches| branches.len()).sum::<usize>();
    assert!(
        parts.len() <= PARTS && outputs.len() <= OUTPUTS && branches <= BRANCHES,
        "{operation}: {} parts, {} outputs and {branches} branches, expected at most {PARTS}, {OUTPUTS} and {BRANCHES}",
        parts.len(),
        outputs.len(),
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
    for branch in outputs.iter().copied().flatten() {
        assert_eq!(branch.weight.len, branch.c_out * shape.depth(), "{operation}: weights of a branch of {shape:?}");
        assert!(branch.c_out > 0, "{operation}: a branch without channels");
    }
}

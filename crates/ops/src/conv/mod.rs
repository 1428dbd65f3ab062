//! Dense convolution of a list of tensors, as a product of strips of pixels with the weights. Refuses biases and groups (the
//! depthwise case is [`sep_unit`](crate::sep_unit)), and to build more of the unfolded input than a strip of some pixels.
//!
//! Axes: the input is the channel concatenation of parts `[N, H, W, C_i]`, never built; z is `[N, H', W', ΣC_out]`. Several
//! branches read the same input from different offsets and write neighbouring channel ranges of z: a factorized reduce is
//! two 1×1 branches of stride 2 with offsets (0, 0) and (1, 1).
//!
//! z\[n, y, x, o\] = Σ_{ky,kx,i} weight\[o, i, ky, kx\] · ũ\[n, y·s_y + ky + offset_y, x·s_x + kx + offset_x, i\], where ũ is the activated
//! input and 0 outside of the image (after the activation: the halo is 0, not relu(b)).

use crate::ahead::Run;
use crate::images::{Affine, Images, Upstream, Write};
use crate::profile::{self, Work};
use crate::simd::InstructionSet;

mod cpu;
mod cpu_backward;
mod gather;
pub mod reference;
#[cfg(test)]
mod tests;

/// What the input goes through first.
#[derive(Debug, Copy, Clone)]
pub enum Activation<'a> {
    /// Nothing.
    None,
    /// relu(x), whose derivative at 0 is 0.
    Relu,
    /// relu(a·x + b), with one coefficient per channel of the concatenated input.
    AffineRelu(Affine<'a>),
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
pub struct Branch<'a> {
    /// Row and column of the input under tap (0, 0) of output (0, 0): minus the padding, or 1 for a factorized reduce's second.
    pub offset: (isize, isize),
    /// Channels it writes.
    pub c_out: usize,
    /// Weights `[C_out, C_in, k_y, k_x]`.
    pub weight: &'a [f32],
}

/// What a convolution reads; the same for forward and backward.
#[derive(Debug, Copy, Clone)]
pub struct Input<'a> {
    /// N, H, W and the channels of all parts together.
    pub images: Images,
    /// The parts `[N, H, W, C_i]`.
    pub parts: &'a [&'a [f32]],
    /// What they go through first.
    pub activation: Activation<'a>,
}

impl Input<'_> {
    /// One image of every part; nothing past the last.
    fn runs(&self, image: usize) -> impl Iterator<Item = Run> {
        let n = self.images.n.max(1);
        self.parts.iter().filter_map(move |part| part.chunks_exact((part.len() / n).max(1)).nth(image)).map(Run::from)
    }
}

/// z of all branches on the selected instruction set; `sums` is overwritten with `[Σz | Σz²]` per channel.
///
/// # Shapes
/// parts `[N, H, W, C_i]` with ΣC_i = `images.c`; z `[N, H', W', ΣC_out]`, overwritten; sums 2·ΣC_out.
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn forward(
    images: Images,
    parts: &[&[f32]],
    activation: Activation,
    shape: ConvShape,
    branches: &[Branch],
    z: &mut [f32],
    sums: Option<&mut [f64]>,
) {
    forward_on(InstructionSet::selected(), Input { images, parts, activation }, shape, branches, z, sums);
}

/// [`forward`] on a given instruction set.
///
/// # Panics
/// As [`forward`].
pub fn forward_on(
    set: InstructionSet,
    input: Input,
    shape: ConvShape,
    branches: &[Branch],
    z: &mut [f32],
    sums: Option<&mut [f64]>,
) {
    const OPERATION: &str = "conv::forward";
    let out = check(OPERATION, input, shape, branches);
    assert_eq!(z.len(), out.len(), "{OPERATION}: z of {out:?}");
    if let Some(sums) = &sums {
        assert_eq!(sums.len(), 2 * out.c, "{OPERATION}: sums of {out:?}");
    }
    let _span = profile::span("conv forward", || Work {
        flops: 2 * z.len() * shape.depth(),
        floats: input.images.len() + z.len(),
    });
    cpu::forward(set, input, shape, branches, z, sums);
}

/// Gradients of the weights and of the parts, on the selected instruction set.
///
/// `d_weights`, one slice per branch, is overwritten; none: not computed. `d_parts` has one entry per part, each written as `write`
/// says (none: not computed), or is empty. A part's gradient is that of u = a·x + b with [`Activation::AffineRelu`] (masked by
/// u > 0), else that of x. `sums` is overwritten with `[Σdu | Σdu·x]` per input channel, of what the `d_parts` hold afterwards;
/// 0 for parts without a gradient.
///
/// # Shapes
/// As [`forward`]; `upstream` as z; weights as those of the branches; d_parts as the parts; sums 2·`images.c`.
///
/// # Panics
/// If a slice does not have the length of its shape.
#[expect(clippy::too_many_arguments, reason = "what forward takes, then what is wanted; `backward_on` groups them")]
pub fn backward(
    images: Images,
    parts: &[&[f32]],
    activation: Activation,
    shape: ConvShape,
    branches: &[Branch],
    upstream: Upstream,
    d_weights: Option<&mut [&mut [f32]]>,
    d_parts: &mut [Option<&mut [f32]>],
    write: Write,
    sums: Option<&mut [f64]>,
) {
    let input = Input { images, parts, activation };
    let gradients = Gradients { weights: d_weights, parts: d_parts, write, sums };
    backward_on(InstructionSet::selected(), input, shape, branches, upstream, gradients);
}

/// Where [`backward_on`] puts what it computes; see [`backward`].
#[derive(Debug)]
pub struct Gradients<'a, 'w, 'p> {
    /// One slice per branch, overwritten.
    pub weights: Option<&'a mut [&'w mut [f32]]>,
    /// One entry per part, or none at all.
    pub parts: &'a mut [Option<&'p mut [f32]>],
    /// What happens to the former contents of `parts`.
    pub write: Write,
    /// `[Σdu | Σdu·x]` per input channel, overwritten.
    pub sums: Option<&'a mut [f64]>,
}

/// [`backward`] on a given instruction set.
///
/// # Panics
/// As [`backward`].
pub fn backward_on(
    set: InstructionSet,
    input: Input,
    shape: ConvShape,
    branches: &[Branch],
    upstream: Upstream,
    gradients: Gradients,
) {
    const OPERATION: &str = "conv::backward";
    let out = check(OPERATION, input, shape, branches);
    upstream.check(OPERATION, out);
    if let Some(weights) = &gradients.weights {
        assert_eq!(weights.len(), branches.len(), "{OPERATION}: gradients of the branches' weights");
        for (gradient, branch) in weights.iter().zip(branches) {
            assert_eq!(gradient.len(), branch.weight.len(), "{OPERATION}: gradient of a branch's weights");
        }
    }
    assert!(
        gradients.parts.is_empty() || gradients.parts.len() == input.parts.len(),
        "{OPERATION}: gradients of {} parts, expected 0 or {}",
        gradients.parts.len(),
        input.parts.len()
    );
    for (gradient, part) in gradients.parts.iter().zip(input.parts) {
        assert!(gradient.as_ref().is_none_or(|g| g.len() == part.len()), "{OPERATION}: gradient of a part");
    }
    if let Some(sums) = &gradients.sums {
        assert_eq!(sums.len(), 2 * input.images.c, "{OPERATION}: sums of {:?}", input.images);
    }
    let _span = profile::span("conv backward", || {
        let d_parts: usize = gradients.parts.iter().flatten().map(|part| part.len()).sum();
        let wanted = usize::from(gradients.weights.is_some()) + usize::from(d_parts > 0);
        let d_parts = d_parts * if gradients.write == Write::Accumulate { 2 } else { 1 };
        let floats = input.images.len() + d_parts + upstream.floats();
        Work { flops: wanted * 2 * out.len() * shape.depth(), floats }
    });
    cpu_backward::backward(set, input, shape, branches, upstream, gradients);
}

/// Panics unless everything fits; the shape of z.
fn check(operation: &str, input: Input, shape: ConvShape, branches: &[Branch]) -> Images {
    let images = input.images;
    assert_eq!(shape.c_in, images.c, "{operation}: input channels of {shape:?} for {images:?}");
    assert!(
        shape.kernel.0 > 0 && shape.kernel.1 > 0 && shape.stride.0 > 0 && shape.stride.1 > 0,
        "{operation}: {shape:?}, expected a kernel and a stride of at least 1"
    );
    let pixels = images.pixels().max(1);
    let total: usize = input.parts.iter().map(|part| part.len()).sum();
    assert!(
        total == images.len() && input.parts.iter().all(|part| part.len().is_multiple_of(pixels)),
        "{operation}: parts with {total} floats, expected channels of {images:?}"
    );
    if let Activation::AffineRelu(affine) = input.activation {
        assert_eq!(affine.scale.len(), images.c, "{operation}: scale of the affine");
        assert_eq!(affine.shift.len(), images.c, "{operation}: shift of the affine");
    }
    for branch in branches {
        assert_eq!(branch.weight.len(), branch.c_out * shape.depth(), "{operation}: weights of a branch of {shape:?}");
    }
    let c = branches.iter().map(|branch| branch.c_out).sum();
    Images { n: images.n, h: shape.output.0, w: shape.output.1, c }
}

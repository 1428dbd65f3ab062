//! ReLU → depthwise → pointwise, the unit that separable and dilated convolutions are made of, with the batch norm
//! before it folded in as an affine and the sums for the one after it as a by-product. Refuses to normalize: that is
//! per-channel arithmetic on the sums.
//!
//! z = PW(DW(relu(a·x + b))): x `[N, H, W, C_in]`, depthwise weights `[C_in, 1, k, k]`, pointwise weights
//! `[C_out, C_in, 1, 1]`, z `[N, ⌈H/s⌉, ⌈W/s⌉, C_out]`, padding d·(k − 1)/2 with zeros *after* the activation: the halo is 0, not
//! relu(b). Several units that read the same x are computed in one call, which reads and activates x once.
//!
//! Backward recomputes the depthwise output instead of having it stored, and forms the gradient of z on the fly
//! ([`Upstream`]).

use crate::images::{Affine, Images, Upstream, Write};
use crate::profile::{self, Work};
use crate::simd::InstructionSet;

mod cpu;
mod cpu_backward;
mod cpu_depthwise;
mod cpu_finish;
mod cpu_forward;
mod cpu_plan;
mod cpu_weights;
pub mod reference;

/// Shape of one unit.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct UnitShape {
    /// Rows and columns of the depthwise kernel, k; odd.
    pub kernel: usize,
    /// Stride of the depthwise convolution, s.
    pub stride: usize,
    /// Dilation of the depthwise convolution, d.
    pub dilation: usize,
    /// Channels of x.
    pub c_in: usize,
    /// Channels of z.
    pub c_out: usize,
}

impl UnitShape {
    /// Zeros around the activated image, d·(k − 1)/2.
    pub const fn padding(self) -> usize {
        self.dilation * (self.kernel - 1) / 2
    }

    /// Floats of the depthwise weights, C_in·k².
    pub const fn depthwise_len(self) -> usize {
        self.c_in * self.kernel * self.kernel
    }

    /// Floats of the pointwise weights, C_out·C_in.
    pub const fn pointwise_len(self) -> usize {
        self.c_out * self.c_in
    }

    /// Shape of z for an x of shape `images`.
    pub const fn output(self, images: Images) -> Images {
        images.strided(self.stride).with_channels(self.c_out)
    }

    /// Multiply-adds of one forward over `images`.
    pub const fn multiply_adds(self, images: Images) -> usize {
        self.output(images).pixels() * (self.c_in * self.kernel * self.kernel + self.c_in * self.c_out)
    }

    fn check(self, operation: &str, images: Images, depthwise: &[f32], pointwise: &[f32]) {
        assert!(
            self.kernel % 2 == 1 && self.stride > 0 && self.dilation > 0 && self.c_out > 0,
            "{operation}: {self:?}, expected an odd kernel and a stride, a dilation and channels of at least 1"
        );
        assert_eq!(self.c_in, images.c, "{operation}: channels of {self:?} for an x of {images:?}");
        assert_eq!(depthwise.len(), self.depthwise_len(), "{operation}: depthwise weights of {self:?}");
        assert_eq!(pointwise.len(), self.pointwise_len(), "{operation}: pointwise weights of {self:?}");
    }
}

/// One unit of a forward call.
pub struct UnitForward<'a> {
    /// Its shape.
    pub shape: UnitShape,
    /// Depthwise weights `[C_in, 1, k, k]`.
    pub depthwise: &'a [f32],
    /// Pointwise weights `[C_out, C_in, 1, 1]`.
    pub pointwise: &'a [f32],
    /// z `[N, ⌈H/s⌉, ⌈W/s⌉, C_out]`, overwritten.
    pub z: &'a mut [f32],
    /// `[Σz | Σz²]` per channel, 2·C_out, overwritten.
    pub sums: Option<&'a mut [f64]>,
}

/// One unit of a backward call.
pub struct UnitBackward<'a> {
    /// Its shape.
    pub shape: UnitShape,
    /// Depthwise weights `[C_in, 1, k, k]`.
    pub depthwise: &'a [f32],
    /// Pointwise weights `[C_out, C_in, 1, 1]`.
    pub pointwise: &'a [f32],
    /// The gradient that arrives at z.
    pub upstream: Upstream<'a>,
    /// Gradients of the depthwise and of the pointwise weights, overwritten; none: not computed.
    pub weights: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// z_u = PW_u(DW_u(relu(a·x + b))) for every unit u, on the selected instruction set.
///
/// # Shapes
/// x `[N, H, W, C_in]` = `images`; the rest at [`UnitForward`].
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn forward(images: Images, x: &[f32], affine: Option<Affine>, units: &mut [UnitForward]) {
    forward_on(InstructionSet::selected(), images, x, affine, units);
}

/// [`forward`] on a given instruction set.
///
/// # Panics
/// As [`forward`].
pub fn forward_on(set: InstructionSet, images: Images, x: &[f32], affine: Option<Affine>, units: &mut [UnitForward]) {
    const OPERATION: &str = "sep_unit::forward";
    check_input(OPERATION, images, x, affine);
    for unit in &*units {
        unit.shape.check(OPERATION, images, unit.depthwise, unit.pointwise);
        assert_eq!(unit.z.len(), unit.shape.output(images).len(), "{OPERATION}: z of {:?}", unit.shape);
        if let Some(sums) = &unit.sums {
            assert_eq!(sums.len(), 2 * unit.shape.c_out, "{OPERATION}: sums of {:?}", unit.shape);
        }
    }
    if !units.is_empty() {
        let _span = profile::span("sep_unit forward", || forward_work(images, units));
        cpu_forward::forward(set, images, x, affine, units);
    }
}

/// du = Σ_u ∂/∂u of the units, masked by \[a·x + b > 0\]: the gradient with respect to a·x + b. The derivative of the ReLU at
/// 0 is 0. On the selected instruction set.
///
/// `write` says what happens to the former contents of `du`. `sums` is overwritten with `[Σdu | Σdu·x]` per channel, of what
/// `du` holds afterwards: what the backward of the batch norm before needs.
///
/// # Shapes
/// x, du `[N, H, W, C_in]` = `images`; sums 2·C_in; the rest at [`UnitBackward`].
///
/// # Panics
/// If a slice does not have the length of its shape.
pub fn backward(
    images: Images,
    x: &[f32],
    affine: Option<Affine>,
    units: &mut [UnitBackward],
    du: &mut [f32],
    write: Write,
    sums: Option<&mut [f64]>,
) {
    backward_on(InstructionSet::selected(), images, x, affine, units, Gradient { du, write, sums });
}

/// Where [`backward_on`] puts the gradient of its input.
pub struct Gradient<'a> {
    /// du `[N, H, W, C_in]`.
    pub du: &'a mut [f32],
    /// What happens to its former contents.
    pub write: Write,
    /// `[Σdu | Σdu·x]` of what it holds afterwards, overwritten.
    pub sums: Option<&'a mut [f64]>,
}

/// [`backward`] on a given instruction set.
///
/// # Panics
/// As [`backward`].
pub fn backward_on(
    set: InstructionSet,
    images: Images,
    x: &[f32],
    affine: Option<Affine>,
    units: &mut [UnitBackward],
    gradient: Gradient,
) {
    const OPERATION: &str = "sep_unit::backward";
    check_input(OPERATION, images, x, affine);
    assert_eq!(gradient.du.len(), images.len(), "{OPERATION}: du for an x of {images:?}");
    if let Some(sums) = &gradient.sums {
        assert_eq!(sums.len(), 2 * images.c, "{OPERATION}: sums for an x of {images:?}");
    }
    for unit in &*units {
        unit.shape.check(OPERATION, images, unit.depthwise, unit.pointwise);
        unit.upstream.check(OPERATION, unit.shape.output(images));
        if let Some((depthwise, pointwise)) = &unit.weights {
            assert_eq!(depthwise.len(), unit.shape.depthwise_len(), "{OPERATION}: depthwise gradient");
            assert_eq!(pointwise.len(), unit.shape.pointwise_len(), "{OPERATION}: pointwise gradient");
        }
    }
    let _span = profile::span("sep_unit backward", || backward_work(images, units, &gradient));
    cpu_backward::backward(set, images, x, affine, units, gradient);
}

fn forward_work(images: Images, units: &[UnitForward]) -> Work {
    let flops = units.iter().map(|unit| 2 * unit.shape.multiply_adds(images)).sum();
    Work { flops, floats: images.len() + units.iter().map(|unit| unit.z.len()).sum::<usize>() }
}

/// The gradient of the input; that of the weights and, for it, the depthwise output once more.
fn backward_work(images: Images, units: &[UnitBackward], gradient: &Gradient) -> Work {
    let flops = |unit: &UnitBackward| {
        let shape = unit.shape;
        let again = 2 * shape.output(images).pixels() * shape.depthwise_len();
        2 * shape.multiply_adds(images) * if unit.weights.is_some() { 2 } else { 1 }
            + if unit.weights.is_some() { again } else { 0 }
    };
    let floats = units.iter().map(|unit| unit.upstream.floats()).sum::<usize>();
    let du = gradient.du.len() * if gradient.write == Write::Accumulate { 2 } else { 1 };
    Work { flops: units.iter().map(flops).sum(), floats: images.len() + du + floats }
}

fn check_input(operation: &str, images: Images, x: &[f32], affine: Option<Affine>) {
    assert!(images.c > 0, "{operation}: images without channels");
    assert_eq!(x.len(), images.len(), "{operation}: x of {images:?}");
    if let Some(Affine { scale, shift }) = affine {
        assert_eq!(scale.len(), images.c, "{operation}: scale of the affine for an x of {images:?}");
        assert_eq!(shift.len(), images.c, "{operation}: shift of the affine for an x of {images:?}");
    }
}

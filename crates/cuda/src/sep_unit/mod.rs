//! ReLU → depthwise → pointwise, the unit that separable and dilated convolutions are made of, with the batch norm
//! before it folded in as an affine and the sums for the one after it as a by-product. Refuses to normalize.
//!
//! z = PW(DW(relu(a·x + b))): x `[N, H, W, C_in]`, depthwise weights `[C_in, 1, k, k]`, pointwise weights
//! `[C_out, C_in, 1, 1]`, z `[N, ⌈H/s⌉, ⌈W/s⌉, C_out]`, padding d·(k − 1)/2 with zeros *after* the activation: the halo is 0, not
//! relu(b). All units of a stage go in one launch, whether they read the same x or each its own.
//!
//! Backward takes two kernels: the first, over tiles of z, forms the gradient of z on the fly ([`Upstream`]), leaves the one of
//! the depthwise output in scratch memory and makes the weights' gradients; the second, over tiles of x, adds up what comes
//! back through all units. Neither the activated input, nor the depthwise output, nor the gradient of z is ever stored.

use crate::fold::Pending;
use crate::images::{Affine, Images, Upstream, Write};
use crate::precision::Precision;
use crate::program::{Kernel, Program};
use crate::view::View;

mod backward;
mod forward;
mod input;
mod plan;
#[cfg(test)]
mod tests;

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[
    &forward::KERNEL,
    &forward::ROUNDED,
    &forward::LARGE,
    &backward::KERNEL,
    &backward::ROUNDED,
    &backward::LARGE,
    &backward::ALONE,
    &backward::ALONE_ROUNDED,
    &input::KERNEL,
];

/// Units of a launch, and shapes among them.
const UNITS: usize = 16;
const KINDS: usize = 4;
/// Skip connections of an input that a call has room for.
pub const SKIPS: usize = 32;

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

    /// Whether the kernel for small kernels does it.
    fn is_small(self) -> bool {
        plan::Window::new(self.kernel, self.stride, self.dilation).is_small()
    }

    fn check(self, operation: &str, images: Images, depthwise: View, pointwise: View) {
        assert!(
            self.kernel % 2 == 1 && self.stride > 0 && self.dilation > 0 && self.c_out > 0,
            "{operation}: {self:?}, expected an odd kernel and a stride, a dilation and channels of at least 1"
        );
        assert_eq!(self.c_in, images.c, "{operation}: channels of {self:?} for an x of {images:?}");
        assert_eq!(depthwise.len, self.depthwise_len(), "{operation}: depthwise weights of {self:?}");
        assert_eq!(pointwise.len, self.pointwise_len(), "{operation}: pointwise weights of {self:?}");
    }
}

/// One unit of a forward call.
#[derive(Debug, Copy, Clone)]
pub struct UnitForward {
    /// Its shape.
    pub shape: UnitShape,
    /// Depthwise weights `[C_in, 1, k, k]`.
    pub depthwise: View,
    /// Pointwise weights `[C_out, C_in, 1, 1]`.
    pub pointwise: View,
    /// z `[N, ⌈H/s⌉, ⌈W/s⌉, C_out]`, overwritten.
    pub z: View,
    /// `[Σz | Σz²]` per channel, 2·C_out, overwritten.
    pub sums: Option<View<f64>>,
}

/// One unit of a backward call.
#[derive(Debug, Copy, Clone)]
pub struct UnitBackward<'a> {
    /// Its shape.
    pub shape: UnitShape,
    /// Depthwise weights `[C_in, 1, k, k]`.
    pub depthwise: View,
    /// Pointwise weights `[C_out, C_in, 1, 1]`.
    pub pointwise: View,
    /// The gradient that arrives at z; one to four terms.
    pub upstream: Upstream<'a>,
    /// Gradients of the depthwise and of the pointwise weights, overwritten when the pending ones are folded; none: not computed.
    pub weights: Option<(View, View)>,
}

/// Units that read the same x, in a forward call.
#[derive(Debug, Copy, Clone)]
pub struct Forward<'a> {
    /// x `[N, H, W, C_in]`.
    pub x: View,
    /// a and b; none: 1 and 0.
    pub affine: Option<Affine>,
    /// Its units.
    pub units: &'a [UnitForward],
}

/// Units that read the same x, in a backward call.
#[derive(Debug, Copy, Clone)]
pub struct Backward<'a> {
    /// x `[N, H, W, C_in]`.
    pub x: View,
    /// a and b; none: 1 and 0.
    pub affine: Option<Affine>,
    /// Its units.
    pub units: &'a [UnitBackward<'a>],
    /// Skip connections that read x too, at most [`SKIPS`].
    pub skips: &'a [Skip],
    /// du `[N, H, W, C_in]`.
    pub du: View,
    /// What happens to its former contents.
    pub write: Write,
    /// `[Σdu | Σdu·x]` per channel of what `du` holds afterwards, 2·C_in, overwritten.
    pub sums: Option<View<f64>>,
}

/// A skip connection that reads the x of units.
#[derive(Debug, Copy, Clone)]
pub struct Skip {
    /// The gradient that arrives at its output `[N, H, W, C_in]`.
    pub grad: View,
    /// The weight of its output in that; one float, none: 1.
    pub weight: Option<View>,
}

/// z_u = PW_u(DW_u(relu(a·x + b))) for every unit u. Sums that the last launch of `program` was to deliver are delivered with those of
/// the units.
///
/// # Shapes
/// x `[N, H, W, C_in]` = `images`; the rest at [`UnitForward`]; scratch [`forward_scratch_len`].
///
/// # Panics
/// If a view does not have the length of its shape.
pub fn forward(
    program: &mut Program,
    images: Images,
    x: View,
    affine: Option<Affine>,
    units: &[UnitForward],
    scratch: View,
) {
    forward_all(program, Precision::F32, images, &[Forward { x, affine, units }], scratch);
}

/// [`forward()`] of several inputs of one shape, in the same launches; at another precision than f32 the factors of the pointwise
/// products are rounded, where kernels have at most five rows and channels are multiples of 16.
///
/// # Panics
/// As [`forward()`].
pub fn forward_all(program: &mut Program, precision: Precision, images: Images, inputs: &[Forward], scratch: View) {
    const OPERATION: &str = "sep_unit::forward";
    for input in inputs {
        check_input(OPERATION, images, input.x, input.affine);
        for unit in input.units {
            unit.shape.check(OPERATION, images, unit.depthwise, unit.pointwise);
            assert_eq!(unit.z.len, unit.shape.output(images).len(), "{OPERATION}: z of {:?}", unit.shape);
            let sums = unit.sums.map_or(2 * unit.shape.c_out, |sums| sums.len);
            assert_eq!(sums, 2 * unit.shape.c_out, "{OPERATION}: sums of {:?}", unit.shape);
        }
    }
    if !images.is_empty() {
        forward::push(program, precision, images, inputs, scratch);
    }
}

/// Floats of scratch memory that a forward call takes for all of its units that want sums.
pub fn forward_scratch_len(images: Images, units: impl IntoIterator<Item = UnitShape>) -> usize {
    units.into_iter().map(|shape| forward::partials_len(images, shape)).sum()
}

/// du = Σ_u ∂/∂u of the units, masked by \[a·x + b > 0\]: the gradient with respect to a·x + b. The derivative of the ReLU at
/// 0 is 0. [`Backward::skips`] add Σ_t weight_t·grad_t, which nothing masks.
///
/// `write` says what happens to the former contents of `du`. `sums` is overwritten with `[Σdu | Σdu·x]` per channel, of what
/// `du` holds afterwards: what the backward of the batch norm before needs.
///
/// # Shapes
/// x, du `[N, H, W, C_in]` = `images`; sums 2·C_in; the rest at [`UnitBackward`]; scratch [`backward_scratch_len`]; of the room of
/// `pending` [`backward_partials_len`].
///
/// # Panics
/// If a view does not have the length of its shape, or a unit has more than a thousand output channels.
#[expect(clippy::too_many_arguments, reason = "the CPU kernel's arguments, then scratch; `Backward` groups them")]
pub fn backward(
    program: &mut Program,
    images: Images,
    x: View,
    affine: Option<Affine>,
    units: &[UnitBackward],
    du: View,
    write: Write,
    sums: Option<View<f64>>,
    scratch: View,
    pending: &mut Pending,
) {
    let input = Backward { x, affine, units, skips: &[], du, write, sums };
    backward_all(program, Precision::F32, images, &[input], scratch, pending);
}

/// [`backward()`] of several inputs of one shape, in the same launches; the precision as in [`forward_all`].
///
/// # Panics
/// As [`backward()`].
pub fn backward_all(
    program: &mut Program,
    precision: Precision,
    images: Images,
    inputs: &[Backward],
    scratch: View,
    pending: &mut Pending,
) {
    const OPERATION: &str = "sep_unit::backward";
    for input in inputs {
        check_input(OPERATION, images, input.x, input.affine);
        assert_eq!(input.du.len, images.len(), "{OPERATION}: du for an x of {images:?}");
        let sums = input.sums.map_or(2 * images.c, |sums| sums.len);
        assert_eq!(sums, 2 * images.c, "{OPERATION}: sums for an x of {images:?}");
        assert!(input.skips.len() <= SKIPS, "{OPERATION}: {} skip connections, expected {SKIPS}", input.skips.len());
        for skip in input.skips {
            assert_eq!(skip.grad.len, images.len(), "{OPERATION}: gradient of a skip connection of {images:?}");
            assert!(skip.weight.is_none_or(|weight| weight.len == 1), "{OPERATION}: weight of a skip connection");
        }
        for unit in input.units {
            unit.shape.check(OPERATION, images, unit.depthwise, unit.pointwise);
            assert!(!unit.upstream.terms.is_empty(), "{OPERATION}: no gradient of z, expected one or more");
            if let Some((depthwise, pointwise)) = unit.weights {
                assert_eq!(depthwise.len, unit.shape.depthwise_len(), "{OPERATION}: depthwise gradient");
                assert_eq!(pointwise.len, unit.shape.pointwise_len(), "{OPERATION}: pointwise gradient");
            }
        }
    }
    if images.is_empty() {
        return;
    }
    let rest = backward::push(program, precision, images, inputs, scratch, pending);
    input::push(program, images, inputs, scratch, rest);
}

/// Floats of scratch memory that a backward call takes, whose inputs have units of these shapes.
pub fn backward_scratch_len(images: Images, inputs: &[&[UnitShape]]) -> usize {
    let units = || inputs.iter().flat_map(|units| units.iter().copied());
    let of_units: usize = units().map(|shape| backward::gradient_len(images, shape)).sum();
    of_units + inputs.len() * input::partials_len(images, units(), inputs.len())
}

/// Floats of partial gradients that a backward call leaves to be folded, for units of these shapes whose weights' gradients are
/// wanted.
pub fn backward_partials_len(images: Images, units: impl IntoIterator<Item = UnitShape>) -> usize {
    units.into_iter().map(|shape| backward::partials_len(images, shape)).sum()
}

fn check_input(operation: &str, images: Images, x: View, affine: Option<Affine>) {
    assert!(images.c > 0, "{operation}: images without channels");
    assert_eq!(x.len, images.len(), "{operation}: x of {images:?}");
    if let Some(Affine { scale, shift }) = affine {
        assert_eq!(scale.len, images.c, "{operation}: scale of the affine for an x of {images:?}");
        assert_eq!(shift.len, images.c, "{operation}: shift of the affine for an x of {images:?}");
    }
}

/// Numbers of `units`, such that no part has more than a launch has room for and those of one shape are neighbours, small
/// kernels apart from large ones; the most expensive shapes first, so that no launch ends waiting for one of them.
fn launches(units: &[UnitShape]) -> Vec<Vec<Vec<usize>>> {
    let mut shapes: Vec<UnitShape> = Vec::new();
    for &shape in units {
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes.sort_by_key(|shape| std::cmp::Reverse(shape.depthwise_len() + shape.pointwise_len()));
    let mut launches: Vec<Vec<Vec<usize>>> = Vec::new();
    for shape in shapes {
        let same: Vec<usize> = (0..units.len()).filter(|&unit| units[unit] == shape).collect();
        for part in same.chunks(UNITS) {
            let fits = |launch: &&mut Vec<Vec<usize>>| {
                units[launch[0][0]].is_small() == shape.is_small()
                    && launch.len() < KINDS
                    && launch.iter().map(Vec::len).sum::<usize>() + part.len() <= UNITS
            };
            match launches.last_mut().filter(|launch| fits(launch)) {
                Some(launch) => launch.push(part.to_vec()),
                None => launches.push(vec![part.to_vec()]),
            }
        }
    }
    launches
}

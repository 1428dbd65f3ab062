//! Elementwise kernels on flat vectors. Outputs come first, as `self` does on the CPU.

use super::{Scalar, ScalarArg, same_length};
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

/// Elements of one block of threads.
pub(super) const PER_BLOCK: u32 = 1024;

pub(super) static COPY: Kernel = Kernel::new("vector_copy", 256);
pub(super) static FILL: Kernel = Kernel::new("vector_fill", 256);
pub(super) static SCALE: Kernel = Kernel::new("vector_scale", 256);
pub(super) static AXPY: Kernel = Kernel::new("vector_axpy", 256);
pub(super) static ADD_SCALED_DIFFERENCE: Kernel = Kernel::new("vector_add_scaled_difference", 256);
pub(super) static PERTURB: Kernel = Kernel::new("vector_perturb", 256);
pub(super) static AVERAGE: Kernel = Kernel::new("vector_average", 256);

crate::args! {
    struct LinearArgs: 48 {
        out: u64,
        x: u64,
        y: u64,
        factor: ScalarArg,
        len: u32,
        pad: u32,
    }
}

#[track_caller]
fn push(program: &mut Program, kernel: &'static Kernel, out: View, x: Option<View>, y: Option<View>, factor: Scalar) {
    let len = same_length(kernel.name, &[out, x.unwrap_or(out), y.unwrap_or(out)]);
    let address = |view: Option<View>| view.map_or(0, |view| view.address);
    let args = LinearArgs { out: out.address, x: address(x), y: address(y), factor: factor.into(), len, pad: 0 };
    program.push(kernel, [blocks(out.len, PER_BLOCK), 1, 1], 0, &args);
}

/// `out ← source`, bit for bit.
///
/// # Panics
/// As all functions of this module, if lengths differ.
#[track_caller]
pub fn copy(program: &mut Program, out: View, source: View) {
    push(program, &COPY, out, Some(source), None, Scalar::Constant(0.0));
}

/// `out ← value` everywhere.
#[track_caller]
pub fn fill(program: &mut Program, out: View, value: impl Into<Scalar>) {
    push(program, &FILL, out, None, None, value.into());
}

/// `out ← factor·out`.
#[track_caller]
pub fn scale(program: &mut Program, out: View, factor: impl Into<Scalar>) {
    push(program, &SCALE, out, None, None, factor.into());
}

/// `out ← out + factor·x`.
#[track_caller]
pub fn axpy(program: &mut Program, out: View, factor: impl Into<Scalar>, x: View) {
    push(program, &AXPY, out, Some(x), None, factor.into());
}

/// `out ← out + factor·(x − y)`, the difference taken first.
#[track_caller]
pub fn add_scaled_difference(program: &mut Program, out: View, factor: impl Into<Scalar>, x: View, y: View) {
    push(program, &ADD_SCALED_DIFFERENCE, out, Some(x), Some(y), factor.into());
}

/// `out ← point + factor·direction`.
#[track_caller]
pub fn perturb_from(program: &mut Program, out: View, point: View, factor: impl Into<Scalar>, direction: View) {
    push(program, &PERTURB, out, Some(point), Some(direction), factor.into());
}

/// `out ← out + rate·(value − out)`. A rate of 1 is a copy, bit for bit; one that is not finite changes nothing.
#[track_caller]
pub fn average_towards(program: &mut Program, out: View, rate: impl Into<Scalar>, value: View) {
    push(program, &AVERAGE, out, Some(value), None, rate.into());
}

//! Arithmetic on flat vectors: what a training loop does to parameters. Scalars that change from step to step are views
//! of one element in device memory.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static AXPY: Kernel = Kernel::new("vector_axpy", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&AXPY];

args! {
    struct AxpyArgs: 32 {
        x: u64,
        y: u64,
        factor: u64,
        len: u32,
        pad: u32,
    }
}

/// `out ← out + factor·x`.
///
/// # Panics
/// If lengths differ.
pub fn axpy(program: &mut Program, out: View, factor: View, x: View) {
    assert_eq!(out.len, x.len, "axpy: lengths");
    let args = AxpyArgs { x: x.address, y: out.address, factor: factor.address, len: out.len as u32, pad: 0 };
    program.push(&AXPY, [blocks(out.len, AXPY.threads), 1, 1], 0, &args);
}

//! From architecture parameters to operation weights and back, by the softmax of each row. The formulas are those of the
//! relaxation of darts-cells; all arithmetic is in f64.

use crate::args;
use crate::program::{Kernel, Program};
use crate::view::View;

static FORWARD: Kernel = Kernel::new("softmax_forward", 32);
static BACKWARD: Kernel = Kernel::new("softmax_backward", 32);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

args! {
    struct ForwardArgs: 24 {
        alphas: u64,
        weights: u64,
        columns: u32,
        pad: u32,
    }

    struct BackwardArgs: 32 {
        weights: u64,
        grad_weights: u64,
        grad_alphas: u64,
        columns: u32,
        pad: u32,
    }
}

/// w_k = exp(α_k) / Σ_m exp(α_m) along each row. Rows with the same numbers have the same weights to the last bit.
///
/// # Shapes
/// `alphas`, `weights` (overwritten): [rows, columns].
///
/// # Panics
/// If they differ in length or are no whole number of rows.
pub fn softmax(program: &mut Program, alphas: View, columns: usize, weights: View) {
    let rows = rows("relaxation::softmax", [alphas.len, weights.len], columns);
    let args = ForwardArgs { alphas: alphas.address, weights: weights.address, columns: columns as u32, pad: 0 };
    program.push(&FORWARD, [rows, 1, 1], (2 * columns * size_of::<f64>()) as u32, &args);
}

/// dα_k = w_k·(dw_k − Σ_m w_m·dw_m) along each row.
///
/// # Shapes
/// `weights` (what [`softmax`] gave), `grad_weights`, `grad_alphas` (overwritten): [rows, columns].
///
/// # Panics
/// If they differ in length or are no whole number of rows.
pub fn softmax_backward(program: &mut Program, weights: View, grad_weights: View, columns: usize, grad_alphas: View) {
    let rows = rows("relaxation::softmax_backward", [weights.len, grad_weights.len, grad_alphas.len], columns);
    let args = BackwardArgs {
        weights: weights.address,
        grad_weights: grad_weights.address,
        grad_alphas: grad_alphas.address,
        columns: columns as u32,
        pad: 0,
    };
    program.push(&BACKWARD, [rows, 1, 1], 0, &args);
}

fn rows<const N: usize>(operation: &str, lengths: [usize; N], columns: usize) -> u32 {
    let len = lengths[0];
    assert!(lengths.iter().all(|&other| other == len), "{operation}: lengths {lengths:?}");
    assert!(columns > 0 && len.is_multiple_of(columns), "{operation}: {len} numbers in rows of {columns}");
    (len / columns) as u32
}

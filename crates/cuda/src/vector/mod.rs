//! Arithmetic on flat vectors: what a training loop does to parameters, with the formulas of `darts_ops::vector`.
//!
//! Numbers are f32, scalars f64 and rounded once. A scalar that changes from step to step is a [`View`] of one f64 in
//! device memory ([`Scalar::At`]): written by a kernel of this module, or uploaded before the step. Sums are taken in f64
//! over blocks of [`BLOCK`] elements, which depend on the length alone.
//!
//! What is not finite is not applied: a gradient's norm that is NaN or infinite makes its clip coefficient NaN, and a step
//! with such a coefficient leaves weights, moments and counters as they were. The host reads the norm when it pleases.

mod linear;
mod optimizer;
mod sums;

use crate::program::Kernel;
use crate::view::View;

pub use linear::{add_scaled_difference, average_towards, axpy, copy, fill, perturb_from, scale};
pub use optimizer::{AdamState, AdamStep, AveragedState, SgdStep, adam, averaged_sgd, sgd, virtual_step};
pub use sums::{BLOCK, FiniteDifference, clip_coefficient, combine, dot, finite_difference, gate, norm2, scratch_len};

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[
    &linear::COPY,
    &linear::FILL,
    &linear::SCALE,
    &linear::AXPY,
    &linear::ADD_SCALED_DIFFERENCE,
    &linear::PERTURB,
    &linear::AVERAGE,
    &sums::DOT_BLOCKS,
    &sums::DOT_FINISH,
    &sums::CLIP_COEFFICIENT,
    &sums::GATE,
    &sums::COMBINE,
    &sums::FINITE_DIFFERENCE,
    &optimizer::SGD,
    &optimizer::ADAM_COUNT,
    &optimizer::AVERAGE_COUNT,
    &optimizer::ADAM,
];

/// A number that a kernel multiplies with.
#[derive(Debug, Copy, Clone, PartialEq)]
pub enum Scalar {
    /// The same in every step.
    Constant(f64),
    /// One f64 in device memory, read when the kernel runs.
    At(View<f64>),
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

impl From<View<f64>> for Scalar {
    fn from(view: View<f64>) -> Self {
        Self::At(view)
    }
}

crate::args! {
    /// `Scalar` of the device code.
    struct ScalarArg: 16 {
        at: u64,
        constant: f64,
    }
}

impl From<Scalar> for ScalarArg {
    fn from(scalar: Scalar) -> Self {
        match scalar {
            Scalar::Constant(constant) => Self { at: 0, constant },
            Scalar::At(view) => {
                assert_eq!(view.len, 1, "a scalar is one number");
                Self { at: view.address, constant: f64::NAN }
            }
        }
    }
}

/// The length of vectors that must all have one, as device code has it.
#[track_caller]
fn same_length(operation: &str, vectors: &[View]) -> u32 {
    let len = vectors.first().map_or(0, |vector| vector.len);
    for vector in vectors {
        assert_eq!(vector.len, len, "{operation}: vectors of different lengths");
    }
    // Counters of the device code go one block past the end.
    u32::try_from(len).ok().filter(|&len| len <= u32::MAX - 8192).expect("vectors of fewer than 2³² elements")
}

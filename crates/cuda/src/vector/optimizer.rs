//! Optimizers' steps on flat vectors. What an optimizer counts is in device memory, so that the launches of every step
//! are the same.

use super::linear::{PER_BLOCK, average_towards};
use super::{Scalar, ScalarArg, same_length};
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

pub(super) static SGD: Kernel = Kernel::new("vector_sgd", 256);
pub(super) static ADAM_COUNT: Kernel = Kernel::new("vector_adam_count", 32);
pub(super) static AVERAGE_COUNT: Kernel = Kernel::new("vector_average_count", 32);
pub(super) static ADAM: Kernel = Kernel::new("vector_adam", 256);

crate::args! {
    struct SgdArgs: 88 {
        out: u64,
        w: u64,
        buffer: u64,
        gradient: u64,
        coefficient: ScalarArg,
        learning_rate: ScalarArg,
        momentum: f64,
        weight_decay: f64,
        len: u32,
        moves: u32,
    }

    struct CountArgs: 72 {
        steps: u64,
        out: u64,
        learning_rate: ScalarArg,
        gate: ScalarArg,
        beta1: f64,
        beta2: f64,
        start: u64,
    }

    struct AdamArgs: 80 {
        w: u64,
        first: u64,
        second: u64,
        gradient: u64,
        corrected: u64,
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        weight_decay: f64,
        len: u32,
        pad: u32,
    }
}

/// Coefficients of one step of stochastic gradient descent,
/// `d = momentum·buffer + coefficient·g + weight_decay·w`, `w ← w − learning_rate·d`.
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct SgdStep {
    /// What is kept of the buffer. Ignored where there is no buffer.
    pub momentum: f64,
    /// What the gradient is multiplied with before weight decay is added: a clip coefficient, or 1. Not finite: no step.
    pub coefficient: Scalar,
    /// Weight decay (coupled L2), not subject to the clip coefficient.
    pub weight_decay: f64,
    /// Step size.
    pub learning_rate: Scalar,
}

/// One step on `w` and, where there is one, its momentum `buffer`, both updated.
///
/// # Panics
/// If lengths differ.
#[track_caller]
pub fn sgd(program: &mut Program, w: View, buffer: Option<View>, gradient: View, step: SgdStep) {
    push_sgd(program, w, w, buffer, gradient, step, 1);
}

/// What [`sgd`] would make of `weights`, written to `out`, with weights and buffer left as they are.
///
/// # Panics
/// If lengths differ.
#[track_caller]
pub fn virtual_step(
    program: &mut Program,
    out: View,
    weights: View,
    buffer: Option<View>,
    gradient: View,
    step: SgdStep,
) {
    push_sgd(program, out, weights, buffer, gradient, step, 0);
}

#[track_caller]
fn push_sgd(
    program: &mut Program,
    out: View,
    w: View,
    buffer: Option<View>,
    gradient: View,
    step: SgdStep,
    moves: u32,
) {
    let args = SgdArgs {
        out: out.address,
        w: w.address,
        buffer: buffer.map_or(0, |buffer| buffer.address),
        gradient: gradient.address,
        coefficient: step.coefficient.into(),
        learning_rate: step.learning_rate.into(),
        momentum: step.momentum,
        weight_decay: step.weight_decay,
        len: same_length("sgd", &[out, w, buffer.unwrap_or(w), gradient]),
        moves,
    };
    program.push(&SGD, [blocks(w.len, PER_BLOCK), 1, 1], 0, &args);
}

/// Coefficients of one step of Adam with coupled L2.
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct AdamStep {
    /// Step size.
    pub learning_rate: Scalar,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// L2 coefficient: `weight_decay·w` is added to the gradient.
    pub weight_decay: f64,
    /// The step is made if this is finite: the gradient's norm, or 1 for every step.
    pub gate: Scalar,
}

/// What Adam keeps from step to step.
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct AdamState {
    /// First moment, as long as the weights.
    pub first_moment: View,
    /// Second moment, as long as the weights.
    pub second_moment: View,
    /// Steps made: one number.
    pub steps: View<u64>,
    /// Scratch: two numbers.
    pub scratch: View<f64>,
}

/// One step on `w`, t the number of steps with it: `d = g + weight_decay·w`, `m ← β₁·m + (1 − β₁)·d`,
/// `v ← β₂·v + (1 − β₂)·d²`, `w ← w − learning_rate/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)`.
///
/// # Panics
/// If lengths are not as [`AdamState`] says.
#[track_caller]
pub fn adam(program: &mut Program, w: View, state: AdamState, gradient: View, step: AdamStep) {
    assert_eq!((state.steps.len, state.scratch.len), (1, 2), "adam: one counter, two numbers of scratch");
    let AdamStep { beta1, beta2, epsilon, weight_decay, .. } = step;
    let count = CountArgs {
        steps: state.steps.address,
        out: state.scratch.address,
        learning_rate: step.learning_rate.into(),
        gate: step.gate.into(),
        beta1,
        beta2,
        start: 0,
    };
    program.push(&ADAM_COUNT, [1, 1, 1], 0, &count);
    let args = AdamArgs {
        w: w.address,
        first: state.first_moment.address,
        second: state.second_moment.address,
        gradient: gradient.address,
        corrected: state.scratch.address,
        beta1,
        beta2,
        epsilon,
        weight_decay,
        len: same_length("adam", &[w, state.first_moment, state.second_moment, gradient]),
        pad: 0,
    };
    program.push(&ADAM, [blocks(w.len, PER_BLOCK), 1, 1], 0, &args);
}

/// What averaged SGD keeps from step to step.
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct AveragedState {
    /// The average of the weights, as long as they are.
    pub average: View,
    /// Steps made: one number.
    pub steps: View<u64>,
    /// Scratch: one number.
    pub scratch: View<f64>,
}

/// One step of [`sgd`] without momentum on `w`, then `average ← average + μ·(w − average)` with
/// `μ = 1/max(1, t − 1 − start)`, t the number of steps with it.
///
/// # Panics
/// If lengths are not as [`AveragedState`] says.
#[track_caller]
pub fn averaged_sgd(program: &mut Program, w: View, state: AveragedState, gradient: View, step: SgdStep, start: u64) {
    assert_eq!((state.steps.len, state.scratch.len), (1, 1), "averaged_sgd: one counter, one number of scratch");
    sgd(program, w, None, gradient, step);
    let count = CountArgs {
        steps: state.steps.address,
        out: state.scratch.address,
        learning_rate: step.learning_rate.into(),
        gate: step.coefficient.into(),
        beta1: 0.0,
        beta2: 0.0,
        start,
    };
    program.push(&AVERAGE_COUNT, [1, 1, 1], 0, &count);
    average_towards(program, state.average, state.scratch, w);
}

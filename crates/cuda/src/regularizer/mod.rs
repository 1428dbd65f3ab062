//! The two regularizers of a language model's activations (Merity et al. 2017): the size of the output, and its change from one
//! time step to the next. Refuses to weigh them against the loss: the coefficient is the caller's.

use crate::args;
use crate::elementwise;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static ACTIVATION: Kernel = Kernel::new("regularizer_activation", 256);
static TEMPORAL: Kernel = Kernel::new("regularizer_temporal", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&ACTIVATION, &TEMPORAL];

/// Floats of a block.
const PIECE: u32 = 4096;

args! {
    struct RegularizerArgs: 48 {
        values: u64,
        gradient: u64,
        partial: u64,
        len: u64,
        step: u64,
        factor: f32,
        pad: u32,
    }
}

/// Doubles of scratch memory that a regularizer of so many floats needs.
pub fn scratch_len(floats: usize) -> usize {
    floats.div_ceil(PIECE as usize)
}

/// coefficient·mean(o²) in `value` \[1\], overwritten. Its gradient, 2·coefficient·o/n, is added to `d_output` where one is given.
///
/// # Shapes
/// `output`, `d_output`: any, the same; `scratch`: [`scratch_len`] doubles or more.
///
/// # Panics
/// If the lengths differ.
#[track_caller]
pub fn activation(
    program: &mut Program,
    output: View,
    coefficient: f64,
    d_output: Option<View>,
    value: View<f64>,
    scratch: View<f64>,
) {
    push(program, &ACTIVATION, output, 0, output.len, coefficient, d_output, value, scratch);
}

/// coefficient·mean over t ≥ 1 of (h_t − h_{t−1})² in `value` \[1\], overwritten; 0 for one time step. Its gradient is added to
/// `d_states` where one is given.
///
/// # Shapes
/// `states`, `d_states`: \[T, …\] with `step` floats for each time step; `scratch`: [`scratch_len`] doubles or more.
///
/// # Panics
/// If the lengths differ or are no whole number of time steps.
#[track_caller]
pub fn temporal(
    program: &mut Program,
    states: View,
    step: usize,
    coefficient: f64,
    d_states: Option<View>,
    value: View<f64>,
    scratch: View<f64>,
) {
    assert!(step > 0 && states.len.is_multiple_of(step), "regularizer: {} floats, {step} a step", states.len);
    let count = states.len.saturating_sub(step);
    push(program, &TEMPORAL, states, step, count, coefficient, d_states, value, scratch);
}

/// The mean over `count` terms; without any, or with a coefficient of 0, the value is 0.
#[track_caller]
#[expect(clippy::too_many_arguments, reason = "those of the two public functions")]
fn push(
    program: &mut Program,
    kernel: &'static Kernel,
    values: View,
    step: usize,
    count: usize,
    coefficient: f64,
    gradient: Option<View>,
    value: View<f64>,
    scratch: View<f64>,
) {
    if let Some(gradient) = gradient {
        assert_eq!(gradient.len, values.len, "regularizer: gradient");
    }
    if count == 0 || coefficient == 0.0 {
        return elementwise::sum(program, View::none(), 0.0, value);
    }
    let partial = scratch.slice(0..scratch_len(values.len));
    let args = RegularizerArgs {
        values: values.address,
        gradient: gradient.map_or(0, |gradient| gradient.address),
        partial: partial.address,
        len: values.len as u64,
        step: step as u64,
        factor: (2.0 * coefficient / count as f64) as f32,
        pad: 0,
    };
    let shared = kernel.threads / 32 * size_of::<f64>() as u32;
    program.push(kernel, [blocks(values.len, PIECE), 1, 1], shared, &args);
    elementwise::sum(program, partial, coefficient / count as f64, value);
}

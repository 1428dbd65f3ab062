//! The hidden state of a recurrent cell: the mean of some of its states, under the masks of whoever reads it next, and the
//! gradients that come back from it. Refuses to know what the states are.
//!
//! ```text
//! h[i] = (1/|M|)·Σ_{s∈M} s[i]           ds[i] = (dh[i] + d_next[i])/|M| for s ∈ M, else 0
//! ```
//! Axes: i an element of `[B, H]`, s a state of the cell, M the states of the mean.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FORWARD: Kernel = Kernel::new("hidden_state_forward", 256);
static BACKWARD: Kernel = Kernel::new("hidden_state_backward", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// The most states that a cell may have.
pub const MOST_STATES: usize = 65;

args! {
    struct HiddenStateArgs: 600 {
        state: [u64; MOST_STATES],
        hidden: u64,
        mask: [u64; 2],
        masked: [u64; 2],
        d_next: u64,
        in_mean: [u64; 2],
        len: u32,
        states: u32,
        factor: f32,
        pad: u32,
    }
}

/// A copy of the hidden state, under a mask where there is one.
#[derive(Copy, Clone, Debug)]
pub struct Copied {
    /// `[B, H]`; none: a plain copy.
    pub mask: Option<View>,
    /// Where it goes, `[B, H]`, overwritten.
    pub out: View,
}

impl HiddenStateArgs {
    #[track_caller]
    fn new(states: &[View], hidden: View, mean_of: usize) -> Self {
        assert!(states.len() <= MOST_STATES, "hidden_state: {} states, at most {MOST_STATES}", states.len());
        assert!(mean_of > 0, "hidden_state: the mean of no state");
        let mut state = [0; MOST_STATES];
        for (place, view) in state.iter_mut().zip(states) {
            assert_eq!(view.len, hidden.len, "hidden_state: length of a state");
            *place = view.address;
        }
        Self {
            state,
            hidden: hidden.address,
            mask: [0; 2],
            masked: [0; 2],
            d_next: 0,
            in_mean: [0; 2],
            len: u32::try_from(hidden.len).expect("a state has fewer than 2³² floats"),
            states: states.len() as u32,
            factor: 1.0 / mean_of as f32,
            pad: 0,
        }
    }
}

/// The mean of `states`, in their order; `hidden` and the copies, at most two, are overwritten.
///
/// # Panics
/// If lengths differ, or there are no states, more than [`MOST_STATES`], or more than two copies.
#[track_caller]
pub fn forward(program: &mut Program, states: &[View], hidden: View, copies: &[Copied]) {
    assert!(copies.len() <= 2, "hidden_state: {} copies", copies.len());
    let mut args = HiddenStateArgs::new(states, hidden, states.len());
    for (k, copy) in copies.iter().enumerate() {
        assert!(
            copy.out.len == hidden.len && copy.mask.is_none_or(|mask| mask.len == hidden.len),
            "hidden_state: copy"
        );
        (args.mask[k], args.masked[k]) = (copy.mask.map_or(0, |mask| mask.address), copy.out.address);
    }
    program.push(&FORWARD, [blocks(hidden.len, FORWARD.threads), 1, 1], 0, &args);
}

/// Gradients of all states of a cell, of which `concat` are those of the mean, from the output's and, where there is one, the next
/// time step's; `d_states` are overwritten.
///
/// # Panics
/// If lengths differ, there are more than [`MOST_STATES`] states, or `concat` names none or one that does not exist.
#[track_caller]
pub fn backward(program: &mut Program, d_states: &[View], concat: &[usize], d_output: View, d_next: Option<View>) {
    let mut args = HiddenStateArgs::new(d_states, d_output, concat.len());
    for &state in concat {
        assert!(state < d_states.len(), "hidden_state: the mean of state {state} of {}", d_states.len());
        args.in_mean[state / 64] |= 1 << (state % 64);
    }
    if let Some(d_next) = d_next {
        assert_eq!(d_next.len, d_output.len, "hidden_state: gradient from the next time step");
        args.d_next = d_next.address;
    }
    program.push(&BACKWARD, [blocks(d_output.len, BACKWARD.threads), 1, 1], 0, &args);
}

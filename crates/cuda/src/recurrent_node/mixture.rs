//! Operation weights of a search cell as the mixtures of its nodes, and the gradients back.

use super::{COLUMNS, Function, position};
use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

pub(super) static MIXES: Kernel = Kernel::new("recurrent_node_mixes", 32);
pub(super) static MIXES_BACKWARD: Kernel = Kernel::new("recurrent_node_mixes_backward", 32);

/// The most operations that compete on an edge.
pub const MOST_OPERATIONS: usize = 8;
/// The place of an operation that is none of the four functions.
const ABSENT: u8 = 255;

args! {
    struct MixArgs: 48 {
        weights: u64,
        mixes: u64,
        d_mixes: u64,
        edges: u32,
        operations: u32,
        blocks: u32,
        pad: u32,
        place: [u8; MOST_OPERATIONS],
    }
}

/// Doubles of one edge's gradient of its mixture, before [`mixes_backward`] adds them up.
pub fn d_mix_len(hidden: usize) -> usize {
    4 * hidden.div_ceil(COLUMNS as usize)
}

/// Sorts the operation weights of every edge by function, as a [`Mix::Sum`](super::Mix::Sum) wants them: `columns` says which function an operation
/// is, none for one that contributes nothing.
///
/// # Shapes
/// `weights` \[edges, operations\]; `mixes` \[edges, 4\], overwritten.
///
/// # Panics
/// If a view does not fit, or there are more than [`MOST_OPERATIONS`] operations.
#[track_caller]
pub fn mixes(program: &mut Program, columns: &[Option<Function>], weights: View, mixes: View) {
    let edges = mixes.len / 4;
    let args = mix_args(columns, weights, edges);
    let args = MixArgs { mixes: mixes.address, ..args };
    program.push(&MIXES, [blocks(edges, MIXES.threads), 1, 1], 0, &args);
}

/// Gradient with respect to the operation weights from those of the mixtures; that of an operation without a function is 0.
///
/// # Shapes
/// `d_mixes` \[edges, [`d_mix_len`]\]; `d_weights` \[edges, operations\], overwritten.
///
/// # Panics
/// If a view does not fit, or there are more than [`MOST_OPERATIONS`] operations.
#[track_caller]
pub fn mixes_backward(
    program: &mut Program,
    hidden: usize,
    columns: &[Option<Function>],
    d_mixes: View<f64>,
    d_weights: View,
) {
    let one = d_mix_len(hidden);
    let edges = d_mixes.len / one;
    assert_eq!(d_mixes.len, edges * one, "recurrent_node: gradients of mixtures for H = {hidden}");
    let args = mix_args(columns, d_weights, edges);
    let args = MixArgs { d_mixes: d_mixes.address, blocks: one as u32 / 4, ..args };
    program.push(&MIXES_BACKWARD, [blocks(d_weights.len, MIXES_BACKWARD.threads), 1, 1], 0, &args);
}

#[track_caller]
fn mix_args(columns: &[Option<Function>], weights: View, edges: usize) -> MixArgs {
    let operations = columns.len();
    assert!(operations <= MOST_OPERATIONS, "recurrent_node: {operations} operations, at most {MOST_OPERATIONS}");
    assert_eq!(weights.len, edges * operations, "recurrent_node: weights of {operations} operations on {edges} edges");
    let mut place = [ABSENT; MOST_OPERATIONS];
    for (place, column) in place.iter_mut().zip(columns) {
        *place = column.map_or(ABSENT, position);
    }
    MixArgs {
        weights: weights.address,
        mixes: 0,
        d_mixes: 0,
        edges: edges as u32,
        operations: operations as u32,
        blocks: 0,
        pad: 0,
        place,
    }
}

//! Rows of a table looked up by token, with dropout of whole rows and of positions of the batch, and the gradient that goes
//! back to the rows. Refuses to draw masks: they come as data, already divided by the probability of keeping.
//!
//! ```text
//! x[t,b,i] = E[token[t,b], i] · r[token[t,b]] · Π_m m[b,i]
//! ```
//! Axes: t a time step of T, b a row of the batch B, i a unit of H, V rows of E. The masks m are the same at every time step
//! (locked dropout).
//!
//! On the way back each distinct token is one warp's, which adds its positions in their order; the host sorts them
//! ([`occurrences`]) when it sends the tokens, so the device needs neither atomics nor a sort.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FORWARD: Kernel = Kernel::new("embedding_forward", 128);
static BACKWARD: Kernel = Kernel::new("embedding_backward", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FORWARD, &BACKWARD];

/// The most locked masks of a lookup.
const MASKS: usize = 4;

args! {
    struct EmbeddingArgs: 88 {
        table: u64,
        x: u64,
        tokens: u64,
        occurrences: u64,
        rows: u64,
        locked: [u64; MASKS],
        positions: u32,
        batch: u32,
        hidden: u32,
        masks: u32,
    }
}

/// What is looked up, and through which masks.
#[derive(Copy, Clone, Debug)]
pub struct Lookup<'a> {
    /// Tokens `[T, B]`, each below V: whoever sends them sees to that.
    pub tokens: View<u32>,
    /// B.
    pub batch: usize,
    /// H.
    pub hidden: usize,
    /// r `[V]`: dropout of rows; none: 1.
    pub rows: Option<View>,
    /// Each `[B, H]`, at most four.
    pub locked: &'a [View],
}

impl Lookup<'_> {
    #[track_caller]
    fn args(&self, table: View, x: View) -> EmbeddingArgs {
        let Self { tokens, batch, hidden, rows, locked } = *self;
        assert!(
            hidden > 0 && table.len.is_multiple_of(hidden),
            "embedding: table of {} floats, H = {hidden}",
            table.len
        );
        let vocabulary = table.len / hidden;
        assert_eq!(x.len, tokens.len * hidden, "embedding: x for {} tokens, H = {hidden}", tokens.len);
        assert!(batch > 0 && tokens.len.is_multiple_of(batch), "embedding: {} tokens, B = {batch}", tokens.len);
        assert!(rows.is_none_or(|rows| rows.len == vocabulary), "embedding: mask of rows, V = {vocabulary}");
        assert!(locked.iter().all(|mask| mask.len == batch * hidden), "embedding: locked mask");
        assert!(locked.len() <= MASKS, "embedding: {} locked masks, at most {MASKS}", locked.len());
        let mut addresses = [0; MASKS];
        for (address, mask) in addresses.iter_mut().zip(locked) {
            *address = mask.address;
        }
        EmbeddingArgs {
            table: table.address,
            x: x.address,
            tokens: tokens.address,
            occurrences: 0,
            rows: rows.map_or(0, |rows| rows.address),
            locked: addresses,
            positions: tokens.len as u32,
            batch: batch as u32,
            hidden: hidden as u32,
            masks: locked.len() as u32,
        }
    }
}

/// Length of [`occurrences`] of so many positions.
pub const fn occurrences_len(positions: usize) -> usize {
    2 * positions + 2
}

/// Where each distinct token stands: their number D, D + 1 starts (room for one a position) into the list after them, and all
/// positions in order of their token, positions of one token ascending.
pub fn occurrences(tokens: &[u32]) -> Vec<u32> {
    let positions = tokens.len();
    let mut order: Vec<u32> = (0..positions as u32).collect();
    order.sort_by_key(|&position| tokens[position as usize]);
    let mut all = vec![0; occurrences_len(positions)];
    let mut distinct = 0;
    for (place, &position) in order.iter().enumerate() {
        if place == 0 || tokens[order[place - 1] as usize] != tokens[position as usize] {
            all[1 + distinct] = place as u32;
            distinct += 1;
        }
    }
    all[1 + distinct] = positions as u32;
    all[0] = distinct as u32;
    all[positions + 2..].copy_from_slice(&order);
    all
}

/// Looks up `table` \[V, H\]; `x` \[T, B, H\] is overwritten.
///
/// # Panics
/// If a view does not fit.
#[track_caller]
pub fn forward(program: &mut Program, table: View, lookup: &Lookup, x: View) {
    let args = lookup.args(table, x);
    program.push(&FORWARD, [args.positions, 1, 1], 0, &args);
}

/// Adds the gradient of the lookup to `d_table` \[V, H\]. `d_x` \[T, B, H\] is overwritten with its product with the masks.
/// Positions of one token are added in their order.
///
/// # Shapes
/// `occurrences`: what [`occurrences`] makes of the tokens.
///
/// # Panics
/// If a view does not fit.
#[track_caller]
pub fn backward(program: &mut Program, d_table: View, lookup: &Lookup, occurrences: View<u32>, d_x: View) {
    assert_eq!(occurrences.len, occurrences_len(lookup.tokens.len), "embedding: occurrences of the tokens");
    let args = EmbeddingArgs { occurrences: occurrences.address, ..lookup.args(d_table, d_x) };
    let grid = [blocks(lookup.tokens.len, BACKWARD.threads / 32), blocks(lookup.hidden, 32), 1];
    program.push(&BACKWARD, grid, 0, &args);
}

#[cfg(test)]
mod tests {
    use super::occurrences;

    #[test]
    fn positions_are_grouped_by_token_and_ascend_within_one() {
        assert_eq!(occurrences(&[7, 2, 7, 0]), [3, 0, 1, 2, 4, 0, 3, 1, 0, 2]);
        assert_eq!(occurrences(&[5, 5]), [1, 0, 2, 0, 0, 1]);
        assert_eq!(occurrences(&[]), [0, 0]);
    }
}

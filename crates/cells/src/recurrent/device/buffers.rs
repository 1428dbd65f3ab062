//! The buffers of a network's passes on a device, in one piece of memory, for the longest sequence. Shorter sequences use the
//! beginning of each. Nothing is computed here.

use darts_cuda::{View, matmul, recurrent_node, regularizer, tied_decoder};

use crate::recurrent::{Mode, RecurrentNetwork};

/// Hands out consecutive pieces of memory.
pub(super) struct Arena {
    start: u64,
    next: u64,
}

/// Bytes that every piece is aligned to.
const ALIGNMENT: u64 = 256;

impl Arena {
    /// Pieces from `start` on.
    pub(super) fn new(start: u64) -> Self {
        Self { start, next: start }
    }

    fn take<T>(&mut self, len: usize) -> View<T> {
        let view = View::at(self.next, len);
        self.next += (view.bytes() as u64).next_multiple_of(ALIGNMENT);
        view
    }

    /// Bytes handed out.
    pub(super) fn used(&self) -> u64 {
        self.next - self.start
    }
}

/// The buffers of one network's passes; those of the backward pass are empty in an inference.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    /// Masked embedded words `[T, B, H]`.
    pub(super) x: View,
    /// (c₀, h₀) `[T, B, 2H]`; after a backward pass their gradients.
    pub(super) gates0: View,
    /// Of every state `[T, B, H]`, after its batch norm.
    pub(super) states: Vec<View>,
    /// Every state that feeds a node, under the mask of the hidden state, `[T, B, H]`.
    pub(super) masked_states: Vec<View>,
    /// Of every state its product with its group `[T, B, group·2H]`; after a backward pass its gradient.
    pub(super) gates: Vec<View>,
    /// Hidden states `[T + 1, B, H]`: the incoming one, then each time step's.
    pub(super) raw: View,
    /// The first T of them under the mask of the hidden state.
    pub(super) masked_raw: View,
    /// Outputs after their dropout `[T, B, H]`.
    pub(super) output: View,
    /// 1/σ of every state's batch norms, `[states, T, H]`.
    pub(super) rstd: View,
    /// The matrices of all nodes side by side, `[H, N·2H]`.
    pub(super) concatenated: View,
    /// Weights of tanh, relu, sigmoid, identity of every edge.
    pub(super) mixes: View,
    /// Some rows of logits.
    pub(super) chunk: View,
    /// Partial products.
    pub(super) products: View,
    /// Losses of all positions, or partial sums of a regularizer.
    pub(super) losses: View<f64>,
    /// Sum of the negative log-likelihoods, and both regularizers.
    pub(super) values: View<f64>,
    /// Gradient of the outputs, then of the hidden states, `[T, B, H]`.
    pub(super) d_output: View,
    /// Gradient of the masked embedded words `[T, B, H]`.
    pub(super) d_x: View,
    /// Gradient of every state at one time step `[B, H]`.
    pub(super) d_states: Vec<View>,
    /// Gradient of the hidden state between two time steps `[B, H]`.
    pub(super) d_hidden: View,
    /// Gradient of the concatenated matrices.
    pub(super) d_concatenated: View,
    /// Gradients of `mixes` in parts, for every edge.
    pub(super) d_mixes: View<f64>,
    /// Time steps that states and gates are kept for.
    pub(super) kept: usize,
}

impl Buffers {
    pub(super) fn new(network: &RecurrentNetwork, batch: usize, steps: usize, mode: Mode, arena: &mut Arena) -> Self {
        let (cell, config) = (&network.cell, &network.config);
        let training = mode == Mode::Training;
        let kept = if training { steps } else { 1 };
        let (hidden, state) = (config.hidden, batch * config.hidden);
        let (tokens, kept_states) = (steps * state, kept * state);
        let matrices = cell.nodes() * 2 * hidden * hidden;
        let backward = |len: usize| if training { len } else { 0 };
        let mut each = |count: usize, len: &dyn Fn(usize) -> usize| -> Vec<View> {
            (0..count).map(|index| arena.take(len(index))).collect()
        };
        let states = each(cell.states(), &|_| kept_states);
        let feeds = |state: usize| !cell.groups[state].is_empty();
        let masked_states = each(cell.states(), &|state| if feeds(state) { kept_states } else { 0 });
        let gates = each(cell.states(), &|state| cell.groups[state].len() * 2 * kept_states);
        let d_states = each(cell.states(), &|_| backward(state));
        Self {
            states,
            masked_states,
            gates,
            d_states,
            x: arena.take(tokens),
            gates0: arena.take(2 * tokens),
            raw: arena.take(tokens + state),
            masked_raw: arena.take(tokens),
            output: arena.take(tokens),
            rstd: arena.take(if cell.normalized { cell.states() * kept * hidden } else { 0 }),
            concatenated: arena.take(matrices),
            mixes: arena.take(4 * cell.mixed_edges()),
            chunk: arena.take(tied_decoder::chunk_len(config.vocabulary, steps * batch)),
            products: arena.take(products_len(network, batch, steps, training)),
            losses: arena.take((steps * batch).max(regularizer::scratch_len(tokens))),
            values: arena.take(3),
            d_output: arena.take(backward(tokens)),
            d_x: arena.take(backward(tokens)),
            d_hidden: arena.take(backward(state)),
            d_concatenated: arena.take(backward(matrices)),
            d_mixes: arena.take(backward(cell.mixed_edges() * recurrent_node::d_mix_len(hidden))),
            kept,
        }
    }
}

/// Floats of partial products that the largest of all passes needs: for every length, as the number of parts depends on it.
fn products_len(network: &RecurrentNetwork, batch: usize, steps: usize, training: bool) -> usize {
    let (hidden, vocabulary) = (network.config.hidden, network.config.vocabulary);
    let groups = || network.cell.groups.iter().map(|group| group.len() * 2 * hidden).filter(|&columns| columns > 0);
    let one_step = groups().chain([2 * hidden]).map(|columns| {
        let backward = if training { matmul::scratch_len(batch, columns, hidden) } else { 0 };
        matmul::scratch_len(batch, hidden, columns).max(backward)
    });
    let all_steps = (1..=steps).map(|steps| {
        let rows = steps * batch;
        let decoder = tied_decoder::scratch_len(vocabulary, hidden, rows);
        let input = matmul::scratch_len(rows, hidden, 2 * hidden);
        let backward = groups().chain([2 * hidden]).map(|columns| matmul::scratch_len(hidden, rows, columns));
        let backward = backward.chain([matmul::scratch_len(rows, 2 * hidden, hidden)]).max().unwrap_or(0);
        decoder.max(input).max(if training { backward } else { 0 })
    });
    one_step.chain(all_steps).max().unwrap_or(0)
}

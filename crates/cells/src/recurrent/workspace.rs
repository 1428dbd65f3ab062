//! The buffers of a recurrent network's passes, allocated once for the longest sequence and the largest batch. Shorter sequences
//! and smaller batches use the beginning of each. The buffers hold what the last pass left; nothing is computed here.

use darts_ops::tied_decoder;

use super::{RecurrentConfig, cell::Cell};

/// What a workspace is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward and backward passes: states and gates of all time steps are kept.
    Training,
    /// Forward passes: they are kept for one time step.
    Inference,
}

/// Lengths of all buffers, in floats.
struct Sizes {
    tokens: usize,
    state: usize,
    kept: usize,
    gates: Vec<usize>,
    concatenated: usize,
    chunk: usize,
    rstd: usize,
    training: bool,
}

impl Sizes {
    fn new(cell: &Cell, config: &RecurrentConfig, batch: usize, steps: usize, mode: Mode) -> Self {
        let training = mode == Mode::Training;
        let state = batch * config.hidden;
        let kept = if training { steps } else { steps.min(1) };
        Self {
            tokens: steps * state,
            state,
            kept: kept * state,
            gates: cell.groups.iter().map(|group| group.len() * 2 * kept * state).collect(),
            concatenated: cell.nodes() * 2 * config.hidden * config.hidden,
            chunk: tied_decoder::chunk_len(config.vocabulary, steps * batch),
            rstd: if cell.normalized { cell.states() * kept * config.hidden } else { 0 },
            training,
        }
    }

    fn total(&self, states: usize) -> usize {
        let both = 6 * self.tokens + 2 * self.state + states * self.kept + self.gates.iter().sum::<usize>();
        let both = both + self.concatenated + self.chunk + self.rstd;
        let backward = 2 * self.tokens + (states + 1) * self.state + self.concatenated;
        both + if self.training { backward } else { 0 }
    }
}

/// The buffers of one network's passes.
pub struct Workspace {
    pub(super) mode: Mode,
    /// Largest B.
    pub(super) batch: usize,
    /// Largest T.
    pub(super) steps: usize,
    /// T and B of the last pass; 0 before the first.
    pub(super) last: (usize, usize),
    /// Whether the last pass used statistics of its batches.
    pub(super) batch_statistics: bool,
    /// Masked embedded words `[T, B, H]`.
    pub(super) x: Vec<f32>,
    /// (c₀, h₀) `[T, B, 2H]`; after a backward pass their gradients.
    pub(super) gates0: Vec<f32>,
    /// Of every state `[T, B, H]`, after its batch norm.
    pub(super) states: Vec<Vec<f32>>,
    /// Of every state its product with its group `[T, B, group·2H]`; after a backward pass its gradient.
    pub(super) gates: Vec<Vec<f32>>,
    /// Hidden states `[T + 1, B, H]`: the incoming one, then each time step's.
    pub(super) raw: Vec<f32>,
    /// Outputs after their dropout `[T, B, H]`.
    pub(super) output: Vec<f32>,
    /// A product's input or its gradient under a mask, `[T, B, H]`.
    pub(super) masked: Vec<f32>,
    /// 1/σ of every state's batch norms, `[states, T, H]`.
    pub(super) rstd: Vec<f32>,
    /// The matrices of all nodes side by side, `[H, N·2H]`.
    pub(super) concatenated: Vec<f32>,
    /// Weights of tanh, relu, sigmoid, identity of every edge.
    pub(super) mixes: Vec<[f32; 4]>,
    /// Some rows of logits.
    pub(super) chunk: Vec<f32>,
    /// Gradient of the outputs, then of the hidden states, `[T, B, H]`.
    pub(super) d_output: Vec<f32>,
    /// Gradient of the masked embedded words `[T, B, H]`.
    pub(super) d_x: Vec<f32>,
    /// Gradient of every state at one time step `[B, H]`.
    pub(super) d_states: Vec<Vec<f32>>,
    /// Gradient of the hidden state between two time steps `[B, H]`.
    pub(super) d_hidden: Vec<f32>,
    /// Gradient of the concatenated matrices.
    pub(super) d_concatenated: Vec<f32>,
    /// Gradients of `mixes`.
    pub(super) d_mixes: Vec<[f64; 4]>,
}

impl Workspace {
    pub(super) fn new(cell: &Cell, config: &RecurrentConfig, batch: usize, steps: usize, mode: Mode) -> Self {
        let sizes = Sizes::new(cell, config, batch, steps, mode);
        let states = cell.states();
        // `vec!` of zeros takes untouched pages from the system: what a pass does not reach costs no memory.
        let backward = |len: usize| vec![0.0; if sizes.training { len } else { 0 }];
        Self {
            mode,
            batch,
            steps,
            last: (0, 0),
            batch_statistics: false,
            x: vec![0.0; sizes.tokens],
            gates0: vec![0.0; 2 * sizes.tokens],
            states: (0..states).map(|_| vec![0.0; sizes.kept]).collect(),
            gates: sizes.gates.iter().map(|&len| vec![0.0; len]).collect(),
            raw: vec![0.0; sizes.tokens + sizes.state],
            output: vec![0.0; sizes.tokens],
            masked: vec![0.0; sizes.tokens.max(sizes.state)],
            rstd: vec![0.0; sizes.rstd],
            concatenated: vec![0.0; sizes.concatenated],
            mixes: vec![[0.0; 4]; cell.mixed_edges()],
            chunk: vec![0.0; sizes.chunk],
            d_output: backward(sizes.tokens),
            d_x: backward(sizes.tokens),
            d_states: (0..states).map(|_| backward(sizes.state)).collect(),
            d_hidden: backward(sizes.state),
            d_concatenated: backward(sizes.concatenated),
            d_mixes: vec![[0.0; 4]; cell.mixed_edges()],
        }
    }

    /// Bytes that `new` asks for.
    pub(super) fn bytes(cell: &Cell, config: &RecurrentConfig, batch: usize, steps: usize, mode: Mode) -> u64 {
        let floats = Sizes::new(cell, config, batch, steps, mode).total(cell.states());
        floats as u64 * size_of::<f32>() as u64
    }

    /// The time step's place in buffers that an inference keeps for one time step only.
    pub(super) fn kept(&self, step: usize) -> usize {
        if self.mode == Mode::Training { step } else { 0 }
    }

    /// The largest batch that it was planned for.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The longest sequence that it was planned for.
    pub fn steps(&self) -> usize {
        self.steps
    }
}

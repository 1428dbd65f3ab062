//! The buffers of a recurrent network's passes, allocated once for the longest sequence and the largest batch. Shorter sequences
//! and smaller batches use the beginning of each. The buffers hold what the last pass left; nothing is computed here.

use darts_ops::{matmul::Packed, tied_decoder};

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
    matrices: usize,
    packed: usize,
    chunk: usize,
    rstd: usize,
    training: bool,
}

/// Rows, columns of a block and blocks of each of the [`PackedMatrices`].
struct PackedShapes {
    h: [usize; 3],
    h_transposed: [usize; 3],
    nodes: [usize; 3],
    nodes_transposed: [usize; 3],
}

impl PackedShapes {
    fn new(cell: &Cell, hidden: usize, training: bool) -> Self {
        let (wide, nodes) = (2 * hidden, cell.nodes());
        let backward = |rows: usize| [if training { rows } else { 0 }, hidden, 1];
        Self {
            h: [hidden, wide, 1],
            h_transposed: backward(wide),
            nodes: [hidden, wide, nodes],
            nodes_transposed: backward(nodes * wide),
        }
    }

    fn floats(&self) -> usize {
        let all = [self.h, self.h_transposed, self.nodes, self.nodes_transposed];
        all.into_iter().map(|[rows, columns, blocks]| Packed::floats(rows, columns, blocks)).sum()
    }
}

/// The matrices that meet a state at every time step, laid out for that once a pass.
#[derive(Debug)]
pub(super) struct PackedMatrices {
    /// W₀'s half for the hidden state, `[H, 2H]`.
    pub(super) h: Packed,
    /// Its transpose; empty without backward passes.
    pub(super) h_transposed: Packed,
    /// The matrices of all nodes, a block `[H, 2H]` each, in the cell's order.
    pub(super) nodes: Packed,
    /// Their transposes below each other, `[N·2H, H]`; empty without backward passes.
    pub(super) nodes_transposed: Packed,
}

impl PackedMatrices {
    fn new(shapes: PackedShapes) -> Self {
        let packed = |[rows, columns, blocks]: [usize; 3]| Packed::new(rows, columns, blocks);
        Self {
            h: packed(shapes.h),
            h_transposed: packed(shapes.h_transposed),
            nodes: packed(shapes.nodes),
            nodes_transposed: packed(shapes.nodes_transposed),
        }
    }
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
            matrices: cell.nodes() * 2 * config.hidden * config.hidden,
            packed: PackedShapes::new(cell, config.hidden, training).floats(),
            chunk: tied_decoder::chunk_len(config.vocabulary, steps * batch),
            rstd: if cell.normalized { cell.states() * kept * config.hidden } else { 0 },
            training,
        }
    }

    fn total(&self, states: usize) -> usize {
        let both = 6 * self.tokens + 2 * self.state + states * self.kept + self.gates.iter().sum::<usize>();
        let both = both + self.packed + self.chunk + self.rstd;
        let backward = 2 * self.tokens + (states + 1) * self.state + self.matrices;
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
    /// The matrices that meet a state at every time step.
    pub(super) packed: PackedMatrices,
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
    /// Gradient of the matrices of all nodes side by side, `[H, N·2H]`.
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
            packed: PackedMatrices::new(PackedShapes::new(cell, config.hidden, sizes.training)),
            mixes: vec![[0.0; 4]; cell.mixed_edges()],
            chunk: vec![0.0; sizes.chunk],
            d_output: backward(sizes.tokens),
            d_x: backward(sizes.tokens),
            d_states: (0..states).map(|_| backward(sizes.state)).collect(),
            d_hidden: backward(sizes.state),
            d_concatenated: backward(sizes.matrices),
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

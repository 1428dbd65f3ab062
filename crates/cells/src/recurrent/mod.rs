//! Recurrent networks: embedding, one layer made of a searched or a discrete cell, decoder tied to the embedding (sections 2.1
//! and 3.1.2, appendix A.1.2 and A.2.2 of the paper). Forward and backward passes through time are written out over buffers that
//! are planned in advance; nothing here draws a mask, relaxes α or takes an optimizer's step.
//!
//! ```text
//! (c₀, h₀) = [x·m_x, h·m_h]·W₀                      s₀ = h + σ(c₀)·(tanh h₀ − h)
//! (c, h)   = (s_p·m_h)·W_i                          s_i = Σ_p Σ_k w_pik·(s_p + σ(c)·(f_k(h) − s_p))
//! ```
//! with one predecessor p and one activation k in a discrete cell. The output, and the next hidden state, is the mean of the
//! concat nodes. In the search network s₀ and every s_i go through one batch norm without affine.
//!
//! Axes: T time steps, B rows of the batch, H units (embedding and hidden), V words; a text is time-major, \[T, B\].

mod backward;
mod cell;
#[cfg(feature = "cuda")]
mod device;
mod forward;
mod module;
mod network;
mod workspace;

#[cfg(feature = "cuda")]
pub use device::{DeviceGradients, DevicePass, DeviceRecurrent, DeviceSequence, DeviceStatistics};
pub use module::{Applied, Mode as RecurrentMode, OwnedMasks, RecurrentModule, Sequence};
pub use network::RecurrentNetwork;
pub use workspace::{Mode, Workspace};

/// Sizes of a recurrent network.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RecurrentConfig {
    /// V, number of words.
    pub vocabulary: usize,
    /// H, number of units of the embedding and of every state.
    pub hidden: usize,
}

impl RecurrentConfig {
    /// The search network of section 3.1.2: 300 units.
    pub fn search(vocabulary: usize) -> Self {
        Self { vocabulary, hidden: 300 }
    }

    /// The network that is trained on Penn Treebank, section 3.2.2: 850 units.
    pub fn penn_treebank(vocabulary: usize) -> Self {
        Self { vocabulary, hidden: 850 }
    }

    /// The network that is trained on WikiText-2, section 3.3: 700 units.
    pub fn wikitext2(vocabulary: usize) -> Self {
        Self { vocabulary, hidden: 700 }
    }
}

/// Dropout masks of one sequence, each 0 or 1/keep; none: no dropout, no rescaling.
#[derive(Copy, Clone, Debug, Default)]
pub struct Masks<'a> {
    /// m_x `[B, H]`, on the input of W₀ at every time step.
    pub x: Option<&'a [f32]>,
    /// m_h `[B, H]`, on the hidden state before W₀ and on every state before a node's matrix, at every time step; residuals are
    /// not masked.
    pub h: Option<&'a [f32]>,
    /// `[B, H]`, on the embedded words at every time step.
    pub embedding_locked: Option<&'a [f32]>,
    /// `[B, H]`, on the output at every time step, before the decoder.
    pub output_locked: Option<&'a [f32]>,
    /// `[V]`, on the rows of the embedding that are looked up; the decoder uses all rows as they are.
    pub embedding_rows: Option<&'a [f32]>,
}

/// What a pass starts from.
#[derive(Copy, Clone, Debug)]
pub struct Input<'a> {
    /// `[T, B]`, each below V.
    pub tokens: &'a [u32],
    /// B.
    pub batch: usize,
    /// Incoming hidden state `[B, H]`.
    pub hidden: &'a [f32],
    /// All weights, as [`RecurrentNetwork::parameters`] lays them out.
    pub theta: &'a [f32],
    /// Operation weights `[edges, operations]` of a search network; empty for a discrete one.
    pub weights: &'a [f32],
    /// Dropout.
    pub masks: Masks<'a>,
}

/// Which statistics batch norm uses; a network without one ignores it.
#[derive(Debug)]
pub enum Statistics<'a> {
    /// Those of each call's own batch.
    Batch {
        /// Running statistics, as [`RecurrentNetwork::statistics`] lays them out: updated nodes + 1 times per time step, in the
        /// order of computation.
        update: Option<&'a mut [f32]>,
    },
    /// The running ones.
    Running(&'a [f32]),
}

/// Coefficients of the two regularizers of the activations.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct LossConfig {
    /// α of α·mean(o²), o the output after its dropout.
    pub activation: f64,
    /// β of β·mean over t ≥ 1 of (h_t − h_{t−1})², h the output before its dropout.
    pub temporal: f64,
}

/// The gradients of the loss that are asked for; each is overwritten.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// With respect to all weights, laid out as they are.
    pub theta: Option<&'a mut [f32]>,
    /// With respect to the operation weights `[edges, operations]`.
    pub weights: Option<&'a mut [f32]>,
    /// With respect to the incoming hidden state `[B, H]`.
    pub hidden: Option<&'a mut [f32]>,
}

impl Gradients<'_> {
    fn any(&self) -> bool {
        self.theta.is_some() || self.weights.is_some() || self.hidden.is_some()
    }
}

/// What a pass with targets gives.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct LossOutput {
    /// Mean negative log-likelihood of the targets, in nats.
    pub nll: f64,
    /// The same with the regularizers added.
    pub loss: f64,
}

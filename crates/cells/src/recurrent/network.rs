//! The network around a recurrent cell: its parameters and their names, what it costs, and its passes. Arguments are checked
//! here, once; what is called from here relies on it.

use std::ops::Range;

use darts_ops::{
    regularizer,
    tied_decoder::{self, Decoder, DecoderGradients},
};

use super::{
    Gradients, Input, LossConfig, LossOutput, Masks, Mode, RecurrentConfig, Statistics, Workspace, cell::Cell,
    forward::apply_mask,
};
use crate::{
    error::{Error, Result},
    genotype::RecurrentGenotype,
    parameters::{Init, Table},
    space::RecurrentSpace,
};

/// Where the weights lie in θ.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// `encoder.weight` [V, H].
    pub(super) encoder: Range<usize>,
    /// `decoder.bias` `[V]`.
    pub(super) bias: Range<usize>,
    /// `rnns.0._W0` [2H, 2H].
    pub(super) w0: Range<usize>,
    /// `rnns.0._Ws.<i>` [H, 2H] of node i + 1.
    pub(super) nodes: Vec<Range<usize>>,
}

/// A language model with one recurrent layer, searched or discrete.
///
/// ```
/// use darts_cells::{
///     genotype::named,
///     recurrent::{Gradients, Input, LossConfig, Masks, Mode, RecurrentConfig, RecurrentNetwork, Statistics},
/// };
///
/// let config = RecurrentConfig { vocabulary: 20, hidden: 8 };
/// let network = RecurrentNetwork::discrete(&named::recurrent("DARTS_V2")?, &config)?;
/// let (theta, _) = network.initialize(0);
/// let (batch, steps) = (2, 3);
/// let mut workspace = network.workspace(batch, steps, Mode::Training);
/// let mut gradient = vec![0.0; theta.len()];
/// let input = Input {
///     tokens: &[1, 2, 3, 4, 5, 6], // [steps, batch]
///     batch,
///     hidden: &vec![0.0; batch * config.hidden],
///     theta: &theta,
///     weights: &[],
///     masks: Masks::default(),
/// };
/// let output = network.evaluate(
///     &mut workspace,
///     &input,
///     &[3, 4, 5, 6, 7, 8],
///     &LossConfig::default(),
///     &mut Statistics::Batch { update: None },
///     Gradients { theta: Some(&mut gradient), ..Gradients::default() },
/// )?;
/// assert!((output.nll - 20f64.ln()).abs() < 0.1);
/// # Ok::<(), darts_cells::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RecurrentNetwork {
    pub(super) cell: Cell,
    pub(super) config: RecurrentConfig,
    pub(super) places: Places,
    parameters: Table,
    statistics: Table,
}

/// The bound of the uniform initialization of all matrices.
const INIT: f64 = 0.04;

impl RecurrentNetwork {
    /// The search network: every edge a mixture of the space's activations, batch norm after every state.
    ///
    /// # Errors
    /// [`Error::Space`] for a space without a cell, [`Error::Argument`] for sizes of 0.
    pub fn supernet(space: &RecurrentSpace, config: &RecurrentConfig) -> Result<Self> {
        Self::new(Cell::search(space)?, config)
    }

    /// The network of a discrete cell.
    ///
    /// # Errors
    /// Those of [`RecurrentGenotype::validate`], [`Error::Argument`] for sizes of 0.
    pub fn discrete(genotype: &RecurrentGenotype, config: &RecurrentConfig) -> Result<Self> {
        Self::new(Cell::discrete(genotype)?, config)
    }

    fn new(cell: Cell, config: &RecurrentConfig) -> Result<Self> {
        let RecurrentConfig { vocabulary, hidden } = *config;
        for (what, value) in [("vocabulary", vocabulary), ("hidden", hidden)] {
            if value == 0 {
                return Err(argument(what, value, "1 or more"));
            }
        }
        let mut parameters = Table::new();
        let uniform = Init::Uniform(INIT);
        let places = Places {
            encoder: parameters.push("encoder.weight", &[vocabulary, hidden], uniform),
            bias: parameters.push("decoder.bias", &[vocabulary], Init::Zeros),
            w0: parameters.push("rnns.0._W0", &[2 * hidden, 2 * hidden], uniform),
            nodes: (0..cell.nodes())
                .map(|node| parameters.push(format!("rnns.0._Ws.{node}"), &[hidden, 2 * hidden], uniform))
                .collect(),
        };
        let mut statistics = Table::new();
        if cell.normalized {
            statistics.push("rnns.0.bn.running_mean", &[hidden], Init::Zeros);
            statistics.push("rnns.0.bn.running_var", &[hidden], Init::Ones);
        }
        Ok(Self { cell, config: *config, places, parameters, statistics })
    }

    /// Names and places of the weights. The decoder's matrix is the embedding's, `encoder.weight`, and has no second entry.
    pub fn parameters(&self) -> &Table {
        &self.parameters
    }

    /// Names and places of the running statistics; empty for a discrete network.
    pub fn statistics(&self) -> &Table {
        &self.statistics
    }

    /// Sizes.
    pub fn config(&self) -> &RecurrentConfig {
        &self.config
    }

    /// First weights, U(±0.04) with a decoder bias of 0, and running statistics.
    pub fn initialize(&self, seed: u64) -> (Vec<f32>, Vec<f32>) {
        (self.parameters.initialize(seed), self.statistics.initialize(seed))
    }

    /// Length of the operation weights, edges·operations; 0 for a discrete network.
    pub fn operation_weights(&self) -> usize {
        self.cell.mixed_edges() * self.cell.columns.len()
    }

    /// Number of weights, the tied one counted once.
    pub fn parameter_count(&self) -> usize {
        self.parameters.len()
    }

    /// Multiply-adds of all matrix products for one word of text, decoder included.
    pub fn multiply_adds(&self) -> u64 {
        let (hidden, vocabulary) = (self.config.hidden as u64, self.config.vocabulary as u64);
        let blocks: usize = self.cell.groups.iter().map(ExactSizeIterator::len).sum();
        4 * hidden * hidden + 2 * hidden * hidden * blocks as u64 + hidden * vocabulary
    }

    /// Bytes of a training step: the workspace, the weights, their gradient, and the third vector of their length that a
    /// search's virtual step or an average of the weights takes.
    pub fn training_bytes(&self, batch: usize, steps: usize) -> u64 {
        let weights = 3 * self.parameters.len() as u64 * size_of::<f32>() as u64;
        Workspace::bytes(&self.cell, &self.config, batch, steps, Mode::Training) + weights
    }

    /// Buffers for passes over batches of up to `batch` rows and `steps` time steps.
    pub fn workspace(&self, batch: usize, steps: usize, mode: Mode) -> Workspace {
        Workspace::new(&self.cell, &self.config, batch, steps, mode)
    }

    /// A pass without targets: afterwards the workspace holds the outputs and the next hidden state.
    ///
    /// # Errors
    /// [`Error::Argument`] or [`Error::Length`] for the first argument that does not fit.
    pub fn forward(&self, workspace: &mut Workspace, input: &Input, statistics: &mut Statistics) -> Result<()> {
        self.check(workspace, input, statistics)?;
        self.run_forward(workspace, input, statistics);
        Ok(())
    }

    /// A pass with targets: the loss, and the gradients asked for. Afterwards the workspace holds the next hidden state.
    ///
    /// loss = mean over T·B of −log p(target) + α·mean(o²) + β·mean((h_t − h_{t−1})²)
    ///
    /// # Shapes
    /// `targets` \[T, B\], each below V.
    ///
    /// # Errors
    /// [`Error::Argument`] or [`Error::Length`] for the first argument that does not fit; gradients of a workspace that was
    /// planned for inference.
    pub fn evaluate(
        &self,
        workspace: &mut Workspace,
        input: &Input,
        targets: &[u32],
        config: &LossConfig,
        statistics: &mut Statistics,
        mut gradients: Gradients,
    ) -> Result<LossOutput> {
        self.check(workspace, input, statistics)?;
        self.check_words("target", targets)?;
        length("targets", targets.len(), input.tokens.len())?;
        self.check_gradients(workspace, input, &gradients)?;
        self.run_forward(workspace, input, statistics);

        let ws = workspace;
        let (rows, state) = (targets.len(), input.batch * self.config.hidden);
        let output = &ws.output[..rows * self.config.hidden];
        let mut d_output = gradients.any().then(|| &mut ws.d_output[..output.len()]);
        let decoder_gradients = d_output.as_deref_mut().map(|d_output| DecoderGradients {
            scale: 1.0 / rows as f64,
            d_output,
            parameters: gradients.theta.as_deref_mut().map(|theta| {
                let (before, after) = theta.split_at_mut(self.places.bias.start);
                (&mut before[self.places.encoder.clone()], &mut after[..self.places.bias.len()])
            }),
        });
        let decoder = self.decoder(input.theta);
        let nll = tied_decoder::loss(decoder, output, targets, decoder_gradients, &mut ws.chunk) / rows as f64;
        let mut loss = nll;
        loss += regularizer::activation(output, config.activation, d_output.as_deref_mut());
        if let (Some(d_output), Some(mask)) = (d_output.as_deref_mut(), input.masks.output_locked) {
            let masked = &mut ws.masked[..d_output.len()];
            apply_mask(d_output, mask, masked);
            d_output.copy_from_slice(masked);
        }
        let raw = &ws.raw[state..][..output.len()];
        loss += regularizer::temporal(raw, state, config.temporal, d_output);
        if gradients.any() {
            self.run_backward(ws, input, gradients);
        }
        Ok(LossOutput { nll, loss })
    }

    /// Logarithms of the probabilities of all words at every position of the last pass; `out` \[T, B, V\] is overwritten.
    ///
    /// # Errors
    /// [`Error::Length`] where `theta` or `out` does not fit.
    pub fn log_probabilities(&self, workspace: &Workspace, theta: &[f32], out: &mut [f32]) -> Result<()> {
        let rows = workspace.last.0 * workspace.last.1;
        length("theta", theta.len(), self.parameters.len())?;
        length("logarithms of the probabilities", out.len(), rows * self.config.vocabulary)?;
        let output = &workspace.output[..rows * self.config.hidden];
        tied_decoder::log_probabilities(self.decoder(theta), output, out);
        Ok(())
    }

    /// The hidden state \[B, H\] after the last pass, before any dropout; empty before the first pass.
    pub fn hidden<'a>(&self, workspace: &'a Workspace) -> &'a [f32] {
        let (steps, batch) = workspace.last;
        let state = batch * self.config.hidden;
        &workspace.raw[steps * state..][..state]
    }

    fn decoder<'a>(&self, theta: &'a [f32]) -> Decoder<'a> {
        Decoder { weight: &theta[self.places.encoder.clone()], bias: &theta[self.places.bias.clone()] }
    }

    fn check(&self, workspace: &Workspace, input: &Input, statistics: &Statistics) -> Result<()> {
        let Input { tokens, batch, hidden, theta, weights, masks } = *input;
        if batch == 0 || batch > workspace.batch {
            return Err(argument(
                "batch",
                batch,
                format!("1 to {}, what the workspace was planned for", workspace.batch),
            ));
        }
        if tokens.is_empty() || !tokens.len().is_multiple_of(batch) || tokens.len() / batch > workspace.steps {
            let expected = format!("1 to {} time steps of {batch}", workspace.steps);
            return Err(argument("number of tokens", tokens.len(), expected));
        }
        self.check_words("token", tokens)?;
        let state = batch * self.config.hidden;
        length("hidden state", hidden.len(), state)?;
        length("theta", theta.len(), self.parameters.len())?;
        length("operation weights", weights.len(), self.operation_weights())?;
        self.check_masks(&masks, batch)?;
        match statistics {
            Statistics::Batch { .. } if self.cell.normalized && batch < 2 => {
                Err(argument("batch", batch, "2 or more, for a batch norm with the batch's own statistics"))
            }
            Statistics::Batch { update: None } => Ok(()),
            Statistics::Batch { update: Some(running) } => {
                length("running statistics", running.len(), self.statistics.len())
            }
            Statistics::Running(running) => length("running statistics", running.len(), self.statistics.len()),
        }
    }

    pub(super) fn check_masks(&self, masks: &Masks, batch: usize) -> Result<()> {
        let state = batch * self.config.hidden;
        let masks = [
            ("mask of the input", masks.x, state),
            ("mask of the hidden state", masks.h, state),
            ("mask of the embedding", masks.embedding_locked, state),
            ("mask of the output", masks.output_locked, state),
            ("mask of the embedding's rows", masks.embedding_rows, self.config.vocabulary),
        ];
        for (what, mask, expected) in masks {
            if let Some(mask) = mask {
                length(what, mask.len(), expected)?;
            }
        }
        Ok(())
    }

    fn check_gradients(&self, workspace: &Workspace, input: &Input, gradients: &Gradients) -> Result<()> {
        if gradients.any() && workspace.mode == Mode::Inference {
            return Err(argument(
                "workspace",
                "planned for inference",
                "one planned for training, as gradients are wanted",
            ));
        }
        if let Some(theta) = &gradients.theta {
            length("gradient of theta", theta.len(), self.parameters.len())?;
        }
        if let Some(weights) = &gradients.weights {
            length("gradient of the operation weights", weights.len(), self.operation_weights())?;
        }
        if let Some(hidden) = &gradients.hidden {
            length("gradient of the hidden state", hidden.len(), input.batch * self.config.hidden)?;
        }
        Ok(())
    }

    pub(super) fn check_words(&self, what: &'static str, words: &[u32]) -> Result<()> {
        match words.iter().position(|&word| word as usize >= self.config.vocabulary) {
            Some(position) => {
                let value = format!("{} at position {position}", words[position]);
                Err(argument(what, value, format!("a word below {}", self.config.vocabulary)))
            }
            None => Ok(()),
        }
    }
}

const OPERATION: &str = "recurrent network";

pub(super) fn argument(what: &'static str, value: impl ToString, expected: impl Into<String>) -> Error {
    Error::Argument { operation: OPERATION, what, value: value.to_string(), expected: expected.into() }
}

pub(super) fn length(what: &'static str, actual: usize, expected: usize) -> Result<()> {
    if actual == expected { Ok(()) } else { Err(Error::Length { operation: OPERATION, what, actual, expected }) }
}

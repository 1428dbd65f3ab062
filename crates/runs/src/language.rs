//! The recurrent search as a bilevel problem: w is the flat θ of a recurrent supernet, α its architecture parameters, both losses
//! are the mean negative log-likelihood of the next word. It carries the hidden states of its two texts from step to step, which
//! is all the memory it has beside the running statistics; it refuses to know data sets, runs, optimizers and clipping.

#[cfg(feature = "device")]
pub(crate) mod device;

use darts_bilevel::{BilevelProblem, Gradients, Pass};
use darts_cells::recurrent::{
    self, Input, LossConfig, LossOutput, Masks, Mode, RecurrentNetwork, Statistics, Workspace,
};
use darts_cells::relaxation::Relaxation;
use darts_ops::vector::{self, Vector};

/// A piece of text with the words that follow, and the dropout of each pass over it.
pub trait Sequence {
    /// Words, `[T, B]`.
    fn tokens(&self) -> &[u32];
    /// The words that follow them, `[T, B]`.
    fn targets(&self) -> &[u32];
    /// Dropout of a pass; none by default.
    fn masks(&self, _pass: Pass) -> Masks<'_> {
        Masks::default()
    }
}

/// Why an evaluation of the recurrent supernet failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguageError {
    /// The network refused its input.
    #[error(transparent)]
    Cells(#[from] darts_cells::Error),
    /// A vector is not where it should be.
    #[error(transparent)]
    Vector(#[from] vector::Error),
}

/// The size of the batches and the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LanguageConfig {
    /// B of every sequence.
    pub batch: usize,
    /// Largest T.
    pub steps: usize,
    /// Coefficient of the temporal regularizer, which the loss of weight steps has and no other.
    pub temporal: f64,
}

/// What is carried from one search step to the next, beside w, α and their optimizers.
#[derive(Clone, Debug, PartialEq)]
pub struct LanguageState {
    /// Hidden state of the training text `[B, H]`, as the last weight step's pass left it.
    pub train: Vec<f32>,
    /// Hidden state of the validation text `[B, H]`, as the last pass for α's gradient left it.
    pub valid: Vec<f32>,
    /// Running statistics, as the last weight step's pass left them.
    pub statistics: Vec<f32>,
}

/// A recurrent supernet with everything that its evaluations need, allocated once.
pub struct LanguageProblem {
    network: RecurrentNetwork,
    config: LanguageConfig,
    workspace: Workspace,
    relaxation: Relaxation,
    /// Operations of an edge: columns of α.
    columns: usize,
    weights: Vec<f32>,
    d_weights: Vec<f32>,
    state: LanguageState,
    output: Option<LossOutput>,
}

impl LanguageProblem {
    /// A problem over `network`, whose edges have `columns` operations, from hidden states of zero and these running statistics.
    ///
    /// # Shapes
    /// `statistics`: as long as the network's table of them.
    pub fn new(network: RecurrentNetwork, columns: usize, config: LanguageConfig, statistics: Vec<f32>) -> Self {
        let hidden = vec![0.0; config.batch * network.config().hidden];
        let weights = vec![0.0; network.operation_weights()];
        Self {
            workspace: network.workspace(config.batch, config.steps, Mode::Training),
            relaxation: Relaxation::Softmax,
            columns,
            d_weights: weights.clone(),
            weights,
            state: LanguageState { train: hidden.clone(), valid: hidden, statistics },
            output: None,
            network,
            config,
        }
    }

    /// The network.
    pub fn network(&self) -> &RecurrentNetwork {
        &self.network
    }

    /// What is carried from step to step.
    pub fn state(&self) -> &LanguageState {
        &self.state
    }

    /// The same, to be restored from a checkpoint.
    pub fn state_mut(&mut self) -> &mut LanguageState {
        &mut self.state
    }

    /// Negative log-likelihood and loss of the last evaluation; `None` before the first.
    pub fn output(&self) -> Option<LossOutput> {
        self.output
    }
}

impl BilevelProblem for LanguageProblem {
    type Batch = dyn Sequence;
    type Error = LanguageError;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        sequence: &Self::Batch,
        gradients: Gradients<'_>,
    ) -> Result<f64, LanguageError> {
        let Self { network, config, workspace, relaxation, columns, weights, d_weights, state, output } = self;
        alpha.read(|alphas| relaxation.forward(alphas, *columns, weights))??;
        let LanguageState { train, valid, statistics } = state;
        let hidden = if pass == Pass::Validation { valid } else { train };
        let weight_step = pass == Pass::Weight;
        let update = weight_step.then_some(statistics.as_mut_slice());
        let loss = LossConfig { activation: 0.0, temporal: if weight_step { config.temporal } else { 0.0 } };
        let Gradients { w: d_theta, alpha: d_alphas } = gradients;
        let wanted = d_alphas.is_some().then_some(d_weights.as_mut_slice());
        let result = w.read(|theta| {
            let (tokens, masks) = (sequence.tokens(), sequence.masks(pass));
            let input = Input { tokens, batch: config.batch, hidden, theta, weights, masks };
            let mut statistics = Statistics::Batch { update };
            let evaluate = |theta: Option<&mut [f32]>| {
                let gradients = recurrent::Gradients { theta, weights: wanted, hidden: None };
                network.evaluate(workspace, &input, sequence.targets(), &loss, &mut statistics, gradients)
            };
            match d_theta {
                Some(d_theta) => d_theta.write(|d_theta| evaluate(Some(d_theta))),
                None => Ok(evaluate(None)),
            }
        })???;
        if let Some(d_alphas) = d_alphas {
            d_alphas.write(|d_alphas| relaxation.backward(weights, d_weights, *columns, d_alphas))??;
        }
        if matches!(pass, Pass::Validation | Pass::Weight) {
            hidden.copy_from_slice(network.hidden(workspace));
        }
        *output = Some(result);
        Ok(result.loss)
    }
}

//! Where golden results are computed, and the passes that are computed there: a check asks for a pass and compares, whatever the
//! place. The processor is one; `device` has another.

use candle_core::Device::Cpu;
use darts_bilevel::optimizer::{Adam, AdamConfig, AveragedSgd, AveragedSgdConfig, Sgd, SgdConfig};
use darts_bilevel::{Search, SearchConfig, StepReport};
use darts_cells::conv::{
    ConvNetwork, ConvOperation, ForwardInput, Gradients, LossConfig as ConvLoss, Statistics as ConvStatistics,
};
use darts_cells::recurrent::{self, LossConfig, LossOutput, Mode, RecurrentNetwork};
use darts_ops::vector::Vector;

use super::VerifyError;
use crate::error::Error;
use crate::language::{LanguageConfig, LanguageProblem, LanguageState, Sequence};
use crate::options::Device;
use crate::supernet::{LabelledImages, SupernetProblem};

/// What a training pass over a convolutional network gave.
pub struct ConvResults {
    /// Logits `[N, classes]`.
    pub logits: Vec<f32>,
    /// The auxiliary head's, where there is one.
    pub auxiliary: Option<Vec<f32>>,
    /// The loss.
    pub loss: f64,
    /// ∂loss/∂θ.
    pub d_theta: Vec<f32>,
    /// ∂loss/∂(operation weights).
    pub d_weights: Vec<f32>,
    /// The running statistics afterwards.
    pub statistics: Vec<f32>,
}

/// What a training pass of one operation gave.
pub struct OperationResults {
    /// The output `[N, h, w, c]`.
    pub output: Vec<f32>,
    /// ∂loss/∂θ.
    pub d_theta: Vec<f32>,
    /// ∂loss/∂input.
    pub d_input: Vec<f32>,
    /// The running statistics afterwards.
    pub statistics: Vec<f32>,
}

/// What a training pass over a recurrent network gave.
pub struct RecurrentResults {
    /// Log-probabilities of all words at every position.
    pub log_probabilities: Vec<f32>,
    /// The next hidden state.
    pub hidden: Vec<f32>,
    /// The loss.
    pub loss: LossOutput,
    /// ∂loss/∂θ.
    pub d_theta: Vec<f32>,
    /// ∂loss/∂(operation weights).
    pub d_weights: Vec<f32>,
    /// ∂loss/∂(incoming hidden state).
    pub d_hidden: Vec<f32>,
    /// The running statistics afterwards.
    pub statistics: Vec<f32>,
}

/// Where a search over a convolutional supernet starts.
pub struct SearchStart {
    /// The supernet.
    pub network: ConvNetwork,
    /// Operations of an edge: columns of α.
    pub columns: usize,
    /// Sizes of the batches of its steps.
    pub batches: Vec<usize>,
    /// θ.
    pub theta: Vec<f32>,
    /// α.
    pub alphas: Vec<f32>,
    /// The running statistics.
    pub statistics: Vec<f32>,
    /// The settings.
    pub config: SearchConfig,
}

/// Images and their classes.
#[derive(Clone, Copy)]
pub struct Labelled<'a> {
    /// `[N, H, W, 3]`.
    pub images: &'a [f32],
    /// `[N]`.
    pub labels: &'a [u32],
}

/// The same, owned: a batch of the processor's problem has no lifetime.
struct Owned {
    images: Vec<f32>,
    labels: Vec<u32>,
}

impl From<Labelled<'_>> for Owned {
    fn from(batch: Labelled<'_>) -> Self {
        Self { images: batch.images.to_vec(), labels: batch.labels.to_vec() }
    }
}

impl LabelledImages for Owned {
    fn images(&self) -> &[f32] {
        &self.images
    }

    fn labels(&self) -> &[u32] {
        &self.labels
    }
}

/// What a search step saw, and left.
pub struct SearchResults {
    /// Losses and norms.
    pub report: StepReport,
    /// The gradient that Adam got.
    pub alpha_gradient: Vec<f32>,
    /// α afterwards.
    pub alphas: Vec<f32>,
    /// θ afterwards.
    pub theta: Vec<f32>,
    /// Its momentum; zeros without one.
    pub momentum: Vec<f32>,
    /// The running statistics afterwards.
    pub statistics: Vec<f32>,
}

/// A search that is under way.
pub trait ConvSearch {
    /// One step of Algorithm 1.
    ///
    /// # Errors
    /// Why it cannot be computed.
    fn step(&mut self, train: Labelled, valid: Labelled, learning_rate: f64) -> Result<SearchResults, String>;
}

/// Where a search over a recurrent supernet starts: with hidden states of zero.
pub struct LanguageStart {
    /// The supernet.
    pub network: RecurrentNetwork,
    /// Operations of an edge: columns of α.
    pub columns: usize,
    /// Sizes of the sequences of its steps.
    pub sizes: LanguageConfig,
    /// θ.
    pub theta: Vec<f32>,
    /// α.
    pub alphas: Vec<f32>,
    /// The running statistics.
    pub statistics: Vec<f32>,
    /// The settings.
    pub config: SearchConfig,
}

/// What a step of a recurrent search saw, and left.
pub struct LanguageResults {
    /// As in every search; no momentum.
    pub search: SearchResults,
    /// Of the gradient that Adam got, that of the validation loss alone.
    pub direct_alpha_gradient: Vec<f32>,
    /// Mean negative log-likelihood of the weight pass, without its regularizer.
    pub nll: f64,
    /// Hidden states of both texts, as the step left them.
    pub state: LanguageState,
}

/// A sequence of words, and the words that follow.
pub struct Words {
    /// `[T, B]`.
    pub tokens: Vec<u32>,
    /// `[T, B]`.
    pub targets: Vec<u32>,
}

impl Sequence for Words {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn targets(&self) -> &[u32] {
        &self.targets
    }
}

/// A search over a recurrent supernet that is under way.
pub trait LanguageSearch {
    /// What the next step starts from.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn state(&self) -> Result<LanguageState, String>;

    /// One step of Algorithm 1.
    ///
    /// # Errors
    /// Why it cannot be computed.
    fn step(&mut self, train: &Words, valid: &Words, learning_rate: f64) -> Result<LanguageResults, String>;
}

/// An optimizer with its settings.
#[derive(Clone, Copy, Debug)]
pub enum Optimizer {
    /// SGD at a learning rate.
    Sgd(SgdConfig, f64),
    /// Adam.
    Adam(AdamConfig),
    /// Averaged SGD at a learning rate.
    Averaged(AveragedSgdConfig, f64),
}

/// Parameters after a step of an optimizer, and their average where it keeps one.
pub type Optimized = (Vec<f32>, Option<Vec<f32>>);

/// A place that computes passes.
pub trait Place {
    /// A search from there.
    ///
    /// # Errors
    /// What the settings or the place refuse.
    fn conv_search<'a>(&'a self, start: SearchStart) -> Result<Box<dyn ConvSearch + 'a>, String>;

    /// A search over a recurrent supernet from there.
    ///
    /// # Errors
    /// What the settings or the place refuse.
    fn language_search<'a>(&'a self, start: LanguageStart) -> Result<Box<dyn LanguageSearch + 'a>, String>;

    /// Parameters after each of several steps, one for each of the gradients.
    ///
    /// # Errors
    /// What the settings or the place refuse.
    fn optimize(
        &self,
        optimizer: Optimizer,
        parameters: &[f32],
        gradients: &[Vec<f32>],
    ) -> Result<Vec<Optimized>, String>;

    /// Logits by running statistics.
    ///
    /// # Errors
    /// What the network or the place refuses.
    fn conv_evaluation(
        &self,
        network: &ConvNetwork,
        input: &ForwardInput,
        statistics: &[f32],
    ) -> Result<Vec<f32>, VerifyError>;

    /// A training pass with all gradients, by the statistics of the batch; the running ones move.
    ///
    /// # Errors
    /// What the network or the place refuses.
    fn conv_training(
        &self,
        network: &ConvNetwork,
        input: &ForwardInput,
        labels: &[u32],
        loss: ConvLoss,
        statistics: &[f32],
    ) -> Result<ConvResults, VerifyError>;

    /// The output of one operation by running statistics.
    ///
    /// # Errors
    /// What the network or the place refuses.
    fn operation_evaluation(
        &self,
        operation: &ConvOperation,
        input: &ForwardInput,
        statistics: &[f32],
    ) -> Result<Vec<f32>, VerifyError>;

    /// A training pass of one operation with all gradients, from that of its output.
    ///
    /// # Errors
    /// What the network or the place refuses.
    fn operation_training(
        &self,
        operation: &ConvOperation,
        input: &ForwardInput,
        d_output: &[f32],
        statistics: &[f32],
    ) -> Result<OperationResults, VerifyError>;

    /// Log-probabilities and the next hidden state, by running statistics.
    ///
    /// # Errors
    /// What the network or the place refuses.
    fn recurrent_evaluation(
        &self,
        network: &RecurrentNetwork,
        input: &recurrent::Input,
        targets: &[u32],
        statistics: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>), VerifyError>;

    /// A training pass with all gradients, by the statistics of each call's batch; the running ones move.
    ///
    /// # Errors
    /// What the network or the place refuses.
    fn recurrent_training(
        &self,
        network: &RecurrentNetwork,
        input: &recurrent::Input,
        targets: &[u32],
        loss: &LossConfig,
        statistics: &[f32],
    ) -> Result<RecurrentResults, VerifyError>;
}

/// This machine's processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processor;

struct OnProcessor {
    search: Search,
    problem: SupernetProblem,
}

impl ConvSearch for OnProcessor {
    fn step(&mut self, train: Labelled, valid: Labelled, learning_rate: f64) -> Result<SearchResults, String> {
        let Self { search, problem } = self;
        let (train, valid) = (Owned::from(train), Owned::from(valid));
        let report = search.step(problem, &train as &dyn LabelledImages, &valid, learning_rate);
        let report = report.map_err(|e| e.to_string())?;
        let read = |vector: &Vector| vector.to_vec().map_err(|e| e.to_string());
        let theta = read(search.weights())?;
        Ok(SearchResults {
            report,
            alpha_gradient: read(search.alpha_gradient())?,
            alphas: read(search.alphas())?,
            momentum: search.momentum().map_or_else(|| Ok(vec![0.0; theta.len()]), read)?,
            theta,
            statistics: problem.statistics().to_vec(),
        })
    }
}

struct LanguageOnProcessor {
    search: Search,
    problem: LanguageProblem,
}

impl LanguageSearch for LanguageOnProcessor {
    fn state(&self) -> Result<LanguageState, String> {
        Ok(self.problem.state().clone())
    }

    fn step(&mut self, train: &Words, valid: &Words, learning_rate: f64) -> Result<LanguageResults, String> {
        let Self { search, problem } = self;
        let report = search.step(problem, train as &dyn Sequence, valid as &dyn Sequence, learning_rate);
        let report = report.map_err(|e| e.to_string())?;
        let read = |vector: &Vector| vector.to_vec().map_err(|e| e.to_string());
        let state = problem.state().clone();
        Ok(LanguageResults {
            search: SearchResults {
                report,
                alpha_gradient: read(search.alpha_gradient())?,
                alphas: read(search.alphas())?,
                theta: read(search.weights())?,
                momentum: Vec::new(),
                statistics: state.statistics.clone(),
            },
            direct_alpha_gradient: read(search.direct_alpha_gradient())?,
            nll: problem.output().map_or(f64::NAN, |output| output.nll),
            state,
        })
    }
}

/// An optimizer with its state.
enum Started {
    Sgd(Sgd, f64),
    Adam(Adam),
    Averaged(AveragedSgd, f64),
}

impl Started {
    fn new(optimizer: Optimizer, len: usize) -> Result<Self, darts_bilevel::Error> {
        Ok(match optimizer {
            Optimizer::Sgd(config, rate) => Self::Sgd(Sgd::new(config, len, &Cpu)?, rate),
            Optimizer::Adam(config) => Self::Adam(Adam::new(config, len, &Cpu)?),
            Optimizer::Averaged(config, rate) => Self::Averaged(AveragedSgd::new(config, len, &Cpu)?, rate),
        })
    }

    /// One step; the average, where it keeps one.
    fn step(&mut self, w: &mut Vector, gradient: &Vector) -> Result<Option<Vec<f32>>, darts_ops::vector::Error> {
        match self {
            Self::Sgd(sgd, rate) => sgd.step(w, gradient, 1.0, *rate).map(|()| None),
            Self::Adam(adam) => adam.step(w, gradient).map(|()| None),
            Self::Averaged(sgd, rate) => {
                sgd.step(w, gradient, 1.0, *rate)?;
                sgd.average().to_vec().map(Some)
            }
        }
    }
}

impl Place for Processor {
    fn language_search<'a>(&'a self, start: LanguageStart) -> Result<Box<dyn LanguageSearch + 'a>, String> {
        let LanguageStart { network, columns, sizes, theta, alphas, statistics, config } = start;
        let problem = LanguageProblem::new(network, columns, sizes, statistics);
        let vector = |values: Vec<f32>| Vector::from_vec(values, &Cpu).map_err(|e| e.to_string());
        let search = Search::new(vector(theta)?, vector(alphas)?, config).map_err(|e| e.to_string())?;
        Ok(Box::new(LanguageOnProcessor { search, problem }))
    }

    fn conv_search<'a>(&'a self, start: SearchStart) -> Result<Box<dyn ConvSearch + 'a>, String> {
        let largest = start.batches.into_iter().max().unwrap_or(1);
        let problem = SupernetProblem::new(start.network, start.columns, largest, start.statistics);
        let vector = |values: Vec<f32>| Vector::from_vec(values, &Cpu).map_err(|e| e.to_string());
        let search =
            Search::new(vector(start.theta)?, vector(start.alphas)?, start.config).map_err(|e| e.to_string())?;
        Ok(Box::new(OnProcessor { search, problem }))
    }

    fn optimize(
        &self,
        optimizer: Optimizer,
        parameters: &[f32],
        gradients: &[Vec<f32>],
    ) -> Result<Vec<Optimized>, String> {
        let (text, len) = (|e: darts_ops::vector::Error| e.to_string(), parameters.len());
        let mut parameters = Vector::from_slice(parameters, &Cpu).map_err(text)?;
        let mut started = Started::new(optimizer, len).map_err(|e| e.to_string())?;
        let mut results = Vec::with_capacity(gradients.len());
        for gradient in gradients {
            let gradient = Vector::from_slice(gradient, &Cpu).map_err(text)?;
            let average = started.step(&mut parameters, &gradient).map_err(text)?;
            results.push((parameters.to_vec().map_err(text)?, average));
        }
        Ok(results)
    }

    fn conv_evaluation(
        &self,
        network: &ConvNetwork,
        input: &ForwardInput,
        statistics: &[f32],
    ) -> Result<Vec<f32>, VerifyError> {
        let mut ws = network.workspace(input.batch);
        network.forward(&mut ws, input, ConvStatistics::Running(statistics))?;
        Ok(network.logits(&ws).to_vec())
    }

    fn conv_training(
        &self,
        network: &ConvNetwork,
        input: &ForwardInput,
        labels: &[u32],
        loss: ConvLoss,
        statistics: &[f32],
    ) -> Result<ConvResults, VerifyError> {
        let mut ws = network.workspace(input.batch);
        let mut statistics = statistics.to_vec();
        network.forward(&mut ws, input, ConvStatistics::Batch { update: Some(&mut statistics) })?;
        let loss = network.loss(&mut ws, labels, loss)?.loss;
        let mut d_theta = vec![f32::NAN; input.theta.len()];
        let mut d_weights = vec![f32::NAN; input.weights.len()];
        let gradients = Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), images: None };
        network.backward(&mut ws, input, gradients)?;
        let logits = network.logits(&ws).to_vec();
        let auxiliary = network.auxiliary_logits(&ws).map(<[f32]>::to_vec);
        Ok(ConvResults { logits, auxiliary, loss, d_theta, d_weights, statistics })
    }

    fn operation_evaluation(
        &self,
        operation: &ConvOperation,
        input: &ForwardInput,
        statistics: &[f32],
    ) -> Result<Vec<f32>, VerifyError> {
        let mut ws = operation.workspace(input.batch);
        Ok(operation.forward(&mut ws, input, ConvStatistics::Running(statistics)).to_vec())
    }

    fn operation_training(
        &self,
        operation: &ConvOperation,
        input: &ForwardInput,
        d_output: &[f32],
        statistics: &[f32],
    ) -> Result<OperationResults, VerifyError> {
        let mut ws = operation.workspace(input.batch);
        let mut statistics = statistics.to_vec();
        let update = ConvStatistics::Batch { update: Some(&mut statistics) };
        let output = operation.forward(&mut ws, input, update).to_vec();
        let mut d_theta = vec![f32::NAN; input.theta.len()];
        let mut d_input = vec![f32::NAN; input.images.len()];
        let gradients = Gradients { theta: Some(&mut d_theta), weights: None, images: Some(&mut d_input) };
        operation.backward(&mut ws, input, d_output, gradients);
        Ok(OperationResults { output, d_theta, d_input, statistics })
    }

    fn recurrent_evaluation(
        &self,
        network: &RecurrentNetwork,
        input: &recurrent::Input,
        targets: &[u32],
        statistics: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>), VerifyError> {
        let mut log_prob = vec![f32::NAN; targets.len() * network.config().vocabulary];
        let steps = input.tokens.len() / input.batch;
        let mut workspace = network.workspace(input.batch, steps, Mode::Inference);
        network.forward(&mut workspace, input, &mut recurrent::Statistics::Running(statistics))?;
        network.log_probabilities(&workspace, input.theta, &mut log_prob)?;
        Ok((log_prob, network.hidden(&workspace).to_vec()))
    }

    fn recurrent_training(
        &self,
        network: &RecurrentNetwork,
        input: &recurrent::Input,
        targets: &[u32],
        loss: &LossConfig,
        statistics: &[f32],
    ) -> Result<RecurrentResults, VerifyError> {
        let steps = input.tokens.len() / input.batch;
        let mut workspace = network.workspace(input.batch, steps, Mode::Training);
        let mut statistics = statistics.to_vec();
        let (mut d_theta, mut d_weights) = (vec![f32::NAN; input.theta.len()], vec![f32::NAN; input.weights.len()]);
        let mut d_hidden = vec![f32::NAN; input.hidden.len()];
        let gradients = recurrent::Gradients {
            theta: Some(&mut d_theta),
            weights: Some(&mut d_weights),
            hidden: Some(&mut d_hidden),
        };
        let mut update = recurrent::Statistics::Batch { update: Some(&mut statistics) };
        let loss = network.evaluate(&mut workspace, input, targets, loss, &mut update, gradients)?;
        let mut log_probabilities = vec![f32::NAN; targets.len() * network.config().vocabulary];
        network.log_probabilities(&workspace, input.theta, &mut log_probabilities)?;
        let hidden = network.hidden(&workspace).to_vec();
        Ok(RecurrentResults { log_probabilities, hidden, loss, d_theta, d_weights, d_hidden, statistics })
    }
}

/// Calls `work` with the place that a device is.
///
/// # Errors
/// [`Error::Device`] where this build or this machine has no such device.
pub fn with_place<R>(device: Device, work: impl FnOnce(&dyn Place) -> R) -> Result<R, Error> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => {
            let opened = darts_cuda::driver::Device::open(index, darts_cuda::driver::Options::default());
            let opened =
                opened.map_err(|error| Error::Device { device: device.to_string(), reason: error.to_string() })?;
            Ok(work(&super::OnDevice(&opened)))
        }
        _ => {
            device.check()?;
            Ok(work(&Processor))
        }
    }
}

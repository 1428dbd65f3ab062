//! Where golden results are computed, and the passes that are computed there: a check asks for a pass and compares, whatever the
//! place. The processor is one; `device` has another.

use darts_cells::conv::{
    ConvNetwork, ConvOperation, ForwardInput, Gradients, LossConfig as ConvLoss, Statistics as ConvStatistics,
};
use darts_cells::recurrent::{self, LossConfig, LossOutput, Mode, RecurrentNetwork};

use super::VerifyError;
use crate::error::Error;
use crate::options::Device;

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

/// A place that computes passes.
pub trait Place {
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

impl Place for Processor {
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

//! A recurrent network as a function of candle tensors: hidden state in, loss and next hidden state out, gradients through
//! candle's `backward`. It is the public face for other people's programs; the training loops of this workspace call
//! [`RecurrentNetwork`] directly, which takes the loss and its gradients in one pass.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use darts_ops::stage::{Arguments, Stage, StageGradients, apply_stage};

use super::network::RecurrentNetwork;
use super::workspace::{Mode as Plan, Workspace};
use super::{Gradients, Input, LossConfig, Masks, Statistics};
use crate::error::Error;

/// What batch normalization uses when a [`RecurrentModule`] is applied; a discrete network has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The statistics of each call's batch; `update`: the module's running statistics take them in.
    Train {
        /// Whether running ← 0.9·running + 0.1·batch.
        update: bool,
    },
    /// The module's running statistics.
    Evaluation,
}

/// Dropout masks of a sequence that a module keeps for its backward pass; see [`Masks`].
#[derive(Clone, Debug, Default)]
pub struct OwnedMasks {
    /// m_x `[B, H]`.
    pub x: Option<Vec<f32>>,
    /// m_h `[B, H]`.
    pub h: Option<Vec<f32>>,
    /// On the embedded words `[B, H]`.
    pub embedding_locked: Option<Vec<f32>>,
    /// On the output `[B, H]`.
    pub output_locked: Option<Vec<f32>>,
    /// On rows of the embedding `[V]`.
    pub embedding_rows: Option<Vec<f32>>,
}

impl OwnedMasks {
    fn as_masks(&self) -> Masks<'_> {
        Masks {
            x: self.x.as_deref(),
            h: self.h.as_deref(),
            embedding_locked: self.embedding_locked.as_deref(),
            output_locked: self.output_locked.as_deref(),
            embedding_rows: self.embedding_rows.as_deref(),
        }
    }
}

/// A sequence to apply a [`RecurrentModule`] to.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// Words `[T, B]`.
    pub tokens: Vec<u32>,
    /// The words that follow them `[T, B]`.
    pub targets: Vec<u32>,
    /// Dropout.
    pub masks: OwnedMasks,
    /// Regularizers of the activations.
    pub loss: LossConfig,
}

/// What a module gives.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The loss, a tensor without dimensions that `backward` goes through.
    pub loss: Tensor,
    /// The hidden state `[B, H]` after the sequence, cut off from the graph: backpropagation through time ends here.
    pub hidden: Tensor,
}

/// A network with its running statistics, applied to candle tensors.
///
/// ```
/// use candle_core::{DType, Device, Tensor, Var};
/// use darts_cells::recurrent::{RecurrentConfig, RecurrentMode, RecurrentModule, RecurrentNetwork, Sequence};
/// use darts_cells::{relaxation::Relaxation, space::RecurrentSpace};
///
/// let space = RecurrentSpace::darts();
/// let network = RecurrentNetwork::supernet(&space, &RecurrentConfig { vocabulary: 20, hidden: 8 })?;
/// let (module, theta) = RecurrentModule::new(network, 0);
/// let theta = Var::from_vec(theta, module.network().parameter_count(), &Device::Cpu)?;
/// let alphas = Var::from_vec(space.initial_alphas(0), (space.edges(), space.operations()), &Device::Cpu)?;
///
/// let hidden = Tensor::zeros((2, 8), DType::F32, &Device::Cpu)?;
/// let weights = Relaxation::Softmax.apply(alphas.as_tensor())?;
/// let sequence = Sequence { tokens: vec![1, 2, 3, 4], targets: vec![3, 4, 5, 6], ..Sequence::default() };
/// let applied = module.apply(&hidden, theta.as_tensor(), &weights, sequence, RecurrentMode::Train { update: true })?;
/// let gradients = applied.loss.backward()?;
/// assert!(gradients.get(&alphas).is_some() && gradients.get(&theta).is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct RecurrentModule {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    network: RecurrentNetwork,
    statistics: Mutex<Vec<f32>>,
}

impl RecurrentModule {
    /// The network with fresh running statistics, and the θ that belongs to `seed`.
    pub fn new(network: RecurrentNetwork, seed: u64) -> (Self, Vec<f32>) {
        let (theta, statistics) = network.initialize(seed);
        (Self { shared: Arc::new(Shared { network, statistics: Mutex::new(statistics) }) }, theta)
    }

    /// The network: its tables name the slices of θ and of the running statistics.
    pub fn network(&self) -> &RecurrentNetwork {
        &self.shared.network
    }

    /// A copy of the running statistics.
    pub fn statistics(&self) -> Vec<f32> {
        self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The loss of a sequence read from `hidden` `[B, H]`, and the hidden state after it. The backward pass computes the
    /// forward pass again.
    ///
    /// `weights` holds edges × operations numbers of any shape; of a discrete network it is not read.
    ///
    /// # Errors
    /// Tensors that are not f32 on the CPU, or do not fit the network; a sequence that does not.
    pub fn apply(
        &self,
        hidden: &Tensor,
        theta: &Tensor,
        weights: &Tensor,
        sequence: Sequence,
        mode: Mode,
    ) -> Result<Applied, Error> {
        let (batch, units) = hidden.dims2()?;
        let stage = Application { shared: Arc::clone(&self.shared), sequence, mode };
        let packed = apply_stage(stage, hidden, theta, weights)?;
        Ok(Applied {
            loss: packed.narrow(0, 0, 1)?.squeeze(0)?,
            hidden: packed.detach().narrow(0, 1, batch * units)?.reshape((batch, units))?,
        })
    }

    /// The weights tensor of a discrete network, which has none.
    ///
    /// # Errors
    /// None that are known; candle's signature has them.
    pub fn no_weights() -> Result<Tensor, Error> {
        Ok(Tensor::new(&[] as &[f32], &Device::Cpu)?)
    }
}

/// One application of a module, as candle keeps it in its graph.
struct Application {
    shared: Arc<Shared>,
    sequence: Sequence,
    mode: Mode,
}

impl Application {
    /// Loss and next hidden state of a pass, and the gradients asked for.
    fn pass(&self, arguments: &Arguments, running: &mut [f32], gradients: Gradients) -> Result<(f64, Vec<f32>), Error> {
        let network = &self.shared.network;
        let batch = arguments.input_shape[0];
        let plan = if gradients.any() { Plan::Training } else { Plan::Inference };
        let mut workspace: Workspace = network.workspace(batch, self.sequence.tokens.len() / batch.max(1), plan);
        let input = Input {
            tokens: &self.sequence.tokens,
            batch,
            hidden: arguments.input,
            theta: arguments.theta,
            weights: if network.operation_weights() > 0 { arguments.weights } else { &[] },
            masks: self.sequence.masks.as_masks(),
        };
        let mut statistics = match self.mode {
            Mode::Train { update } => Statistics::Batch { update: update.then_some(running) },
            Mode::Evaluation => Statistics::Running(running),
        };
        let Sequence { targets, loss, .. } = &self.sequence;
        let output = network.evaluate(&mut workspace, &input, targets, loss, &mut statistics, gradients)?;
        Ok((output.loss, network.hidden(&workspace).to_vec()))
    }
}

impl Stage for Application {
    /// Running statistics that the forward pass normalized with.
    type State = Vec<f32>;

    fn name(&self) -> &'static str {
        "recurrent-network"
    }

    fn output_shape(&self, arguments: &Arguments) -> Result<Vec<usize>, darts_ops::Error> {
        match arguments.input_shape {
            [batch, units] if *units == self.shared.network.config().hidden => Ok(vec![1 + batch * units]),
            shape => Err(darts_ops::Error::Value {
                operation: "RecurrentModule::apply",
                what: "hidden state",
                actual: format!("{shape:?}"),
                expected: "[B, H] with the network's number of units",
            }),
        }
    }

    fn forward(&self, arguments: &Arguments, output: &mut [f32]) -> candle_core::Result<Vec<f32>> {
        let mut running = self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        let before = running.clone();
        let (loss, hidden) =
            self.pass(arguments, &mut running, Gradients::default()).map_err(candle_core::Error::wrap)?;
        output[0] = loss as f32;
        output[1..].copy_from_slice(&hidden);
        Ok(before)
    }

    fn backward(
        &self,
        arguments: &Arguments,
        state: &mut Vec<f32>,
        d_output: &[f32],
        gradients: StageGradients,
    ) -> candle_core::Result<()> {
        let searched = self.shared.network.operation_weights() > 0;
        let StageGradients { input: mut hidden, mut theta, mut weights } = gradients;
        if let Some(unused) = weights.as_deref_mut().filter(|_| !searched) {
            unused.fill(0.0);
        }
        let wanted = Gradients {
            theta: theta.as_deref_mut(),
            weights: weights.as_deref_mut().filter(|_| searched),
            hidden: hidden.as_deref_mut(),
        };
        // A copy: the module's own statistics moved on in the forward pass.
        self.pass(arguments, &mut state.clone(), wanted).map_err(candle_core::Error::wrap)?;
        for gradient in [hidden, theta, weights].into_iter().flatten() {
            gradient.iter_mut().for_each(|value| *value *= d_output[0]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::recurrent::RecurrentConfig;
    use crate::space::RecurrentSpace;

    const SIZES: RecurrentConfig = RecurrentConfig { vocabulary: 7, hidden: 4 };

    fn sequence() -> Sequence {
        let tokens: Vec<u32> = (0..6).map(|i| (i * 5 + 1) % 7).collect();
        let loss = LossConfig { activation: 0.1, temporal: 0.2 };
        Sequence { targets: tokens.iter().map(|token| (token + 3) % 7).collect(), tokens, loss, ..Sequence::default() }
    }

    #[test]
    fn loss_and_gradients_match_the_network_called_directly() {
        let space = RecurrentSpace { nodes: 3, ..RecurrentSpace::darts() };
        let (module, theta) = RecurrentModule::new(RecurrentNetwork::supernet(&space, &SIZES).unwrap(), 3);
        let network = module.network().clone();
        let weights = vec![0.2; network.operation_weights()];
        let hidden: Vec<f32> = (0..8).map(|i| 0.1 * i as f32 - 0.3).collect();
        let device = Device::Cpu;
        let vars = [
            Var::from_slice(&hidden, (2, 4), &device).unwrap(),
            Var::from_slice(&theta, theta.len(), &device).unwrap(),
            Var::from_slice(&weights, weights.len(), &device).unwrap(),
        ];
        let [h, t, w] = &vars;
        let mode = Mode::Train { update: true };
        let before = module.statistics();
        let applied = module.apply(h.as_tensor(), t.as_tensor(), w.as_tensor(), sequence(), mode).unwrap();
        let updated = module.statistics();
        assert_ne!(before, updated);
        let gradients = (applied.loss.clone() * 2.0).unwrap().backward().unwrap();
        assert_eq!(module.statistics(), updated, "the backward pass updates nothing");

        let Sequence { tokens, targets, loss, .. } = sequence();
        let mut workspace = network.workspace(2, 3, Plan::Training);
        let (mut d_hidden, mut d_theta, mut d_weights) =
            (vec![0.0; hidden.len()], vec![0.0; theta.len()], vec![0.0; weights.len()]);
        let wanted =
            Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), hidden: Some(&mut d_hidden) };
        let masks = Masks::default();
        let input = Input { tokens: &tokens, batch: 2, hidden: &hidden, theta: &theta, weights: &weights, masks };
        let mut statistics = Statistics::Batch { update: None };
        let output = network.evaluate(&mut workspace, &input, &targets, &loss, &mut statistics, wanted).unwrap();
        assert_eq!(applied.loss.to_scalar::<f32>().unwrap(), output.loss as f32);
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&applied.hidden), network.hidden(&workspace));
        for (var, expected) in vars.iter().zip([d_hidden, d_theta, d_weights]) {
            let doubled: Vec<f32> = expected.iter().map(|value| 2.0 * value).collect();
            assert_eq!(flat(gradients.get(var).unwrap()), doubled);
        }
    }

    #[test]
    fn a_hidden_state_of_another_width_is_refused() {
        let network = RecurrentNetwork::supernet(&RecurrentSpace::darts(), &SIZES).unwrap();
        let (module, theta) = RecurrentModule::new(network, 0);
        let tensor =
            |len: usize, shape: (usize, usize)| Tensor::from_vec(vec![0f32; len], shape, &Device::Cpu).unwrap();
        let theta = Tensor::new(theta, &Device::Cpu).unwrap();
        let weights = tensor(180, (36, 5));
        let error = module.apply(&tensor(6, (2, 3)), &theta, &weights, sequence(), Mode::Evaluation).unwrap_err();
        assert!(error.to_string().contains("hidden state"), "{error}");
    }
}

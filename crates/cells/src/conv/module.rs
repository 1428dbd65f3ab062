//! A network as a function of candle tensors: images in, logits out, gradients through candle's `backward`. It is the public
//! face for other people's programs; the training loops of this workspace call [`ConvNetwork`] directly.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use darts_ops::stage::{Arguments, Stage, StageGradients, apply_stage};

use super::network::ConvNetwork;
use super::pass::{ForwardInput, Gradients, Statistics, Workspace};
use crate::error::Error;

/// What batch normalization uses when a [`ConvModule`] is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The batch's statistics; `update`: the module's running statistics take them in.
    Train {
        /// Whether running ← 0.9·running + 0.1·batch.
        update: bool,
    },
    /// The module's running statistics.
    Evaluation,
}

/// A network with its running statistics and the memory of its passes, applied to candle tensors.
///
/// ```
/// use candle_core::{D, Device, Tensor, Var};
/// use darts_cells::conv::{ConvModule, ConvNetwork, Mode, NetworkConfig};
/// use darts_cells::{relaxation::Relaxation, space::ConvSpace};
///
/// let space = ConvSpace::darts();
/// let config = NetworkConfig { init_channels: 2, layers: 3, image: (8, 8), ..NetworkConfig::cifar_search(10) };
/// let (module, theta) = ConvModule::new(ConvNetwork::supernet(&space, &config)?, 0);
/// let theta = Var::from_vec(theta, module.network().parameters().len(), &Device::Cpu)?;
/// let alphas = Var::from_vec(space.initial_alphas(0), (2 * space.edges(), space.operations()), &Device::Cpu)?;
///
/// let images = Tensor::rand(-1f32, 1., (4, 3, 8, 8), &Device::Cpu)?;
/// let weights = Relaxation::Softmax.apply(alphas.as_tensor())?;
/// let logits = module.apply(&images, theta.as_tensor(), &weights, Mode::Train { update: true })?;
/// let loss = logits.log_sum_exp(D::Minus1)?.sum_all()?;
/// assert!(loss.backward()?.get(&alphas).is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ConvModule {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    network: ConvNetwork,
    statistics: Mutex<Vec<f32>>,
    /// Workspaces of passes that are over. Each is as large as an application's batch needed.
    idle: Mutex<Vec<Workspace>>,
}

impl ConvModule {
    /// The network with fresh running statistics, and the θ that belongs to `seed`.
    pub fn new(network: ConvNetwork, seed: u64) -> (Self, Vec<f32>) {
        let (theta, statistics) = network.initialize(seed);
        let (statistics, idle) = (Mutex::new(statistics), Mutex::new(Vec::new()));
        (Self { shared: Arc::new(Shared { network, statistics, idle }) }, theta)
    }

    /// The network: its tables name the slices of θ and of the running statistics.
    pub fn network(&self) -> &ConvNetwork {
        &self.shared.network
    }

    /// A copy of the running statistics.
    pub fn statistics(&self) -> Vec<f32> {
        self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logits `[N, K]` of `images` `[N, 3, H, W]`; with an auxiliary head `[N, 2·K]`, the auxiliary logits last.
    ///
    /// `weights` holds 2 · edges × operations numbers of any shape; of a discrete network it is not read.
    ///
    /// # Errors
    /// Tensors that are not f32 on the CPU, or do not fit the network.
    pub fn apply(&self, images: &Tensor, theta: &Tensor, weights: &Tensor, mode: Mode) -> Result<Tensor, Error> {
        let images = images.permute((0, 2, 3, 1))?;
        let stage = Application { shared: Arc::clone(&self.shared), mode };
        Ok(apply_stage(stage, &images, theta, weights)?)
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
    mode: Mode,
}

/// The activations of one application; the memory goes back to the module with it.
struct Activations {
    shared: Arc<Shared>,
    workspace: Option<Workspace>,
}

impl Activations {
    fn take(shared: &Arc<Shared>, batch: usize) -> Self {
        let mut idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = idle.iter().position(|ws| ws.capacity() >= batch).map(|i| idle.swap_remove(i));
        let workspace = fitting.unwrap_or_else(|| shared.network.workspace(batch));
        Self { shared: Arc::clone(shared), workspace: Some(workspace) }
    }

    fn workspace(&mut self) -> &mut Workspace {
        self.workspace.get_or_insert_with(|| unreachable!("only drop takes the workspace"))
    }
}

impl Drop for Activations {
    fn drop(&mut self) {
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.workspace.take());
    }
}

impl Application {
    fn input<'a>(&self, arguments: &Arguments<'a>) -> ForwardInput<'a> {
        let searched = self.shared.network.operation_weights() > 0;
        ForwardInput {
            images: arguments.input,
            batch: arguments.input_shape[0],
            theta: arguments.theta,
            weights: if searched { arguments.weights } else { &[] },
            active: None,
            masks: None,
        }
    }

    fn heads(&self) -> usize {
        if self.shared.network.config().auxiliary { 2 } else { 1 }
    }
}

impl Stage for Application {
    type State = Activations;

    fn name(&self) -> &'static str {
        "conv-network"
    }

    fn output_shape(&self, arguments: &Arguments) -> Result<Vec<usize>, darts_ops::Error> {
        let config = self.shared.network.config();
        let (h, w) = config.image;
        match arguments.input_shape {
            [n, height, width, 3] if (*height, *width) == (h, w) => Ok(vec![*n, self.heads() * config.classes]),
            shape => Err(darts_ops::Error::Value {
                operation: "ConvModule::apply",
                what: "images",
                actual: format!("{shape:?} as [N, H, W, C]"),
                expected: "[N, H, W, 3] of the network's image size",
            }),
        }
    }

    fn forward(&self, arguments: &Arguments, output: &mut [f32]) -> candle_core::Result<Activations> {
        let network = &self.shared.network;
        let mut activations = Activations::take(&self.shared, arguments.input_shape[0]);
        let mut running = self.shared.statistics.lock().unwrap_or_else(PoisonError::into_inner);
        let statistics = match self.mode {
            Mode::Train { update } => Statistics::Batch { update: update.then_some(&mut running[..]) },
            Mode::Evaluation => Statistics::Running(&running),
        };
        let ws = activations.workspace();
        network.forward(ws, &self.input(arguments), statistics).map_err(candle_core::Error::wrap)?;
        let classes = network.config().classes;
        let heads = std::iter::once(network.logits(ws)).chain(network.auxiliary_logits(ws));
        for (head, logits) in heads.enumerate() {
            for (row, logits) in output.chunks_exact_mut(self.heads() * classes).zip(logits.chunks_exact(classes)) {
                row[head * classes..][..classes].copy_from_slice(logits);
            }
        }
        Ok(activations)
    }

    fn backward(
        &self,
        arguments: &Arguments,
        state: &mut Activations,
        d_output: &[f32],
        gradients: StageGradients,
    ) -> candle_core::Result<()> {
        let network = &self.shared.network;
        let classes = network.config().classes;
        let head = |head: usize| -> Vec<f32> {
            let rows = d_output.chunks_exact(self.heads() * classes);
            rows.flat_map(|row| &row[head * classes..][..classes]).copied().collect()
        };
        let auxiliary = (self.heads() == 2).then(|| head(1));
        let ws = state.workspace();
        network.set_logits_gradient(ws, &head(0), auxiliary.as_deref()).map_err(candle_core::Error::wrap)?;
        let searched = network.operation_weights() > 0;
        let StageGradients { input: images, theta, mut weights } = gradients;
        if let Some(unused) = weights.as_deref_mut().filter(|_| !searched) {
            unused.fill(0.0);
        }
        let gradients = Gradients { theta, weights: weights.filter(|_| searched), images };
        network.backward(ws, &self.input(arguments), gradients).map_err(candle_core::Error::wrap)
    }
}

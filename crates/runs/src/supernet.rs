//! The convolutional search as a bilevel problem: w is the flat θ of a supernet, α its architecture parameters, both losses are
//! the mean cross-entropy. The search run and the golden check of it use this one problem. It refuses to know data sets, runs
//! and optimizers; running statistics live here, because only weight steps update them and nothing in the search reads them.

#[cfg(feature = "device")]
pub(crate) mod device;

use darts_bilevel::{BilevelProblem, Gradients, Pass};
use darts_cells::conv::{self, ConvNetwork, ForwardInput, LossConfig, Statistics, Workspace};
use darts_cells::relaxation::Relaxation;
use darts_ops::vector::{self, Vector};

/// Images with their classes.
pub trait LabelledImages {
    /// Normalized images, `[N, H, W, 3]`.
    fn images(&self) -> &[f32];
    /// Classes, `[N]`.
    fn labels(&self) -> &[u32];
}

impl LabelledImages for darts_data::Batch {
    fn images(&self) -> &[f32] {
        self.images()
    }

    fn labels(&self) -> &[u32] {
        self.labels()
    }
}

/// Why an evaluation of the supernet failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupernetError {
    /// The network refused its input.
    #[error(transparent)]
    Cells(#[from] darts_cells::Error),
    /// A vector is not where it should be.
    #[error(transparent)]
    Vector(#[from] vector::Error),
}

/// A supernet with everything that its evaluations need, allocated once.
pub struct SupernetProblem {
    network: ConvNetwork,
    workspace: Workspace,
    relaxation: Relaxation,
    /// Operations of an edge: columns of α.
    columns: usize,
    weights: Vec<f32>,
    d_weights: Vec<f32>,
    statistics: Vec<f32>,
    correct: usize,
}

/// A supernet at some α, with its memory lent for a pass of the caller's.
pub struct Relaxed<'a> {
    /// The network.
    pub network: &'a ConvNetwork,
    /// Its memory.
    pub workspace: &'a mut Workspace,
    /// Its running statistics.
    pub statistics: &'a [f32],
    /// The operation weights: the softmax of each row of α.
    pub weights: &'a [f32],
}

impl SupernetProblem {
    /// A problem over `network`, whose edges have `columns` operations, for batches of up to `batch` images, from these running
    /// statistics.
    ///
    /// # Shapes
    /// `statistics`: as long as the network's table of them.
    pub fn new(network: ConvNetwork, columns: usize, batch: usize, statistics: Vec<f32>) -> Self {
        let weights = vec![0.0; network.operation_weights()];
        Self {
            workspace: network.workspace(batch),
            relaxation: Relaxation::Softmax,
            columns,
            d_weights: weights.clone(),
            weights,
            statistics,
            correct: 0,
            network,
        }
    }

    /// The network.
    pub fn network(&self) -> &ConvNetwork {
        &self.network
    }

    /// The running statistics, as the last weight step left them.
    pub fn statistics(&self) -> &[f32] {
        &self.statistics
    }

    /// The same, to be restored from a checkpoint.
    pub fn statistics_mut(&mut self) -> &mut [f32] {
        &mut self.statistics
    }

    /// What an evaluation with the running statistics needs, at these α.
    ///
    /// # Errors
    /// α of another length than the network's.
    pub fn relaxed(&mut self, alphas: &[f32]) -> Result<Relaxed<'_>, darts_cells::Error> {
        let Self { network, workspace, relaxation, columns, weights, statistics, .. } = self;
        relaxation.forward(alphas, *columns, weights)?;
        Ok(Relaxed { network, workspace, statistics, weights })
    }

    /// How many images of the last evaluation's batch were classified rightly.
    pub fn correct(&self) -> usize {
        self.correct
    }
}

impl BilevelProblem for SupernetProblem {
    type Batch = dyn LabelledImages;
    type Error = SupernetError;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        batch: &Self::Batch,
        gradients: Gradients<'_>,
    ) -> Result<f64, SupernetError> {
        let Self { network, workspace, relaxation, columns, weights, d_weights, statistics, correct } = self;
        alpha.read(|alphas| relaxation.forward(alphas, *columns, weights))??;
        let update = (pass == Pass::Weight).then_some(statistics.as_mut_slice());
        w.read(|theta| {
            let labels = batch.labels();
            let input =
                ForwardInput { images: batch.images(), batch: labels.len(), theta, weights, active: None, masks: None };
            network.forward(workspace, &input, Statistics::Batch { update })?;
            let output = network.loss(workspace, labels, LossConfig::default())?;
            *correct = output.correct;
            let Gradients { w: d_theta, alpha: d_alphas } = gradients;
            if d_theta.is_some() || d_alphas.is_some() {
                let wanted = d_alphas.is_some().then_some(d_weights.as_mut_slice());
                optional(d_theta, |theta| {
                    network.backward(workspace, &input, conv::Gradients { theta, weights: wanted, images: None })
                })??;
            }
            if let Some(d_alphas) = d_alphas {
                d_alphas.write(|d_alphas| relaxation.backward(weights, d_weights, *columns, d_alphas))??;
            }
            Ok(output.loss)
        })?
    }
}

/// Calls `f` on the elements of a vector that may not be there.
fn optional<R>(vector: Option<&mut Vector>, f: impl FnOnce(Option<&mut [f32]>) -> R) -> Result<R, vector::Error> {
    match vector {
        Some(vector) => vector.write(|elements| f(Some(elements))),
        None => Ok(f(None)),
    }
}

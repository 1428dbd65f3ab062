//! A supernet with everything that its evaluations need, in device memory: the twin of [`SupernetProblem`](super::SupernetProblem).

use darts_bilevel::Pass;
use darts_bilevel::device::{DeviceGradients, DeviceProblem, Evaluation};
use darts_cells::Error;
#[cfg(feature = "cuda")]
use darts_cells::conv::ConvNetwork;
use darts_cells::conv::{
    DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceConvPlan, DeviceStatistics, LossConfig,
};
use darts_cuda::{Backend, Memory, Precision, Program, View, relaxation};

/// Images with their classes, in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DeviceImages {
    /// Normalized images `[N, H, W, 3]`.
    pub(crate) images: View,
    /// Classes `[N]`.
    pub(crate) labels: View<u32>,
}

pub(crate) struct DeviceSupernet {
    network: DeviceConv,
    /// Operations of an edge: columns of α.
    columns: usize,
    weights: View,
    d_weights: View,
    /// Running statistics, as the last weight pass left them.
    statistics: View,
}

impl DeviceSupernet {
    /// A problem over the network of `plan`, whose edges have `columns` operations, from these running statistics.
    pub(crate) fn new(
        device: &dyn Backend,
        plan: DeviceConvPlan,
        columns: usize,
        statistics: &[f32],
    ) -> Result<Self, Error> {
        let weights = plan.network().operation_weights();
        Ok(Self {
            network: DeviceConv::new(device, plan)?,
            columns,
            weights: device.allocate(weights)?,
            d_weights: device.allocate(weights)?,
            statistics: device.uploaded(statistics)?,
        })
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn network(&self) -> &ConvNetwork {
        self.network.network()
    }

    pub(crate) fn statistics(&self) -> View {
        self.statistics
    }

    /// Appends an evaluation of a batch in `precision` with the running statistics; returns where its logits will be.
    #[cfg(feature = "cuda")]
    pub(crate) fn lay_down_validation(
        &self,
        program: &mut Program,
        (w, alpha): (View, View),
        batch: DeviceImages,
        precision: Precision,
        results: View<f64>,
    ) -> Result<View, Error> {
        relaxation::softmax(program, alpha, self.columns, self.weights);
        let pass = self.pass(w, batch, DeviceStatistics::Running(self.statistics), precision);
        self.network.lay_down(program, batch.labels.len, &pass, results)?;
        Ok(self.network.logits(batch.labels.len))
    }

    fn pass(
        &self,
        theta: View,
        batch: DeviceImages,
        statistics: DeviceStatistics,
        precision: Precision,
    ) -> DeviceConvPass {
        DeviceConvPass {
            images: batch.images,
            labels: batch.labels,
            theta,
            weights: self.weights,
            masks: None,
            statistics,
            loss: LossConfig::default(),
            gradients: DeviceConvGradients::default(),
            precision,
        }
    }
}

impl DeviceProblem for DeviceSupernet {
    type Batch = DeviceImages;
    type Error = Error;

    fn lay_down(&self, program: &mut Program, at: &Evaluation, batch: &DeviceImages) -> Result<(), Error> {
        relaxation::softmax(program, at.alpha, self.columns, self.weights);
        let update = (at.pass == Pass::Weight).then_some(self.statistics);
        let DeviceGradients { w: theta, alpha } = at.gradients;
        let gradients = DeviceConvGradients { theta, weights: alpha.map(|_| self.d_weights), images: None };
        let pass = self.pass(at.w, *batch, DeviceStatistics::Batch { update }, at.precision);
        let pass = DeviceConvPass { gradients, ..pass };
        self.network.lay_down(program, batch.labels.len, &pass, at.results)?;
        if let Some(alpha) = alpha {
            relaxation::softmax_backward(program, self.weights, self.d_weights, self.columns, alpha);
        }
        Ok(())
    }
}

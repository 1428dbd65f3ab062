//! A recurrent supernet with everything that its evaluations need, in device memory: the twin of
//! [`LanguageProblem`](super::LanguageProblem).

use darts_bilevel::Pass;
use darts_bilevel::device::{DeviceGradients, DeviceProblem, Evaluation};
use darts_cells::Error;
use darts_cells::recurrent::RecurrentNetwork;
use darts_cells::recurrent::{self, DevicePass, DeviceRecurrent, DeviceSequence, DeviceStatistics, LossConfig, Mode};
use darts_cuda::{Backend, Memory, Program, View, relaxation};

use super::LanguageConfig;

pub(crate) struct DeviceLanguage {
    pub(crate) network: DeviceRecurrent,
    /// Operations of an edge: columns of α.
    columns: usize,
    temporal: f64,
    /// The softmax of each row of α, as the last evaluation left it.
    pub(crate) weights: View,
    d_weights: View,
    /// Hidden states of the two texts, and running statistics, as [`LanguageState`](super::LanguageState) has them.
    pub(crate) train: View,
    pub(crate) valid: View,
    pub(crate) statistics: View,
}

impl DeviceLanguage {
    /// A problem over `network`, whose edges have `columns` operations, from hidden states of zero and these running statistics.
    pub(crate) fn new(
        device: &dyn Backend,
        network: RecurrentNetwork,
        columns: usize,
        config: LanguageConfig,
        statistics: &[f32],
    ) -> Result<Self, Error> {
        let weights = network.operation_weights();
        let hidden = vec![0.0f32; config.batch * network.config().hidden];
        Ok(Self {
            columns,
            temporal: config.temporal,
            weights: device.allocate(weights)?,
            d_weights: device.allocate(weights)?,
            train: device.uploaded(&hidden)?,
            valid: device.uploaded(&hidden)?,
            statistics: device.uploaded(statistics)?,
            network: DeviceRecurrent::new(device, network, config.batch, config.steps, Mode::Training)?,
        })
    }

    /// Appends what makes the operation weights of α.
    pub(crate) fn relax(&self, program: &mut Program, alpha: View) {
        relaxation::softmax(program, alpha, self.columns, self.weights);
    }
}

impl DeviceProblem for DeviceLanguage {
    type Batch = DeviceSequence;
    type Error = Error;

    fn lay_down(&self, program: &mut Program, at: &Evaluation, sequence: &DeviceSequence) -> Result<(), Error> {
        self.relax(program, at.alpha);
        let hidden = if at.pass == Pass::Validation { self.valid } else { self.train };
        let weight_step = at.pass == Pass::Weight;
        let temporal = if weight_step { self.temporal } else { 0.0 };
        let DeviceGradients { w: theta, alpha } = at.gradients;
        let weights = alpha.map(|_| self.d_weights);
        let pass = DevicePass {
            theta: at.w,
            weights: self.weights,
            hidden,
            next_hidden: matches!(at.pass, Pass::Validation | Pass::Weight).then_some(hidden),
            statistics: DeviceStatistics::Batch { update: weight_step.then_some(self.statistics) },
            loss: LossConfig { activation: 0.0, temporal },
            gradients: recurrent::DeviceGradients { theta, weights, hidden: None },
            precision: at.precision,
        };
        self.network.lay_down(program, sequence, &pass, at.results)?;
        if let Some(alpha) = alpha {
            relaxation::softmax_backward(program, self.weights, self.d_weights, self.columns, alpha);
        }
        Ok(())
    }
}

//! The search for a recurrent cell on a device: the twin of [`TextSearch`](crate::task::text::search::TextSearch).

use darts_bilevel::Pass;
use darts_bilevel::device::{self as bilevel, DeviceProblem, Evaluation};
use darts_cells::genotype::Genotype;
use darts_cells::recurrent::{
    DeviceGradients, DevicePass, DeviceRecurrent, DeviceSequence, DeviceStatistics, LossConfig, Mode,
};
use darts_cuda::{Backend, Memory, Precision, Program, View, relaxation};
use serde_json::Value;

use super::score::{Model, Scorer};
use super::{clear, send};
use crate::config::TextSearchConfig;
use crate::device::{DeviceSearchTask, DeviceTask};
use crate::engine::Watch;
use crate::error::Result;
use crate::task::text::data::Text;
use crate::task::text::score::VALID_COLUMNS;
use crate::task::text::search::{HIDDEN_TRAIN, HIDDEN_VALID, STATISTICS, Subject};
use crate::task::text::size;
use crate::task::{Scores, Seen, Size};

/// A recurrent search on a device.
pub(crate) struct DeviceTextSearch {
    subject: Subject,
    network: DeviceRecurrent,
    weights: View,
    d_weights: View,
    /// Hidden states of the two texts, and running statistics, as [`LanguageState`](crate::language::LanguageState) has them.
    hidden_train: View,
    hidden_valid: View,
    statistics: View,
    train: DeviceSequence,
    valid: DeviceSequence,
    validation: Scorer,
    precision: Precision,
    /// Length that was drawn for the last training sequence.
    drawn: usize,
}

impl DeviceTextSearch {
    /// Builds the network for a text on the device. Initial w and α come from [`initial`](Self::initial).
    pub(crate) fn new(
        config: &TextSearchConfig,
        text: Text,
        device: &dyn Backend,
        precision: Precision,
    ) -> Result<Self> {
        let (subject, network, steps) = Subject::new(config, text)?;
        let hidden = || device.uploaded(&vec![0.0; config.batch_size * config.units]);
        let statistics = network.initialize(config.seed).1;
        let validation = Scorer::new(device, &network, &subject.valid_text, VALID_COLUMNS, config.bptt)?;
        let network = DeviceRecurrent::new(device, network, config.batch_size, steps, Mode::Training)?;
        let weights = network.network().operation_weights();
        Ok(Self {
            weights: device.allocate(weights)?,
            d_weights: device.allocate(weights)?,
            hidden_train: hidden()?,
            hidden_valid: hidden()?,
            statistics: device.uploaded(&statistics)?,
            train: network.sequence(device)?,
            valid: network.sequence(device)?,
            validation,
            precision,
            drawn: 0,
            subject,
            network,
        })
    }

    /// w and α at the start.
    pub(crate) fn initial(&self) -> (Vec<f32>, Vec<f32>) {
        self.subject.initial(self.network.network())
    }

    fn columns(&self) -> usize {
        self.subject.space.operations()
    }
}

impl DeviceProblem for DeviceTextSearch {
    type Batch = DeviceSequence;
    type Error = darts_cells::Error;

    fn lay_down(
        &self,
        program: &mut Program,
        at: &Evaluation,
        sequence: &DeviceSequence,
    ) -> std::result::Result<(), darts_cells::Error> {
        relaxation::softmax(program, at.alpha, self.columns(), self.weights);
        let hidden = if at.pass == Pass::Validation { self.hidden_valid } else { self.hidden_train };
        let weight_step = at.pass == Pass::Weight;
        let temporal = if weight_step { self.subject.config.temporal_regularization } else { 0.0 };
        let bilevel::DeviceGradients { w: theta, alpha } = at.gradients;
        let pass = DevicePass {
            theta: at.w,
            weights: self.weights,
            hidden,
            next_hidden: matches!(at.pass, Pass::Validation | Pass::Weight).then_some(hidden),
            statistics: DeviceStatistics::Batch { update: weight_step.then_some(self.statistics) },
            loss: LossConfig { activation: 0.0, temporal },
            gradients: DeviceGradients { theta, weights: alpha.map(|_| self.d_weights), hidden: None },
            precision: at.precision,
        };
        self.network.lay_down(program, sequence, &pass, at.results)?;
        if let Some(alpha) = alpha {
            relaxation::softmax_backward(program, self.weights, self.d_weights, self.columns(), alpha);
        }
        Ok(())
    }
}

impl DeviceTask for DeviceTextSearch {
    fn steps(&self, epoch: usize) -> usize {
        self.subject.steps(epoch)
    }

    fn start(&mut self, device: &dyn Backend, epoch: usize, step: usize, _total: u64) -> Result<()> {
        self.subject.start(epoch, step);
        if step == 0 {
            // Both texts are read from their beginning again.
            clear(device, self.hidden_train)?;
            clear(device, self.hidden_valid)?;
        }
        Ok(())
    }

    fn learning_rate(&self, _epoch: usize) -> f64 {
        self.subject.learning_rate(self.drawn)
    }

    fn seen(&self, sequence: &DeviceSequence, measure: f64) -> Seen {
        Seen { examples: self.network.words(sequence) as u64, correct: None, likelihood: Some(measure) }
    }

    fn state(&self) -> Vec<(&'static str, View)> {
        vec![(HIDDEN_TRAIN, self.hidden_train), (HIDDEN_VALID, self.hidden_valid), (STATISTICS, self.statistics)]
    }

    fn restored(&mut self) {
        self.subject.stop();
    }

    fn size(&self) -> Size {
        size(self.network.network())
    }
}

impl DeviceSearchTask for DeviceTextSearch {
    fn next(&mut self, device: &dyn Backend) -> Result<(DeviceSequence, DeviceSequence)> {
        let (train, valid) = self.subject.next()?;
        send(device, &self.network, &mut self.train, &train)?;
        send(device, &self.network, &mut self.valid, &valid)?;
        self.drawn = train.drawn;
        Ok((self.train, self.valid))
    }

    fn validate(
        &mut self,
        device: &dyn Backend,
        (theta, alpha): (View, View),
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        let mut program = Program::default();
        relaxation::softmax(&mut program, alpha, self.columns(), self.weights);
        device.run(&program)?;
        let model = Model { theta, weights: self.weights, statistics: self.statistics, precision: self.precision };
        self.validation.scores(device, model, "validation", watch)
    }

    fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        self.subject.genotype(alphas)
    }

    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        self.subject.alphas_line(epoch, alphas)
    }

    fn weights(&self, device: &dyn Backend, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>> {
        let statistics = device.downloaded(self.statistics)?;
        self.subject.weights(self.network.network(), (w, &statistics, alphas))
    }
}

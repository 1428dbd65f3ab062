//! The training of a discrete recurrent cell on a device: the twin of [`TextTraining`](crate::task::text::train::TextTraining).

use darts_bilevel::device::{DeviceProblem, Evaluation};
use darts_bilevel::optimizer::SgdConfig;
use darts_cells::genotype::Genotype;
use darts_cells::recurrent::{DeviceGradients, DevicePass, DeviceRecurrent, DeviceSequence, DeviceStatistics, Mode};
use darts_cuda::driver::Device;
use darts_cuda::{Backend, Memory, Precision, Program, View};

use super::score::{Model, Scorer};
use super::{clear, send};
use crate::config::TextTrainConfig;
use crate::device::memory::refuse_beyond_free;
use crate::device::train::DeviceTrainer;
use crate::device::{DeviceTask, DeviceTrainTask};
use crate::engine::Watch;
use crate::error::Result;
use crate::task::text::data::Text;
use crate::task::text::score::{TEST_COLUMNS, VALID_COLUMNS};
use crate::task::text::size;
use crate::task::text::train::{HIDDEN, Subject};
use crate::task::{Scores, Seen, Size};

/// The training of a discrete recurrent cell on a device.
pub(crate) struct DeviceTextTraining {
    subject: Subject,
    network: DeviceRecurrent,
    hidden: View,
    train: DeviceSequence,
    validation: Scorer,
    precision: Precision,
    /// Length that was drawn for the last sequence.
    drawn: usize,
}

impl DeviceTextTraining {
    /// Builds the network for a text on the device. Initial w comes from [`initial`](Self::initial).
    pub(crate) fn new(config: &TextTrainConfig, text: Text, device: &Device, precision: Precision) -> Result<Self> {
        let (subject, network, steps) = Subject::new(config, text)?;
        let sgd = SgdConfig { momentum: 0.0, weight_decay: config.weight_decay };
        let of_test = if config.test { subject.test.len() } else { 0 };
        let needed = DeviceRecurrent::bytes(&network, config.batch_size, steps, Mode::Training)
            + DeviceTrainer::<Self>::bytes(network.parameters().len(), sgd, true)
            + Scorer::bytes(&network, subject.valid.len(), VALID_COLUMNS, config.bptt)
            + Scorer::bytes(&network, of_test, TEST_COLUMNS, config.bptt);
        refuse_beyond_free(device, needed, || {
            format!("lower --batch-size ({}), --bptt ({}) or --units", config.batch_size, config.bptt)
        })?;
        let validation = Scorer::new(device, &network, &subject.valid, VALID_COLUMNS, config.bptt)?;
        let network = DeviceRecurrent::new(device, network, config.batch_size, steps, Mode::Training)?;
        Ok(Self {
            hidden: device.uploaded(&vec![0.0; config.batch_size * config.units])?,
            train: network.sequence(device)?,
            validation,
            precision,
            drawn: 0,
            subject,
            network,
        })
    }

    /// w at the start.
    pub(crate) fn initial(&self) -> Vec<f32> {
        self.network.network().initialize(self.subject.config.seed).0
    }

    fn model(&self, theta: View) -> Model {
        Model { theta, weights: View::none(), statistics: View::none(), precision: self.precision }
    }
}

impl DeviceProblem for DeviceTextTraining {
    type Batch = DeviceSequence;
    type Error = darts_cells::Error;

    fn lay_down(
        &self,
        program: &mut Program,
        at: &Evaluation,
        sequence: &DeviceSequence,
    ) -> std::result::Result<(), darts_cells::Error> {
        let pass = DevicePass {
            theta: at.w,
            weights: View::none(),
            hidden: self.hidden,
            next_hidden: Some(self.hidden),
            statistics: DeviceStatistics::Batch { update: None },
            loss: self.subject.loss(),
            gradients: DeviceGradients { theta: at.gradients.w, ..DeviceGradients::default() },
            precision: at.precision,
        };
        self.network.lay_down(program, sequence, &pass, at.results)
    }
}

impl DeviceTask for DeviceTextTraining {
    fn steps(&self, epoch: usize) -> usize {
        self.subject.steps(epoch)
    }

    fn start(&mut self, device: &dyn Backend, epoch: usize, step: usize, _total: u64) -> Result<()> {
        self.subject.start(epoch, step);
        // At its beginning the text is read from its beginning again.
        if step == 0 { clear(device, self.hidden) } else { Ok(()) }
    }

    fn learning_rate(&self, _epoch: usize) -> f64 {
        self.subject.learning_rate(self.drawn)
    }

    fn seen(&self, sequence: &DeviceSequence, measure: f64) -> Seen {
        Seen { examples: self.network.words(sequence) as u64, correct: None, likelihood: Some(measure) }
    }

    fn state(&self) -> Vec<(&'static str, View)> {
        vec![(HIDDEN, self.hidden)]
    }

    fn restored(&mut self) {
        self.subject.stop();
    }

    fn size(&self) -> Size {
        size(self.network.network())
    }
}

impl DeviceTrainTask for DeviceTextTraining {
    fn next(&mut self, device: &dyn Backend, _at: (usize, usize)) -> Result<DeviceSequence> {
        let passage = self.subject.next()?;
        send(device, &self.network, &mut self.train, &passage)?;
        self.drawn = passage.drawn;
        Ok(self.train)
    }

    fn validate(&mut self, device: &dyn Backend, w: View, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        let model = self.model(w);
        Ok(self.validation.scores(device, model, "validation", watch)?.map(Some))
    }

    fn test(&mut self, device: &dyn Backend, w: View, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        let Subject { config, test, .. } = &self.subject;
        if !config.test {
            return Ok(Some(None));
        }
        let mut scorer = Scorer::new(device, self.network.network(), test, TEST_COLUMNS, config.bptt)?;
        Ok(scorer.scores(device, self.model(w), "test", watch)?.map(Some))
    }

    fn genotype(&self) -> Genotype {
        self.subject.config.genotype.clone().into()
    }

    fn weights(&self, _device: &dyn Backend, w: &[f32]) -> Result<Vec<u8>> {
        self.subject.weights(self.network.network(), w)
    }
}

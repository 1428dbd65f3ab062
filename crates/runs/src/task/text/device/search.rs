//! The search for a recurrent cell on a device: the twin of [`TextSearch`](crate::task::text::search::TextSearch).

use darts_bilevel::device::{DeviceProblem, DeviceSearch, Evaluation};
use darts_cells::genotype::Genotype;
use darts_cells::recurrent::{DeviceRecurrent, DeviceSequence, Mode};
use darts_cuda::driver::Device;
use darts_cuda::{Backend, Memory, Precision, Program, View};
use serde_json::Value;

use super::score::{Model, Scorer};
use super::{clear, send};
use crate::config::{Order, TextSearchConfig};
use crate::device::memory::refuse_beyond_free;
use crate::device::{DeviceSearchTask, DeviceTask};
use crate::engine::Watch;
use crate::error::Result;
use crate::language::LanguageConfig;
use crate::language::device::DeviceLanguage;
use crate::search::text_settings;
use crate::task::text::data::Text;
use crate::task::text::score::VALID_COLUMNS;
use crate::task::text::search::{HIDDEN_TRAIN, HIDDEN_VALID, STATISTICS, Subject};
use crate::task::text::size;
use crate::task::{Scores, Seen, Size};

/// A recurrent search on a device.
pub(crate) struct DeviceTextSearch {
    subject: Subject,
    problem: DeviceLanguage,
    train: DeviceSequence,
    valid: DeviceSequence,
    validation: Scorer,
    precision: Precision,
    /// Length that was drawn for the last training sequence.
    drawn: usize,
}

impl DeviceTextSearch {
    /// Builds the network for a text on the device. Initial w and α come from [`initial`](Self::initial).
    pub(crate) fn new(config: &TextSearchConfig, text: Text, device: &Device, precision: Precision) -> Result<Self> {
        let (subject, network, steps) = Subject::new(config, text)?;
        let (weights, alphas) = (network.parameters().len(), network.operation_weights());
        let needed = DeviceRecurrent::bytes(&network, config.batch_size, steps, Mode::Training)
            + DeviceSearch::<DeviceSequence>::bytes(weights, alphas, &text_settings(config))
            + Scorer::bytes(&network, subject.valid_text.len(), VALID_COLUMNS, config.bptt);
        refuse_beyond_free(device, needed, || {
            let first = if config.order == Order::Second { ", or search with --order first" } else { "" };
            format!("lower --batch-size ({}), --bptt ({}) or --units{first}", config.batch_size, config.bptt)
        })?;
        let statistics = network.initialize(config.seed).1;
        let validation = Scorer::new(device, &network, &subject.valid_text, VALID_COLUMNS, config.bptt)?;
        let sizes = LanguageConfig { batch: config.batch_size, steps, temporal: config.temporal_regularization };
        let problem = DeviceLanguage::new(device, network, subject.space.operations(), sizes, &statistics)?;
        let [train, valid] = [problem.network.sequence(device)?, problem.network.sequence(device)?];
        Ok(Self { train, valid, validation, precision, drawn: 0, subject, problem })
    }

    /// w and α at the start.
    pub(crate) fn initial(&self) -> (Vec<f32>, Vec<f32>) {
        self.subject.initial(self.problem.network.network())
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
        self.problem.lay_down(program, at, sequence)
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
            clear(device, self.problem.train)?;
            clear(device, self.problem.valid)?;
        }
        Ok(())
    }

    fn learning_rate(&self, _epoch: usize) -> f64 {
        self.subject.learning_rate(self.drawn)
    }

    fn seen(&self, sequence: &DeviceSequence, measure: f64) -> Seen {
        Seen { examples: self.problem.network.words(sequence) as u64, correct: None, likelihood: Some(measure) }
    }

    fn state(&self) -> Vec<(&'static str, View)> {
        vec![
            (HIDDEN_TRAIN, self.problem.train),
            (HIDDEN_VALID, self.problem.valid),
            (STATISTICS, self.problem.statistics),
        ]
    }

    fn restored(&mut self) {
        self.subject.stop();
    }

    fn size(&self) -> Size {
        size(self.problem.network.network())
    }
}

impl DeviceSearchTask for DeviceTextSearch {
    fn next(&mut self, device: &dyn Backend) -> Result<(DeviceSequence, DeviceSequence)> {
        let (train, valid) = self.subject.next()?;
        send(device, &self.problem.network, &mut self.train, &train)?;
        send(device, &self.problem.network, &mut self.valid, &valid)?;
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
        self.problem.relax(&mut program, alpha);
        device.run(&program)?;
        let model = Model {
            theta,
            weights: self.problem.weights,
            statistics: self.problem.statistics,
            precision: self.precision,
        };
        self.validation.scores(device, model, "validation", watch)
    }

    fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        self.subject.genotype(alphas)
    }

    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        self.subject.alphas_line(epoch, alphas)
    }

    fn weights(&self, device: &dyn Backend, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>> {
        let statistics = device.downloaded(self.problem.statistics)?;
        self.subject.weights(self.problem.network.network(), (w, &statistics, alphas))
    }
}

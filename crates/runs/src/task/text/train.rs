//! The training of a discrete recurrent cell: sequences of varying length, dropout, both regularizers of the activations.

use darts_cells::genotype::Genotype;
use darts_cells::parameters;
use darts_cells::recurrent::{
    Gradients, Input, LossConfig, LossOutput, Mode, RecurrentConfig, RecurrentNetwork, Statistics, Workspace,
};
use darts_data::text::{Bptt, Columns, Segment};
use darts_ops::vector::Vector;

use super::data::{Text, columns};
use super::passage::{Passage, Place, Sizes};
use super::score::{Model, TEST_COLUMNS, VALID_COLUMNS};
use super::{check_memory, size};
use crate::config::TextTrainConfig;
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::language::Sequence;
use crate::task::{Scores, Seen, Size, Task, TrainTask, Vectors};

pub(super) const HIDDEN: &str = "hidden";

/// The training of a discrete recurrent cell apart from what computes it: its texts, where it is in them, and what a run of it
/// stores.
pub(crate) struct Subject {
    pub(crate) config: TextTrainConfig,
    train: Columns,
    pub(crate) valid: Vec<u32>,
    pub(crate) test: Vec<u32>,
    sizes: Sizes,
    epoch: usize,
    segments: std::vec::IntoIter<Segment>,
}

/// The training of a discrete recurrent cell on the processor.
pub(crate) struct TextTraining {
    subject: Subject,
    network: RecurrentNetwork,
    workspace: Workspace,
    hidden: Vec<f32>,
    last: Seen,
}

/// The network of a training configuration, for a vocabulary of this size.
pub(crate) fn network(config: &TextTrainConfig, vocabulary: usize) -> Result<RecurrentNetwork> {
    let sizes = RecurrentConfig { vocabulary, hidden: config.units };
    Ok(RecurrentNetwork::discrete(&config.genotype, &sizes)?)
}

impl Subject {
    /// Plans the network for a text; returns the longest sequence as well.
    pub(crate) fn new(config: &TextTrainConfig, text: Text) -> Result<(Self, RecurrentNetwork, usize)> {
        let batch = config.batch_size;
        // A last rest of a single target is no step, so a column takes three tokens.
        let train = columns(&text.corpus.train, "training", batch, 3)?;
        let vocabulary = text.corpus.tokenizer.vocabulary_size();
        let network = network(config, vocabulary)?;
        let steps = Bptt::Training { length: config.bptt }.longest().min(train.rows());
        let subject = Self {
            config: config.clone(),
            train,
            valid: text.corpus.valid,
            test: text.corpus.test,
            sizes: Sizes { batch, units: config.units, vocabulary },
            epoch: 0,
            segments: Vec::new().into_iter(),
        };
        Ok((subject, network, steps))
    }

    fn segments(&self, epoch: usize) -> impl Iterator<Item = Segment> + use<> {
        self.train.epoch(Bptt::Training { length: self.config.bptt }, self.config.seed, epoch as u64)
    }

    /// Steps of an epoch.
    pub(crate) fn steps(&self, epoch: usize) -> usize {
        self.segments(epoch).count()
    }

    /// Goes to a step of an epoch.
    pub(crate) fn start(&mut self, epoch: usize, step: usize) {
        self.epoch = epoch;
        let segments: Vec<Segment> = self.segments(epoch).skip(step).collect();
        self.segments = segments.into_iter();
    }

    /// Forgets where it was.
    pub(crate) fn stop(&mut self) {
        self.segments = Vec::new().into_iter();
    }

    /// The next sequence.
    pub(crate) fn next(&mut self) -> Result<Passage> {
        let segment = self.segments.next().ok_or_else(|| Error::Step("the epoch has no further sequence".into()))?;
        let place = Place { seed: self.config.seed, epoch: self.epoch as u64, step: segment.step, text: 0 };
        let stretch = self.train.stretch(segment.start, segment.length);
        Ok(Passage::new(stretch, segment.drawn, &self.config.dropout, self.sizes, place))
    }

    /// The learning rate for a sequence whose drawn length is this.
    pub(crate) fn learning_rate(&self, drawn: usize) -> f64 {
        self.config.learning_rate * drawn as f64 / self.config.bptt as f64
    }

    /// The loss of a step.
    pub(crate) fn loss(&self) -> LossConfig {
        let TextTrainConfig { activation_regularization, temporal_regularization, .. } = self.config;
        LossConfig { activation: activation_regularization, temporal: temporal_regularization }
    }

    /// The contents of `weights.safetensors`.
    pub(crate) fn weights(&self, network: &RecurrentNetwork, w: &[f32]) -> Result<Vec<u8>> {
        let genotype = Genotype::from(self.config.genotype.clone()).to_json()?;
        Ok(parameters::save(&[(network.parameters(), w)], Some(("genotype", genotype.trim_end())))?)
    }
}

impl TextTraining {
    /// Builds the network for a text. Initial w comes from [`initial`](Self::initial).
    pub(crate) fn new(config: &TextTrainConfig, text: Text) -> Result<Self> {
        let (subject, network, steps) = Subject::new(config, text)?;
        let batch = config.batch_size;
        check_memory(&network, batch, steps)?;
        Ok(Self {
            workspace: network.workspace(batch, steps, Mode::Training),
            hidden: vec![0.0; batch * config.units],
            subject,
            network,
            last: Seen::default(),
        })
    }

    /// w at the start.
    pub(crate) fn initial(&self) -> Vec<f32> {
        self.network.initialize(self.subject.config.seed).0
    }

    fn scores(
        &self,
        w: &Vector,
        text: &[u32],
        columns: usize,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        w.read(|theta| {
            let model = Model { network: &self.network, theta, weights: &[], statistics: &[] };
            model.scores(text, columns, self.subject.config.bptt, what, watch)
        })?
    }
}

impl Task for TextTraining {
    type Batch = Passage;

    fn steps(&self, epoch: usize) -> usize {
        self.subject.steps(epoch)
    }

    fn start(&mut self, epoch: usize, step: usize, _total: u64) -> Result<()> {
        self.subject.start(epoch, step);
        if step == 0 {
            // The text is read from its beginning again.
            self.hidden.fill(0.0);
        }
        Ok(())
    }

    fn learning_rate(&self, _epoch: usize, batch: &Passage) -> f64 {
        self.subject.learning_rate(batch.drawn)
    }

    fn seen(&self) -> Seen {
        self.last
    }

    fn state(&self) -> Vectors {
        vec![(HIDDEN.into(), self.hidden.clone())]
    }

    fn restore(&mut self, state: Vectors) {
        for (_, hidden) in state {
            self.hidden = hidden;
        }
        self.subject.stop();
    }

    fn size(&self) -> Size {
        size(&self.network)
    }
}

impl TrainTask for TextTraining {
    fn next(&mut self) -> Result<Passage> {
        self.subject.next()
    }

    fn evaluate(&mut self, w: &Vector, batch: &Passage, _at: (usize, usize), gradient: &mut Vector) -> Result<f64> {
        let Self { network, workspace, hidden, subject, .. } = self;
        let (loss, config) = (subject.loss(), &subject.config);
        let LossOutput { nll, loss } = w.read(|theta| {
            let masks = batch.dropout();
            let input = Input { tokens: batch.tokens(), batch: config.batch_size, hidden, theta, weights: &[], masks };
            let mut statistics = Statistics::Batch { update: None };
            gradient.write(|theta| {
                let wanted = Gradients { theta: Some(theta), ..Gradients::default() };
                network.evaluate(workspace, &input, batch.targets(), &loss, &mut statistics, wanted)
            })
        })???;
        hidden.copy_from_slice(network.hidden(workspace));
        self.last = Seen { examples: batch.targets().len() as u64, correct: None, likelihood: Some(nll) };
        Ok(loss)
    }

    fn validate(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        Ok(self.scores(w, &self.subject.valid, VALID_COLUMNS, "validation", watch)?.map(Some))
    }

    fn test(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        if !self.subject.config.test {
            return Ok(Some(None));
        }
        Ok(self.scores(w, &self.subject.test, TEST_COLUMNS, "test", watch)?.map(Some))
    }

    fn genotype(&self) -> Genotype {
        self.subject.config.genotype.clone().into()
    }

    fn weights(&self, w: &[f32]) -> Result<Vec<u8>> {
        self.subject.weights(&self.network, w)
    }
}

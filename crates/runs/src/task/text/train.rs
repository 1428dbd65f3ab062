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

const HIDDEN: &str = "hidden";

/// The training of a discrete recurrent cell.
pub(crate) struct TextTraining {
    config: TextTrainConfig,
    network: RecurrentNetwork,
    workspace: Workspace,
    hidden: Vec<f32>,
    train: Columns,
    valid: Vec<u32>,
    test: Vec<u32>,
    epoch: usize,
    segments: std::vec::IntoIter<Segment>,
    last: Seen,
}

/// The network of a training configuration, for a vocabulary of this size.
pub(crate) fn network(config: &TextTrainConfig, vocabulary: usize) -> Result<RecurrentNetwork> {
    let sizes = RecurrentConfig { vocabulary, hidden: config.units };
    Ok(RecurrentNetwork::discrete(&config.genotype, &sizes)?)
}

impl TextTraining {
    /// Builds the network for a text. Initial w comes from [`initial`](Self::initial).
    pub(crate) fn new(config: &TextTrainConfig, text: Text) -> Result<Self> {
        let batch = config.batch_size;
        // A last rest of a single target is no step, so a column takes three tokens.
        let train = columns(&text.corpus.train, "training", batch, 3)?;
        let network = network(config, text.corpus.tokenizer.vocabulary_size())?;
        let steps = Bptt::Training { length: config.bptt }.longest().min(train.rows());
        check_memory(&network, batch, steps)?;
        Ok(Self {
            workspace: network.workspace(batch, steps, Mode::Training),
            hidden: vec![0.0; batch * config.units],
            config: config.clone(),
            network,
            train,
            valid: text.corpus.valid,
            test: text.corpus.test,
            epoch: 0,
            segments: Vec::new().into_iter(),
            last: Seen::default(),
        })
    }

    /// w at the start.
    pub(crate) fn initial(&self) -> Vec<f32> {
        self.network.initialize(self.config.seed).0
    }

    fn segments(&self, epoch: usize) -> impl Iterator<Item = Segment> + use<> {
        self.train.epoch(Bptt::Training { length: self.config.bptt }, self.config.seed, epoch as u64)
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
            model.scores(text, columns, self.config.bptt, what, watch)
        })?
    }
}

impl Task for TextTraining {
    type Batch = Passage;

    fn steps(&self, epoch: usize) -> usize {
        self.segments(epoch).count()
    }

    fn start(&mut self, epoch: usize, step: usize, _total: u64) -> Result<()> {
        self.epoch = epoch;
        let segments: Vec<Segment> = self.segments(epoch).skip(step).collect();
        self.segments = segments.into_iter();
        if step == 0 {
            // The text is read from its beginning again.
            self.hidden.fill(0.0);
        }
        Ok(())
    }

    fn learning_rate(&self, _epoch: usize, batch: &Passage) -> f64 {
        self.config.learning_rate * batch.drawn as f64 / self.config.bptt as f64
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
        self.segments = Vec::new().into_iter();
    }

    fn size(&self) -> Size {
        size(&self.network)
    }
}

impl TrainTask for TextTraining {
    fn next(&mut self) -> Result<Passage> {
        let segment = self.segments.next().ok_or_else(|| Error::Step("the epoch has no further sequence".into()))?;
        let RecurrentConfig { vocabulary, hidden: units } = *self.network.config();
        let sizes = Sizes { batch: self.config.batch_size, units, vocabulary };
        let place = Place { seed: self.config.seed, epoch: self.epoch as u64, step: segment.step, text: 0 };
        let stretch = self.train.stretch(segment.start, segment.length);
        Ok(Passage::new(stretch, segment.drawn, &self.config.dropout, sizes, place))
    }

    fn evaluate(&mut self, w: &Vector, batch: &Passage, _at: (usize, usize), gradient: &mut Vector) -> Result<f64> {
        let Self { network, workspace, hidden, config, .. } = self;
        let loss =
            LossConfig { activation: config.activation_regularization, temporal: config.temporal_regularization };
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
        Ok(self.scores(w, &self.valid, VALID_COLUMNS, "validation", watch)?.map(Some))
    }

    fn test(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        if !self.config.test {
            return Ok(Some(None));
        }
        Ok(self.scores(w, &self.test, TEST_COLUMNS, "test", watch)?.map(Some))
    }

    fn genotype(&self) -> Genotype {
        self.config.genotype.clone().into()
    }

    fn weights(&self, w: &[f32]) -> Result<Vec<u8>> {
        let sections = [(self.network.parameters(), w)];
        let genotype = self.genotype().to_json()?;
        Ok(parameters::save(&sections, Some(("genotype", genotype.trim_end())))?)
    }
}

//! The recurrent search as a bilevel problem: the training text trains w, the validation text α. The losses are those of
//! [`LanguageProblem`]; here are the data and what a run stores.

use darts_bilevel::{BilevelProblem, Gradients, Pass};
use darts_cells::genotype::Genotype;
use darts_cells::parameters::{self, Init, Table};
use darts_cells::primitive::Activation;
use darts_cells::recurrent::{RecurrentConfig, RecurrentNetwork};
use darts_cells::relaxation::Relaxation;
use darts_cells::space::RecurrentSpace;
use darts_data::text::{Bptt, Columns, Segment};
use darts_ops::vector::Vector;
use serde_json::{Value, json};

use super::data::{Text, columns};
use super::passage::{Passage, Place, Sizes};
use super::score::{Model, VALID_COLUMNS};
use super::{check_memory, size};
use crate::config::TextSearchConfig;
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::language::{LanguageConfig, LanguageError, LanguageProblem, LanguageState, Sequence};
use crate::task::{Scores, SearchTask, Seen, Size, Task, Vectors};

const HIDDEN_TRAIN: &str = "hidden_train";
const HIDDEN_VALID: &str = "hidden_valid";
const STATISTICS: &str = "statistics";

/// A recurrent search.
pub(crate) struct TextSearch {
    config: TextSearchConfig,
    space: RecurrentSpace,
    problem: LanguageProblem,
    train: Columns,
    valid: Columns,
    valid_text: Vec<u32>,
    epoch: usize,
    segments: std::vec::IntoIter<Segment>,
    last: Seen,
}

/// The space that a configuration searches.
pub(crate) fn space(config: &TextSearchConfig) -> RecurrentSpace {
    RecurrentSpace { nodes: config.nodes, activations: Activation::SEARCH.to_vec() }
}

impl TextSearch {
    /// Builds the network for a text. Initial w and α come from [`initial`](Self::initial).
    pub(crate) fn new(config: &TextSearchConfig, text: Text) -> Result<Self> {
        let batch = config.batch_size;
        // A last rest of a single target is no step, so a column takes three tokens.
        let train = columns(&text.corpus.train, "training", batch, 3)?;
        let valid = columns(&text.corpus.valid, "validation", batch, 2)?;
        let space = space(config);
        let vocabulary = text.corpus.tokenizer.vocabulary_size();
        let network = RecurrentNetwork::supernet(&space, &RecurrentConfig { vocabulary, hidden: config.units })?;
        let steps = config.bptt.min(train.rows().max(valid.rows()));
        check_memory(&network, batch, steps)?;
        let statistics = network.initialize(config.seed).1;
        let sizes = LanguageConfig { batch, steps, temporal: config.temporal_regularization };
        Ok(Self {
            problem: LanguageProblem::new(network, space.operations(), sizes, statistics),
            config: config.clone(),
            space,
            train,
            valid,
            valid_text: text.corpus.valid,
            epoch: 0,
            segments: Vec::new().into_iter(),
            last: Seen::default(),
        })
    }

    /// w and α at the start.
    pub(crate) fn initial(&self) -> (Vec<f32>, Vec<f32>) {
        (self.problem.network().initialize(self.config.seed).0, self.space.initial_alphas(self.config.seed))
    }

    fn segments(&self, epoch: usize) -> impl Iterator<Item = Segment> + use<> {
        self.train.epoch(Bptt::Search { length: self.config.bptt }, self.config.seed, epoch as u64)
    }
}

impl BilevelProblem for TextSearch {
    type Batch = Passage;
    type Error = Error;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        batch: &Passage,
        gradients: Gradients<'_>,
    ) -> Result<f64> {
        let loss = self.problem.evaluate(pass, w, alpha, batch, gradients).map_err(|error| match error {
            LanguageError::Cells(error) => Error::from(error),
            LanguageError::Vector(error) => error.into(),
        })?;
        if pass == Pass::Weight {
            let likelihood = self.problem.output().map(|output| output.nll);
            self.last = Seen { examples: batch.targets().len() as u64, correct: None, likelihood };
        }
        Ok(loss)
    }
}

impl Task for TextSearch {
    type Batch = Passage;

    fn steps(&self, epoch: usize) -> usize {
        self.segments(epoch).count()
    }

    fn start(&mut self, epoch: usize, step: usize, _total: u64) -> Result<()> {
        self.epoch = epoch;
        let segments: Vec<Segment> = self.segments(epoch).skip(step).collect();
        self.segments = segments.into_iter();
        if step == 0 {
            // Both texts are read from their beginning again.
            let LanguageState { train, valid, .. } = self.problem.state_mut();
            train.fill(0.0);
            valid.fill(0.0);
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
        let LanguageState { train, valid, statistics } = self.problem.state().clone();
        vec![(HIDDEN_TRAIN.into(), train), (HIDDEN_VALID.into(), valid), (STATISTICS.into(), statistics)]
    }

    fn restore(&mut self, state: Vectors) {
        for (name, values) in state {
            let LanguageState { train, valid, statistics } = self.problem.state_mut();
            match name.as_str() {
                HIDDEN_TRAIN => *train = values,
                HIDDEN_VALID => *valid = values,
                _ => *statistics = values,
            }
        }
        self.segments = Vec::new().into_iter();
    }

    fn size(&self) -> Size {
        size(self.problem.network())
    }
}

impl SearchTask for TextSearch {
    fn next(&mut self) -> Result<(Passage, Passage)> {
        let segment = self.segments.next().ok_or_else(|| Error::Step("the epoch has no further sequence".into()))?;
        let RecurrentConfig { vocabulary, hidden: units } = *self.problem.network().config();
        let (config, sizes) = (&self.config, Sizes { batch: self.config.batch_size, units, vocabulary });
        let place = |text| Place { seed: config.seed, epoch: self.epoch as u64, step: segment.step, text };
        let train = self.train.stretch(segment.start, segment.length);
        // Validation sequences are taken where the training text is read, modulo the validation text.
        let valid = self.valid.stretch_at(segment.start, config.bptt);
        Ok((
            Passage::new(train, segment.drawn, &config.dropout, sizes, place(0)),
            Passage::new(valid, config.bptt, &config.dropout, sizes, place(1)),
        ))
    }

    fn validate(&mut self, w: &Vector, alpha: &Vector, watch: &mut Watch<'_>) -> Result<Option<Scores>> {
        let network = self.problem.network();
        let mut weights = vec![0.0; network.operation_weights()];
        alpha.read(|alphas| Relaxation::Softmax.forward(alphas, self.space.operations(), &mut weights))??;
        let statistics = &self.problem.state().statistics;
        w.read(|theta| {
            let model = Model { network, theta, weights: &weights, statistics };
            model.scores(&self.valid_text, VALID_COLUMNS, self.config.bptt, "validation", watch)
        })?
    }

    fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        Ok(self.space.derive(alphas)?.into())
    }

    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        let rows: Vec<&[f32]> = alphas.chunks(self.space.operations()).collect();
        json!({ "epoch": epoch, "alphas": rows })
    }

    fn weights(&self, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>> {
        let mut table = Table::new();
        table.push("alphas", &[self.space.edges(), self.space.operations()], Init::Zeros);
        let network = self.problem.network();
        let statistics = &self.problem.state().statistics[..];
        let sections = [(network.parameters(), w), (network.statistics(), statistics), (&table, alphas)];
        let genotype = self.genotype(alphas)?.to_json()?;
        Ok(parameters::save(&sections, Some(("genotype", genotype.trim_end())))?)
    }
}

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

pub(super) const HIDDEN_TRAIN: &str = "hidden_train";
pub(super) const HIDDEN_VALID: &str = "hidden_valid";
pub(super) const STATISTICS: &str = "statistics";

/// A recurrent search apart from what computes it: its texts, its space, where it is in them, and what a run of it stores.
pub(crate) struct Subject {
    pub(crate) config: TextSearchConfig,
    pub(crate) space: RecurrentSpace,
    train: Columns,
    valid: Columns,
    pub(crate) valid_text: Vec<u32>,
    sizes: Sizes,
    epoch: usize,
    segments: std::vec::IntoIter<Segment>,
}

/// A recurrent search on the processor.
pub(crate) struct TextSearch {
    subject: Subject,
    problem: LanguageProblem,
    last: Seen,
}

/// The space that a configuration searches.
pub(crate) fn space(config: &TextSearchConfig) -> RecurrentSpace {
    RecurrentSpace { nodes: config.nodes, activations: Activation::SEARCH.to_vec() }
}

impl Subject {
    /// Plans the network for a text; returns the longest sequence as well.
    pub(crate) fn new(config: &TextSearchConfig, text: Text) -> Result<(Self, RecurrentNetwork, usize)> {
        let batch = config.batch_size;
        // A last rest of a single target is no step, so a column takes three tokens.
        let train = columns(&text.corpus.train, "training", batch, 3)?;
        let valid = columns(&text.corpus.valid, "validation", batch, 2)?;
        let space = space(config);
        let vocabulary = text.corpus.tokenizer.vocabulary_size();
        let network = RecurrentNetwork::supernet(&space, &RecurrentConfig { vocabulary, hidden: config.units })?;
        let steps = config.bptt.min(train.rows().max(valid.rows()));
        let subject = Self {
            config: config.clone(),
            space,
            train,
            valid,
            valid_text: text.corpus.valid,
            sizes: Sizes { batch, units: config.units, vocabulary },
            epoch: 0,
            segments: Vec::new().into_iter(),
        };
        Ok((subject, network, steps))
    }

    /// w and α at the start.
    pub(crate) fn initial(&self, network: &RecurrentNetwork) -> (Vec<f32>, Vec<f32>) {
        (network.initialize(self.config.seed).0, self.space.initial_alphas(self.config.seed))
    }

    fn segments(&self, epoch: usize) -> impl Iterator<Item = Segment> + use<> {
        self.train.epoch(Bptt::Search { length: self.config.bptt }, self.config.seed, epoch as u64)
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

    /// The next training and validation sequence.
    pub(crate) fn next(&mut self) -> Result<(Passage, Passage)> {
        let segment = self.segments.next().ok_or_else(|| Error::Step("the epoch has no further sequence".into()))?;
        let (config, sizes) = (&self.config, self.sizes);
        let place = |text| Place { seed: config.seed, epoch: self.epoch as u64, step: segment.step, text };
        let train = self.train.stretch(segment.start, segment.length);
        // Validation sequences are taken where the training text is read, modulo the validation text.
        let valid = self.valid.stretch_at(segment.start, config.bptt);
        Ok((
            Passage::new(train, segment.drawn, &config.dropout, sizes, place(0)),
            Passage::new(valid, config.bptt, &config.dropout, sizes, place(1)),
        ))
    }

    /// The learning rate for a sequence whose drawn length is this.
    pub(crate) fn learning_rate(&self, drawn: usize) -> f64 {
        self.config.learning_rate * drawn as f64 / self.config.bptt as f64
    }

    /// The discrete cell that α stands for.
    pub(crate) fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        Ok(self.space.derive(alphas)?.into())
    }

    /// α as a line of `alphas.jsonl`.
    pub(crate) fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        let rows: Vec<&[f32]> = alphas.chunks(self.space.operations()).collect();
        json!({ "epoch": epoch, "alphas": rows })
    }

    /// The contents of `weights.safetensors`.
    pub(crate) fn weights(
        &self,
        network: &RecurrentNetwork,
        (w, statistics, alphas): (&[f32], &[f32], &[f32]),
    ) -> Result<Vec<u8>> {
        let mut table = Table::new();
        table.push("alphas", &[self.space.edges(), self.space.operations()], Init::Zeros);
        let sections = [(network.parameters(), w), (network.statistics(), statistics), (&table, alphas)];
        let genotype = self.genotype(alphas)?.to_json()?;
        Ok(parameters::save(&sections, Some(("genotype", genotype.trim_end())))?)
    }
}

impl TextSearch {
    /// Builds the network for a text. Initial w and α come from [`initial`](Self::initial).
    pub(crate) fn new(config: &TextSearchConfig, text: Text) -> Result<Self> {
        let (subject, network, steps) = Subject::new(config, text)?;
        let batch = config.batch_size;
        check_memory(&network, batch, steps)?;
        let statistics = network.initialize(config.seed).1;
        let sizes = LanguageConfig { batch, steps, temporal: config.temporal_regularization };
        let problem = LanguageProblem::new(network, subject.space.operations(), sizes, statistics);
        Ok(Self { subject, problem, last: Seen::default() })
    }

    /// w and α at the start.
    pub(crate) fn initial(&self) -> (Vec<f32>, Vec<f32>) {
        self.subject.initial(self.problem.network())
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
        self.subject.steps(epoch)
    }

    fn start(&mut self, epoch: usize, step: usize, _total: u64) -> Result<()> {
        self.subject.start(epoch, step);
        if step == 0 {
            // Both texts are read from their beginning again.
            let LanguageState { train, valid, .. } = self.problem.state_mut();
            train.fill(0.0);
            valid.fill(0.0);
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
        self.subject.stop();
    }

    fn size(&self) -> Size {
        size(self.problem.network())
    }
}

impl SearchTask for TextSearch {
    fn next(&mut self) -> Result<(Passage, Passage)> {
        self.subject.next()
    }

    fn validate(&mut self, w: &Vector, alpha: &Vector, watch: &mut Watch<'_>) -> Result<Option<Scores>> {
        let network = self.problem.network();
        let mut weights = vec![0.0; network.operation_weights()];
        alpha.read(|alphas| Relaxation::Softmax.forward(alphas, self.subject.space.operations(), &mut weights))??;
        let statistics = &self.problem.state().statistics;
        w.read(|theta| {
            let model = Model { network, theta, weights: &weights, statistics };
            model.scores(&self.subject.valid_text, VALID_COLUMNS, self.subject.config.bptt, "validation", watch)
        })?
    }

    fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        self.subject.genotype(alphas)
    }

    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        self.subject.alphas_line(epoch, alphas)
    }

    fn weights(&self, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>> {
        self.subject.weights(self.problem.network(), (w, &self.problem.state().statistics, alphas))
    }
}

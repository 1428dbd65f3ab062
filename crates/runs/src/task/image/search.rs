//! The convolutional search as a bilevel problem: the first half of the training images trains w, the second half α, both
//! with the training augmentation. The losses are those of [`SupernetProblem`]; here are the data and what a run stores.

use std::sync::Arc;

use darts_bilevel::schedule::Cosine;
use darts_bilevel::{BilevelProblem, Gradients, Pass};
use darts_cells::conv::ConvNetwork;
use darts_cells::genotype::Genotype;
use darts_cells::parameters::{self, Init, Table};
use darts_cells::space::ConvSpace;
use darts_data::dataset::{Dataset, Subset};
use darts_data::loader::{BadImages, Batches};
use darts_data::{Batch, Loader};
use darts_ops::vector::Vector;
use serde_json::{Value, json};

use super::data::{Images, check_split};
use super::score::Trained;
use super::{check_memory, network_config, size};
use crate::config::SearchConfig;
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::folder::DataRecord;
use crate::options::RunOptions;
use crate::supernet::{Relaxed, SupernetError, SupernetProblem};
use crate::task::{Scores, SearchTask, Seen, Size, Task, Vectors};

pub(super) const STATISTICS: &str = "statistics";

/// A convolutional search apart from what computes it: its data, its space, its schedule, and what a run of it stores.
pub(crate) struct Subject {
    pub(crate) space: ConvSpace,
    pub(crate) seed: u64,
    pub(crate) rate: Cosine,
    pub(crate) train: Loader,
    pub(crate) valid: Loader,
    pub(crate) valid_images: Arc<dyn Dataset>,
    /// As [`Images::in_memory`].
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the processor reads images one by one"))]
    pub(crate) in_memory: bool,
    record: DataRecord,
}

/// The space that a configuration searches.
pub(crate) fn space(config: &SearchConfig) -> ConvSpace {
    ConvSpace { nodes: config.nodes, ..ConvSpace::darts() }
}

impl Subject {
    /// Finds the data, and plans the network that is searched.
    pub(crate) fn open(config: &SearchConfig, options: &RunOptions) -> Result<(Self, ConvNetwork)> {
        let images = Images::open(&config.data, options.data_dir.as_deref())?.limited(config.train_limit);
        let (train, valid) = Subset::halves(images.train.clone());
        check_split(&train, config.batch_size)?;
        check_split(&valid, config.batch_size)?;
        let space = space(config);
        let (classes, image) = (images.train.class_names().len(), images.train.image_size());
        let sizes = network_config(config.init_channels, config.layers, false, classes, image, &config.data);
        let network = ConvNetwork::supernet(&space, &sizes)?;
        let valid: Arc<dyn Dataset> = Arc::new(valid);
        let augment = images.augment;
        let subject = Self {
            seed: config.seed,
            rate: Cosine {
                initial: config.learning_rate,
                minimum: config.learning_rate_min,
                epochs: config.epochs as u64,
            },
            record: images.record(train.len(), valid.len()),
            in_memory: images.in_memory,
            train: Loader::new(train, augment, config.batch_size),
            valid: Loader::new(valid.clone(), augment, config.batch_size),
            valid_images: valid,
            space,
        };
        Ok((subject, network))
    }

    /// w and α at the start.
    pub(crate) fn initial(&self, network: &ConvNetwork) -> (Vec<f32>, Vec<f32>) {
        (network.initialize(self.seed).0, self.space.initial_alphas(self.seed))
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.record.clone()
    }

    /// The discrete cell that α stands for.
    pub(crate) fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        Ok(self.space.derive(alphas)?.into())
    }

    /// α as a line of `alphas.jsonl`.
    pub(crate) fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        let (normal, reduce) = alphas.split_at(alphas.len() / 2);
        let rows = |half: &[f32]| half.chunks(self.space.operations()).map(<[f32]>::to_vec).collect::<Vec<_>>();
        json!({ "epoch": epoch, "alphas_normal": rows(normal), "alphas_reduce": rows(reduce) })
    }

    /// The contents of `weights.safetensors`.
    pub(crate) fn weights(
        &self,
        network: &ConvNetwork,
        (w, statistics, alphas): (&[f32], &[f32], &[f32]),
    ) -> Result<Vec<u8>> {
        let mut table = Table::new();
        for name in ["alphas_normal", "alphas_reduce"] {
            table.push(name, &[self.space.edges(), self.space.operations()], Init::Zeros);
        }
        let sections = [(network.parameters(), w), (network.statistics(), statistics), (&table, alphas)];
        let genotype = self.genotype(alphas)?.to_json()?;
        Ok(parameters::save(&sections, Some(("genotype", genotype.trim_end())))?)
    }
}

/// A convolutional search on the processor.
pub(crate) struct ImageSearch {
    subject: Subject,
    problem: SupernetProblem,
    batches: Option<(Batches, Batches)>,
    last: Seen,
}

impl ImageSearch {
    /// Finds the data and builds the network. Initial w and α come from [`initial`](Self::initial).
    pub(crate) fn open(config: &SearchConfig, options: &RunOptions) -> Result<Self> {
        let (subject, network) = Subject::open(config, options)?;
        check_memory(&network, config.batch_size)?;
        let statistics = network.initialize(config.seed).1;
        let problem = SupernetProblem::new(network, subject.space.operations(), config.batch_size, statistics);
        Ok(Self { subject, problem, batches: None, last: Seen::default() })
    }

    /// w and α at the start.
    pub(crate) fn initial(&self) -> (Vec<f32>, Vec<f32>) {
        self.subject.initial(self.problem.network())
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.subject.record()
    }
}

impl BilevelProblem for ImageSearch {
    type Batch = Batch;
    type Error = Error;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        batch: &Batch,
        gradients: Gradients<'_>,
    ) -> Result<f64> {
        let loss = self.problem.evaluate(pass, w, alpha, batch, gradients).map_err(|error| match error {
            SupernetError::Cells(error) => Error::from(error),
            SupernetError::Vector(error) => error.into(),
        })?;
        if pass == Pass::Weight {
            self.last =
                Seen { examples: batch.len() as u64, correct: Some(self.problem.correct() as u64), likelihood: None };
        }
        Ok(loss)
    }
}

impl Task for ImageSearch {
    type Batch = Batch;

    fn steps(&self, _epoch: usize) -> usize {
        self.subject.train.steps() as usize
    }

    fn start(&mut self, epoch: usize, step: usize, total: u64) -> Result<()> {
        let Subject { train, valid: random, seed, .. } = &self.subject;
        let train = train.epoch(*seed, epoch as u64)?.skip(step as u64);
        // The validation batches have no epochs: theirs is one stream over the whole run.
        let valid = match self.batches.take() {
            Some((_, valid)) if step == 0 => valid,
            _ => random.random_batches(*seed)?.skip(total),
        };
        self.batches = Some((train, valid));
        Ok(())
    }

    fn learning_rate(&self, epoch: usize, _batch: &Batch) -> f64 {
        self.subject.rate.at(epoch as u64)
    }

    fn seen(&self) -> Seen {
        self.last
    }

    fn state(&self) -> Vectors {
        vec![(STATISTICS.into(), self.problem.statistics().to_vec())]
    }

    fn restore(&mut self, state: Vectors) {
        for (_, statistics) in state {
            self.problem.statistics_mut().copy_from_slice(&statistics);
        }
        self.batches = None;
    }

    fn size(&self) -> Size {
        size(self.problem.network())
    }
}

impl SearchTask for ImageSearch {
    fn next(&mut self) -> Result<(Batch, Batch)> {
        let ended = || Error::Step("the epoch has no further batch".into());
        let (train, valid) = self.batches.as_mut().ok_or_else(ended)?;
        Ok((train.next().ok_or_else(ended)??, valid.next().ok_or_else(ended)??))
    }

    fn validate(&mut self, w: &Vector, alpha: &Vector, watch: &mut Watch<'_>) -> Result<Option<Scores>> {
        let Relaxed { network, workspace, statistics, weights } =
            alpha.read(|alphas| self.problem.relaxed(alphas))??;
        let (valid, bad_images) = (&self.subject.valid_images, Arc::new(BadImages::new(0)));
        w.read(|theta| {
            Trained { network, theta, statistics, weights }.scores(workspace, valid, &bad_images, "validation", watch)
        })?
    }

    fn genotype(&self, alphas: &[f32]) -> Result<Genotype> {
        self.subject.genotype(alphas)
    }

    fn alphas_line(&self, epoch: usize, alphas: &[f32]) -> Value {
        self.subject.alphas_line(epoch, alphas)
    }

    fn weights(&self, w: &[f32], alphas: &[f32]) -> Result<Vec<u8>> {
        self.subject.weights(self.problem.network(), (w, self.problem.statistics(), alphas))
    }
}

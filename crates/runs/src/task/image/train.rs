//! The training of a discrete convolutional network: cutout, path dropout that grows over the epochs, an auxiliary head.

use std::sync::Arc;

use darts_bilevel::schedule::{Cosine, DropPath, Exponential};
use darts_cells::conv::{self, ConvNetwork, ForwardInput, LossConfig, LossOutput, Statistics, Workspace};
use darts_cells::genotype::Genotype;
use darts_cells::parameters;
use darts_data::dataset::{Dataset, Subset};
use darts_data::loader::Batches;
use darts_data::random::{Key, Purpose};
use darts_data::{Batch, Loader};
use darts_ops::vector::Vector;

use super::data::{Images, check_split};
use super::score::Trained;
use super::{check_memory, network_config, size};
use crate::config::{Schedule, TrainConfig};
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::folder::DataRecord;
use crate::options::RunOptions;
use crate::task::{Scores, Seen, Size, Task, TrainTask, Vectors};

const STATISTICS: &str = "statistics";
/// Masks of dropped paths, a function of the seed, the epoch and the step.
const DROP_PATH: Purpose = Purpose::new("drop path");

/// The training of a discrete network.
pub(crate) struct ImageTraining {
    config: TrainConfig,
    network: ConvNetwork,
    workspace: Workspace,
    statistics: Vec<f32>,
    masks: Vec<f32>,
    train: Loader,
    held_out: Option<Arc<dyn Dataset>>,
    test: Arc<dyn Dataset>,
    batches: Option<Batches>,
    last: LossOutput,
    last_examples: usize,
    record: DataRecord,
}

/// The training images in two parts.
pub(crate) struct Parts {
    pub(crate) train: Arc<dyn Dataset>,
    pub(crate) held_out: Option<Arc<dyn Dataset>>,
}

/// The images that are trained on and those held out, of the training images.
pub(crate) fn split(images: &Images, config: &TrainConfig) -> Result<Parts> {
    if config.held_out == 0.0 {
        return Ok(Parts { train: images.train.clone(), held_out: None });
    }
    // Which images are held out is a matter of the data, not of the run's seed, so that runs to be compared share them.
    let (kept, held_out) = Subset::hold_out(images.train.clone(), config.held_out, 0)?;
    check_split(&held_out, 1)?;
    Ok(Parts { train: Arc::new(kept), held_out: Some(Arc::new(held_out)) })
}

/// The network of a training configuration, for images like these.
pub(crate) fn network(config: &TrainConfig, images: &dyn Dataset) -> Result<ConvNetwork> {
    let (classes, image) = (images.class_names().len(), images.image_size());
    let sizes = network_config(config.init_channels, config.layers, config.auxiliary, classes, image);
    Ok(ConvNetwork::discrete(&config.genotype, &sizes)?)
}

impl ImageTraining {
    /// Finds the data and builds the network. Initial w comes from [`initial`](Self::initial).
    pub(crate) fn open(config: &TrainConfig, options: &RunOptions) -> Result<Self> {
        let images = Images::open(&config.data, options.data_dir.as_deref())?.limited(config.train_limit);
        let Parts { train, held_out } = split(&images, config)?;
        check_split(&*train, config.batch_size)?;
        let network = network(config, &*images.train)?;
        check_memory(&network, config.batch_size)?;
        let valid = held_out.as_ref().map_or(0, |set| set.len());
        Ok(Self {
            workspace: network.workspace(config.batch_size),
            statistics: network.initialize(config.seed).1,
            masks: Vec::new(),
            record: images.record(train.len(), valid),
            train: Loader::new(train, images.augment().with_cutout(config.cutout), config.batch_size),
            held_out,
            test: images.test,
            batches: None,
            last: LossOutput { loss: 0.0, correct: 0 },
            last_examples: 0,
            config: config.clone(),
            network,
        })
    }

    /// w at the start.
    pub(crate) fn initial(&self) -> Vec<f32> {
        self.network.initialize(self.config.seed).0
    }

    /// What `run.json` says of the data.
    pub(crate) fn record(&self) -> DataRecord {
        self.record.clone()
    }

    /// Draws which paths are dropped: 0 with the epoch's probability p, else 1/(1 − p), for each operation and sample.
    fn draw_masks(&mut self, (epoch, step): (usize, usize), batch: usize) -> bool {
        let schedule = DropPath { maximum: self.config.drop_path_prob, epochs: self.config.epochs as u64 };
        let drop = schedule.at(epoch as u64);
        if drop == 0.0 {
            return false;
        }
        let keep = 1.0 - drop;
        let mut random = Key::new(self.config.seed, DROP_PATH).epoch(epoch as u64).step(step as u64).generator();
        self.masks.clear();
        let draw = || if random.chance(keep) { (1.0 / keep) as f32 } else { 0.0 };
        self.masks.extend(std::iter::repeat_with(draw).take(self.network.droppable().len() * batch));
        true
    }

    fn scores(
        &mut self,
        w: &Vector,
        images: &Arc<dyn Dataset>,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        w.read(|theta| {
            let trained = Trained { network: &self.network, theta, statistics: &self.statistics, weights: &[] };
            trained.scores(&mut self.workspace, images, what, watch)
        })?
    }
}

impl Task for ImageTraining {
    type Batch = Batch;

    fn steps(&self, _epoch: usize) -> usize {
        self.train.steps() as usize
    }

    fn start(&mut self, epoch: usize, step: usize, _total: u64) -> Result<()> {
        self.batches = Some(self.train.epoch(self.config.seed, epoch as u64)?.skip(step as u64));
        Ok(())
    }

    fn learning_rate(&self, epoch: usize, _batch: &Batch) -> f64 {
        let (initial, epochs) = (self.config.learning_rate, self.config.epochs as u64);
        match self.config.schedule {
            Schedule::Cosine { learning_rate_min: minimum } => Cosine { initial, minimum, epochs }.at(epoch as u64),
            Schedule::Exponential { decay: gamma } => Exponential { initial, gamma }.at(epoch as u64),
        }
    }

    fn seen(&self) -> Seen {
        Seen { examples: self.last_examples as u64, correct: Some(self.last.correct as u64) }
    }

    fn state(&self) -> Vectors {
        vec![(STATISTICS.into(), self.statistics.clone())]
    }

    fn restore(&mut self, state: Vectors) {
        for (_, statistics) in state {
            self.statistics = statistics;
        }
        self.batches = None;
    }

    fn size(&self) -> Size {
        size(&self.network)
    }
}

impl TrainTask for ImageTraining {
    fn next(&mut self) -> Result<Batch> {
        let ended = || Error::Step("the epoch has no further batch".into());
        Ok(self.batches.as_mut().ok_or_else(ended)?.next().ok_or_else(ended)??)
    }

    fn evaluate(&mut self, w: &Vector, batch: &Batch, at: (usize, usize), gradient: &mut Vector) -> Result<f64> {
        let masked = self.draw_masks(at, batch.len());
        let loss =
            LossConfig { label_smoothing: self.config.label_smoothing, auxiliary_weight: self.config.auxiliary_weight };
        let output = w.read(|theta| {
            let input = ForwardInput {
                images: batch.images(),
                batch: batch.len(),
                theta,
                weights: &[],
                active: None,
                masks: masked.then_some(&self.masks[..]),
            };
            let update = Some(&mut self.statistics[..]);
            self.network.forward(&mut self.workspace, &input, Statistics::Batch { update })?;
            let output = self.network.loss(&mut self.workspace, batch.labels(), loss)?;
            gradient.write(|theta| {
                let gradients = conv::Gradients { theta: Some(theta), weights: None, images: None };
                self.network.backward(&mut self.workspace, &input, gradients)
            })??;
            Ok::<_, Error>(output)
        })??;
        (self.last, self.last_examples) = (output, batch.len());
        Ok(output.loss)
    }

    fn validate(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        match self.held_out.clone() {
            Some(images) => Ok(self.scores(w, &images, "validation", watch)?.map(Some)),
            None => Ok(Some(None)),
        }
    }

    fn test(&mut self, w: &Vector, watch: &mut Watch<'_>) -> Result<Option<Option<Scores>>> {
        if self.held_out.is_some() {
            return Ok(Some(None));
        }
        let images = self.test.clone();
        Ok(self.scores(w, &images, "test", watch)?.map(Some))
    }

    fn genotype(&self) -> Genotype {
        self.config.genotype.clone().into()
    }

    fn weights(&self, w: &[f32]) -> Result<Vec<u8>> {
        let sections = [(self.network.parameters(), w), (self.network.statistics(), &self.statistics[..])];
        let genotype = self.genotype().to_json()?;
        Ok(parameters::save(&sections, Some(("genotype", genotype.trim_end())))?)
    }
}

//! Batches, made by worker threads ahead of the trainer, in order, the same for any number of threads.
//!
//! A batch is a function of (seed, epoch, step) alone, so a run resumes in the middle of an epoch with
//! [`Batches::skip`], and nothing of a skipped batch is read. Buffers are recycled: after the first few steps a step
//! makes no allocation of 64 KiB or more, unless reading an image itself needs one. A loader refuses to leave an
//! example out: an epoch's smaller last batch is used; a training split smaller than one batch is an error, and so is an
//! image that cannot be read, unless [`BadImages`] allow for it.

mod bad_images;
mod batch;
mod choices;
mod workers;

use std::ops::Range;
use std::sync::Arc;

pub use bad_images::BadImages;
pub use batch::Batch;
use batch::{Form, Place, Pool};
pub use choices::{Choice, Choices};
pub use workers::Batches;

use crate::Error;
use crate::dataset::Dataset;
use crate::random::{Generator, Key, Purpose};
use crate::transform::{Augment, Crop, Draw, Region, Transform};

/// Makes batches of a dataset's examples.
///
/// ```
/// use darts_data::{Augment, Loader, SyntheticConfig, SyntheticImages};
/// let train = SyntheticImages::train(&SyntheticConfig::default())?;
/// let loader = Loader::new(train, Augment::cifar(), 64);
/// for batch in loader.epoch(7, 0)?.skip(60) {
///     let batch = batch?;
///     assert_eq!(batch.images().len(), batch.labels().len() * 32 * 32 * 3);
/// }
/// # Ok::<(), darts_data::Error>(())
/// ```
#[derive(Clone)]
pub struct Loader {
    source: Arc<Source>,
    batch_size: usize,
    workers: usize,
    ahead: usize,
}

/// What workers read from, shared by all of a loader's iterators.
struct Source {
    dataset: Arc<dyn Dataset>,
    augment: Augment,
    transform: Transform,
    pool: Pool,
    /// Where unreadable images go that may be left out.
    bad_images: Option<Arc<BadImages>>,
}

/// Which examples a step's batch holds, and what is done to them.
enum Plan {
    /// An epoch in random order.
    Shuffled { seed: u64, epoch: u64, order: Vec<u32> },
    /// All examples in the dataset's order, unchanged.
    InOrder,
    /// A fresh random batch at each step.
    Random { seed: u64 },
}

impl Plan {
    /// The members of the batch of a step: their places in the plan's order, or in `chosen`, which is overwritten then.
    fn members(&self, examples: usize, batch_size: usize, step: u64, chosen: &mut Vec<u32>) -> Range<usize> {
        match self {
            Self::Random { seed } => {
                let count = batch_size.min(examples);
                Key::new(*seed, Purpose::RANDOM_BATCH).step(step).generator().choose(examples, count, chosen);
                0..count
            }
            Self::Shuffled { .. } | Self::InOrder => {
                let first = step as usize * batch_size;
                first..examples.min(first + batch_size)
            }
        }
    }

    /// The example that a member is, and the key of what is drawn for it.
    fn example(&self, member: usize, step: u64, chosen: &[u32]) -> (usize, Key) {
        match self {
            Self::InOrder => (member, Key::new(0, Purpose::AUGMENT)),
            Self::Shuffled { seed, epoch, order } => {
                let index = order[member];
                (index as usize, Key::new(*seed, Purpose::AUGMENT).epoch(*epoch).sample(index.into()))
            }
            Self::Random { seed } => {
                let index = chosen[member];
                (index as usize, Key::new(*seed, Purpose::AUGMENT_RANDOM_BATCH).step(step).sample(index.into()))
            }
        }
    }

    /// What is done to its examples, where the loader does this.
    fn augment(&self, of_loader: &Augment) -> Augment {
        match self {
            Self::InOrder => Augment::none(),
            Self::Shuffled { .. } | Self::Random { .. } => *of_loader,
        }
    }
}

impl Loader {
    /// A loader of batches of `batch_size`, with one worker thread that runs two batches ahead.
    pub fn new(dataset: impl Dataset + 'static, augment: Augment, batch_size: usize) -> Self {
        let transform = Transform::new(dataset.image_size(), &dataset.normalization());
        let pool = Pool::default();
        let source = Source { dataset: Arc::new(dataset), augment, transform, pool, bad_images: None };
        Self { source: Arc::new(source), batch_size, workers: 1, ahead: 2 }
    }

    /// The same loader, which leaves unreadable images out of their batches, as far as `bad_images` allow. Such a batch is
    /// smaller; one of which nothing is left is an error.
    pub fn tolerating(self, bad_images: Arc<BadImages>) -> Self {
        let Source { dataset, augment, transform, pool, .. } = &*self.source;
        let (dataset, transform, pool) = (dataset.clone(), transform.clone(), pool.clone());
        let source = Source { dataset, augment: *augment, transform, pool, bad_images: Some(bad_images) };
        Self { source: Arc::new(source), ..self }
    }

    /// The same loader, whose batches are bytes and what was drawn for each image: for a device that makes the floats, of a quarter
    /// of the bytes.
    pub fn as_bytes(self) -> Self {
        let Source { dataset, augment, transform, bad_images, .. } = &*self.source;
        let (dataset, transform, bad_images) = (dataset.clone(), transform.clone(), bad_images.clone());
        let source = Source { dataset, augment: *augment, transform, pool: Pool::of(Form::Bytes), bad_images };
        Self { source: Arc::new(source), ..self }
    }

    /// The same loader with this many worker threads, each one batch ahead and one at work; 0 makes batches in the
    /// caller's thread. The batches are the same.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self.ahead = (2 * workers).max(1);
        self
    }

    /// The dataset.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.source.dataset
    }

    /// What training images go through.
    pub fn augment(&self) -> &Augment {
        &self.source.augment
    }

    /// Examples of a whole batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Batches of an epoch: ⌈examples / batch size⌉.
    pub fn steps(&self) -> u64 {
        self.source.dataset.len().div_ceil(self.batch_size.max(1)) as u64
    }

    /// The batches of an epoch: every example once, in an order drawn by (seed, epoch), each augmented by (seed,
    /// epoch, its index). The last batch is smaller where the batch size does not divide the examples.
    ///
    /// # Errors
    /// [`Error::SplitTooSmall`] when there are fewer examples than one batch.
    pub fn epoch(&self, seed: u64, epoch: u64) -> Result<Batches, Error> {
        self.check_size()?;
        let order = Key::new(seed, Purpose::SHUFFLE).epoch(epoch).generator().permutation(self.source.dataset.len());
        Ok(self.batches(Plan::Shuffled { seed, epoch, order }, Some(self.steps())))
    }

    /// Every example once, in the dataset's order and without augmentation: for evaluation.
    ///
    /// # Errors
    /// [`Error::SplitTooSmall`] when there is no example, or the batch size is 0.
    pub fn in_order(&self) -> Result<Batches, Error> {
        if self.source.dataset.is_empty() || self.batch_size == 0 {
            return Err(self.too_small());
        }
        Ok(self.batches(Plan::InOrder, Some(self.steps())))
    }

    /// Batches without end, each of different examples drawn afresh: the batch at step k is a function of (seed, k)
    /// alone. `random_batches(seed)?.skip(k)` starts at step k, at no cost.
    ///
    /// # Errors
    /// [`Error::SplitTooSmall`] when there are fewer examples than one batch.
    pub fn random_batches(&self, seed: u64) -> Result<Batches, Error> {
        self.check_size()?;
        Ok(self.batches(Plan::Random { seed }, None))
    }

    fn batches(&self, plan: Plan, end: Option<u64>) -> Batches {
        Batches::new(self.source.clone(), plan, self.batch_size, end, self.workers, self.ahead)
    }

    fn check_size(&self) -> Result<(), Error> {
        if self.batch_size == 0 || self.source.dataset.len() < self.batch_size {
            return Err(self.too_small());
        }
        Ok(())
    }

    fn too_small(&self) -> Error {
        Error::SplitTooSmall { examples: self.source.dataset.len(), batch_size: self.batch_size }
    }
}

/// What a worker keeps from batch to batch.
#[derive(Default)]
struct Scratch {
    pixels: Vec<u8>,
    chosen: Vec<u32>,
}

impl Source {
    /// Makes the batch of a step; `None` when `stopped` turned true on the way.
    fn make(
        &self,
        plan: &Plan,
        batch_size: usize,
        step: u64,
        scratch: &mut Scratch,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Option<Batch>, Error> {
        let size = self.dataset.image_size();
        let members = plan.members(self.dataset.len(), batch_size, step, &mut scratch.chosen);
        let count = members.len();
        let mut batch = self.pool.take(step, count, size);
        let mut made = 0;
        for member in members.clone() {
            if stopped() {
                return Ok(None);
            }
            let (index, key) = plan.example(member, step, &scratch.chosen);
            let augment = plan.augment(&self.augment);
            let mut random = key.generator();
            let (place, label) = batch.example_mut(made);
            let drawn = match place {
                Place::Floats(image) => {
                    scratch.pixels.resize(size.len(), 0);
                    let drawn = self.drawn(index, &augment, &mut random, &mut scratch.pixels)?;
                    if let Some(draw) = &drawn {
                        for adjustment in draw.adjustments.iter().flatten() {
                            adjustment.apply(&mut scratch.pixels);
                        }
                        self.transform.apply(&scratch.pixels, draw, image);
                    }
                    drawn.is_some()
                }
                Place::Bytes(pixels, rest) => {
                    let drawn = self.drawn(index, &augment, &mut random, pixels)?;
                    drawn.map(|draw| *rest = draw).is_some()
                }
            };
            if !drawn {
                continue;
            }
            *label = self.dataset.label(index);
            made += 1;
        }
        if made == 0 {
            let reason = format!("none of the {count} images of batch {step} can be read");
            let (first, _) = plan.example(members.start, step, &scratch.chosen);
            return Err(Error::Image { path: self.dataset.name(first).into(), reason });
        }
        batch.truncate(made);
        Ok(Some(batch))
    }

    /// Reads an example; what is drawn for it, None where it is unreadable and left out.
    fn drawn(
        &self,
        index: usize,
        augment: &Augment,
        random: &mut Generator,
        pixels: &mut [u8],
    ) -> Result<Option<Draw>, Error> {
        if !self.read(index, augment, random, pixels)? {
            return Ok(None);
        }
        Ok(Some(augment.draw(self.dataset.image_size(), random)))
    }

    /// Reads an example, or the part of it that the augmentation draws; false where it is unreadable and left out.
    fn read(&self, index: usize, augment: &Augment, random: &mut Generator, pixels: &mut [u8]) -> Result<bool, Error> {
        let result = match augment.crop {
            Crop::RandomResized { least_area } => {
                let mut choose = |source| Region::random_resized(source, least_area, random);
                self.dataset.read_region(index, &mut choose, pixels)
            }
            Crop::Whole | Crop::Padded { .. } => self.dataset.read(index, pixels),
        };
        match (result, &self.bad_images) {
            (Ok(()), _) => Ok(true),
            (Err(Error::Image { path, reason }), Some(bad)) => bad.add(&path, &reason).map(|()| false),
            (Err(error), _) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;

//! Evaluation of a convolutional network on a set of images on a device: running statistics, no augmentation, every image once. The
//! network computes there, the scores are added up here, from its logits.

use std::iter::successors;
use std::sync::Arc;

use darts_cells::conv::DeviceConvPlan;
use darts_cuda::augment::Source;
use darts_cuda::{Backend, Memory, Program, Recording, View};
use darts_data::dataset::Dataset;
use darts_data::{Augment, BadImages, Loader};

use super::feed::{DeviceBatch, Feed};
use crate::engine::Watch;
use crate::error::Result;
use crate::task::Scores;
use crate::task::image::score::Sum;

/// Appends a network's pass over a batch, which writes two numbers of no interest, and says where the logits are.
pub(crate) type LayDown<'a> =
    dyn Fn(&mut Program, &DeviceBatch, View<f64>) -> std::result::Result<View, darts_cells::Error> + 'a;

/// How many training batches an evaluation takes at once, at most.
const TRAINING_BATCHES: usize = 8;

/// Images of a batch of evaluation where all of them lie on the device: as many training batches as need no more memory than a plan
/// for training does. Large batches leave less of a device idle.
pub(crate) fn evaluation_batch(training: &DeviceConvPlan, batch: usize) -> usize {
    let network = training.network();
    let room = training.bytes();
    let batches = successors(Some(TRAINING_BATCHES), |count| Some(count / 2)).take_while(|&count| count > 1);
    batches
        .map(|count| count * batch)
        .find(|&images| DeviceConvPlan::new(network.clone(), &[], &[images]).bytes() <= room)
        .unwrap_or(batch)
}

/// A set of images, and the programs that evaluate a network on it.
pub(crate) struct Scorer {
    images: Arc<dyn Dataset>,
    loader: Loader,
    feed: Feed,
    results: View<f64>,
    /// Programs and where they leave logits, by the weights and the batch.
    recordings: Vec<(View, DeviceBatch, Recording, View)>,
}

impl Scorer {
    /// For all of `images` that can be read, in batches of at most `batch`. They all lie on the device where there is a `source`;
    /// else so many threads read them.
    pub(crate) fn new(
        device: &dyn Backend,
        images: &Arc<dyn Dataset>,
        batch: usize,
        source: Option<Source>,
        bad_images: &Arc<BadImages>,
        readers: usize,
    ) -> Result<Self> {
        let loader = Loader::new(images.clone(), Augment::none(), batch).tolerating(bad_images.clone());
        let loader = loader.workers(readers).as_bytes();
        let feed = Feed::new(device, &loader, source)?;
        Ok(Self { images: images.clone(), loader, feed, results: device.allocate(2)?, recordings: Vec::new() })
    }

    /// Scores of a network of so many classes at the weights `w`, which `watch` is told of as `what`; None when it asked to stop.
    pub(crate) fn scores(
        &mut self,
        device: &dyn Backend,
        (w, classes): (View, usize),
        what: &str,
        watch: &mut Watch<'_>,
        lay_down: &LayDown<'_>,
    ) -> Result<Option<Scores>> {
        let mut sum = Sum::default();
        self.feed.begin(self.loader.in_order()?);
        while let Some(batch) = self.feed.next(device)? {
            let known = self.recordings.iter().position(|(of, known, ..)| (of, known) == (&w, &batch));
            let index = match known {
                Some(index) => index,
                None => {
                    let mut program = Program::default();
                    batch.make(&mut program);
                    let logits = lay_down(&mut program, &batch, self.results)?;
                    self.recordings.push((w, batch.clone(), device.record(&program)?, logits));
                    self.recordings.len() - 1
                }
            };
            let (.., recording, logits) = &self.recordings[index];
            device.replay(recording)?;
            self.feed.ahead(device);
            sum.add_all(&device.downloaded(*logits)?, classes, self.feed.labels());
            if watch.evaluating(what, sum.examples, self.images.len()) {
                return Ok(None);
            }
        }
        Ok(Some(sum.scores(classes)))
    }
}

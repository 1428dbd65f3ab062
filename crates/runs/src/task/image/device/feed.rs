//! Batches of images on a device. Where the images are small and lie in memory, all of their bytes are sent once, and of a batch
//! only which examples it holds and what was drawn for each; the device makes the floats. Others are made by the loader's threads
//! and sent as floats. The floats are the same.

use std::sync::Arc;

use darts_cuda::augment::{self, Example, Source};
use darts_cuda::{Backend, Memory, Program, View};
use darts_data::loader::Batches;
use darts_data::transform::Transform;
use darts_data::{Choice, Choices, Dataset, Loader};

use crate::error::Result;
use crate::supernet::device::DeviceImages;

/// Bytes that are read at once before they are sent.
const PIECE: usize = 4 << 20;

/// A batch in device memory: where it lies, how large it is, and what it is made of where it is made there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceBatch {
    /// Normalized images `[N, H, W, 3]`.
    pub(crate) images: View,
    /// Classes `[N]`.
    pub(crate) labels: View<u32>,
    made_of: Option<(Source, View<Example>)>,
}

impl DeviceBatch {
    /// N.
    pub(crate) fn len(&self) -> usize {
        self.labels.len
    }

    /// Where images and classes are.
    pub(crate) fn place(&self) -> DeviceImages {
        DeviceImages { images: self.images, labels: self.labels }
    }

    /// Appends what makes the images, where they are made on the device.
    pub(crate) fn make(&self, program: &mut Program) {
        if let Some((source, examples)) = self.made_of {
            augment::augment(program, source, examples, self.images, self.labels);
        }
    }
}

/// Sends all images of a set: bytes, labels, and what each byte becomes.
pub(crate) fn send(device: &dyn Backend, images: &dyn Dataset) -> Result<Source> {
    let (size, count) = (images.image_size(), images.len());
    let pixels: View<u8> = device.allocate(count * size.len())?;
    let at_once = (PIECE / size.len()).max(1);
    let mut piece = vec![0; at_once.min(count) * size.len()];
    for first in (0..count).step_by(at_once) {
        let last = count.min(first + at_once);
        let piece = &mut piece[..(last - first) * size.len()];
        for (index, image) in (first..last).zip(piece.chunks_exact_mut(size.len())) {
            images.read(index, image)?;
        }
        device.upload(pixels.slice(first * size.len()..last * size.len()), piece)?;
    }
    let labels: Vec<u32> = (0..count).map(|index| images.label(index)).collect();
    let table = Transform::new(size, &images.normalization()).table().concat();
    Ok(Source {
        pixels,
        labels: device.uploaded(&labels)?,
        table: device.uploaded(&table)?,
        height: size.height,
        width: size.width,
    })
}

/// Sends one batch after another of a loader's, all to the same place.
pub(crate) struct Feed {
    dataset: Arc<dyn Dataset>,
    source: Option<Source>,
    images: View,
    labels: View<u32>,
    examples: View<Example>,
    stream: Option<Stream>,
    /// Labels of the last batch.
    sent: Vec<u32>,
}

enum Stream {
    Choices(Choices),
    Batches(Batches),
}

impl Feed {
    /// A feed of `loader`'s batches, whose images all lie on the device where there is a `source`.
    pub(crate) fn new(device: &dyn Backend, loader: &Loader, source: Option<Source>) -> Result<Self> {
        let (batch, dataset) = (loader.batch_size(), loader.dataset().clone());
        Ok(Self {
            images: device.allocate(batch * dataset.image_size().len())?,
            labels: device.allocate(batch)?,
            examples: device.allocate(if source.is_some() { batch } else { 0 })?,
            stream: None,
            sent: Vec::new(),
            dataset,
            source,
        })
    }

    /// Goes on with these batches.
    pub(crate) fn begin(&mut self, batches: Batches) {
        let choices = self.source.and_then(|_| batches.choices());
        self.stream = Some(choices.map_or(Stream::Batches(batches), Stream::Choices));
    }

    /// Whether there are batches to go on with.
    pub(crate) fn is_under_way(&self) -> bool {
        self.stream.is_some()
    }

    /// Gives the batches up: others are to begin.
    pub(crate) fn stop(&mut self) {
        self.stream = None;
    }

    /// Sends the next batch; None after the last. It overwrites the one before, in the order of what the device was asked for.
    pub(crate) fn next(&mut self, device: &dyn Backend) -> Result<Option<DeviceBatch>> {
        let image = self.dataset.image_size().len();
        let place = |len: usize, made_of| DeviceBatch {
            images: self.images.slice(0..len * image),
            labels: self.labels.slice(0..len),
            made_of,
        };
        match self.stream.as_mut() {
            None => Ok(None),
            Some(Stream::Choices(choices)) => {
                let (Some(choices), Some(source)) = (choices.next(), self.source) else { return Ok(None) };
                let examples: Vec<Example> = choices.iter().map(example).collect();
                let view = self.examples.slice(0..examples.len());
                device.upload(view, &examples)?;
                self.sent.clear();
                self.sent.extend(choices.iter().map(|choice| self.dataset.label(choice.index)));
                Ok(Some(place(examples.len(), Some((source, view)))))
            }
            Some(Stream::Batches(batches)) => {
                let Some(batch) = batches.next() else { return Ok(None) };
                let batch = batch?;
                let made = place(batch.len(), None);
                device.upload(made.images, batch.images())?;
                device.upload(made.labels, batch.labels())?;
                self.sent.clear();
                self.sent.extend_from_slice(batch.labels());
                Ok(Some(made))
            }
        }
    }

    /// Labels of the last batch.
    pub(crate) fn labels(&self) -> &[u32] {
        &self.sent
    }
}

fn example(choice: &Choice) -> Example {
    let Choice { index, draw } = *choice;
    let cut = draw.cutout.unwrap_or_default();
    Example {
        index: index as u32,
        down: draw.down as i32,
        right: draw.right as i32,
        flip: draw.flip.into(),
        cutout: [cut.top, cut.bottom, cut.left, cut.right].map(|edge| edge as u32),
    }
}

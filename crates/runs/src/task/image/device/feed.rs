//! Batches of images on a device. Where the images are small and lie in memory, all of their bytes are sent once, and of a batch
//! only which examples it holds and what was drawn for each. Others are read by the loader's threads, and the bytes of a batch are
//! sent while the device is at the one before. In either case the device makes the floats, colours and all, and they are those of the
//! processor.

use std::sync::Arc;
use std::time::Duration;

use darts_cuda::augment::{self, Colours, Example, Source};
use darts_cuda::{Backend, Memory, Program, View};
use darts_data::loader::Batches;
use darts_data::transform::{Adjustment, Draw, Transform};
use darts_data::{Choices, Dataset, ImageSize, Loader};

use crate::error::Result;
use crate::supernet::device::DeviceImages;

/// Bytes that are read at once before they are sent.
const PIECE: usize = 4 << 20;
/// How often the device is asked whether it is done while the next batch is still being read.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A batch in device memory: where it lies, how large it is, and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceBatch {
    /// Normalized images `[N, H, W, 3]`.
    pub(crate) images: View,
    /// Classes `[N]`.
    pub(crate) labels: View<u32>,
    made_of: (Source, View<Example>),
    /// What is done to the colours of the bytes first, where something is.
    colours: Option<View<Colours>>,
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

    /// Appends what makes the images and their classes.
    pub(crate) fn make(&self, program: &mut Program) {
        let (source, examples) = self.made_of;
        if let Some(colours) = self.colours {
            augment::colour(program, source.pixels, colours);
        }
        augment::augment(program, source, examples, self.images, self.labels);
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
    Ok(Source {
        pixels,
        labels: device.uploaded(&labels)?,
        table: device.uploaded(&table(images))?,
        height: size.height,
        width: size.width,
    })
}

/// Sends one batch after another of a loader's. When one is asked for, the device must be done with the batch before the last.
pub(crate) struct Feed {
    dataset: Arc<dyn Dataset>,
    /// What the device makes of a batch.
    images: View,
    labels: View<u32>,
    origin: Origin,
    /// Labels of the last batch.
    sent: Vec<u32>,
}

/// Where the bytes of the images are.
enum Origin {
    /// All of them on the device: of a batch, which examples it holds is sent.
    There { source: Source, examples: View<Example>, stream: Option<Choices> },
    /// Elsewhere: those of a batch are sent to two places in turn, one while the device is at the other.
    Sent(Box<Sending>),
}

struct Sending {
    table: View,
    places: [Place; 2],
    /// The place of the last batch that was given out.
    last: usize,
    stream: Option<Batches>,
    /// Labels of the batch that lies in the other place already; none after the last.
    ahead: Option<Result<Option<Vec<u32>>>>,
}

/// Room for the bytes of a batch.
struct Place {
    pixels: View<u8>,
    labels: View<u32>,
    examples: View<Example>,
    /// Where colours are changed.
    colours: Option<View<Colours>>,
}

impl Feed {
    /// A feed of `loader`'s batches, whose images all lie on the device where there is a `source`. Where there is none, its batches
    /// are to be bytes ([`Loader::as_bytes`]).
    pub(crate) fn new(device: &dyn Backend, loader: &Loader, source: Option<Source>) -> Result<Self> {
        let (batch, dataset) = (loader.batch_size(), loader.dataset().clone());
        let size = dataset.image_size();
        let origin = match source.filter(|_| loader.augment().only_moves()) {
            Some(source) => Origin::There { source, examples: device.allocate(batch)?, stream: None },
            None => {
                let place = || -> Result<Place> {
                    Ok(Place {
                        pixels: device.allocate(batch * size.len())?,
                        labels: device.allocate(batch)?,
                        examples: device.allocate(batch)?,
                        colours: loader.augment().jitter.map(|_| device.allocate(batch)).transpose()?,
                    })
                };
                Origin::Sent(Box::new(Sending {
                    table: device.uploaded(&table(&*dataset))?,
                    places: [place()?, place()?],
                    last: 0,
                    stream: None,
                    ahead: None,
                }))
            }
        };
        let (images, labels) = (device.allocate(batch * size.len())?, device.allocate(batch)?);
        Ok(Self { dataset, images, labels, origin, sent: Vec::new() })
    }

    /// Bytes of device memory that a feed of `loader`'s batches takes, but for a few numbers, and a source of all of its images
    /// with it where `there`.
    pub(crate) fn bytes(images: &dyn Dataset, batch: usize, there: bool) -> u64 {
        let image = images.image_size().len();
        let of_bytes = if there { images.len() } else { 2 * batch };
        (image * (of_bytes + 4 * batch)) as u64
    }

    /// Goes on with these batches.
    pub(crate) fn begin(&mut self, batches: Batches) {
        match &mut self.origin {
            Origin::There { stream, .. } => *stream = batches.choices(),
            Origin::Sent(sending) => (sending.stream, sending.ahead) = (Some(batches), None),
        }
    }

    /// Whether there are batches to go on with.
    pub(crate) fn is_under_way(&self) -> bool {
        match &self.origin {
            Origin::There { stream, .. } => stream.is_some(),
            Origin::Sent(sending) => sending.stream.is_some(),
        }
    }

    /// Gives the batches up: others are to begin.
    pub(crate) fn stop(&mut self) {
        match &mut self.origin {
            Origin::There { stream, .. } => *stream = None,
            Origin::Sent(sending) => (sending.stream, sending.ahead) = (None, None),
        }
    }

    /// Sends the next batch, unless it was sent ahead; None after the last.
    pub(crate) fn next(&mut self, device: &dyn Backend) -> Result<Option<DeviceBatch>> {
        let (len, made_of, colours) = match &mut self.origin {
            Origin::There { source, examples, stream } => {
                let Some(choices) = stream.as_mut().and_then(Iterator::next) else { return Ok(None) };
                let of_batch: Vec<Example> = choices.iter().map(|choice| example(choice.index, &choice.draw)).collect();
                let view = examples.slice(0..of_batch.len());
                device.upload(view, &of_batch)?;
                self.sent.clear();
                self.sent.extend(choices.iter().map(|choice| self.dataset.label(choice.index)));
                (of_batch.len(), (*source, view), None)
            }
            Origin::Sent(sending) => {
                let sent = match sending.ahead.take() {
                    Some(sent) => sent?,
                    None => sending.send(device)?,
                };
                let Some(labels) = sent else { return Ok(None) };
                sending.last = 1 - sending.last;
                self.sent = labels;
                let len = self.sent.len();
                let colours = sending.places[sending.last].colours.map(|colours| colours.slice(0..len));
                (len, sending.batch(len, &*self.dataset), colours)
            }
        };
        let images = self.images.slice(0..len * self.dataset.image_size().len());
        Ok(Some(DeviceBatch { images, labels: self.labels.slice(0..len), made_of, colours }))
    }

    /// Sends the next batch while the device is at the last one, which was launched before: as soon as it is read, unless the
    /// device is done earlier. What goes wrong is said by [`next`](Self::next).
    pub(crate) fn ahead(&mut self, device: &dyn Backend) {
        let Origin::Sent(sending) = &mut self.origin else { return };
        let (Some(stream), None) = (&mut sending.stream, &sending.ahead) else { return };
        while !stream.is_ready_within(LOOK_EVERY) {
            if device.is_idle().unwrap_or(true) {
                return;
            }
        }
        sending.ahead = Some(sending.send(device));
    }

    /// Labels of the last batch.
    pub(crate) fn labels(&self) -> &[u32] {
        &self.sent
    }
}

impl Sending {
    /// Waits for the next batch and sends it to the place that is not the last one's; its labels.
    fn send(&mut self, device: &dyn Backend) -> Result<Option<Vec<u32>>> {
        let Some(batch) = self.stream.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let batch = batch?;
        let Place { pixels, labels, examples, colours } = &self.places[1 - self.last];
        let of_batch: Vec<Example> = batch.draws().iter().enumerate().map(|(n, draw)| example(n, draw)).collect();
        device.upload_ahead(pixels.slice(0..batch.pixels().len()), batch.pixels())?;
        device.upload_ahead(labels.slice(0..batch.len()), batch.labels())?;
        device.upload_ahead(examples.slice(0..batch.len()), &of_batch)?;
        if let Some(place) = colours {
            let colours: Vec<Colours> = batch.draws().iter().map(colours_of).collect();
            device.upload_ahead(place.slice(0..batch.len()), &colours)?;
        }
        Ok(Some(batch.labels().to_vec()))
    }

    /// What the last batch, of `len` images, is made of.
    fn batch(&self, len: usize, dataset: &dyn Dataset) -> (Source, View<Example>) {
        let (ImageSize { height, width }, place) = (dataset.image_size(), &self.places[self.last]);
        let source = Source {
            pixels: place.pixels.slice(0..len * dataset.image_size().len()),
            labels: place.labels.slice(0..len),
            table: self.table,
            height,
            width,
        };
        (source, place.examples.slice(0..len))
    }
}

/// What each byte becomes, per channel.
fn table(images: &dyn Dataset) -> Vec<f32> {
    Transform::new(images.image_size(), &images.normalization()).table().concat()
}

/// What is done to the image `index` of a source.
fn example(index: usize, draw: &Draw) -> Example {
    let cut = draw.cutout.unwrap_or_default();
    Example {
        index: index as u32,
        down: draw.down as i32,
        right: draw.right as i32,
        flip: draw.flip.into(),
        cutout: [cut.top, cut.bottom, cut.left, cut.right].map(|edge| edge as u32),
    }
}

/// What is done to an image's colours.
fn colours_of(draw: &Draw) -> Colours {
    let mut colours = Colours::default();
    for (place, adjustment) in draw.adjustments.iter().flatten().enumerate() {
        (colours.kinds[place], colours.amounts[place]) = match *adjustment {
            Adjustment::Brightness(factor) => (Colours::BRIGHTNESS, factor),
            Adjustment::Contrast(factor) => (Colours::CONTRAST, factor),
            Adjustment::Saturation(factor) => (Colours::SATURATION, factor),
            Adjustment::Hue(turn) => (Colours::HUE, 6.0 * turn.rem_euclid(1.0)),
        };
    }
    colours
}

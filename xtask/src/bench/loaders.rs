//! Input pipelines: batches as a training takes them, from worker threads that run ahead.

use std::fs;

use anyhow::{Context as _, Result};
use darts_data::imagenet::{Centre, StoredImages};
use darts_data::{Augment, Dataset, Error, ImageSize, Loader, Normalization, Region};

use super::cases::Work;
use super::measure::Settings;

/// Batches that make one step, as in bench/pytorch/bench.py: a batch alone is too short to be timed.
const BATCHES: usize = 100;
const BATCH: usize = 96;
const SIDE: usize = 32;

/// Noise with labels: what the pixels show does not change the time it takes to crop them.
struct Noise {
    pixels: Vec<u8>,
    classes: Vec<String>,
}

impl Noise {
    fn new(count: usize) -> Self {
        // Knuth's multiplicative hash: bytes without a pattern that a cache or a branch could learn.
        let byte = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u8;
        let pixels = (0..count * SIDE * SIDE * 3).map(byte).collect();
        Self { pixels, classes: (0..10).map(|class| class.to_string()).collect() }
    }
}

impl Dataset for Noise {
    fn len(&self) -> usize {
        self.pixels.len() / (SIDE * SIDE * 3)
    }

    fn image_size(&self) -> ImageSize {
        ImageSize::square(SIDE)
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn normalization(&self) -> Normalization {
        Normalization::CIFAR10
    }

    fn label(&self, index: usize) -> u32 {
        (index % self.classes.len()) as u32
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        let len = pixels.len();
        pixels.copy_from_slice(&self.pixels[index * len..][..len]);
        Ok(())
    }
}

/// `BATCHES` batches of 96 images with the paper's augmentation: crop with padding 4, flip, normalize, cutout 16.
///
/// # Errors
/// The loader cannot start.
pub(super) fn cifar(settings: &Settings) -> Result<Work> {
    let augment = Augment { cutout: Some(16), ..Augment::cifar() };
    let loader = Loader::new(Noise::new(BATCH * BATCHES), augment, BATCH).workers(settings.threads);
    let mut batches = loader.random_batches(0)?;
    let step = move || {
        for _ in 0..BATCHES {
            batches.next().context("the loader ended")??;
        }
        Ok(())
    };
    Ok(Work { step: Box::new(step), flops: 0.0, bytes: 0.0 })
}

/// Batches that make one step: workers run ahead by a few, which would make single ones come at once or late.
const IMAGENET_BATCHES: usize = 8;
/// Images of a batch of ImageNet's.
const IMAGENET_BATCH: usize = 128;
const IMAGENET_SIDE: usize = 224;

/// A few photographs as if they were many: the same ones again and again.
struct Repeated {
    images: StoredImages,
    times: usize,
}

impl Dataset for Repeated {
    fn len(&self) -> usize {
        self.images.len() * self.times
    }

    fn image_size(&self) -> ImageSize {
        self.images.image_size()
    }

    fn class_names(&self) -> &[String] {
        self.images.class_names()
    }

    fn normalization(&self) -> Normalization {
        self.images.normalization()
    }

    fn label(&self, index: usize) -> u32 {
        self.images.label(index % self.images.len())
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        self.images.read(index % self.images.len(), pixels)
    }

    fn read_region(
        &self,
        index: usize,
        choose: &mut dyn FnMut(ImageSize) -> Region,
        pixels: &mut [u8],
    ) -> Result<(), Error> {
        self.images.read_region(index % self.images.len(), choose, pixels)
    }
}

/// `IMAGENET_BATCHES` batches of 128 photographs from `--images`: random resized crop to 224 pixels, flip, colour jitter, normalize.
///
/// # Errors
/// No folder was named, or there are no images in it.
pub(super) fn imagenet(settings: &Settings) -> Result<Work> {
    let folder = settings.images.as_deref();
    let folder =
        folder.context("imagenet-loader needs --images DIR, a folder with a subfolder of images for each class")?;
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let classes: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let (size, normalization) = (ImageSize::square(IMAGENET_SIDE), Normalization::IMAGENET);
    let images = StoredImages::in_folder(folder, &classes, size, Centre::Largest, normalization)?;
    let times = IMAGENET_BATCH.div_ceil(images.len()) * 16;
    let loader = Loader::new(Repeated { images, times }, Augment::imagenet(), IMAGENET_BATCH).workers(settings.threads);
    let mut batches = loader.random_batches(0)?;
    let step = move || {
        for _ in 0..IMAGENET_BATCHES {
            batches.next().context("the loader ended")??;
        }
        Ok(())
    };
    Ok(Work { step: Box::new(step), flops: 0.0, bytes: 0.0 })
}

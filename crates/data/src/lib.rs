//! Datasets, deterministic augmentation and prefetching loaders for architecture search.
//!
//! A [`Dataset`] is a set of labelled RGB images of one size: [`cifar::Cifar10`] in its official layout,
//! [`imagenet::ImageNet`] in its tars or unpacked, [`image_folder::ImageFolder`] for any folder of images,
//! [`synthetic::SyntheticImages`] generated from a seed, or your own. [`Subset`] cuts it into halves and held-out
//! parts. A [`Loader`] makes augmented, normalized batches of it on worker threads, ahead of the trainer. Every random
//! number is a function of (seed, purpose, epoch, step, sample), see [`random`]: the same seed gives the same bytes for
//! any number of threads, and an epoch can be resumed at any step.
//!
//! ```
//! use std::sync::Arc;
//! use darts_data::{Augment, Loader, Subset, SyntheticConfig, SyntheticImages};
//!
//! // With CIFAR-10 at hand: Cifar10::open("datasets")?.train()?
//! let images = Arc::new(SyntheticImages::train(&SyntheticConfig::default())?);
//! let (train, valid) = Subset::halves(images);
//! let train = Loader::new(train, Augment::cifar().with_cutout(16), 64);
//! let mut valid = Loader::new(valid, Augment::cifar(), 64).random_batches(7)?;
//! for batch in train.epoch(7, 0)? {
//!     let (batch, fresh) = (batch?, valid.next().expect("it has no end")?);
//!     assert_eq!(batch.images().len(), batch.len() * 32 * 32 * 3); // [N, H, W, C]
//!     assert_eq!(fresh.labels().len(), 64);
//! }
//! # Ok::<(), darts_data::Error>(())
//! ```
//!
//! For language models there is [`text`]: corpora, tokenizers, columns of tokens.
//!
//! This crate refuses to know about networks and tensors: batches are plain slices, channels last.

#![deny(missing_docs)]

pub mod cifar;
pub mod dataset;
mod error;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod image_folder;
pub mod imagenet;
pub mod loader;
pub mod manifest;
mod picture;
pub mod random;
pub mod synthetic;
#[cfg(test)]
mod test_memory;
pub mod text;
pub mod transform;
mod whole_file;

pub use cifar::Cifar10;
pub use dataset::{Dataset, ImageSize, Normalization, Subset};
pub use error::Error;
pub use image_folder::{ImageFolder, ImageFolderConfig};
pub use imagenet::{ImageNet, ImageNetConfig};
pub use loader::{BadImages, Batch, Batches, Choice, Choices, Loader};
pub use synthetic::{SyntheticConfig, SyntheticImages};
pub use transform::{Augment, ColourJitter, Region};

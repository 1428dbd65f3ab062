//! Batches that the device makes of bytes against the loader's: the same bits.

#![cfg(unix)]

use std::sync::Arc;

use darts_cuda::augment::{self, Example, Source};
use darts_cuda::{Backend, Memory, Program, View};
use darts_cuda_emulator::in_all_orders;
use darts_data::transform::{Crop, Draw, Transform};
use darts_data::{Augment, Batches, Dataset, ImageSize, Loader, SyntheticConfig, SyntheticImages};

/// Sides that no block of threads divides, and more padding than a crop of them can show.
const SIZE: ImageSize = ImageSize { height: 19, width: 14 };

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

/// What the device makes of images and examples, with the labels.
fn made(images: &dyn Dataset, (pixels, labels): (&[u8], &[u32]), examples: &[Example]) -> (Vec<f32>, Vec<u32>) {
    let table = Transform::new(SIZE, &images.normalization()).table().concat();
    in_all_orders(|device| {
        let source = Source {
            pixels: device.uploaded(pixels).unwrap(),
            labels: device.uploaded(labels).unwrap(),
            table: device.uploaded(&table).unwrap(),
            height: SIZE.height,
            width: SIZE.width,
        };
        let out: View = device.allocate(examples.len() * SIZE.len()).unwrap();
        let out_labels = device.allocate(examples.len()).unwrap();
        let mut program = Program::default();
        augment::augment(&mut program, source, device.uploaded(examples).unwrap(), out, out_labels);
        device.run(&program).unwrap();
        (device.downloaded(out).unwrap(), device.downloaded(out_labels).unwrap())
    })
}

#[track_caller]
fn assert_same(found: &(Vec<f32>, Vec<u32>), expected: &darts_data::Batch) {
    assert_eq!(found.1, expected.labels());
    assert_eq!(found.0.len(), expected.images().len());
    assert!(found.0.iter().zip(expected.images()).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn emulator_augmentation_matches_the_loader() {
    let config = SyntheticConfig { image_size: SIZE, train_len: 11, ..SyntheticConfig::default() };
    let images = Arc::new(SyntheticImages::train(&config).unwrap());
    let mut pixels = vec![0; images.len() * SIZE.len()];
    for (index, image) in pixels.chunks_exact_mut(SIZE.len()).enumerate() {
        images.read(index, image).unwrap();
    }
    let labels: Vec<u32> = (0..images.len()).map(|index| images.label(index)).collect();
    let wide = Augment { crop: Crop::Padded { padding: 20 }, ..Augment::cifar() };
    type Of = fn(&Loader) -> Batches;
    let cases: [(Augment, Of); 4] = [
        (Augment::cifar(), |loader| loader.epoch(3, 1).unwrap().skip(1)),
        (Augment::cifar().with_cutout(6), |loader| loader.random_batches(5).unwrap().skip(7)),
        (wide.with_cutout(3), |loader| loader.epoch(4, 0).unwrap()),
        (Augment::cifar(), |loader| loader.in_order().unwrap()),
    ];
    for (augment, batches) in cases {
        let loader = Loader::new(images.clone(), augment, 4).workers(0);
        let expected = batches(&loader).take(3);
        let choices = batches(&loader).choices().unwrap().take(3);
        let mut met = 0;
        for (expected, choices) in expected.zip(choices) {
            let expected = expected.unwrap();
            let examples: Vec<Example> = choices.iter().map(|choice| example(choice.index, &choice.draw)).collect();
            assert_same(&made(&*images, (&pixels, &labels), &examples), &expected);
            met += 1;
        }
        assert!(met >= 2);
    }
}

#[test]
fn emulator_batches_of_bytes_match_the_loader() {
    let config = SyntheticConfig { image_size: SIZE, train_len: 11, ..SyntheticConfig::default() };
    let images = Arc::new(SyntheticImages::train(&config).unwrap());
    for augment in [Augment::imagenet(), Augment::imagenet().with_cutout(5), Augment::proportional(SIZE)] {
        let loader = Loader::new(images.clone(), augment, 4).workers(0);
        let batches = loader.clone().as_bytes().epoch(3, 1).unwrap();
        for (batch, expected) in batches.zip(loader.epoch(3, 1).unwrap()) {
            let (batch, expected) = (batch.unwrap(), expected.unwrap());
            let examples: Vec<Example> = batch.draws().iter().enumerate().map(|(n, draw)| example(n, draw)).collect();
            assert_same(&made(&*images, (batch.pixels(), batch.labels()), &examples), &expected);
        }
    }
}

#[test]
fn images_that_are_scaled_or_coloured_are_left_to_the_loader() {
    let images = SyntheticImages::train(&SyntheticConfig { train_len: 8, ..SyntheticConfig::default() }).unwrap();
    let loader = Loader::new(images, Augment::imagenet(), 4);
    assert!(loader.epoch(0, 0).unwrap().choices().is_none());
    assert!(loader.in_order().unwrap().choices().is_some());
}

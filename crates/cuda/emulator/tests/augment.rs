//! Batches that the device makes of bytes against the loader's: the same bits.

#![cfg(unix)]

use std::sync::Arc;

use darts_cuda::augment::{self, Colours, Example, Source};
use darts_cuda::{Backend, Memory, Program, View};
use darts_cuda_emulator::in_all_orders;
use darts_data::random::{Key, Purpose};
use darts_data::transform::{Adjustment, Crop, Draw, Transform};
use darts_data::{Augment, Batches, ColourJitter, Dataset, ImageSize, Loader, SyntheticConfig, SyntheticImages};

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

/// What the device makes of images and examples, with the labels, after it has changed colours.
fn made(
    images: &dyn Dataset,
    (pixels, labels): (&[u8], &[u32]),
    examples: &[Example],
    colours: &[Colours],
) -> (Vec<f32>, Vec<u32>) {
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
        if !colours.is_empty() {
            augment::colour(&mut program, source.pixels, device.uploaded(colours).unwrap());
        }
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
            assert_same(&made(&*images, (&pixels, &labels), &examples, &[]), &expected);
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
            let colours: Vec<Colours> = batch.draws().iter().map(colours_of).collect();
            let found = made(&*images, (batch.pixels(), batch.labels()), &examples, &colours);
            assert_same(&found, &expected);
        }
    }
}

#[test]
fn emulator_colours_match_the_processors_whatever_their_order() {
    let mut random = Key::new(1, Purpose::new("colours")).generator();
    let mut before = vec![0; 40 * SIZE.len()];
    random.fill_bytes(&mut before);
    // Grays, black and white among them: no hue, and no chroma to divide by.
    before[..SIZE.len()].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 3 % 256) as u8);
    before[SIZE.len()..2 * SIZE.len()].fill(255);
    let draws: Vec<Draw> = (0..40)
        .map(|_| Draw { adjustments: Some(ColourJitter::IMAGENET.draw(&mut random)), ..Draw::default() })
        .collect();
    let mut expected = before.clone();
    for (pixels, draw) in expected.chunks_exact_mut(SIZE.len()).zip(&draws) {
        draw.adjustments.iter().flatten().for_each(|adjustment| adjustment.apply(pixels));
    }
    let colours: Vec<Colours> = draws.iter().map(colours_of).collect();
    let found = in_all_orders(|device| {
        let pixels = device.uploaded(&before).unwrap();
        let mut program = Program::default();
        augment::colour(&mut program, pixels, device.uploaded(&colours).unwrap());
        device.run(&program).unwrap();
        device.downloaded(pixels).unwrap()
    });
    assert!(found == expected);
}

#[test]
fn images_that_are_scaled_or_coloured_are_left_to_the_loader() {
    let images = SyntheticImages::train(&SyntheticConfig { train_len: 8, ..SyntheticConfig::default() }).unwrap();
    let loader = Loader::new(images, Augment::imagenet(), 4);
    assert!(loader.epoch(0, 0).unwrap().choices().is_none());
    assert!(loader.in_order().unwrap().choices().is_some());
}

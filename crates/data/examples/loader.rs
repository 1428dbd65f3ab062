//! Goes through one augmented epoch and says how fast one worker thread makes it.
//!
//! `cargo run --release -p darts-data --example loader [FOLDER]`: CIFAR-10 in FOLDER, or generated images without one.

use std::time::Instant;

use darts_data::{Augment, Cifar10, Loader, SyntheticConfig, SyntheticImages};

fn main() -> Result<(), darts_data::Error> {
    let augment = Augment::cifar().with_cutout(16);
    let loader = match std::env::args_os().nth(1) {
        Some(folder) => Loader::new(Cifar10::open(folder)?.train()?, augment, 64),
        None => Loader::new(SyntheticImages::train(&SyntheticConfig::default())?, augment, 64),
    };
    let begin = Instant::now();
    let (mut images, mut per_class) = (0, vec![0; loader.dataset().class_names().len()]);
    for batch in loader.workers(1).epoch(0, 0)? {
        let batch = batch?;
        images += batch.len();
        batch.labels().iter().for_each(|&label| per_class[label as usize] += 1);
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{images} images in {seconds:.2} s: {:.0} images/s with one worker", images as f64 / seconds);
    println!("examples per class: {per_class:?}");
    Ok(())
}

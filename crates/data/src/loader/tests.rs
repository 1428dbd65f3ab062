//! Tests of the loader: order, determinism, resume, errors, stopping.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::dataset::{ImageSize, Normalization};
use crate::test_memory::peak_bytes;

/// A dataset whose image `i` is filled with bytes of `i`, and which can fail, panic, and take its time.
struct Probe {
    len: usize,
    fails_at: Option<usize>,
    panics_at: Option<usize>,
    delay: Duration,
    reads: Arc<AtomicUsize>,
    class_names: Vec<String>,
}

impl Probe {
    fn new(len: usize) -> Self {
        let class_names = vec!["even".to_owned(), "odd".to_owned()];
        let (delay, reads) = (Duration::ZERO, Arc::default());
        Self { len, fails_at: None, panics_at: None, delay, reads, class_names }
    }
}

impl Dataset for Probe {
    fn len(&self) -> usize {
        self.len
    }

    fn image_size(&self) -> ImageSize {
        ImageSize { height: 6, width: 4 }
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn normalization(&self) -> Normalization {
        Normalization { mean: [0.0; 3], std: [1.0 / 255.0; 3] }
    }

    fn label(&self, index: usize) -> u32 {
        index as u32 % 2
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.delay);
        if self.fails_at == Some(index) {
            return Err(Error::Image { path: format!("{index}.png").into(), reason: "broken".to_owned() });
        }
        assert!(self.panics_at != Some(index), "no image {index}");
        pixels.fill(index as u8);
        Ok(())
    }
}

type Contents = Vec<(Vec<f32>, Vec<u32>)>;

fn contents(batches: Batches) -> Contents {
    let content = |batch: Result<Batch, Error>| {
        let batch = batch.unwrap();
        (batch.images().to_vec(), batch.labels().to_vec())
    };
    batches.map(content).collect()
}

fn loader(workers: usize) -> Loader {
    Loader::new(Probe::new(101), Augment::proportional(ImageSize::square(32)), 8).workers(workers)
}

#[test]
fn an_epoch_holds_every_example_once_and_uses_the_smaller_last_batch() {
    let loader = Loader::new(Probe::new(101), Augment::none(), 8);
    let epoch = contents(loader.epoch(3, 0).unwrap());
    assert_eq!((epoch.len() as u64, loader.steps()), (13, 13));
    assert_eq!(epoch[12].1.len(), 5);
    let mut seen: Vec<u32> = epoch.iter().flat_map(|(images, _)| images.chunks(72).map(|x| x[0] as u32)).collect();
    assert_ne!(seen[..8], [0, 1, 2, 3, 4, 5, 6, 7]);
    for (images, labels) in &epoch {
        assert!(images.chunks(72).zip(labels).all(|(image, &label)| image[0] as u32 % 2 == label));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..101).collect::<Vec<u32>>());
}

#[test]
fn batches_are_the_same_for_any_number_of_workers() {
    let reference = contents(loader(0).epoch(1, 2).unwrap());
    for workers in [1, 2, 5] {
        assert_eq!(reference, contents(loader(workers).epoch(1, 2).unwrap()), "{workers} workers");
    }
    assert_ne!(reference, contents(loader(1).epoch(1, 3).unwrap()), "another epoch");
    assert_ne!(reference, contents(loader(1).epoch(2, 2).unwrap()), "another seed");
}

#[test]
fn skipping_equals_going_through_and_reads_nothing() {
    let probe = Probe::new(101);
    let reads = probe.reads.clone();
    let whole = Loader::new(probe, Augment::cifar(), 8);
    let all = contents(whole.epoch(1, 0).unwrap());
    reads.store(0, Ordering::Relaxed);
    assert_eq!(all[10..], contents(whole.epoch(1, 0).unwrap().skip(10)));
    assert_eq!(reads.load(Ordering::Relaxed), 21);
    assert_eq!(contents(whole.epoch(1, 0).unwrap().skip(1000)).len(), 0);
    let mut started = whole.epoch(1, 0).unwrap();
    started.next().unwrap().unwrap();
    assert_eq!(all[4..], contents(started.skip(3)));
}

#[test]
fn random_batches_are_addressed_by_their_step() {
    let stream = |workers, skip| loader(workers).random_batches(9).unwrap().skip(skip);
    let take = |mut batches: Batches, count: usize| -> Vec<Vec<f32>> {
        (0..count).map(|_| batches.next().unwrap().unwrap().images().to_vec()).collect()
    };
    let first = take(stream(1, 0), 60);
    assert_eq!(first[50..], take(stream(3, 50), 10));
    assert_ne!(first[0], first[1]);
    let mut labels = loader(1).random_batches(9).unwrap();
    assert_eq!(labels.next().unwrap().unwrap().len(), 8);
}

#[test]
fn evaluation_goes_in_order_without_augmentation() {
    let loader = Loader::new(Probe::new(10), Augment::cifar(), 4);
    let firsts: Vec<f32> =
        contents(loader.in_order().unwrap()).iter().flat_map(|(images, _)| images.chunks(72).map(|x| x[0])).collect();
    assert_eq!(firsts, (0..10).map(|i| i as f32).collect::<Vec<f32>>());
}

#[test]
fn a_split_smaller_than_a_batch_is_an_error() {
    let loader = Loader::new(Probe::new(7), Augment::none(), 8);
    for error in [loader.epoch(0, 0).err().unwrap(), loader.random_batches(0).err().unwrap()] {
        assert!(error.to_string().starts_with("the split has 7 examples, fewer than one batch of 8"), "{error}");
    }
    assert_eq!(contents(loader.in_order().unwrap()).len(), 1);
    assert!(Loader::new(Probe::new(7), Augment::none(), 0).in_order().is_err());
}

#[test]
fn a_workers_error_comes_out_at_its_step_and_ends_the_epoch() {
    for workers in [0, 1, 3] {
        let probe = Probe { fails_at: Some(9), ..Probe::new(40) };
        let mut batches = Loader::new(probe, Augment::none(), 4).workers(workers).in_order().unwrap();
        assert!(batches.next().unwrap().is_ok() && batches.next().unwrap().is_ok());
        assert_eq!(batches.next().unwrap().err().unwrap().to_string(), "9.png: broken");
        assert!(batches.next().is_none());
    }
}

#[test]
fn a_workers_panic_comes_out_as_an_error() {
    for workers in [0, 2] {
        let probe = Probe { panics_at: Some(5), ..Probe::new(40) };
        let mut batches = Loader::new(probe, Augment::none(), 4).workers(workers).in_order().unwrap();
        assert!(batches.next().unwrap().is_ok());
        let error = batches.next().unwrap().err().unwrap();
        assert_eq!(error.to_string(), "a data worker panicked at step 1: no image 5");
    }
}

#[test]
fn later_epochs_use_the_buffers_of_the_first() {
    let loader = Loader::new(Probe::new(500), Augment::none(), 50).workers(2);
    let (_, peak) = peak_bytes(|| {
        for epoch in 0..5 {
            loader.epoch(0, epoch).unwrap().for_each(|batch| drop(batch.unwrap()));
        }
    });
    // Four batches ahead, and two with the consumer.
    let batch = 50 * (ImageSize { height: 6, width: 4 }).len() * size_of::<f32>();
    assert!((6 * batch..7 * batch).contains(&peak), "{peak} bytes, a batch has {batch}");
}

#[test]
fn dropping_stops_within_an_example_and_workers_stay_within_their_bound() {
    let probe = Probe { delay: Duration::from_millis(1), ..Probe::new(10_000) };
    let reads = probe.reads.clone();
    let mut batches = Loader::new(probe, Augment::none(), 300).workers(2).epoch(0, 0).unwrap();
    assert_eq!(reads.load(Ordering::Relaxed), 0, "nothing is read before the first batch is asked for");
    batches.next().unwrap().unwrap();
    let begin = Instant::now();
    drop(batches);
    let elapsed = begin.elapsed();
    assert!(elapsed < Duration::from_millis(150), "stopping took {elapsed:?}; a batch takes 300 ms and more");
    let after = reads.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(after, reads.load(Ordering::Relaxed));

    let probe = Probe::new(100);
    let reads = probe.reads.clone();
    let mut batches = Loader::new(probe, Augment::none(), 5).workers(2).epoch(0, 0).unwrap();
    batches.next().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(reads.load(Ordering::Relaxed), 25, "one batch taken and four ahead");
}

#[test]
fn waiting_is_counted_and_a_slow_consumer_does_not_wait() {
    let probe = Probe { delay: Duration::from_millis(1), ..Probe::new(40) };
    let loader = Loader::new(probe, Augment::none(), 4);
    let mut batches = loader.in_order().unwrap();
    batches.next().unwrap().unwrap();
    let first = batches.waited();
    assert!(first >= Duration::from_millis(4), "{first:?}");
    std::thread::sleep(Duration::from_millis(100));
    batches.next().unwrap().unwrap();
    assert!(batches.waited() - first < Duration::from_millis(4));
}

#[test]
fn batches_may_outlive_their_iterator_and_each_other() {
    let batches: Vec<Batch> = loader(2).epoch(1, 2).unwrap().map(Result::unwrap).collect();
    let reference = contents(loader(0).epoch(1, 2).unwrap());
    for (batch, (images, labels)) in batches.iter().zip(&reference) {
        assert_eq!((batch.images(), batch.labels()), (&images[..], &labels[..]));
    }
}

#[test]
fn batches_of_bytes_make_the_floats_of_the_others() {
    let colours = Augment { jitter: Some(crate::ColourJitter::IMAGENET), ..Augment::imagenet() }.with_cutout(3);
    let unreadable = || Probe { fails_at: Some(5), ..Probe::new(11) };
    for augment in [Augment::proportional(ImageSize::square(32)), colours] {
        let tolerant = || Loader::new(unreadable(), augment, 4).tolerating(Arc::new(BadImages::new(1)));
        let expected = contents(tolerant().epoch(3, 1).unwrap());
        let transform = Transform::new(Probe::new(1).image_size(), &Probe::new(1).normalization());
        let made = tolerant().as_bytes().epoch(3, 1).unwrap().map(|batch| {
            let batch = batch.unwrap();
            assert!(batch.images().is_empty());
            let image = batch.image_size().len();
            let mut images = vec![0.0; batch.len() * image];
            let places = images.chunks_exact_mut(image).zip(batch.pixels().chunks_exact(image));
            for ((out, pixels), draw) in places.zip(batch.draws()) {
                let mut pixels = pixels.to_vec();
                draw.adjustments.iter().flatten().for_each(|adjustment| adjustment.apply(&mut pixels));
                transform.apply(&pixels, draw, out);
            }
            (images, batch.labels().to_vec())
        });
        assert_eq!(made.collect::<Contents>(), expected, "{augment:?}");
    }
}

#[test]
fn a_batch_is_ready_when_it_is_made_and_when_there_is_none() {
    let probe = Probe { delay: Duration::from_millis(30), ..Probe::new(3) };
    let loader = Loader::new(probe, Augment::none(), 2);
    let mut batches = loader.in_order().unwrap();
    assert!(!batches.is_ready_within(Duration::ZERO));
    assert!(batches.is_ready_within(Duration::from_secs(60)));
    let before = batches.waited();
    batches.next().unwrap().unwrap();
    assert!(batches.waited() - before < Duration::from_millis(30));
    assert_eq!(batches.next().unwrap().unwrap().len(), 1);
    assert!(batches.is_ready_within(Duration::ZERO) && batches.next().is_none());
    assert!(loader.workers(0).in_order().unwrap().is_ready_within(Duration::ZERO));
}

#[test]
fn choices_are_the_examples_of_the_batches_and_read_nothing() {
    let probe = Probe::new(10);
    let reads = probe.reads.clone();
    let loader = Loader::new(probe, Augment::none(), 4);
    let of = |batches: Batches| batches.choices().unwrap().take(3).collect::<Vec<_>>();
    let (epoch, random) = (of(loader.epoch(1, 2).unwrap()), of(loader.random_batches(1).unwrap().skip(5)));
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    let sizes = |choices: &[Vec<Choice>]| choices.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!((sizes(&epoch), sizes(&random)), (vec![4, 4, 2], vec![4, 4, 4]));
    for (choices, batches) in
        [(epoch, loader.epoch(1, 2).unwrap()), (random, loader.random_batches(1).unwrap().skip(5))]
    {
        for (choices, batch) in choices.iter().zip(batches) {
            let labels: Vec<u32> = choices.iter().map(|choice| choice.index as u32 % 2).collect();
            assert_eq!(labels, batch.unwrap().labels());
        }
    }
}

//! Runs on a GPU, on a driver that is the emulator: that they see what runs on the processor see, and go on where those stopped.
//! Each test runs its body in a child process of its own, whose loader finds the fake driver first.

#![cfg(all(unix, feature = "cuda"))]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use darts_cells::genotype::named;
use darts_cuda_emulator::fake_driver;
use darts_data::imagenet::synthetic;
use darts_runs::config::Dropout;
use darts_runs::{
    DataConfig, Device, Metric, Order, Outcome, Precision, Results, RunOptions, RunRecord, SearchConfig, SearchRun,
    SearchSettings, Split, TextConfig, TextSearchConfig, TextTrainConfig, TrainConfig, TrainRun, TrainSettings,
    Writing, evaluate, evaluate_text, predict, read_metrics, write_text,
};
use support::{Snapshots, finished, results, tempdir};

/// Runs `body` in a child process with a fake driver. Only there is it called.
#[track_caller]
fn with_fake_driver(test: &str, body: impl FnOnce()) {
    if std::env::var_os("DARTS_FAKE_CUDA").is_some() {
        return body();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", fake_driver())
        .env("DARTS_FAKE_CUDA", "devices=1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{test}:\n{text}");
}

fn on(device: Device) -> RunOptions {
    RunOptions { device, ..support::options(1) }
}

/// 11 images of the first half, in batches of 4, 4 and 3, and as many of the second.
fn search_config(order: Order) -> SearchConfig {
    let data = DataConfig::SyntheticImages { image_size: 8, train_images: 22, test_images: 4, data_seed: 1 };
    SearchConfig {
        seed: 5,
        order,
        epochs: 2,
        batch_size: 4,
        init_channels: 2,
        layers: 3,
        nodes: 1,
        ..SearchConfig::for_data(data)
    }
}

fn search(dir: &Path, config: impl Into<SearchSettings>, options: RunOptions) -> Outcome {
    SearchRun::open_or_create(dir, config, options).unwrap().run(&mut ()).unwrap()
}

/// 18 images to train on and 6 held out, with everything that a training does to them but an auxiliary head.
fn train_config() -> TrainConfig {
    let data = DataConfig::SyntheticImages { image_size: 8, train_images: 24, test_images: 5, data_seed: 1 };
    TrainConfig {
        seed: 6,
        epochs: 2,
        batch_size: 8,
        init_channels: 4,
        layers: 3,
        cutout: 4,
        drop_path_prob: 0.3,
        held_out: 0.25,
        auxiliary: false,
        ..TrainConfig::for_data(data, named::conv("DARTS_V2").unwrap())
    }
}

fn train(dir: &Path, config: impl Into<TrainSettings>, options: RunOptions) -> Outcome {
    TrainRun::open_or_create(dir, config, options).unwrap().run(&mut ()).unwrap()
}

/// Losses, gradient norms, accuracies and perplexities of all steps and epochs, where there are any.
fn numbers(dir: &Path) -> Vec<f64> {
    let of = |metric| match metric {
        Metric::Step(m) => {
            vec![Some(m.train_loss), m.train_accuracy, m.valid_loss, m.grad_norm, Some(m.lr)]
        }
        Metric::Epoch(m) => vec![Some(m.train_loss), m.train_accuracy, m.valid_loss, m.valid_accuracy],
    };
    read_metrics(dir).unwrap().into_iter().flat_map(of).flatten().collect()
}

fn tested(results: &Results) -> Vec<f64> {
    [results.test_loss, results.test_accuracy, results.test_perplexity].into_iter().flatten().collect()
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * (1.0 + expected.abs()), "{i}: {found}, expected {expected}");
    }
}

#[test]
fn emulator_search_sees_what_it_sees_on_the_processor() {
    with_fake_driver("emulator_search_sees_what_it_sees_on_the_processor", || {
        for order in [Order::First, Order::Second] {
            let (cpu, gpu) = (tempdir(), tempdir());
            let expected = finished(search(cpu.path(), search_config(order), on(Device::Cpu)));
            let found = finished(search(gpu.path(), search_config(order), on(Device::Cuda(0))));
            assert_close(&numbers(gpu.path()), &numbers(cpu.path()), 1e-4);
            assert_eq!((found.genotype, found.steps), (expected.genotype, expected.steps));
            assert_eq!(found.parameters, expected.parameters);
            assert!(found.peak_device_bytes > Some(4 * found.parameters) && expected.peak_device_bytes.is_none());
            let record = RunRecord::read(gpu.path()).unwrap();
            assert_eq!((record.device.as_str(), record.hardware.gpu.as_deref()), ("cuda:0", Some("fake device")));
            assert_eq!(RunRecord::read(cpu.path()).unwrap().hardware.gpu, None);
        }
    });
}

#[test]
fn emulator_search_killed_and_resumed_has_the_same_bytes() {
    with_fake_driver("emulator_search_killed_and_resumed_has_the_same_bytes", || {
        let (whole, copies) = (tempdir(), tempdir());
        let config = search_config(Order::Second);
        let mut snapshots = Snapshots::new(whole.path(), copies.path());
        let run = SearchRun::open_or_create(whole.path(), config.clone(), on(Device::Cuda(0))).unwrap();
        finished(run.run(&mut snapshots).unwrap());
        assert_eq!(snapshots.steps.len(), 6);
        // With its checkpoint in the middle of the first epoch, and at the end of it.
        for step in [2, 5] {
            let dir = copies.path().join(step.to_string());
            // One by one or as a graph: the same launches.
            let options = RunOptions { no_graph: step % 2 == 0, ..on(Device::Cuda(0)) };
            finished(search(&dir, config.clone(), options));
            assert!(results(&dir) == results(whole.path()), "killed after step {step}");
        }
    });
}

#[test]
fn emulator_search_goes_on_on_the_other_device() {
    with_fake_driver("emulator_search_goes_on_on_the_other_device", || {
        let config = search_config(Order::Second);
        let whole = tempdir();
        finished(search(whole.path(), config.clone(), on(Device::Cpu)));
        for (first, second) in [(Device::Cpu, Device::Cuda(0)), (Device::Cuda(0), Device::Cpu)] {
            let dir = tempdir();
            // In the middle of the second epoch.
            let stopped = search(dir.path(), config.clone(), RunOptions { max_steps: Some(4), ..on(first) });
            assert!(matches!(stopped, Outcome::Stopped(_)));
            finished(search(dir.path(), config.clone(), on(second)));
            assert_close(&numbers(dir.path()), &numbers(whole.path()), 1e-4);
        }
    });
}

/// A folder of 17 images in two classes.
fn folder_of_images() -> tempfile::TempDir {
    let data = tempdir();
    for (class, count) in [("a", 9), ("b", 8)] {
        fs::create_dir_all(data.path().join(class)).unwrap();
        for i in 0..count {
            let shade = |x: u32, y: u32| image::Rgb([(x * 9 + i) as u8, (y * 7) as u8, (x * y) as u8]);
            let picture = image::RgbImage::from_fn(11, 10, shade);
            picture.save(data.path().join(class).join(format!("{i}.png"))).unwrap();
        }
    }
    data
}

const FOLDER: DataConfig = DataConfig::ImageFolder { image_size: 8, test_fraction: 0.2 };

#[test]
fn emulator_runs_on_a_folder_of_images_read_them_as_on_the_processor() {
    with_fake_driver("emulator_runs_on_a_folder_of_images_read_them_as_on_the_processor", || {
        let data = folder_of_images();
        let options = |device| RunOptions { data_dir: Some(data.path().into()), ..on(device) };
        let (cpu, gpu) = (tempdir(), tempdir());
        let config = SearchConfig { data: FOLDER, epochs: 3, ..search_config(Order::First) };
        finished(search(cpu.path(), config.clone(), options(Device::Cpu)));
        finished(search(gpu.path(), config, options(Device::Cuda(0))));
        assert_close(&numbers(gpu.path()), &numbers(cpu.path()), 1e-4);
        let (cpu, gpu) = (tempdir(), tempdir());
        let config = TrainConfig { data: FOLDER, batch_size: 7, held_out: 0.0, epochs: 2, ..train_config() };
        let expected = finished(train(cpu.path(), config.clone(), options(Device::Cpu)));
        let found = finished(train(gpu.path(), config, options(Device::Cuda(0))));
        assert_close(&numbers(gpu.path()), &numbers(cpu.path()), 1e-3);
        assert_close(&tested(&found.results), &tested(&expected.results), 1e-3);
    });
}

#[test]
fn emulator_training_on_imagenet_reads_and_colours_as_on_the_processor() {
    with_fake_driver("emulator_training_on_imagenet_reads_and_colours_as_on_the_processor", || {
        let data = tempdir();
        let archives = synthetic::Config { classes: 3, train_per_class: 5, val_per_class: 2, side: 40, seed: 3 };
        synthetic::write(data.path(), &archives).unwrap();
        let config = TrainConfig {
            data: DataConfig::ImageNet { image_size: 32, resize: 36, least_area: 0.3, colour_jitter: true },
            batch_size: 8,
            init_channels: 4,
            layers: 3,
            epochs: 1,
            auxiliary: false,
            ..TrainConfig::imagenet_quick(named::conv("DARTS_V2").unwrap())
        };
        let options = |device| RunOptions { data_dir: Some(data.path().into()), ..on(device) };
        let (cpu, gpu) = (tempdir(), tempdir());
        let expected = finished(train(cpu.path(), config.clone(), options(Device::Cpu)));
        let found = finished(train(gpu.path(), config, options(Device::Cuda(0))));
        assert_close(&numbers(gpu.path()), &numbers(cpu.path()), 1e-3);
        assert_close(&tested(&found.results), &tested(&expected.results), 1e-3);
    });
}

#[test]
fn emulator_search_of_a_folder_of_images_stopped_after_any_step_has_the_same_bytes() {
    with_fake_driver("emulator_search_of_a_folder_of_images_stopped_after_any_step_has_the_same_bytes", || {
        let data = folder_of_images();
        let config = SearchConfig { data: FOLDER, ..search_config(Order::Second) };
        let options = RunOptions { data_dir: Some(data.path().into()), ..on(Device::Cuda(0)) };
        let (whole, copies) = (tempdir(), tempdir());
        let mut snapshots = Snapshots::new(whole.path(), copies.path());
        let run = SearchRun::open_or_create(whole.path(), config.clone(), options.clone()).unwrap();
        finished(run.run(&mut snapshots).unwrap());
        assert!(snapshots.steps.len() >= 4);
        for step in snapshots.steps {
            let dir = copies.path().join(step.to_string());
            finished(search(&dir, config.clone(), options.clone()));
            assert!(results(&dir) == results(whole.path()), "killed after step {step}");
        }
    });
}

#[test]
fn emulator_training_sees_what_it_sees_on_the_processor() {
    with_fake_driver("emulator_training_sees_what_it_sees_on_the_processor", || {
        // Batches of 8 in parts of 3, 3 and 2; the test set at the end; an auxiliary head, which takes images of 32 pixels a side.
        let auxiliary = TrainConfig {
            data: DataConfig::SyntheticImages { image_size: 32, train_images: 4, test_images: 2, data_seed: 1 },
            batch_size: 4,
            epochs: 1,
            init_channels: 2,
            held_out: 0.0,
            auxiliary: true,
            ..train_config()
        };
        let whole = TrainConfig { held_out: 0.0, epochs: 1, ..train_config() };
        for config in [train_config(), TrainConfig { accumulate: 3, ..train_config() }, whole, auxiliary] {
            let (cpu, gpu) = (tempdir(), tempdir());
            let expected = finished(train(cpu.path(), config.clone(), on(Device::Cpu)));
            let found = finished(train(gpu.path(), config, on(Device::Cuda(0))));
            assert_close(&numbers(gpu.path()), &numbers(cpu.path()), 1e-3);
            assert_eq!(
                (found.parameters, found.parameters_with_auxiliary),
                (expected.parameters, expected.parameters_with_auxiliary)
            );
            assert_close(&tested(&found.results), &tested(&expected.results), 1e-3);
        }
    });
}

#[test]
fn emulator_training_killed_after_any_step_and_resumed_has_the_same_bytes() {
    with_fake_driver("emulator_training_killed_after_any_step_and_resumed_has_the_same_bytes", || {
        let (whole, copies) = (tempdir(), tempdir());
        let mut snapshots = Snapshots::new(whole.path(), copies.path());
        let run = TrainRun::open_or_create(whole.path(), train_config(), on(Device::Cuda(0))).unwrap();
        finished(run.run(&mut snapshots).unwrap());
        let weights = |dir: &Path| fs::read(dir.join("weights.safetensors")).unwrap();
        for step in snapshots.steps {
            let dir = copies.path().join(step.to_string());
            finished(train(&dir, train_config(), on(Device::Cuda(0))));
            assert!(weights(&dir) == weights(whole.path()), "killed after step {step}");
        }
    });
}

#[test]
fn emulator_training_goes_on_on_the_other_device() {
    with_fake_driver("emulator_training_goes_on_on_the_other_device", || {
        let whole = tempdir();
        finished(train(whole.path(), train_config(), on(Device::Cpu)));
        for (first, second) in [(Device::Cpu, Device::Cuda(0)), (Device::Cuda(0), Device::Cpu)] {
            let dir = tempdir();
            let stopped = train(dir.path(), train_config(), RunOptions { max_steps: Some(4), ..on(first) });
            assert!(matches!(stopped, Outcome::Stopped(_)));
            finished(train(dir.path(), train_config(), on(second)));
            assert_close(&numbers(dir.path()), &numbers(whole.path()), 1e-3);
        }
    });
}

fn text() -> TextConfig {
    TextConfig::SyntheticText { vocabulary: 6, predictability: 0.8, train_tokens: 100, valid_tokens: 40, data_seed: 1 }
}

fn text_search_config(order: Order) -> TextSearchConfig {
    TextSearchConfig {
        seed: 5,
        order,
        epochs: 2,
        batch_size: 3,
        units: 5,
        nodes: 2,
        bptt: 8,
        dropout: Dropout { words: 0.1, ..Dropout::SEARCH },
        learning_rate: 2.0,
        ..TextSearchConfig::for_data(text())
    }
}

fn text_train_config() -> TextTrainConfig {
    TextTrainConfig {
        seed: 6,
        epochs: 5,
        batch_size: 4,
        units: 6,
        bptt: 5,
        activation_regularization: 0.1,
        // So large that the validation loss rises, and averaging begins; so small that what is rounded otherwise stays small.
        learning_rate: 2.0,
        nonmono: 1,
        ..TextTrainConfig::for_data(text(), named::recurrent("DARTS_V2").unwrap())
    }
}

#[test]
fn emulator_search_of_text_sees_what_it_sees_on_the_processor() {
    with_fake_driver("emulator_search_of_text_sees_what_it_sees_on_the_processor", || {
        for order in [Order::First, Order::Second] {
            let (cpu, gpu, both) = (tempdir(), tempdir(), tempdir());
            let expected = finished(search(cpu.path(), text_search_config(order), on(Device::Cpu)));
            let found = finished(search(gpu.path(), text_search_config(order), on(Device::Cuda(0))));
            assert_close(&numbers(gpu.path()), &numbers(cpu.path()), 1e-4);
            assert_eq!(found.genotype, expected.genotype);
            // In the middle of the second epoch.
            let steps = RunOptions { max_steps: Some(6), ..on(Device::Cuda(0)) };
            assert!(matches!(search(both.path(), text_search_config(order), steps), Outcome::Stopped(_)));
            finished(search(both.path(), text_search_config(order), on(Device::Cpu)));
            assert_close(&numbers(both.path()), &numbers(cpu.path()), 1e-4);
        }
    });
}

#[test]
fn emulator_training_on_text_sees_what_it_sees_on_the_processor() {
    with_fake_driver("emulator_training_on_text_sees_what_it_sees_on_the_processor", || {
        let (cpu, gpu, both) = (tempdir(), tempdir(), tempdir());
        let expected = finished(train(cpu.path(), text_train_config(), on(Device::Cpu)));
        let found = finished(train(gpu.path(), text_train_config(), on(Device::Cuda(0))));
        assert_close(&numbers(gpu.path()), &numbers(cpu.path()), 1e-3);
        assert_close(&tested(&found.results), &tested(&expected.results), 1e-3);
        let valid_loss = |metric| if let Metric::Epoch(epoch) = metric { epoch.valid_loss } else { None };
        let losses: Vec<f64> = read_metrics(gpu.path()).unwrap().into_iter().filter_map(valid_loss).collect();
        assert!(losses[2] > losses[0], "weights are averaged from the fourth epoch on: {losses:?}");
        let epochs = RunOptions { until_epoch: Some(4), ..on(Device::Cpu) };
        assert!(matches!(train(both.path(), text_train_config(), epochs), Outcome::Stopped(_)));
        finished(train(both.path(), text_train_config(), on(Device::Cuda(0))));
        assert_close(&numbers(both.path()), &numbers(cpu.path()), 1e-3);
        for split in [Split::Valid, Split::Test] {
            let [cpu, gpu] = [Device::Cpu, Device::Cuda(0)]
                .map(|device| evaluate_text(gpu.path(), split, &on(device), &mut ()).unwrap());
            assert_close(&[gpu.loss], &[cpu.loss], 1e-5);
            assert_eq!(gpu.tokens, cpu.tokens);
        }
        let writing = Writing { prompt: "w1 w2".into(), length: 12, ..Writing::default() };
        let [cpu, gpu] =
            [Device::Cpu, Device::Cuda(0)].map(|device| write_text(gpu.path(), &writing, &on(device)).unwrap());
        assert_eq!(gpu, cpu);
    });
}

#[test]
fn emulator_evaluations_see_what_they_see_on_the_processor() {
    with_fake_driver("emulator_evaluations_see_what_they_see_on_the_processor", || {
        let dir = tempdir();
        finished(train(dir.path(), train_config(), on(Device::Cpu)));
        for split in [Split::Valid, Split::Test] {
            let [cpu, gpu] =
                [Device::Cpu, Device::Cuda(0)].map(|device| evaluate(dir.path(), split, &on(device), &mut ()).unwrap());
            assert_close(&[gpu.loss, gpu.accuracy], &[cpu.loss, cpu.accuracy], 1e-5);
            assert_eq!(gpu.examples, cpu.examples);
        }
        let picture = dir.path().join("picture.png");
        image::RgbImage::from_fn(20, 30, |x, y| image::Rgb([x as u8, y as u8, 9])).save(&picture).unwrap();
        let [cpu, gpu] = [Device::Cpu, Device::Cuda(0)]
            .map(|device| predict(dir.path(), std::slice::from_ref(&picture), &on(device)).unwrap());
        for ((class, found), (expected_class, expected)) in gpu[0].top.iter().zip(&cpu[0].top) {
            assert_eq!(class, expected_class);
            assert_close(&[*found], &[*expected], 1e-5);
        }
    });
}

/// The first step sees nearly what it sees in f32, and not quite; later ones go where rounding leads them.
#[test]
fn emulator_images_are_searched_trained_and_evaluated_in_every_precision() {
    with_fake_driver("emulator_images_are_searched_trained_and_evaluated_in_every_precision", || {
        let gpu = |precision| RunOptions { precision, ..on(Device::Cuda(0)) };
        let run = |precision| {
            let (searched, trained) = (tempdir(), tempdir());
            let search_config = SearchConfig { epochs: 1, ..search_config(Order::Second) };
            finished(search(searched.path(), search_config, gpu(precision)));
            finished(train(trained.path(), TrainConfig { epochs: 1, ..train_config() }, gpu(precision)));
            let split = evaluate(trained.path(), Split::Valid, &gpu(precision), &mut ()).unwrap();
            let validated = numbers(trained.path()).into_iter().next_back();
            assert_eq!(validated, Some(split.accuracy), "{precision:?}");
            [numbers(searched.path()), numbers(trained.path())]
        };
        let first = |[searched, trained]: &[Vec<f64>; 2]| [searched[0], trained[0]];
        let exact = run(Precision::F32);
        for (precision, tolerance) in [(Precision::Tf32, 5e-3), (Precision::Bf16, 5e-2)] {
            let rounded = run(precision);
            assert_close(&first(&rounded), &first(&exact), tolerance);
            assert!(rounded[0] != exact[0] && rounded[1] != exact[1], "{precision:?}");
        }
    });
}

#[test]
fn a_precision_of_the_gpu_is_refused_on_the_processor() {
    let dir = tempdir();
    let options = RunOptions { precision: Precision::Tf32, ..on(Device::Cpu) };
    let error = SearchRun::open_or_create(dir.path().join("run"), search_config(Order::First), options).err().unwrap();
    assert_eq!(error.to_string(), "precision = tf32 is not possible: expected f32 on the processor");
}

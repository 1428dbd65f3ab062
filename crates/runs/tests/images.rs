//! Searches and trainings of a tiny network on generated images, through the public interface: what a run leaves behind,
//! and that neither threads nor interruptions change a byte of it.

mod support;

use std::fs;
use std::path::Path;

use darts_cells::genotype::{Genotype, named};
use darts_runs::{
    DataConfig, Error, Metric, Order, Outcome, Progress, RunOptions, SearchConfig, SearchRun, Split, StopReason,
    TrainConfig, TrainRun, derive, evaluate, predict, read_metrics, read_summary,
};
use support::{Snapshots, finished, options, results, tempdir};

fn images() -> DataConfig {
    DataConfig::SyntheticImages { image_size: 8, train_images: 44, test_images: 20, data_seed: 1 }
}

fn search_config() -> SearchConfig {
    SearchConfig {
        seed: 5,
        order: Order::Second,
        epochs: 2,
        batch_size: 8,
        init_channels: 2,
        layers: 3,
        nodes: 2,
        alpha_learning_rate: 0.05,
        ..SearchConfig::for_data(images())
    }
}

fn train_config() -> TrainConfig {
    let genotype = named::conv("DARTS_V2").unwrap();
    TrainConfig {
        seed: 6,
        epochs: 2,
        batch_size: 8,
        init_channels: 4,
        layers: 3,
        cutout: 4,
        drop_path_prob: 0.3,
        held_out: 0.25,
        ..TrainConfig::for_data(images(), genotype)
    }
}

fn search(dir: &Path, options: RunOptions, progress: &mut dyn Progress) -> Outcome {
    SearchRun::open_or_create(dir, search_config(), options).unwrap().run(progress).unwrap()
}

fn train(dir: &Path, options: RunOptions, progress: &mut dyn Progress) -> Outcome {
    TrainRun::open_or_create(dir, train_config(), options).unwrap().run(progress).unwrap()
}

#[test]
fn a_search_leaves_what_is_promised() {
    let dir = tempdir();
    let summary = finished(search(dir.path(), options(2), &mut ()));
    assert_eq!((summary.epochs, summary.steps), (2, 6)); // 22 images of the first half in batches of 8, 8 and 6
    for name in [
        "run.json",
        "metrics.jsonl",
        "alphas.jsonl",
        "genotype.json",
        "weights.safetensors",
        "summary.json",
        "report.html",
        "cell_normal.svg",
        "cell_reduce.svg",
        "events.out.tfevents.darts",
    ] {
        assert!(dir.path().join(name).metadata().unwrap().len() > 0, "{name}");
    }
    assert_eq!(fs::read_dir(dir.path().join("checkpoint")).unwrap().count(), 2);
    let genotype = Genotype::read(&fs::read(dir.path().join("genotype.json")).unwrap()).unwrap();
    assert_eq!(genotype, summary.genotype);
    assert_eq!(derive(dir.path()).unwrap().genotype, genotype);
    let lines = read_metrics(dir.path()).unwrap();
    let epochs: Vec<_> = lines.iter().filter_map(|l| if let Metric::Epoch(e) = l { Some(e) } else { None }).collect();
    assert_eq!(epochs.iter().map(|e| e.epoch).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(lines.len() - epochs.len(), 6);
    assert_eq!(epochs[1].valid_accuracy, summary.results.valid_accuracy);
    assert!(epochs.iter().all(|e| e.genotype.is_some() && e.train_loss > 0.0));
    let alphas: Vec<serde_json::Value> = fs::read_to_string(dir.path().join("alphas.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(alphas.len(), 2);
    assert_eq!(alphas[1]["alphas_reduce"].as_array().unwrap().len(), 5);
    assert_ne!(alphas[0]["alphas_normal"], alphas[1]["alphas_normal"]);
    assert_eq!(read_summary(dir.path()).unwrap().unwrap(), finished(search(dir.path(), options(1), &mut ())));
}

#[test]
fn a_search_has_the_same_bytes_for_any_number_of_threads() {
    let (one, three) = (tempdir(), tempdir());
    search(one.path(), options(1), &mut ());
    search(three.path(), options(3), &mut ());
    assert!(results(one.path()) == results(three.path()));
}

#[test]
fn a_search_killed_after_any_step_and_resumed_has_the_same_bytes() {
    let (whole, copies) = (tempdir(), tempdir());
    let mut snapshots = Snapshots::new(whole.path(), copies.path());
    search(whole.path(), options(2), &mut snapshots);
    assert_eq!(snapshots.steps.len(), 6);
    for step in snapshots.steps {
        let dir = copies.path().join(step.to_string());
        finished(search(&dir, options(1), &mut ()));
        assert!(results(&dir) == results(whole.path()), "killed after step {step}");
    }
}

#[test]
fn a_training_killed_after_any_step_and_resumed_has_the_same_bytes() {
    let (whole, copies) = (tempdir(), tempdir());
    let mut snapshots = Snapshots::new(whole.path(), copies.path());
    train(whole.path(), options(2), &mut snapshots);
    let weights = |dir: &Path| fs::read(dir.join("weights.safetensors")).unwrap();
    for step in snapshots.steps {
        let dir = copies.path().join(step.to_string());
        finished(train(&dir, options(3), &mut ()));
        assert!(weights(&dir) == weights(whole.path()), "killed after step {step}");
    }
}

#[test]
fn a_training_that_holds_data_out_leaves_the_test_set_alone_and_is_evaluated_as_it_says() {
    let dir = tempdir();
    let summary = finished(train(dir.path(), options(2), &mut ()));
    assert_eq!(summary.results.test_accuracy, None);
    let valid = evaluate(dir.path(), Split::Valid, &options(1), &mut ()).unwrap();
    assert_eq!(Some(valid.accuracy), summary.results.valid_accuracy);
    // Reading a decimal number back may miss its last bit.
    assert!((valid.loss / summary.results.valid_loss.unwrap() - 1.0).abs() < 1e-12);
    let test = evaluate(dir.path(), Split::Test, &options(1), &mut ()).unwrap();
    assert_eq!(test.examples, 20);
}

#[test]
fn a_training_on_everything_tests_once_at_the_end() {
    let dir = tempdir();
    let config = TrainConfig { held_out: 0.0, epochs: 1, ..train_config() };
    let run = TrainRun::open_or_create(dir.path(), config, options(2)).unwrap();
    let summary = finished(run.run(&mut ()).unwrap());
    let test = evaluate(dir.path(), Split::Test, &options(1), &mut ()).unwrap();
    assert_eq!(summary.results.test_error, Some(1.0 - test.accuracy));
    assert_eq!(summary.results.valid_accuracy, None);
    let refused = evaluate(dir.path(), Split::Valid, &options(1), &mut ()).unwrap_err().to_string();
    assert!(refused.contains("held no training data out"), "{refused}");
}

#[test]
fn a_trained_network_names_the_classes_of_an_image_file() {
    let dir = tempdir();
    finished(train(dir.path(), options(2), &mut ()));
    let picture = dir.path().join("picture.png");
    image::RgbImage::from_fn(20, 30, |x, y| image::Rgb([x as u8, y as u8, 9])).save(&picture).unwrap();
    let predictions = predict(dir.path(), std::slice::from_ref(&picture), &options(1)).unwrap();
    assert_eq!(predictions[0].image, picture);
    let sum: f64 = predictions[0].top.iter().map(|(_, p)| p).sum();
    assert!((sum - 1.0).abs() < 1e-9 && predictions[0].top.len() == 3, "{predictions:?}");
    let missing = predict(dir.path(), &[dir.path().join("none.png")], &options(1)).unwrap_err().to_string();
    assert!(missing.contains("none.png") && !missing.contains('\n'), "{missing}");
}

#[test]
fn max_steps_stops_and_an_unfinished_run_is_not_evaluated() {
    let dir = tempdir();
    let limited = RunOptions { max_steps: Some(1), ..options(1) };
    let Outcome::Stopped(stopped) = train(dir.path(), limited, &mut ()) else { panic!("finished") };
    assert_eq!((stopped.reason, stopped.step), (StopReason::MaxSteps, 1));
    let error = evaluate(dir.path(), Split::Test, &options(1), &mut ()).unwrap_err().to_string();
    assert!(error.contains("--resume"), "{error}");
    assert!(matches!(evaluate(Path::new("/nowhere"), Split::Test, &options(1), &mut ()), Err(Error::NotReady { .. })));
}

#[test]
fn a_folder_in_use_is_refused_and_so_is_another_configuration() {
    let dir = tempdir();
    let run = SearchRun::open_or_create(dir.path(), search_config(), options(1)).unwrap();
    let locked = SearchRun::open_or_create(dir.path(), search_config(), options(1)).err().unwrap();
    assert!(matches!(locked, Error::Locked { .. }), "{locked}");
    drop(run);
    let other = SearchConfig { seed: 6, ..search_config() };
    let differs = SearchRun::open_or_create(dir.path(), other, options(1)).err().unwrap().to_string();
    assert!(differs.contains("seed was 5, now 6"), "{differs}");
    let fresh = RunOptions { resume: false, ..options(1) };
    assert!(matches!(SearchRun::open_or_create(dir.path(), search_config(), fresh), Err(Error::Exists { .. })));
}

#[test]
fn data_that_is_not_there_leaves_no_run_behind() {
    let dir = tempdir();
    let config = SearchConfig { data: DataConfig::Cifar10 {}, ..search_config() };
    let elsewhere = RunOptions { data_dir: Some(dir.path().join("no-data")), resume: false, ..options(1) };
    let run = dir.path().join("run");
    let error = SearchRun::open_or_create(&run, config.clone(), elsewhere.clone()).err().unwrap().to_string();
    assert!(error.contains("no-data") && !error.contains('\n'), "{error}");
    assert!(!run.join("run.json").exists());
    let again = SearchRun::open_or_create(&run, config, elsewhere).err().unwrap();
    assert!(matches!(again, Error::Data(_)), "{again}");
}

#[test]
fn a_split_smaller_than_a_batch_is_refused() {
    let dir = tempdir();
    let config = SearchConfig { train_limit: Some(10), ..search_config() };
    let error = SearchRun::open_or_create(dir.path(), config, options(1)).err().unwrap().to_string();
    assert!(error.contains("5 examples"), "{error}");
}

#[test]
fn ten_thousand_mutated_weight_files_never_panic() {
    let dir = tempdir();
    let config = TrainConfig { held_out: 0.0, epochs: 1, init_channels: 2, layers: 1, ..train_config() };
    finished(TrainRun::open_or_create(dir.path(), config, options(1)).unwrap().run(&mut ()).unwrap());
    let good = fs::read(dir.path().join("weights.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut state = 3u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) as usize) % n
    };
    let table = darts_cells::parameters::Table::new();
    for round in 0..10_000 {
        let mut bad = good.clone();
        match round % 4 {
            0 => bad[below(8)] = below(256) as u8,
            1 => bad.truncate(below(good.len())),
            2 => {
                let at = below(header);
                bad[at] = b"0123456789,[]{}\":"[below(17)];
            }
            _ => {
                let at = below(header);
                bad[at] ^= 1 << below(8);
            }
        }
        // Refused or read; an empty table asks for no tensor, so whatever parses is a valid file.
        let _ = darts_cells::parameters::load(&bad, &[&table], darts_cells::parameters::Extra::Ignore);
    }
}

//! Trainings on a small generated ImageNet in its official tars: the result does not depend on interruptions, threads or
//! layout; batches can be cut; unreadable images are left out and listed; other folders can be evaluated.

use std::fs;
use std::path::{Path, PathBuf};

use darts_cells::genotype::named;
use darts_data::imagenet::{TRAIN_TAR, synthetic};
use darts_data::{Dataset as _, ImageNet, ImageNetConfig};
use darts_runs::{
    DataConfig, Outcome, Progress, RunOptions, Split, StepEvent, Summary, TrainConfig, TrainRun, evaluate,
};

fn archives(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    let config = synthetic::Config { classes: 6, train_per_class: 5, val_per_class: 3, side: 32, seed: 3 };
    synthetic::write(&data, &config).unwrap();
    data
}

fn config() -> TrainConfig {
    TrainConfig {
        data: DataConfig::ImageNet { image_size: 32, resize: 36, least_area: 0.3, colour_jitter: true },
        seed: 4,
        epochs: 2,
        batch_size: 8,
        init_channels: 4,
        layers: 3,
        ..TrainConfig::imagenet_quick(named::conv("DARTS_V2").unwrap())
    }
}

fn options(data: &Path, threads: usize) -> RunOptions {
    let (data_dir, threads) = (Some(data.to_path_buf()), Some(threads));
    RunOptions { data_dir, threads, checkpoint_every: Some(2), resume: true, ..RunOptions::default() }
}

fn train(dir: &Path, config: TrainConfig, options: RunOptions, progress: &mut dyn Progress) -> Summary {
    match TrainRun::open_or_create(dir, config, options).unwrap().run(progress).unwrap() {
        Outcome::Finished(summary) => summary,
        Outcome::Stopped(stopped) => panic!("{stopped:?}"),
    }
}

fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("weights.safetensors")).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// Copies the run's folder after every step: what a process killed there would leave.
struct Snapshots(PathBuf, PathBuf, Vec<u64>);

impl Progress for Snapshots {
    fn step(&mut self, event: &StepEvent<'_>) {
        copy(&self.0, &self.1.join(event.done.to_string()));
        self.2.push(event.done);
    }
}

#[test]
fn a_training_killed_in_mid_epoch_and_resumed_has_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole) = (archives(dir.path()), dir.path().join("whole"));
    let mut snapshots = Snapshots(whole.clone(), dir.path().join("copies"), Vec::new());
    let cut = TrainConfig { accumulate: 3, ..config() };
    let summary = train(&whole, cut.clone(), options(&data, 2), &mut snapshots);
    assert_eq!((summary.steps, snapshots.2.len()), (8, 8)); // 30 images in batches of 8, 8, 8 and 6
    assert!(summary.results.test_top5_error.is_some() && summary.results.test_error.is_some());
    for step in snapshots.2 {
        let dir = snapshots.1.join(step.to_string());
        train(&dir, cut.clone(), options(&data, 1), &mut ());
        assert!(weights(&dir) == weights(&whole), "killed after step {step}");
    }
}

#[test]
fn any_folder_of_the_same_classes_is_evaluated_and_one_of_others_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run) = (archives(dir.path()), dir.path().join("run"));
    let summary = train(&run, TrainConfig { epochs: 1, ..config() }, options(&data, 2), &mut ());
    let official = evaluate(&run, Split::Test, &options(&data, 1), &mut ()).unwrap();
    assert_eq!(summary.results.test_error, Some(1.0 - official.accuracy));
    // The validation images again, as files in folders named by their classes.
    let imagenet = ImageNet::open(&data, &ImageNetConfig::new(32)).unwrap();
    let (val, folder) = (imagenet.val(), dir.path().join("photos"));
    let tar = fs::read(data.join("ILSVRC2012_img_val.tar")).unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let index = (0..val.len()).find(|&index| val.name(index).ends_with(&name)).unwrap();
        let class = folder.join(&val.class_names()[val.label(index) as usize]);
        fs::create_dir_all(&class).unwrap();
        entry.unpack(class.join(name)).unwrap();
    }
    for given in [folder.clone(), dir.path().join("parent")] {
        if !given.exists() {
            copy(&folder, &given.join("val"));
        }
        let other = evaluate(&run, Split::Test, &options(&given, 1), &mut ()).unwrap();
        assert_eq!((other.examples, other.accuracy), (official.examples, official.accuracy));
        assert!((other.loss / official.loss - 1.0).abs() < 1e-12, "{} {}", other.loss, official.loss);
    }
    fs::create_dir(folder.join("no-class-of-the-run")).unwrap();
    let error = evaluate(&run, Split::Test, &options(&folder, 1), &mut ()).unwrap_err().to_string();
    assert!(error.contains("photos") && !error.contains('\n'), "{error}");
}

#[test]
fn unreadable_images_are_listed_in_the_run_and_too_many_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = archives(dir.path());
    // A byte of the first image's signature: the tar is whole, the image is none.
    let mut tar = fs::read(data.join(TRAIN_TAR)).unwrap();
    let jpegs: Vec<usize> =
        (0..tar.len() - 3).step_by(512).filter(|&at| tar[at..].starts_with(&[0xFF, 0xD8, 0xFF])).collect();
    for at in [jpegs[0], jpegs[7]] {
        tar[at] = 0;
    }
    fs::write(data.join(TRAIN_TAR), tar).unwrap();
    let run = |name: &str, max_bad_images| {
        let options = RunOptions { max_bad_images, ..options(&data, 2) };
        TrainRun::open_or_create(dir.path().join(name), config(), options).unwrap().run(&mut ())
    };
    let error = run("none", 0).unwrap_err().to_string();
    assert!(error.contains("it is no JPEG, PNG or WebP image") && error.contains(".JPEG"), "{error}");
    let error = run("one", 1).unwrap_err().to_string();
    assert!(error.contains("2 unreadable images, at most 1 allowed"), "{error}");
    run("two", 2).unwrap();
    let list = fs::read_to_string(dir.path().join("two/bad-images.txt")).unwrap();
    assert_eq!(list.lines().count(), 2, "{list}");
    // A run that stopped at its first bad image goes on where more are allowed, to the same end.
    run("one", 2).unwrap();
    assert!(weights(&dir.path().join("one")) == weights(&dir.path().join("two")));
}

#[test]
fn image_sizes_that_the_network_cannot_have_name_the_nearest_that_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let data = archives(dir.path());
    let refused = |image_size, auxiliary| {
        let data_config = DataConfig::ImageNet { image_size, resize: 300, least_area: 0.3, colour_jitter: false };
        let config = TrainConfig { data: data_config, auxiliary, ..config() };
        TrainRun::open_or_create(dir.path().join("run"), config, options(&data, 1)).err().unwrap().to_string()
    };
    assert!(
        refused(40, false).contains("image height is 40") && refused(40, false).contains("nearest that works is 32")
    );
    assert!(refused(64, true).contains("7 to 8: choose another image size or no auxiliary head"));
    assert!(!dir.path().join("run/run.json").exists());
}

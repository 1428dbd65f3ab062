//! `darts train imagenet` on a small generated archive in the official layout: killed in mid-epoch and resumed, the same
//! bytes; a damaged or foreign archive, one clear line.

use std::fs::{self, File};
use std::path::Path;

use darts_data::imagenet::{TRAIN_TAR, VAL_TAR, synthetic};
use darts_tests::program::{Ended, assert_same_results, run, start, wait_until, xtask};

const CONFIG: synthetic::Config =
    synthetic::Config { classes: 6, train_per_class: 20, val_per_class: 3, side: 72, seed: 2 };

fn words<'a>(data: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["train", "imagenet", "--preset=quick", "--genotype=DARTS_V2", "--init-channels=4", "--batch-size=8"];
    let places = ["--data", data, "--out", out];
    fixed.into_iter().chain(places).chain(more.iter().copied()).collect()
}

#[test]
fn kills_in_mid_epoch_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (data, whole, killed) = (at("data"), at("whole"), at("killed"));
    synthetic::write(Path::new(&data), &CONFIG).unwrap();
    // 15 steps an epoch, each of two parts.
    let settings = ["--epochs=2", "--accumulate=2", "--checkpoint-every=1"];
    run(words(&data, &whole, &settings)).expect_success();
    let resumed = [&settings[..], &["--resume", "--threads=1"]].concat();
    let checkpoints = |out: &str| fs::read_dir(Path::new(out).join("checkpoint")).map_or(0, Iterator::count);
    for kill in 0..3 {
        let mut child = start(words(&data, &killed, &resumed));
        let newest = || {
            let files = fs::read_dir(Path::new(&killed).join("checkpoint")).into_iter().flatten().flatten();
            files.filter_map(|file| file.metadata().ok()?.modified().ok()).max()
        };
        let before = newest();
        wait_until("a checkpoint", || newest() > before);
        child.kill().unwrap();
        child.wait_with_output().unwrap();
        assert!(checkpoints(&killed) > 0, "kill {kill}");
    }
    assert!(!Path::new(&killed).join("summary.json").exists(), "the run was over before it was killed");
    run(words(&data, &killed, &resumed)).expect_success();
    assert_same_results(Path::new(&whole), Path::new(&killed));
    let evaluated = run(["eval", &killed, "--data", &data, "--json"]).expect_success();
    assert!(evaluated.contains("\"top5_error\""), "{evaluated}");
}

#[test]
fn archives_that_are_cut_incomplete_or_of_another_year_are_one_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("data"), folder.path().join("out").display().to_string());
    synthetic::write(&data, &CONFIG).unwrap();
    let refused = |named: &[&str]| {
        let ended: Ended = run(words(&data.display().to_string(), &out, &[]));
        ended.expect_refusal(1, named);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    };
    let train = fs::read(data.join(TRAIN_TAR)).unwrap();
    fs::write(data.join(TRAIN_TAR), &train[..train.len() / 2]).unwrap();
    refused(&[TRAIN_TAR, "cut short", "get it again"]);

    // Without its first member, which is an inner tar.
    let length = usize::from_str_radix(std::str::from_utf8(&train[124..135]).unwrap(), 8).unwrap();
    let name = String::from_utf8(train[..13].to_vec()).unwrap();
    fs::write(data.join(TRAIN_TAR), &train[512 + length.next_multiple_of(512)..]).unwrap();
    refused(&[TRAIN_TAR, &name, "missing"]);

    fs::write(data.join(TRAIN_TAR), &train).unwrap();
    let kit = data.join("ILSVRC2012_devkit_t12.tar.gz");
    fs::rename(&kit, data.join("ILSVRC2010_devkit-1.0.tar.gz")).unwrap();
    refused(&["ILSVRC2010_devkit-1.0.tar.gz", "ILSVRC2012_devkit_t12.tar.gz"]);
    fs::rename(data.join("ILSVRC2010_devkit-1.0.tar.gz"), &kit).unwrap();

    File::create(data.join(VAL_TAR)).unwrap();
    refused(&[VAL_TAR, "cut short"]);
    assert!(!Path::new(&out).join("run.json").exists());
}

#[test]
fn the_quick_transfer_trains_a_cell_on_official_archives_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let words = ["transfer-imagenet", "--quick", "--genotype=DARTS_V1", "--epochs=1", "--train-limit=96", "--out", out];
    let transfer = || Ended::from(xtask(words).output().unwrap()).expect_success();
    let stdout = transfer();
    assert!(stdout.contains("top-1 error") && stdout.contains("generated images"), "{stdout}");
    for file in ["data/ILSVRC2012_img_train.tar", "data/darts-index.bin", "train/summary.json"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
    let report = fs::read_to_string(folder.path().join("report.html")).unwrap();
    for shown in ["synthetic", "Top-5", "NASNet-A", "mobile setting"] {
        assert!(report.contains(shown), "{shown} is not in the report");
    }
    assert!(transfer().contains("done before"));
    let checked = Ended::from(xtask(["fetch", "imagenet", "--from", &format!("{out}/data")]).output().unwrap());
    assert!(checked.expect_success().contains("generated archives with 8 classes"));
}

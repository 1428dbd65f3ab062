//! `darts --device cuda` where something is wrong with the GPU, on a driver that is the emulator: one line that says what to do, the
//! exit status of a failed run, and a folder from which it goes on.

#![cfg(all(unix, feature = "cuda"))]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use darts_cuda_emulator::fake_driver;

const IMAGE_SEARCH: &[&str] = &[
    "search",
    "synthetic-images",
    "--image-size=8",
    "--train-images=22",
    "--test-images=4",
    "--batch-size=4",
    "--epochs=2",
    "--init-channels=2",
    "--layers=3",
    "--nodes=1",
];

const IMAGE_TRAINING: &[&str] = &[
    "train",
    "synthetic-images",
    "--genotype=DARTS_V2",
    "--image-size=8",
    "--train-images=16",
    "--test-images=4",
    "--batch-size=8",
    "--epochs=1",
    "--init-channels=4",
    "--layers=3",
];

const TEXT_SEARCH: &[&str] = &[
    "search",
    "synthetic-text",
    "--train-tokens=100",
    "--valid-tokens=40",
    "--batch-size=3",
    "--bptt=8",
    "--epochs=2",
    "--units=5",
    "--nodes=2",
];

const TEXT_TRAINING: &[&str] = &[
    "train",
    "synthetic-text",
    "--genotype=DARTS_V2",
    "--train-tokens=100",
    "--valid-tokens=40",
    "--batch-size=4",
    "--bptt=5",
    "--epochs=1",
    "--units=6",
];

fn darts(scene: &str, arguments: &[&str], out: &Path, more: &[&str]) -> Command {
    let mut command = on_device(scene);
    command.args(arguments).args(["--device=cuda", "--threads=1"]).args(more).arg("--out").arg(out);
    command
}

fn on_device(scene: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darts"));
    command.env("LD_LIBRARY_PATH", fake_driver()).env("DARTS_FAKE_CUDA", scene).stdin(Stdio::null());
    command
}

fn ended(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[track_caller]
fn assert_succeeds(command: Command) -> String {
    let (code, stderr) = ended(command);
    assert_eq!(code, Some(0), "{stderr}");
    stderr
}

/// Exit status 1, and one line of an error that has all of `parts`.
#[track_caller]
fn assert_fails(command: Command, parts: &[&str]) {
    let (code, stderr) = ended(command);
    assert_eq!(code, Some(1), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && !stderr.contains("panicked"), "{stderr}");
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not in {stderr}");
    }
}

/// What two runs of the same configuration have in common, byte for byte.
#[track_caller]
fn assert_same_results(one: &Path, other: &Path) {
    for name in ["genotype.json", "alphas.jsonl", "weights.safetensors"] {
        assert!(fs::read(one.join(name)).unwrap() == fs::read(other.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn emulator_memory_that_there_is_not_is_said_before_anything_is_begun() {
    let first = "or search with --order first";
    for (arguments, remedies) in [
        (IMAGE_SEARCH, &["lower --batch-size (4)", first][..]),
        (IMAGE_TRAINING, &["lower --batch-size (8)", "--accumulate"]),
        (TEXT_SEARCH, &["lower --batch-size (3), --bptt (8)", first]),
        (TEXT_TRAINING, &["lower --batch-size (4), --bptt (5)"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let parts = [&["this needs ", " of GPU memory, 10 kB of 10 kB are free: "], remedies].concat();
        assert_fails(darts("memory=10000", arguments, &out, &[]), &parts);
        assert!(!out.join("run.json").exists(), "{arguments:?}");
        assert_succeeds(darts("devices=1", arguments, &out, &["--resume", "--max-steps=1"]));
    }
}

#[test]
fn emulator_first_order_is_no_remedy_where_it_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (_, stderr) = ended(darts("memory=10000", IMAGE_SEARCH, folder.path(), &["--order=first"]));
    assert!(stderr.contains("--layers") && !stderr.contains("--order"), "{stderr}");
}

#[test]
fn emulator_a_missing_device_and_an_old_driver_are_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    for (scene, part) in [
        ("devices=0", "no CUDA device 0: the driver finds none"),
        ("version=11080", "the NVIDIA driver supports CUDA 11.8"),
        ("capability=75", "fake device has compute capability 7.5"),
    ] {
        assert_fails(darts(scene, IMAGE_SEARCH, &out, &[]), &["device cuda:0 is not available", part]);
        assert!(!out.exists(), "{scene}");
    }
    assert_fails(darts("devices=1", IMAGE_SEARCH, &out, &["--device=cuda:3"]), &["no CUDA device 3: there is 0 alone"]);
}

#[test]
fn emulator_a_device_that_is_lost_in_mid_run_leaves_a_run_that_goes_on() {
    for arguments in [IMAGE_SEARCH, TEXT_SEARCH] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, lost) = (folder.path().join("whole"), folder.path().join("lost"));
        let said = assert_succeeds(darts("devices=1", arguments, &whole, &[]));
        assert!(said.contains("the GPU waited for "), "{said}");
        let parts = ["the GPU failed (CUDA_ERROR_LAUNCH_FAILED", "the run goes on from its last checkpoint"];
        // In the first step, and later.
        for scene in ["fail_launch=40", "fail_launch=900"] {
            assert_fails(darts(scene, arguments, &lost, &["--resume", "--checkpoint-every=1"]), &parts);
        }
        assert_succeeds(darts("devices=1", arguments, &lost, &["--resume"]));
        assert_same_results(&whole, &lost);
    }
}

#[test]
fn emulator_an_interrupt_during_a_step_saves_what_goes_on_to_the_same_bytes() {
    let more = &["--epochs=3"];
    let folder = tempfile::tempdir().unwrap();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    assert_succeeds(darts("devices=1", IMAGE_SEARCH, &whole, more));
    let child = darts("devices=1", IMAGE_SEARCH, &stopped, more).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !fs::read_to_string(stopped.join("metrics.jsonl")).is_ok_and(|text| text.contains("\"step\"")) {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step was done");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.code() == Some(130) && stderr.contains("--resume"), "{status}: {stderr}");
    assert!(stopped.join("checkpoint").is_dir() && !stopped.join("summary.json").exists());
    assert_succeeds(darts("devices=1", IMAGE_SEARCH, &stopped, &["--epochs=3", "--resume"]));
    assert_same_results(&whole, &stopped);
}

#[test]
fn emulator_what_is_wrong_with_a_device_is_said_where_a_network_is_used_too() {
    let folder = tempfile::tempdir().unwrap();
    let (images, text) = (folder.path().join("images"), folder.path().join("text"));
    assert_succeeds(darts("devices=1", IMAGE_TRAINING, &images, &[]));
    assert_succeeds(darts("devices=1", TEXT_TRAINING, &text, &[]));
    let uses = |scene: &str| {
        [(&["eval"][..], &images), (&["eval"], &text), (&["predict", "--prompt=w0", "--length=3"], &text)].map(
            |(arguments, run)| {
                let mut command = on_device(scene);
                command.args(arguments).args(["--device=cuda", "--threads=1"]).arg(run);
                command
            },
        )
    };
    for (scene, part) in [
        ("devices=0", "no CUDA device 0: the driver finds none"),
        ("memory=10000", "of 10 kB are free"),
        ("fail_launch=2", "the GPU failed (CUDA_ERROR_LAUNCH_FAILED"),
    ] {
        uses(scene).into_iter().for_each(|command| assert_fails(command, &[part]));
    }
    uses("devices=1").into_iter().for_each(|command| _ = assert_succeeds(command));
}

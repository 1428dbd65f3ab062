//! Stopped by Ctrl-C or killed at any moment, and resumed: the same bytes as a run that was never interrupted, on images and
//! on text.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use darts_tests::program::{
    Ended, SMALL_SEARCHES, assert_same_results, into_folder, run, signal, small_search, start, wait_until,
};

/// Whether a run has logged a step.
fn has_begun(out: &Path) -> bool {
    fs::read_to_string(out.join("metrics.jsonl")).is_ok_and(|text| text.contains("\"step\""))
}

/// More epochs than a test waits for.
const LONG: &str = "--epochs=100";

#[test]
fn the_first_interrupt_saves_says_how_to_resume_and_exits_with_130() {
    for search in SMALL_SEARCHES {
        println!("{}", search[1]);
        let folder = tempfile::tempdir().unwrap();
        let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
        run(into_folder(search, &whole, &["--epochs=6"])).expect_success();
        let child = start(into_folder(search, &stopped, &["--epochs=6"]));
        wait_until("a step", || has_begun(&stopped));
        signal(&child, "INT");
        let ended: Ended = child.wait_with_output().unwrap().into();
        assert_eq!(ended.code, Some(130), "{ended:?}");
        assert!(ended.stderr.contains("--resume"), "{ended:?}");
        assert!(stopped.join("checkpoint").is_dir() && !stopped.join("summary.json").exists());
        run(into_folder(search, &stopped, &["--epochs=6", "--resume"])).expect_success();
        assert_same_results(&whole, &stopped);
    }
}

#[test]
fn stopping_after_some_steps_and_resuming_gives_the_same_bytes() {
    for search in SMALL_SEARCHES {
        println!("{}", search[1]);
        let folder = tempfile::tempdir().unwrap();
        let (whole, pieces) = (folder.path().join("whole"), folder.path().join("pieces"));
        run(into_folder(search, &whole, &[])).expect_success();
        for _ in 0..3 {
            run(into_folder(search, &pieces, &["--max-steps=3", "--resume"])).expect_success();
            assert!(!pieces.join("summary.json").exists());
        }
        run(into_folder(search, &pieces, &["--resume", "--threads=3"])).expect_success();
        assert_same_results(&whole, &pieces);
        // A finished run is no error.
        run(into_folder(search, &pieces, &["--resume"])).expect_success();
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for search in SMALL_SEARCHES {
        println!("{}", search[1]);
        let folder = tempfile::tempdir().unwrap();
        let (one, four) = (folder.path().join("one"), folder.path().join("four"));
        run(into_folder(search, &one, &["--threads=1"])).expect_success();
        run(into_folder(search, &four, &["--threads=4"])).expect_success();
        assert_same_results(&one, &four);
    }
}

#[test]
fn kills_at_random_moments_change_nothing() {
    for search in SMALL_SEARCHES {
        println!("{}", search[1]);
        let kills: u32 = std::env::var("DARTS_KILLS").map_or(6, |text| text.parse().expect("DARTS_KILLS is a number"));
        let folder = tempfile::tempdir().unwrap();
        let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
        let often = ["--checkpoint-every=2", "--epochs=8"];
        let begun = std::time::Instant::now();
        run(into_folder(search, &whole, &often)).expect_success();
        let length = begun.elapsed();
        let resumed = [&often[..], &["--resume"]].concat();
        let mut done = 0;
        while done < kills {
            let mut child = start(into_folder(search, &killed, &resumed));
            // Moments spread over the start and the first steps, the same in every test run.
            let moment = length.mul_f64(f64::from((done * 37) % 100 + 1) / 250.0);
            std::thread::sleep(moment.max(Duration::from_millis(1)));
            child.kill().unwrap();
            child.wait_with_output().unwrap();
            done += 1;
            if killed.join("summary.json").exists() {
                // It was done before the kill: begin again, for the rest of the kills.
                assert_same_results(&whole, &killed);
                fs::remove_dir_all(&killed).unwrap();
            }
        }
        run(into_folder(search, &killed, &resumed)).expect_success();
        assert_same_results(&whole, &killed);
        println!("{done} kills");
    }
}

#[test]
fn a_second_process_is_kept_out_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut child = start(small_search(&out, &[LONG]));
    wait_until("a step", || has_begun(&out));
    run(small_search(&out, &[LONG, "--resume"])).expect_refusal(1, &["in use"]);
    child.kill().unwrap();
    child.wait_with_output().unwrap();
    // The lock died with its holder.
    run(small_search(&out, &[LONG, "--resume", "--max-steps=1"])).expect_success();
}

#[test]
fn a_run_is_not_overwritten_and_not_resumed_with_other_settings() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    run(small_search(&out, &["--max-steps=2"])).expect_success();
    run(small_search(&out, &[])).expect_refusal(1, &["--resume", "--out"]);
    run(small_search(&out, &["--resume", "--learning-rate=0.1"])).expect_refusal(1, &["learning_rate", "0.025", "0.1"]);
    fs::write(out.join("run.json"), "{").unwrap();
    run(small_search(&out, &["--resume"])).expect_refusal(1, &["run.json"]);
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_used() {
    for search in SMALL_SEARCHES {
        println!("{}", search[1]);
        let folder = tempfile::tempdir().unwrap();
        let (whole, out) = (folder.path().join("whole"), folder.path().join("damaged"));
        run(into_folder(search, &whole, &[])).expect_success();
        for steps in ["--max-steps=2", "--max-steps=3"] {
            run(into_folder(search, &out, &[steps, "--resume"])).expect_success();
        }
        let newest = newest_file(&out.join("checkpoint"));
        let mut bytes = fs::read(&newest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&newest, bytes).unwrap();
        let ended = run(into_folder(search, &out, &["--resume"]));
        assert!(ended.stderr.contains(&newest.file_name().unwrap().to_string_lossy().into_owned()), "{ended:?}");
        ended.expect_success();
        assert_same_results(&whole, &out);
    }
}

fn newest_file(folder: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.max_by_key(|path| (fs::metadata(path).unwrap().modified().unwrap(), path.clone())).unwrap()
}

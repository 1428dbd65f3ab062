//! The tasks as a newcomer runs them: the whole pipeline on generated images, interrupted, run again, and misused.

use std::fs;
use std::path::Path;

use darts_tests::program::{Ended, wait_until, xtask};
use serde_json::Value;

/// The quick pipeline with every stage cut to a few steps.
fn tiny<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words =
        ["reproduce-cifar", "--quick", "--train-limit=192", "--epochs=1", "--selection-epochs=1", "--train-epochs=1"];
    words.into_iter().chain(["--out", out]).chain(more.iter().copied()).collect()
}

fn run(arguments: &[&str]) -> Ended {
    xtask(arguments).output().unwrap().into()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

#[test]
fn the_quick_pipeline_searches_selects_trains_tests_and_reports() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let stdout = run(&tiny(out, &[])).expect_success();
    assert!(stdout.contains("test error") && stdout.contains("generated images"), "{stdout}");
    let chosen = json(&folder.path().join("selection.json"))["chosen"].as_u64().unwrap();
    let accuracy = |seed: u64| {
        json(&folder.path().join(format!("select-{seed}/summary.json")))["valid_accuracy"].as_f64().unwrap()
    };
    assert!(accuracy(chosen) >= accuracy(1 - chosen));
    let searched = json(&folder.path().join(format!("search-{chosen}/genotype.json")));
    assert_eq!(json(&folder.path().join("train/summary.json"))["genotype"], searched);
    for seed in [0, 1] {
        // The test set is touched once, at the very end.
        assert_eq!(json(&folder.path().join(format!("select-{seed}/summary.json"))).get("test_error"), None);
    }
    let report = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(report.to_lowercase().contains("synthetic"), "the report must say that its data is synthetic");
    // Run again: every stage is done, nothing is computed anew.
    let again = run(&tiny(out, &[])).expect_success();
    assert_eq!(again.matches("done before").count(), 5, "{again}");
    // Other settings are not mistaken for the same run.
    run(&tiny(out, &["--order=first"])).expect_refusal(1, &["order"]);
}

#[test]
#[cfg(unix)]
fn an_interrupted_pipeline_goes_on_where_it_was() {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let arguments = tiny(out, &["--searches=1"]);
    // A process group of its own, as a shell makes one, so that Ctrl-C reaches the task and the binary below it.
    let mut command = xtask(&arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
    let metrics = folder.path().join("search-0/metrics.jsonl");
    wait_until("a step", || fs::read_to_string(&metrics).is_ok_and(|text| text.contains("\"step\"")));
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-s", "INT", "--", &group]).status().unwrap().success());
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.code, Some(130), "{ended:?}");
    assert!(!folder.path().join("search-0/summary.json").exists());
    let stdout = run(&arguments).expect_success();
    assert!(stdout.contains("test error"), "{stdout}");
}

#[test]
fn misused_tasks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path).display().to_string();
    fs::write(at("archive"), "no archive").unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["fetch", "cifar11"], 1, "cifar10"),
        (&["fetch", "imagenet"], 1, "image-net"),
        (&["reproduce-cifar", "--genotype", "DARTS_V2", "--searches", "3"], 1, "--genotype"),
    ];
    for (arguments, code, named) in cases {
        run(arguments).expect_refusal(*code, &[named]);
    }
    let mut command = xtask(["fetch", "cifar10", "--from", &at("nowhere")]);
    Ended::from(command.env("DARTS_DATA", folder.path()).output().unwrap()).expect_refusal(1, &["nowhere"]);
    let mut command = xtask(["reproduce-cifar", "--quick", "--out", &at("out")]);
    Ended::from(command.env("DARTS_BIN", at("no-binary")).output().unwrap())
        .expect_refusal(1, &["DARTS_BIN", "no-binary"]);
}

//! The tasks as a newcomer runs them: the whole pipelines on generated images and text, interrupted, run again, and misused.

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
fn the_quick_text_pipeline_halves_trains_tests_reports_and_is_transferred() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let words = ["reproduce-ptb", "--quick", "--train-limit=2000", "--epochs=1", "--rungs=1,2", "--train-epochs=2"];
    let arguments: Vec<&str> = words.into_iter().chain(["--out", out]).collect();
    let stdout = run(&arguments).expect_success();
    for part in ["after epoch 1: seed", "after epoch 2: seed", "test perplexity", "generated text"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    let selection = json(&folder.path().join("selection.json"));
    let chosen = selection["chosen"].as_u64().unwrap();
    let candidates = selection["candidates"].as_array().unwrap();
    let decided: Vec<u64> = candidates.iter().map(|candidate| candidate["epochs"].as_u64().unwrap()).collect();
    assert_eq!((candidates[0]["seed"].as_u64(), decided), (Some(chosen), vec![2, 2, 1]));
    assert!(candidates[0]["valid_perplexity"].as_f64() <= candidates[1]["valid_perplexity"].as_f64());
    // The worst was stopped after the first rung, and can still be resumed.
    let stopped = folder.path().join(format!("select-{}", candidates[2]["seed"]));
    assert!(stopped.join("checkpoint").is_dir() && !stopped.join("summary.json").exists());
    let searched = json(&folder.path().join(format!("search-{chosen}/genotype.json")));
    let trained = json(&folder.path().join("train/summary.json"));
    assert_eq!(trained["genotype"], searched);
    assert!(trained["test_perplexity"].as_f64().unwrap() > 2.69, "no model is better than the source: {trained}");
    let report = fs::read_to_string(folder.path().join("report.html")).unwrap();
    for part in ["Synthetic data", "Perplexity of the source", "stopped after epoch 1", "Table 2"] {
        assert!(report.contains(part), "{part}");
    }
    assert_eq!(run(&arguments).expect_success().matches("done before").count(), 3 + 3 + 2 + 1);

    let to = folder.path().join("transfer");
    let train = folder.path().join("train");
    let mut transfer = vec!["transfer-wikitext2", "--quick", "--train-limit=2000", "--epochs=1", "--genotype"];
    transfer.extend([train.to_str().unwrap(), "--out", to.to_str().unwrap()]);
    let stdout = run(&transfer).expect_success();
    assert!(stdout.contains("nothing about WikiText-2"), "{stdout}");
    assert_eq!(json(&to.join("train/summary.json"))["genotype"], searched);
}

#[test]
fn the_transfer_says_where_it_trains_on_a_sample() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("wikitext-2");
    fs::create_dir(&data).unwrap();
    let text = |lines: usize| (0..lines).map(|i| format!("word{} of word{} <unk>\n", i % 7, i % 5)).collect::<String>();
    fs::write(data.join("wiki.valid.tokens"), text(200)).unwrap();
    fs::write(data.join("wiki.test.tokens"), text(40)).unwrap();
    let out = folder.path().join("out");
    let mut words = vec!["transfer-wikitext2", "--genotype=DARTS_V2", "--epochs=1", "--units=8"];
    words.extend(["--data", folder.path().to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let stdout = run(&words).expect_success();
    assert!(stdout.contains("no wiki.train.tokens") && stdout.contains("without its training text"), "{stdout}");
    let note = json(&out.join("train/run.json"))["corpus"]["note"].as_str().unwrap().to_owned();
    assert!(note.contains("wiki.valid.tokens"), "{note}");
    for report in [out.join("report.html"), out.join("train/report.html")] {
        assert!(fs::read_to_string(&report).unwrap().contains("Not the usual data"), "{}", report.display());
    }
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
        (&["reproduce-ptb", "--genotype", "DARTS_V2", "--rungs", "3"], 1, "--genotype"),
        (&["reproduce-ptb", "--quick", "--rungs", "9,3"], 1, "--rungs 9,3"),
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

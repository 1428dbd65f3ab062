//! Help texts and results for other programs: complete, on stdout, and no complaint when the reader goes away.

use std::process::Stdio;

use darts_tests::program::{darts, run, start};

#[test]
fn every_subcommand_explains_itself_on_stdout() {
    let promised: &[(&str, &[&str])] = &[
        (
            "search",
            &["--out", "--data", "--order", "--epochs", "--batch-size", "--init-channels", "--layers", "--nodes"],
        ),
        ("search", &["--learning-rate", "--seed", "--threads", "--device", "--train-limit", "--max-steps", "--resume"]),
        ("search", &["--checkpoint-every", "--quiet", "cifar10", "image-folder", "synthetic-images", "ptb"]),
        ("search", &["synthetic-text", "--tokenizer", "--units", "--bptt", "--dropout", "--until-epoch"]),
        ("train", &["--genotype", "--auxiliary", "--cutout", "--drop-path-prob", "imagenet", "wikitext2"]),
        ("eval", &["--data", "--split"]),
        ("predict", &["[IMAGES]", "--prompt", "--length", "--temperature", "--top-k", "--seed"]),
        ("derive", &["<RUN_DIR>"]),
        ("genotypes", &["--kind"]),
        ("plot", &["--output"]),
        ("profile", &["--task", "--init-channels", "--layers", "--json"]),
        ("verify", &["--golden", "--only", "--device"]),
    ];
    let overview = run(["--help"]).expect_success();
    for (subcommand, words) in promised {
        assert!(overview.contains(subcommand), "{overview}");
        let ended = run([subcommand, "--help"]);
        assert_eq!(ended.stderr, "", "{subcommand}");
        let help = ended.expect_success();
        for word in *words {
            assert!(help.contains(word), "{subcommand} --help does not mention {word}");
        }
    }
}

#[test]
fn the_version_is_one_line() {
    assert_eq!(run(["--version"]).expect_success(), format!("darts {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for arguments in [&["genotypes"][..], &["--help"], &["genotypes", "--json"]] {
        let mut child = start(arguments);
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{arguments:?}");
    }
}

#[test]
fn a_closed_stderr_is_no_error() {
    let mut child =
        darts(["genotypes", "--kind", "nothing"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn built_in_cells_are_printed_in_both_forms() {
    let text = run(["genotypes"]).expect_success();
    for name in
        ["DARTS_V1 (conv): Genotype(normal=[('sep_conv_3x3', 1)", "DARTS_V2 (recurrent)", "NASNet", "AmoebaNet", "ENAS"]
    {
        assert!(text.contains(name), "{name}: {text}");
    }
    let json = run(["genotypes", "--kind", "conv", "--json"]).expect_success();
    let names: Vec<String> = json
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["DARTS_V1", "DARTS_V2", "NASNet", "AmoebaNet"]);
}

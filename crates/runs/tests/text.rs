//! Searches and trainings of a tiny recurrent network, through the public interface: what a run leaves behind, that neither
//! threads nor interruptions change a byte of it (on either side of the switch to averaged weights), and texts of every shape.

mod support;

use std::fs;
use std::path::Path;

use darts_cells::genotype::{Genotype, named};
use darts_runs::config::Dropout;
use darts_runs::{
    Metric, Order, Outcome, RunOptions, RunRecord, SearchRun, Split, TextConfig, TextSearchConfig, TextTrainConfig,
    TrainRun, Writing, derive, evaluate, evaluate_text, read_metrics, write_text,
};
use support::{Snapshots, finished, options, results, tempdir};

fn text() -> TextConfig {
    TextConfig::SyntheticText { vocabulary: 6, predictability: 0.8, train_tokens: 130, valid_tokens: 60, data_seed: 1 }
}

fn search_config() -> TextSearchConfig {
    TextSearchConfig {
        seed: 5,
        order: Order::Second,
        epochs: 2,
        batch_size: 3,
        units: 5,
        nodes: 3,
        bptt: 11,
        dropout: Dropout { words: 0.1, ..Dropout::SEARCH },
        alpha_learning_rate: 0.05,
        ..TextSearchConfig::for_data(text())
    }
}

fn train_config() -> TextTrainConfig {
    TextTrainConfig {
        seed: 6,
        epochs: 4,
        batch_size: 4,
        units: 6,
        bptt: 6,
        activation_regularization: 0.1,
        // So large that the validation loss rises, and averaging begins.
        learning_rate: 60.0,
        nonmono: 1,
        ..TextTrainConfig::for_data(text(), named::recurrent("DARTS_V2").unwrap())
    }
}

fn search(dir: &Path, options: RunOptions) -> Outcome {
    SearchRun::open_or_create(dir, search_config(), options).unwrap().run(&mut ()).unwrap()
}

fn train(dir: &Path, config: TextTrainConfig, options: RunOptions) -> Outcome {
    TrainRun::open_or_create(dir, config, options).unwrap().run(&mut ()).unwrap()
}

#[test]
fn a_search_leaves_what_is_promised() {
    let dir = tempdir();
    let summary = finished(search(dir.path(), options(2)));
    for name in ["run.json", "tokenizer.json", "metrics.jsonl", "cell_recurrent.svg", "report.html", "checkpoint"] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
    let record = RunRecord::read(dir.path()).unwrap();
    let corpus = record.corpus.unwrap();
    assert_eq!((corpus.train_tokens, corpus.valid_tokens, corpus.test_tokens, corpus.vocabulary), (130, 60, 60, 6));
    let run = fs::read_to_string(dir.path().join("run.json")).unwrap();
    assert!(!run.contains("image_size"), "{run}");
    let Genotype::Recurrent(cell) = &summary.genotype else { panic!("{:?}", summary.genotype) };
    assert_eq!((cell.recurrent.len(), &cell.concat[..]), (3, &[1, 2, 3][..]));
    assert_eq!(summary.genotype, derive(dir.path()).unwrap().genotype);
    assert_eq!(summary.results.valid_perplexity, summary.results.valid_loss.map(f64::exp));
    assert_eq!((summary.train_accuracy, summary.results.valid_accuracy), (None, None));
    let weights = fs::read(dir.path().join("weights.safetensors")).unwrap();
    let names = String::from_utf8_lossy(&weights[..2000.min(weights.len())]).into_owned();
    for name in ["encoder.weight", "decoder.bias", "rnns.0._W0", "rnns.0._Ws.2", "rnns.0.bn.running_var", "\"alphas\""]
    {
        assert!(names.contains(name), "{name}: {names}");
    }
    assert!(!names.contains("decoder.weight"), "the tied matrix is there once");
    let epochs = read_metrics(dir.path()).unwrap().into_iter().filter_map(|line| match line {
        Metric::Epoch(epoch) => Some(epoch),
        Metric::Step(_) => None,
    });
    for epoch in epochs {
        assert!(epoch.valid_perplexity.unwrap() > 1.0 && epoch.tokens_per_second.unwrap() > 0.0);
        assert_eq!((epoch.train_accuracy, epoch.images_per_second), (None, None));
    }
}

#[test]
fn a_search_has_the_same_bytes_for_any_number_of_threads() {
    let (one, three) = (tempdir(), tempdir());
    search(one.path(), options(1));
    search(three.path(), options(3));
    assert!(results(one.path()) == results(three.path()));
}

#[test]
fn a_search_killed_after_any_step_and_resumed_has_the_same_bytes() {
    let (whole, copies) = (tempdir(), tempdir());
    let mut snapshots = Snapshots::new(whole.path(), copies.path());
    SearchRun::open_or_create(whole.path(), search_config(), options(2)).unwrap().run(&mut snapshots).unwrap();
    assert!(snapshots.steps.len() >= 8, "{:?}", snapshots.steps);
    for step in snapshots.steps {
        let dir = copies.path().join(step.to_string());
        finished(search(&dir, options(1)));
        assert!(results(&dir) == results(whole.path()), "killed after step {step}");
    }
}

#[test]
fn a_training_killed_after_any_step_and_resumed_has_the_same_bytes_before_and_after_the_switch() {
    let (whole, copies) = (tempdir(), tempdir());
    let mut snapshots = Snapshots::new(whole.path(), copies.path());
    TrainRun::open_or_create(whole.path(), train_config(), options(2)).unwrap().run(&mut snapshots).unwrap();
    let weights = |dir: &Path| fs::read(dir.join("weights.safetensors")).unwrap();
    // Without averaging the end is another: it did begin.
    let never = tempdir();
    finished(train(never.path(), TextTrainConfig { nonmono: 100, ..train_config() }, options(1)));
    assert!(weights(never.path()) != weights(whole.path()), "the weights were not averaged");
    for step in snapshots.steps {
        let dir = copies.path().join(step.to_string());
        finished(train(&dir, train_config(), options(3)));
        assert!(weights(&dir) == weights(whole.path()), "killed after step {step}");
    }
}

#[test]
fn a_training_is_evaluated_as_it_says_and_writes_the_same_text_for_the_same_seed() {
    let dir = tempdir();
    let summary = finished(train(dir.path(), train_config(), options(2)));
    let near = |a: f64, b: Option<f64>| assert!((a / b.unwrap() - 1.0).abs() < 1e-12, "{a} {b:?}");
    let test = evaluate_text(dir.path(), Split::Test, &options(1), &mut ()).unwrap();
    near(test.perplexity, summary.results.test_perplexity);
    near(test.bits_per_token, summary.results.test_loss.map(|loss| loss / 2f64.ln()));
    assert_eq!((test.tokens, test.unknown), (59, 0));
    let valid = evaluate_text(dir.path(), Split::Valid, &options(1), &mut ()).unwrap();
    near(valid.loss, summary.results.valid_loss);
    let writing = Writing { prompt: "w1 w2".into(), length: 20, ..Writing::default() };
    let write = |writing: &Writing, threads| write_text(dir.path(), writing, &options(threads)).unwrap();
    let text = write(&writing, 1);
    assert!(text.starts_with("w1 w2 w") && text.split(' ').count() == 22, "{text}");
    assert_eq!(text, write(&writing, 2));
    assert_ne!(text, write(&Writing { seed: 1, ..writing.clone() }, 1));
    let likeliest = Writing { temperature: 0.0, ..writing.clone() };
    assert_eq!(write(&likeliest, 1), write(&Writing { top_k: Some(1), ..writing.clone() }, 1));
    for (wrong, named) in [
        (Writing { prompt: String::new(), ..writing.clone() }, "prompt"),
        (Writing { prompt: "w1 house".into(), ..writing.clone() }, "house"),
        (Writing { temperature: -1.0, ..writing.clone() }, "temperature"),
        (Writing { top_k: Some(0), ..writing.clone() }, "top_k"),
        (Writing { length: 0, ..writing }, "length"),
    ] {
        let error = write_text(dir.path(), &wrong, &options(1)).unwrap_err().to_string();
        assert!(error.contains(named) && !error.contains('\n'), "{error}");
    }
    let error = evaluate(dir.path(), Split::Test, &options(1), &mut ()).unwrap_err().to_string();
    assert!(error.contains("trained on text"), "{error}");
}

#[test]
fn a_selection_leaves_the_test_text_alone_and_stops_at_an_epoch_to_go_on_later() {
    let (whole, halves) = (tempdir(), tempdir());
    let config = train_config().selection();
    let summary = finished(train(whole.path(), config.clone(), options(1)));
    assert_eq!(summary.results.test_perplexity, None);
    for until in 1..3 {
        let until = RunOptions { until_epoch: Some(until), ..options(1) };
        assert!(matches!(train(halves.path(), config.clone(), until), Outcome::Stopped(_)));
    }
    assert_eq!(finished(train(halves.path(), config, options(1))).results, summary.results);
}

/// A training on a text of one's own.
fn on_text(data: &Path, dir: &Path, batch_size: usize, bptt: usize) -> darts_runs::Result<Outcome> {
    let config = TextTrainConfig { data: TextConfig::text(), epochs: 1, batch_size, bptt, ..train_config() };
    let options = RunOptions { data_dir: Some(data.into()), ..options(1) };
    TrainRun::open_or_create(dir, config, options)?.run(&mut ())
}

fn write(dir: &Path, texts: [&str; 3]) {
    for (name, text) in ["train.txt", "valid.txt", "test.txt"].iter().zip(texts) {
        fs::write(dir.join(name), text).unwrap();
    }
}

#[test]
fn texts_of_one_line_windows_line_ends_and_a_vocabulary_of_two_are_trained_on() {
    // The vocabulary is "a" and "<eos>" and "<unk>" only where the text says so: words are all there is.
    for (texts, batch_size) in [
        (["a b a b a b a b", "a b", "b a"], 2),
        (["a\r\na\r\na\r\n", "a\r\n", "a"], 1),
        (["one two three four five six seven", "one", "zwei"], 1),
    ] {
        let (data, dir) = (tempdir(), tempdir());
        write(data.path(), texts);
        let summary = finished(on_text(data.path(), dir.path(), batch_size, 1).unwrap());
        assert!(summary.results.test_perplexity.unwrap() > 1.0, "{texts:?}");
    }
}

#[test]
fn unknown_words_are_counted_and_a_tokenizer_is_kept() {
    let (data, dir) = (tempdir(), tempdir());
    write(data.path(), ["a b a b\na a b b\n", "a b c\n", "d e a\n"]);
    finished(on_text(data.path(), dir.path(), 2, 2).unwrap());
    let run = RunRecord::read(dir.path()).unwrap();
    assert_eq!(run.corpus.unwrap().unknown, 3);
    // The text changes: the vocabulary does not.
    write(data.path(), ["x y z\n", "a b\n", "q a\n"]);
    let elsewhere = RunOptions { data_dir: Some(data.path().into()), ..options(1) };
    let test = evaluate_text(dir.path(), Split::Test, &elsewhere, &mut ()).unwrap();
    assert_eq!((test.tokens, test.unknown), (2, 1));
}

#[test]
fn a_batch_larger_than_the_text_is_refused_with_what_there_is_room_for() {
    let (data, dir) = (tempdir(), tempdir());
    write(data.path(), ["a b c d e f g\n", "a\n", "b\n"]);
    let error = on_text(data.path(), dir.path(), 5, 3).unwrap_err().to_string();
    assert!(
        error.starts_with("batch_size = 5 is not possible: expected at most 2: the training text has 8"),
        "{error}"
    );
    assert!(!dir.path().join("run.json").exists());
    let data_of = |valid_tokens| match text() {
        TextConfig::SyntheticText { vocabulary, predictability, train_tokens, data_seed, .. } => {
            TextConfig::SyntheticText { vocabulary, predictability, train_tokens, valid_tokens, data_seed }
        }
        other => other,
    };
    let config = TextSearchConfig { data: data_of(4), ..search_config() };
    let error = SearchRun::open_or_create(dir.path(), config, options(1)).err().unwrap().to_string();
    assert!(error.contains("the validation text has 4 tokens"), "{error}");
}

#[test]
fn text_that_is_no_utf8_is_refused_by_the_place_of_the_byte() {
    let (data, dir) = (tempdir(), tempdir());
    write(data.path(), ["a b\n", "a\n", "b\n"]);
    fs::write(data.path().join("valid.txt"), b"abc \xe4 d\n").unwrap();
    let error = on_text(data.path(), dir.path(), 1, 1).unwrap_err().to_string();
    assert!(error.contains("valid.txt: byte 0xe4 at offset 4"), "{error}");
}

#[test]
fn other_text_and_a_damaged_tokenizer_are_noticed_on_resume() {
    let (data, dir) = (tempdir(), tempdir());
    write(data.path(), ["a b a b a b a b\n", "a b\n", "b\n"]);
    let config = TextTrainConfig { data: TextConfig::text(), batch_size: 1, bptt: 1, ..train_config() };
    let options = RunOptions { data_dir: Some(data.path().into()), max_steps: Some(1), ..options(1) };
    let run = || TrainRun::open_or_create(dir.path(), config.clone(), options.clone());
    run().unwrap().run(&mut ()).unwrap();
    write(data.path(), ["a b a b a b a b a\n", "a b\n", "b\n"]);
    let error = run().err().unwrap().to_string();
    assert!(error.contains("train_tokens = 9") && error.contains("train_tokens = 10"), "{error}");
    fs::write(dir.path().join("tokenizer.json"), "{").unwrap();
    let error = run().err().unwrap().to_string();
    assert!(error.contains("tokenizer.json") && !error.contains('\n'), "{error}");
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let error = run().err().unwrap().to_string();
    assert!(error.contains("tokenizer.json") && !error.contains('\n'), "{error}");
}

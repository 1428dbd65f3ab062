//! Every setting of a run, beside the paper's where that is known, and the machine it was made on.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::format;
use crate::report::{html::escape, record::Record};

/// A setting in which a run differs from the paper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) name: String,
    pub(super) own: String,
    pub(super) paper: String,
}

/// Which of the paper's experiments a run is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Search,
    Selection,
    Training,
}

/// The paper's settings by the names that run.json has for them (sections 3 and A of the paper). Search on CIFAR-10.
const SEARCH_IMAGES: [(&str, f64); 15] = [
    ("epochs", 50.0),
    ("batch_size", 64.0),
    ("init_channels", 16.0),
    ("layers", 8.0),
    ("nodes", 4.0),
    ("learning_rate", 0.025),
    ("learning_rate_min", 0.001),
    ("momentum", 0.9),
    ("weight_decay", 3e-4),
    ("grad_clip", 5.0),
    ("alpha_learning_rate", 3e-4),
    ("alpha_beta1", 0.5),
    ("alpha_beta2", 0.999),
    ("alpha_weight_decay", 1e-3),
    ("radius", 0.01),
];
/// Evaluation on CIFAR-10.
const TRAIN_CIFAR: [(&str, f64); 13] = [
    ("epochs", 600.0),
    ("batch_size", 96.0),
    ("init_channels", 36.0),
    ("layers", 20.0),
    ("auxiliary_weight", 0.4),
    ("cutout", 16.0),
    ("drop_path_prob", 0.2),
    ("label_smoothing", 0.0),
    ("learning_rate", 0.025),
    ("learning_rate_min", 0.0),
    ("momentum", 0.9),
    ("weight_decay", 3e-4),
    ("grad_clip", 5.0),
];
/// Evaluation on ImageNet.
const TRAIN_IMAGENET: [(&str, f64); 16] = [
    ("image_size", 224.0),
    ("resize", 256.0),
    ("least_area", 0.08),
    ("epochs", 250.0),
    ("batch_size", 128.0),
    ("accumulate", 1.0),
    ("init_channels", 48.0),
    ("layers", 14.0),
    ("auxiliary_weight", 0.4),
    ("drop_path_prob", 0.0),
    ("label_smoothing", 0.1),
    ("learning_rate", 0.1),
    ("decay", 0.97),
    ("momentum", 0.9),
    ("weight_decay", 3e-5),
    ("grad_clip", 5.0),
];
/// Search on Penn Treebank.
const SEARCH_TEXT: [(&str, f64); 19] = [
    ("epochs", 50.0),
    ("batch_size", 256.0),
    ("units", 300.0),
    ("nodes", 8.0),
    ("bptt", 35.0),
    ("dropout.output", 0.75),
    ("dropout.hidden", 0.25),
    ("dropout.x", 0.75),
    ("dropout.embedding", 0.2),
    ("dropout.words", 0.0),
    ("temporal_regularization", 1e-3),
    ("learning_rate", 20.0),
    ("weight_decay", 5e-7),
    ("grad_clip", 0.25),
    ("alpha_learning_rate", 3e-3),
    ("alpha_beta1", 0.9),
    ("alpha_beta2", 0.999),
    ("alpha_weight_decay", 1e-3),
    ("radius", 0.01),
];
/// Evaluation on Penn Treebank; the paper trains until convergence, of which no number of epochs is known.
const TRAIN_PTB: [(&str, f64); 12] = [
    ("batch_size", 64.0),
    ("units", 850.0),
    ("bptt", 35.0),
    ("dropout.output", 0.75),
    ("dropout.hidden", 0.25),
    ("dropout.x", 0.75),
    ("dropout.embedding", 0.2),
    ("dropout.words", 0.1),
    ("temporal_regularization", 1e-3),
    ("learning_rate", 20.0),
    ("weight_decay", 8e-7),
    ("grad_clip", 0.25),
];
/// Evaluation on WikiText-2.
const TRAIN_WIKITEXT: [(&str, f64); 12] = [
    ("batch_size", 64.0),
    ("units", 700.0),
    ("bptt", 35.0),
    ("dropout.output", 0.75),
    ("dropout.hidden", 0.15),
    ("dropout.x", 0.75),
    ("dropout.embedding", 0.2),
    ("dropout.words", 0.1),
    ("temporal_regularization", 1e-3),
    ("learning_rate", 20.0),
    ("weight_decay", 5e-7),
    ("grad_clip", 0.25),
];

fn paper(task: &str, stage: Stage) -> &'static [(&'static str, f64)] {
    match (task, stage) {
        ("cifar10", Stage::Search) => &SEARCH_IMAGES,
        ("cifar10", _) => &TRAIN_CIFAR,
        ("imagenet", Stage::Training) => &TRAIN_IMAGENET,
        ("ptb", Stage::Search) => &SEARCH_TEXT,
        ("ptb", _) => &TRAIN_PTB,
        ("wikitext2", Stage::Training) => &TRAIN_WIKITEXT,
        _ => &[],
    }
}

fn paper_value(task: &str, stage: Stage, name: &str) -> Option<f64> {
    match (task, stage, name) {
        ("cifar10", Stage::Selection, "epochs") => Some(100.0),
        ("ptb", Stage::Selection, "epochs") => Some(300.0),
        _ => paper(task, stage).iter().find(|(known, _)| is_named(name, known)).map(|(_, value)| *value),
    }
}

/// Whether the setting at `path`, with dots between levels, is the one of this name, which stands for its last level or for all.
fn is_named(path: &str, name: &str) -> bool {
    path == name || (!name.contains('.') && path.rsplit('.').next() == Some(name))
}

fn differs(own: &Value, paper: f64) -> bool {
    own.as_f64().is_none_or(|own| (own - paper).abs() > 1e-9 * paper.abs().max(1e-9))
}

/// The settings in which a run differs from the paper's, those that decide a comparison: anything the paper's lists name, and a limited training set.
pub(super) fn differences(record: &Record, stage: Stage) -> Vec<Difference> {
    let mut out = Vec::new();
    let names = paper(record.task(), stage).iter().map(|(name, _)| *name);
    for name in names {
        if let (Some(own), Some(paper)) = (record.setting(name), paper_value(record.task(), stage, name))
            && differs(own, paper)
        {
            out.push(Difference {
                name: words(name).replace('.', " "),
                own: format::value(own),
                paper: format::value(&Value::from(paper)).trim_end_matches(".0").to_owned(),
            });
        }
    }
    if let Some(limit) = record.setting("train_limit") {
        out.push(Difference { name: "train limit".to_owned(), own: format::value(limit), paper: "all".to_owned() });
    }
    out
}

/// All settings of a run and where it was made, as two tables.
pub(super) fn tables(record: &Record, stage: Stage) -> String {
    let mut out = String::from("<div class=\"columns\">");
    let rows = flatten(&record.run["config"]);
    if !rows.is_empty() {
        let any = rows.iter().any(|(_, name, _)| paper_value(record.task(), stage, name).is_some());
        let _ = write!(
            out,
            "<table class=\"settings\"><caption>Settings</caption><thead><tr><th scope=\"col\">setting</th><th scope=\"col\">this run</th>{}</tr></thead><tbody>",
            if any { "<th scope=\"col\">paper</th>" } else { "" }
        );
        for (path, name, value) in rows {
            let known = paper_value(record.task(), stage, &name);
            let other = known.is_some_and(|paper| differs(value, paper));
            let cell = match (any, known) {
                (true, Some(paper)) => {
                    format!(
                        "<td>{}{}</td>",
                        if other { "≠ " } else { "" },
                        format::value(&Value::from(paper)).trim_end_matches(".0")
                    )
                }
                (true, None) => "<td></td>".to_owned(),
                (false, _) => String::new(),
            };
            let class = if other { " class=\"other\"" } else { "" };
            let _ = write!(
                out,
                "<tr{class}><th scope=\"row\">{}</th><td>{}</td>{cell}</tr>",
                escape(&path),
                escape(&format::value(value))
            );
        }
        out.push_str("</tbody></table>");
    }
    out.push_str("<table class=\"settings\"><caption>Origin</caption><tbody>");
    for (name, value) in origin(record) {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(&name), escape(&value));
    }
    out.push_str("</tbody></table></div>");
    out
}

/// Everything about a run that is no setting: from `run.json` what is not the configuration, from `summary.json` what is not the genotype.
fn origin(record: &Record) -> Vec<(String, String)> {
    let mut rows = vec![("folder".to_owned(), record.name())];
    if let Some(object) = record.run.as_object() {
        for (key, value) in object.iter().filter(|(key, _)| !matches!(key.as_str(), "config" | "genotype")) {
            match value {
                Value::Object(inner) => rows.extend(
                    inner
                        .iter()
                        .map(|(name, value)| (format!("{} · {}", words(key), words(name)), with_unit(name, value))),
                ),
                value => rows.push((words(key), with_unit(key, value))),
            }
        }
    }
    if let Some(object) = record.summary.as_object() {
        let plain =
            object.iter().filter(|(key, value)| !matches!(key.as_str(), "genotype" | "kind") && !value.is_object());
        rows.extend(plain.map(|(key, value)| (words(key), with_unit(key, value))));
    } else if let Some(seconds) = record.seconds() {
        rows.push(("time so far".to_owned(), format::duration(seconds)));
    }
    rows
}

/// Times, sizes and shares with their units, by the endings of their names.
fn with_unit(name: &str, value: &Value) -> String {
    match value.as_f64() {
        Some(number) if name.ends_with("seconds") => format::duration(number),
        Some(number) if name.ends_with("bytes") => format::bytes(number),
        Some(number) if name.ends_with("accuracy") || name.ends_with("_error") => format!("{:.2} %", 100.0 * number),
        Some(number) if name == "started" && number > 1e9 => format::utc(number as u64),
        Some(number) if number.fract() != 0.0 => format!("{number:.5}"),
        Some(number) if number >= 1000.0 && name != "seed" => format::grouped(number as u64),
        _ => format::value(value),
    }
}

/// Leaves of a configuration: (path in words, path with dots, value). Genotypes are left to the section that draws them.
fn flatten(config: &Value) -> Vec<(String, String, &Value)> {
    fn walk<'a>(object: &'a Map<String, Value>, prefix: &str, out: &mut Vec<(String, String, &'a Value)>) {
        for (key, value) in object.iter().filter(|(key, _)| *key != "genotype") {
            let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) => walk(inner, &path, out),
                value => out.push((words(&path).replace('.', " · "), path, value)),
            }
        }
    }
    let mut out = Vec::new();
    if let Some(object) = config.as_object() {
        walk(object, "", &mut out);
    }
    out
}

fn words(key: &str) -> String {
    key.replace('_', " ")
}

//! Curves of one run: loss, accuracy or perplexity, learning rate; and of several searches together.

use std::fmt::Write as _;

use crate::report::{
    charts::{Chart, Reference, Series},
    html::escape,
    record::{Points, Record},
};

/// Colours of the stylesheet: training, validation, and a third quantity.
const TRAIN: usize = 0;
const VALID: usize = 1;
const OTHER: usize = 2;

/// The charts of one run, with its epochs as a table below; says so if there is nothing yet.
pub(super) fn of_run(record: &Record) -> String {
    let mut charts: Vec<String> = Vec::new();
    let series = |name: &str, colour: usize, key: &str| Series {
        name: name.to_owned(),
        colour,
        epochs: record.epoch_points(key),
        steps: record.step_points(key),
    };
    let chart = |title: &str, unit: &'static str, decimals: usize, factor: f64, log: bool, series: Vec<Series>| Chart {
        title: title.to_owned(),
        unit,
        decimals,
        factor,
        log,
        series,
        references: Vec::new(),
    };
    if record.is_text() {
        let mut perplexity = chart(
            "Perplexity",
            "",
            1,
            1.0,
            true,
            vec![perplexity_series(record, "train", TRAIN), perplexity_series(record, "valid", VALID)],
        );
        if let Some(value) = record.source_perplexity() {
            perplexity.references.push(Reference { name: "source".to_owned(), value });
        }
        charts.push(perplexity.figure());
    } else {
        let accuracy = vec![series("train", TRAIN, "train_accuracy"), series("valid", VALID, "valid_accuracy")];
        charts.push(chart("Accuracy, %", "%", 1, 100.0, false, accuracy).figure());
    }
    let losses = vec![series("train", TRAIN, "train_loss"), series("valid", VALID, "valid_loss")];
    charts.push(chart("Loss, nats", "", 3, 1.0, false, losses).figure());
    // The learning rate is a step function of the step: epochs are for logs without steps.
    let mut rate = series("lr", OTHER, "lr");
    if !rate.steps.is_empty() {
        rate.epochs.clear();
    }
    let small = rate.steps.iter().chain(&rate.epochs).all(|point| point.1 < 1.0);
    charts.push(chart("Learning rate", "", if small { 4 } else { 1 }, 1.0, false, vec![rate]).figure());
    charts.push(
        chart("Gradient norm before clipping", "", 2, 1.0, true, vec![series("norm", OTHER, "grad_norm")]).figure(),
    );
    charts.retain(|chart| !chart.is_empty());
    if charts.is_empty() {
        return "<p class=\"empty-note\">No step has been logged yet.</p>".to_owned();
    }
    format!("<div class=\"charts\">{}</div>{}", charts.concat(), epochs_table(record))
}

/// Validation results of several searches in one chart; nothing for fewer than two.
pub(super) fn of_searches(searches: &[(String, &Record)]) -> String {
    let text = searches.iter().any(|(_, record)| record.is_text());
    let series: Vec<Series> = searches
        .iter()
        .enumerate()
        .map(|(index, (seed, record))| Series {
            name: format!("seed {seed}"),
            colour: index % 6,
            epochs: if text {
                perplexity_series(record, "valid", 0).epochs
            } else {
                record.epoch_points("valid_accuracy")
            },
            steps: Points::new(),
        })
        .filter(|series| !series.epochs.is_empty())
        .collect();
    if series.len() < 2 {
        return String::new();
    }
    let source = searches.iter().find_map(|(_, record)| record.source_perplexity());
    let chart = if text {
        Chart {
            title: "Supernet, validation perplexity".to_owned(),
            unit: "",
            decimals: 1,
            factor: 1.0,
            log: true,
            series,
            references: source.map(|value| Reference { name: "source".to_owned(), value }).into_iter().collect(),
        }
    } else {
        Chart {
            title: "Supernet, validation accuracy, %".to_owned(),
            unit: "%",
            decimals: 1,
            factor: 100.0,
            log: false,
            series,
            references: Vec::new(),
        }
    };
    chart.figure()
}

/// Perplexities as logged, or e to the loss.
fn perplexity_series(record: &Record, split: &str, colour: usize) -> Series {
    let of = |points: fn(&Record, &str) -> Points| {
        let logged = points(record, &format!("{split}_perplexity"));
        if logged.is_empty() {
            points(record, &format!("{split}_loss")).into_iter().map(|(epoch, loss)| (epoch, loss.exp())).collect()
        } else {
            logged
        }
    };
    Series { name: split.to_owned(), colour, epochs: of(Record::epoch_points), steps: of(Record::step_points) }
}

/// Every epoch's figures, folded away.
fn epochs_table(record: &Record) -> String {
    let columns: Vec<(&str, &str, f64, usize)> = [
        ("train_loss", "train loss", 1.0, 4),
        ("train_accuracy", "train %", 100.0, 2),
        ("valid_loss", "valid loss", 1.0, 4),
        ("valid_accuracy", "valid %", 100.0, 2),
        ("valid_perplexity", "valid ppl", 1.0, 2),
        ("lr", "lr", 1.0, 5),
        ("images_per_second", "images/s", 1.0, 0),
        ("tokens_per_second", "tokens/s", 1.0, 0),
        ("seconds", "seconds", 1.0, 1),
        ("waited_seconds", "of them waiting for data", 1.0, 2),
    ]
    .into_iter()
    .filter(|(key, ..)| record.epochs.iter().any(|epoch| epoch[*key].is_number()))
    .collect();
    if columns.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "<details><summary>All {} epochs as numbers</summary><div class=\"scroll\"><table class=\"epochs\"><thead><tr><th scope=\"col\">epoch</th>",
        record.epochs.len()
    );
    for (_, title, ..) in &columns {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(title));
    }
    out.push_str("</tr></thead><tbody>");
    for epoch in &record.epochs {
        let number = epoch["epoch"].as_u64().map_or("?".to_owned(), |number| (number + 1).to_string());
        let _ = write!(out, "<tr><th scope=\"row\">{number}</th>");
        for (key, _, factor, decimals) in &columns {
            let text =
                epoch[*key].as_f64().map_or("–".to_owned(), |value| format!("{:.*}", decimals, value * factor));
            let _ = write!(out, "<td>{text}</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></details>");
    out
}

//! The page of one run.

use serde_json::Value;

use super::{
    Page, badge, cells, curves, data_name, format, problems, results,
    results::Own,
    settings::{self, Stage},
    weights,
};
use crate::report::{
    html::escape,
    record::{Record, State},
    tables::Table,
};

/// The whole page of a run.
pub(crate) fn run(record: &Record) -> String {
    let search = record.is_search();
    let name = data_name(record.task());
    let title = if search { format!("Search for a cell on {name}") } else { format!("Training of a cell on {name}") };
    let live = record.state() == State::InProgress;
    let mut page = Page::new(&title, record.is_synthetic(), live).with_note(record.note());
    page.header(&below(record), &badge(record));
    page.tiles(&tiles(record));
    let stage = if search { Stage::Search } else { Stage::Training };
    let problems = problems(std::iter::once(record));
    if !problems.is_empty() {
        page.body.push_str(&problems);
    }
    if let Some(genotype) = &record.genotype {
        let heading = if search && record.state() != State::Finished { "The cells so far" } else { "The cells" };
        page.section("cells", heading, &cells::figures(genotype));
    }
    if let (false, Some(table)) = (search, Table::of_task(record.task())) {
        page.section("results", "Beside the published results", &results::table(table, &own(record, table)));
    }
    page.section("curves", "Curves", &curves::of_run(record));
    if search {
        page.section("weights", "Operation weights", &weights::of_run(record));
    }
    page.section("settings", "Settings, version and machine", &settings::tables(record, stage));
    page.finish()
}

/// Where the run is from, on one line.
pub(super) fn below(record: &Record) -> String {
    let mut parts = Vec::new();
    for (key, word) in
        [("seed", "seed "), ("device", ""), ("version", "darts "), ("commit", "commit "), ("started", "started ")]
    {
        let value = &record.run[key];
        let text = match value {
            Value::Null => continue,
            Value::Number(number) if key == "started" => format::utc(number.as_f64().unwrap_or(0.0) as u64),
            value => format::value(value),
        };
        let text = match key {
            "commit" => text.chars().take(12).collect(),
            "started" => text.replacen('T', " ", 1).replace('Z', " UTC"),
            _ => text,
        };
        parts.push(escape(&format!("{word}{text}")));
    }
    parts.join(" · ")
}

fn tiles(record: &Record) -> Vec<(&'static str, String, String)> {
    let mut tiles = Vec::new();
    let text = record.is_text();
    for (split, error_name, perplexity_name) in
        [("test", "Test error", "Test perplexity"), ("valid", "Validation error", "Validation perplexity")]
    {
        if text {
            if let Some(perplexity) = record.perplexity(split) {
                let below = if record.is_search() { "of the supernet, with running statistics" } else { "" };
                tiles.push((perplexity_name, format::perplexity(perplexity), below.to_owned()));
            }
        } else if let Some(error) = record.error_percent(split) {
            tiles.push((
                error_name,
                format!("{error:.2} %"),
                if split == "valid" && record.is_search() { "of the supernet".to_owned() } else { String::new() },
            ));
        }
    }
    tiles.extend(record.source_perplexity().map(source_tile));
    if let Some(error) = record.result("test_top5_error") {
        tiles.push(("Top-5 error", format!("{:.2} %", 100.0 * error), String::new()));
    }
    if let Some(parameters) = record.result("parameters") {
        let adds = record
            .result("multiply_adds")
            .map(|adds| format!("{} multiply-adds", format::millions(adds)))
            .unwrap_or_default();
        tiles.push(("Parameters", format::millions(parameters), adds));
    }
    tiles.extend(cost_tiles(std::iter::once(record)));
    tiles
}

/// The best that can be done on a generated text.
pub(super) fn source_tile(perplexity: f64) -> (&'static str, String, String) {
    ("Perplexity of the source", format::perplexity(perplexity), "no model is better in the long run".to_owned())
}

/// Time and memory of some runs: times added up, the largest memory.
pub(super) fn cost_tiles<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<(&'static str, String, String)> {
    let (mut seconds, mut epochs, mut memory, mut on_gpu, mut hardware) = (0.0, 0, 0f64, 0f64, String::new());
    for record in records {
        seconds += record.seconds().unwrap_or(0.0);
        epochs += record.epochs.len();
        memory = memory.max(record.result("peak_memory_bytes").unwrap_or(0.0));
        on_gpu = on_gpu.max(record.result("peak_device_bytes").unwrap_or(0.0));
        if hardware.is_empty() {
            let machine = &record.run["hardware"];
            hardware =
                machine["gpu"].as_str().or(machine["cpu"].as_str()).or(machine.as_str()).unwrap_or_default().to_owned();
        }
    }
    let mut tiles = Vec::new();
    if seconds > 0.0 {
        let epochs = if epochs == 1 { "1 epoch".to_owned() } else { format!("{epochs} epochs") };
        let machine = if hardware.is_empty() { String::new() } else { format!(" on {hardware}") };
        tiles.push(("Time", format::duration(seconds), epochs + &machine));
    }
    if memory > 0.0 {
        let beside = if on_gpu > 0.0 { format!("and {} on the GPU", format::bytes(on_gpu)) } else { String::new() };
        tiles.push(("Peak memory", format::bytes(memory), beside));
    }
    tiles
}

/// A training's own row in a published table.
pub(super) fn own(record: &Record, table: &Table) -> Own {
    Own {
        name: "This run".to_owned(),
        figures: figures(record, table),
        count: 1,
        parameters: record.result("parameters").map(|parameters| parameters / 1e6),
        multiply_adds: record.result("multiply_adds").map(|adds| adds / 1e6),
        cost: None,
        synthetic: record.is_synthetic(),
        differences: settings::differences(record, Stage::Training),
    }
}

/// A training's figures in the order of a table's: only what was measured in the end.
pub(super) fn figures(record: &Record, table: &Table) -> [Option<f64>; 2] {
    if record.state() != State::Finished {
        return [None, None];
    }
    match table.number {
        1 => [record.error_percent("test"), None],
        // ImageNet has no labels for its test images: the paper's figures are those of the validation images.
        3 => [
            record.error_percent("test").or_else(|| record.error_percent("valid")),
            record.result("test_top5_error").or_else(|| record.result("valid_top5_error")).map(|error| 100.0 * error),
        ],
        _ => [record.perplexity("valid"), record.perplexity("test")],
    }
}

//! The page of a whole experiment: searches with several seeds, a short training of what each found, and the full training of the best.

use std::fmt::Write as _;

use super::{
    Page, Pipeline, badge, cells, curves, data_name, format, problems, progress, results,
    results::Own,
    settings::{self, Stage},
    single, weights,
};
use crate::report::{
    html::escape,
    record::{Record, State},
    tables::Table,
};

/// The whole page of an experiment.
pub(crate) fn pipeline(pipeline: &Pipeline) -> String {
    let live = !pipeline.is_finished();
    let title = format!("DARTS on {}", data_name(&pipeline.task));
    let note = pipeline.records().find_map(Record::note);
    let mut page = Page::new(&title, pipeline.is_synthetic(), live).with_note(note);
    let first = pipeline.records().next();
    page.header(&first.map(single::below).unwrap_or_default(), &overall_badge(pipeline));
    page.tiles(&tiles(pipeline));
    let problems = problems(pipeline.records());
    if !problems.is_empty() {
        page.body.push_str(&problems);
    }
    page.section("stages", "From search to test", &stages(pipeline));
    if let Some(table) = Table::of_task(&pipeline.task) {
        page.section("results", "Beside the published results", &results::table(table, &own(pipeline, table)));
    } else {
        page.section(
            "results",
            "Results",
            "<p>The paper has no table of this data: the figures above stand for themselves.</p>",
        );
    }
    page.section(
        "cells",
        match (pipeline.chosen(), pipeline.candidates.is_empty()) {
            (Some(_), _) => "The chosen cells",
            (None, true) => "The cells",
            (None, false) => "The cells so far",
        },
        &all_cells(pipeline),
    );
    page.section("curves", "Curves", &all_curves(pipeline));
    page.section("weights", "Operation weights", &all_weights(pipeline));
    page.section("settings", "Settings, versions and machine", &all_settings(pipeline));
    page.finish()
}

fn overall_badge(pipeline: &Pipeline) -> String {
    if pipeline.is_finished() {
        return "<span class=\"badge done\">finished</span>".to_owned();
    }
    // The stage that is under way is the last one that was begun and is not finished.
    match pipeline.records().filter(|record| record.state() == State::InProgress).last() {
        Some(record) => {
            format!("<span class=\"badge live\">{}: {}</span>", escape(&record.name()), escape(&progress(record)))
        }
        None if pipeline.records().next().is_none() => "<span class=\"badge\">not started</span>".to_owned(),
        None => "<span class=\"badge live\">in progress</span>".to_owned(),
    }
}

/// Test figures of all finished trainings.
fn test_values(pipeline: &Pipeline) -> Vec<f64> {
    let finished = pipeline.trainings.iter().filter(|record| record.state() == State::Finished);
    finished
        .filter_map(|record| if pipeline.is_text() { record.perplexity("test") } else { record.error_percent("test") })
        .collect()
}

fn tiles(pipeline: &Pipeline) -> Vec<(&'static str, String, String)> {
    let mut tiles = Vec::new();
    let (name, decimals, unit) = if pipeline.is_text() { ("Test perplexity", 2, "") } else { ("Test error", 2, " %") };
    let values = test_values(pipeline);
    match format::mean_and_deviation(&values) {
        Some((mean, Some(deviation))) => tiles.push((
            name,
            format!("{mean:.decimals$} ± {deviation:.decimals$}{unit}"),
            format!("mean of n = {}", values.len()),
        )),
        Some((mean, None)) => tiles.push((name, format!("{mean:.decimals$}{unit}"), "n = 1 final training".to_owned())),
        None => tiles.push((name, "–".to_owned(), "not measured yet".to_owned())),
    }
    tiles.extend(pipeline.records().find_map(Record::source_perplexity).map(single::source_tile));
    let searched = pipeline
        .candidates
        .iter()
        .filter(|candidate| candidate.search.as_ref().is_some_and(|record| record.state() == State::Finished))
        .count();
    let chosen = pipeline.chosen().map(|candidate| format!("seed {} chosen", candidate.seed)).unwrap_or_default();
    if let Some(error) = pipeline.trainings.iter().find_map(|record| record.result("test_top5_error")) {
        tiles.push(("Top-5 error", format!("{:.2} %", 100.0 * error), String::new()));
    }
    // A cell that was given was not searched here.
    if !pipeline.candidates.is_empty() {
        tiles.push(("Searches", format!("{searched} of {}", pipeline.candidates.len()), chosen));
    }
    if let Some(parameters) = pipeline.trainings.iter().find_map(|record| record.result("parameters")) {
        let adds = pipeline.trainings.iter().find_map(|record| record.result("multiply_adds"));
        tiles.push((
            "Parameters",
            format::millions(parameters),
            adds.map(|adds| format!("{} multiply-adds", format::millions(adds))).unwrap_or_default(),
        ));
    }
    tiles.extend(single::cost_tiles(pipeline.records()));
    tiles
}

/// The table of searches and selections, with means, and the final training's line.
fn stages(pipeline: &Pipeline) -> String {
    let unit = if pipeline.is_text() { "" } else { " %" };
    let decimals = 2;
    let measure = if pipeline.is_text() { "perplexity" } else { "error" };
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.decimals$}{unit}"));
    if pipeline.candidates.is_empty() {
        return format!("<p>No search: the cell was given.</p>{}", trainings(pipeline, measure, &number));
    }
    let mut out = String::from(
        "<p>Each seed searches for a cell; each cell is trained briefly; the one that does best on held-out data is trained in full. The test set is read once, at the very end.</p>",
    );
    if pipeline.is_halved() {
        out.push_str(
            "<p>The short trainings went on by successive halving: the worse half was stopped at each rung.</p>",
        );
    }
    let _ = write!(
        out,
        "<table class=\"stages\"><thead><tr><th scope=\"col\">seed</th><th scope=\"col\" class=\"number\">supernet, valid {measure}</th><th scope=\"col\" class=\"number\">cell trained briefly, valid {measure}</th>\
         <th scope=\"col\" class=\"number\">parameters</th><th scope=\"col\" class=\"number\">time</th></tr></thead><tbody>"
    );
    let chosen = pipeline.chosen().map(|candidate| candidate.seed.clone());
    let stage = |record: Option<&Record>| match record {
        Some(record) if record.state() == State::InProgress => {
            format!("{} <small>{}</small>", number(pipeline.measure(record)), escape(&progress(record)))
        }
        Some(record) => number(pipeline.measure(record)),
        None => "–".to_owned(),
    };
    for candidate in &pipeline.candidates {
        let mark = Some(&candidate.seed) == chosen.as_ref();
        let seconds: f64 =
            [&candidate.search, &candidate.selection].into_iter().flatten().filter_map(Record::seconds).sum();
        let parameters = candidate.selection.as_ref().and_then(|record| record.result("parameters"));
        let _ = write!(
            out,
            "<tr{}><th scope=\"row\">{}{}</th><td class=\"number\" data-label=\"supernet, valid {measure}\">{}</td><td class=\"number\" data-label=\"trained briefly, valid {measure}\">{}</td>\
             <td class=\"number\" data-label=\"parameters\">{}</td><td class=\"number\" data-label=\"time\">{}</td></tr>",
            if mark { " class=\"chosen\"" } else { "" },
            escape(&candidate.seed),
            if mark { " <span class=\"tag\">chosen</span>" } else { "" },
            stage(candidate.search.as_ref()),
            match pipeline.stopped_at(candidate) {
                Some((value, epochs)) => format!("{} <small>stopped after epoch {epochs}</small>", number(Some(value))),
                None => stage(candidate.selection.as_ref()),
            },
            parameters.map_or("–".to_owned(), format::millions),
            if seconds > 0.0 { format::duration(seconds) } else { "–".to_owned() },
        );
    }
    out.push_str("</tbody>");
    let values = |of: fn(&super::pipeline::Candidate) -> Option<&Record>| -> Vec<f64> {
        let records = pipeline.candidates.iter().filter_map(of).filter(|record| record.state() == State::Finished);
        records.filter_map(|record| pipeline.measure(record)).collect()
    };
    let searches = values(|candidate| candidate.search.as_ref());
    let selections = values(|candidate| candidate.selection.as_ref());
    if searches.len() > 1 {
        let mean = |values: &[f64]| format::mean_text(values, decimals, unit.trim()).unwrap_or_else(|| "–".to_owned());
        let _ = write!(
            out,
            "<tfoot><tr><th scope=\"row\">mean ± std</th><td class=\"number\" data-label=\"supernet, valid {measure}\">{}</td><td class=\"number\" data-label=\"trained briefly, valid {measure}\">{}</td>\
             <td class=\"empty\"></td><td class=\"empty\"></td></tr></tfoot>",
            mean(&searches),
            mean(&selections)
        );
    }
    out.push_str("</table>");
    out + &trainings(pipeline, measure, &number)
}

/// A line for each full training.
fn trainings(pipeline: &Pipeline, measure: &str, number: &dyn Fn(Option<f64>) -> String) -> String {
    let mut out = String::new();
    for record in &pipeline.trainings {
        let test = if pipeline.is_text() { record.perplexity("test") } else { record.error_percent("test") };
        let _ = write!(
            out,
            "<p class=\"final\"><strong>Full training</strong> ({}) {} test {measure} <strong>{}</strong>, {}</p>",
            escape(&record.name()),
            badge(record),
            if record.state() == State::Finished { number(test) } else { "not measured yet".to_owned() },
            record.seconds().map_or("no time yet".to_owned(), format::duration)
        );
    }
    out
}

fn own(pipeline: &Pipeline, table: &Table) -> Own {
    let trained: Vec<&Record> = pipeline.trainings.iter().filter(|record| record.state() == State::Finished).collect();
    let all: Vec<[Option<f64>; 2]> = trained.iter().map(|record| single::figures(record, table)).collect();
    let mean = |index: usize| {
        let values: Vec<f64> = all.iter().filter_map(|figures| figures[index]).collect();
        format::mean_and_deviation(&values).map(|(mean, _)| mean)
    };
    let searches: Vec<&Record> = pipeline.candidates.iter().filter_map(|candidate| candidate.search.as_ref()).collect();
    let seconds: f64 = searches.iter().filter_map(|record| record.seconds()).sum();
    let gpu =
        searches.iter().any(|record| record.run["device"].as_str().is_some_and(|device| device.starts_with("cuda")));
    let order = searches
        .first()
        .and_then(|record| record.setting("order"))
        .and_then(|order| order.as_str())
        .map(|order| format!(", {order} order"))
        .unwrap_or_default();
    let mut differences = Vec::new();
    for (records, stage, word) in [
        (searches.first(), Stage::Search, "search"),
        (pipeline.trainings.first().as_ref(), Stage::Training, "training"),
    ] {
        if let Some(record) = records {
            differences.extend(settings::differences(record, stage).into_iter().map(|mut difference| {
                difference.name = format!("{word} {}", difference.name);
                difference
            }));
        }
    }
    if !searches.is_empty() && searches.len() != 4 {
        differences.push(settings::Difference {
            name: "number of searches".to_owned(),
            own: searches.len().to_string(),
            paper: "4".to_owned(),
        });
    }
    Own {
        name: format!("This experiment{order}"),
        figures: [mean(0), mean(1)],
        count: trained.len().max(1),
        parameters: pipeline
            .trainings
            .iter()
            .find_map(|record| record.result("parameters"))
            .map(|parameters| parameters / 1e6),
        multiply_adds: pipeline
            .trainings
            .iter()
            .find_map(|record| record.result("multiply_adds"))
            .map(|adds| adds / 1e6),
        cost: (seconds > 0.0).then(|| {
            let days = seconds / 86_400.0;
            let text = if days < 0.01 { "< 0.01".to_owned() } else { format!("{days:.2}") };
            format!("{text} {}", if gpu { "GPU-days" } else { "CPU-days" })
        }),
        synthetic: pipeline.is_synthetic(),
        differences,
    }
}

fn searches(pipeline: &Pipeline) -> Vec<(String, &Record)> {
    pipeline
        .candidates
        .iter()
        .filter_map(|candidate| Some((candidate.seed.clone(), candidate.search.as_ref()?)))
        .collect()
}

fn folded(summary: &str, body: &str) -> String {
    format!("<details><summary>{}</summary>{body}</details>", escape(summary))
}

/// The chosen cell, and the others folded away; before a choice, every search's.
fn all_cells(pipeline: &Pipeline) -> String {
    let chosen = pipeline.chosen().map(|candidate| candidate.seed.clone());
    let mut out = String::new();
    let mut others = String::new();
    // A training of a given cell, without any search, has its own.
    let main = pipeline.chosen().and_then(|candidate| candidate.search.as_ref()).or(pipeline.trainings.first());
    if let Some(genotype) = main.and_then(|record| record.genotype.as_ref()) {
        out.push_str(&cells::figures(genotype));
    }
    for (seed, record) in searches(pipeline) {
        if let (true, Some(genotype)) = (Some(&seed) != chosen.as_ref(), &record.genotype) {
            others.push_str(&folded(&format!("Cells of seed {seed}"), &cells::figures(genotype)));
        }
    }
    out.push_str(&others);
    if out.is_empty() { "<p class=\"empty-note\">No search has finished an epoch yet.</p>".to_owned() } else { out }
}

fn all_curves(pipeline: &Pipeline) -> String {
    let mut out = String::new();
    for record in &pipeline.trainings {
        let _ = write!(out, "<h3>Full training</h3>{}", curves::of_run(record));
    }
    let searches = searches(pipeline);
    let together = curves::of_searches(&searches);
    if !together.is_empty() {
        let _ = write!(out, "<h3>Searches</h3><div class=\"charts\">{together}</div>");
    }
    let single = searches.len() == 1;
    for (seed, record) in &searches {
        let body = curves::of_run(record);
        out.push_str(&if single {
            format!("<h3>Search</h3>{body}")
        } else {
            folded(&format!("Search with seed {seed}"), &body)
        });
    }
    for candidate in &pipeline.candidates {
        if let Some(record) = &candidate.selection {
            out.push_str(&folded(
                &format!("Short training of the cell of seed {}", candidate.seed),
                &curves::of_run(record),
            ));
        }
    }
    if out.is_empty() { "<p class=\"empty-note\">Nothing has run yet.</p>".to_owned() } else { out }
}

fn all_weights(pipeline: &Pipeline) -> String {
    let searches = searches(pipeline);
    let chosen = pipeline
        .chosen()
        .map(|candidate| candidate.seed.clone())
        .or_else(|| searches.first().map(|(seed, _)| seed.clone()));
    let mut out = String::new();
    if let Some((seed, record)) = searches.iter().find(|(seed, _)| Some(seed) == chosen.as_ref()) {
        if searches.len() > 1 {
            let _ = write!(out, "<p>Search with seed {}:</p>", escape(seed));
        }
        out.push_str(&weights::of_run(record));
    }
    for (seed, record) in searches.iter().filter(|(seed, _)| Some(seed) != chosen.as_ref()) {
        out.push_str(&folded(&format!("Search with seed {seed}"), &weights::of_run(record)));
    }
    if out.is_empty() { "<p class=\"empty-note\">No search here.</p>".to_owned() } else { out }
}

fn all_settings(pipeline: &Pipeline) -> String {
    let mut out = String::new();
    for candidate in &pipeline.candidates {
        for (record, stage, word) in
            [(&candidate.search, Stage::Search, "Search"), (&candidate.selection, Stage::Selection, "Selection")]
        {
            if let Some(record) = record {
                out.push_str(&folded(&format!("{word}, seed {}", candidate.seed), &settings::tables(record, stage)));
            }
        }
    }
    for record in &pipeline.trainings {
        let _ = write!(out, "<h3>Full training</h3>{}", settings::tables(record, Stage::Training));
    }
    if pipeline.trainings.is_empty() {
        // Nothing final yet: what is there is shown open.
        out = out.replacen("<details>", "<details open=\"open\">", 1);
    }
    format!("<p>Folder: <code>{}</code></p>{out}", escape(&pipeline.name))
}

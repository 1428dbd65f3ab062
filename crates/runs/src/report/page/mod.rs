//! The report's page: its frame, and which sections a run and a whole experiment get.
//!
//! The page is one file that asks the network for nothing and runs no script (its content security policy forbids both). Every text from a file is escaped.
//! While something is in progress the page reloads itself; nothing else about it moves.

mod cells;
mod curves;
mod experiment;
mod format;
mod pipeline;
mod results;
mod settings;
mod single;
mod weights;

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

pub(crate) use experiment::pipeline;
pub(crate) use pipeline::Pipeline;
pub(crate) use single::run;

use super::{
    cell_drawing,
    html::escape,
    record::{Record, State},
};

/// Seconds after which a page of a run in progress reloads itself.
const RELOAD: u32 = 20;
const STYLE: &str = include_str!("style.css");

/// A page under construction.
struct Page {
    title: String,
    synthetic: bool,
    /// What has to be said wherever a figure is shown.
    note: Option<String>,
    /// Whether it reloads itself.
    live: bool,
    body: String,
}

impl Page {
    fn new(title: &str, synthetic: bool, live: bool) -> Self {
        Self { title: title.to_owned(), synthetic, note: None, live, body: String::new() }
    }

    fn with_note(self, note: Option<&str>) -> Self {
        Self { note: note.map(str::to_owned), ..self }
    }

    /// The head of the page: title, a line below it, state, and what must be said of the data.
    fn header(&mut self, below: &str, badge: &str) {
        let _ = write!(
            self.body,
            "<header><div class=\"top\"><h1>{}</h1>{badge}</div><p class=\"below\">{below}</p>",
            escape(&self.title)
        );
        if self.synthetic {
            self.body.push_str(
                "<p class=\"banner\"><strong>Synthetic data.</strong> Everything on this page was computed from generated data. It shows that the software works; \
                 its figures cannot be compared with published ones.</p>",
            );
        }
        if let Some(note) = &self.note {
            let _ = write!(self.body, "<p class=\"banner\"><strong>Not the usual data.</strong> {}.</p>", escape(note));
        }
        self.body.push_str("</header>");
    }

    /// A section; each says so itself if its data is synthetic, for sections are printed, linked and photographed alone.
    fn section(&mut self, id: &str, heading: &str, body: &str) {
        let tag = if self.synthetic { "<span class=\"tag synthetic\">synthetic data</span>" } else { "" };
        let _ = write!(self.body, "<section id=\"{id}\"><h2>{}{tag}</h2>{body}</section>", escape(heading));
    }

    fn tiles(&mut self, tiles: &[(&str, String, String)]) {
        self.body.push_str("<dl class=\"tiles\">");
        for (name, value, below) in tiles {
            let below = if below.is_empty() { String::new() } else { format!("<small>{}</small>", escape(below)) };
            let _ = write!(self.body, "<div><dt>{}</dt><dd>{}{below}</dd></div>", escape(name), escape(value));
        }
        self.body.push_str("</dl>");
    }

    fn finish(self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let reload =
            if self.live { format!("<meta http-equiv=\"refresh\" content=\"{RELOAD}\">") } else { String::new() };
        let live = if self.live {
            format!(" It is rewritten after every epoch and reloads itself every {RELOAD} seconds.")
        } else {
            String::new()
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
             <meta name=\"color-scheme\" content=\"light dark\"/><meta http-equiv=\"Content-Security-Policy\" content=\"default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;; img-src data:\"/>\
             {reload}<title>{title}</title><link rel=\"icon\" href=\"data:,\"/><style>{style}{cells}</style></head><body><main>{body}</main>\
             <footer><p>Written by darts {version} on {now}.{live} This file needs no network and loads nothing.</p></footer></body></html>\n",
            reload = reload.replace("\">", "\"/>"),
            title = escape(&self.title),
            style = STYLE,
            cells = cell_drawing::stylesheet(),
            body = self.body,
            version = env!("CARGO_PKG_VERSION"),
            now = format::utc(now),
        )
    }
}

/// The data's name as people write it.
fn data_name(task: &str) -> String {
    match task {
        "" => "unknown data".to_owned(),
        "cifar10" => "CIFAR-10".to_owned(),
        "imagenet" => "ImageNet".to_owned(),
        "image-folder" => "an image folder".to_owned(),
        "ptb" => "Penn Treebank".to_owned(),
        "wikitext2" => "WikiText-2".to_owned(),
        "text" => "a text".to_owned(),
        "synthetic-images" => "synthetic images".to_owned(),
        "synthetic-text" => "synthetic text".to_owned(),
        other => other.to_owned(),
    }
}

/// How far a run is, as a badge.
fn badge(record: &Record) -> String {
    match record.state() {
        State::Finished => "<span class=\"badge done\">finished</span>".to_owned(),
        State::Empty => "<span class=\"badge\">not started</span>".to_owned(),
        State::InProgress => format!("<span class=\"badge live\">in progress: {}</span>", escape(&progress(record))),
    }
}

/// "epoch 12 of 50", and how long the rest will take if that is known.
fn progress(record: &Record) -> String {
    let done = record.epochs.len() as u64;
    // Steps of an epoch without its line belong to the epoch that is under way.
    let current =
        record.steps.last().and_then(|step| step["epoch"].as_u64()).map_or(done, |epoch| (epoch + 1).max(done));
    let Some(planned) = record.planned_epochs() else { return format!("epoch {current}") };
    let recent: Vec<f64> = record.epochs.iter().rev().take(3).filter_map(|epoch| epoch["seconds"].as_f64()).collect();
    let left = planned.saturating_sub(done);
    let rest = if recent.is_empty() || left == 0 {
        String::new()
    } else {
        format!(", about {} left", format::duration(recent.iter().sum::<f64>() / recent.len() as f64 * left as f64))
    };
    format!("epoch {} of {planned}{rest}", current.max(1).min(planned.max(1)))
}

/// What could not be read, if anything.
fn problems<'a>(records: impl Iterator<Item = &'a Record>) -> String {
    let lines: Vec<String> = records
        .flat_map(|record| {
            record.problems.iter().map(|problem| format!("<li>{}/{}</li>", escape(&record.name()), escape(problem)))
        })
        .collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!("<div class=\"problems\"><p>Not everything could be read:</p><ul>{}</ul></div>", lines.concat())
    }
}

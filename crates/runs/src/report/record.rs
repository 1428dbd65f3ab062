//! A run's folder, as far as it is there: what a report is made of.
//!
//! A report must come out while a run is being written, after it was killed, and for folders from other versions. So nothing here is required: a missing
//! file is an absence, a broken line is skipped and counted, unknown keys are kept for the table of settings. Only a folder that cannot be read at all is
//! an error.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use darts_cells::genotype::Genotype;
use serde_json::Value;

use super::ReportError;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing was written yet.
    Empty,
    /// No summary yet: it runs, or it was stopped and can be resumed.
    InProgress,
    /// The summary is there.
    Finished,
}

/// A curve: (position in epochs, value).
pub(crate) type Points = Vec<(f64, f64)>;

/// The softmax weights of one kind of cell over the epochs.
#[derive(Clone, Debug, Default)]
pub(crate) struct WeightHistory {
    /// Epochs, ascending.
    pub(crate) epochs: Vec<f64>,
    /// For each epoch, for each edge, the weight of each operation.
    pub(crate) weights: Vec<Vec<Vec<f64>>>,
}

/// What kind of cell a weight history belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellKind {
    Normal,
    Reduce,
    Recurrent,
}

/// Everything that a run's folder says.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// `run.json`; null if there is none.
    pub(crate) run: Value,
    /// `summary.json`; null if there is none.
    pub(crate) summary: Value,
    /// Lines of kind "step".
    pub(crate) steps: Vec<Value>,
    /// Lines of kind "epoch".
    pub(crate) epochs: Vec<Value>,
    /// Weight histories from `alphas.jsonl`.
    pub(crate) weights: Vec<(CellKind, WeightHistory)>,
    /// The latest genotype: `genotype.json`, else the last epoch's, else the one in the configuration.
    pub(crate) genotype: Option<Genotype>,
    /// What could not be read, one line each.
    pub(crate) problems: Vec<String>,
}

impl Record {
    /// Reads a folder.
    ///
    /// # Errors
    /// [`ReportError::Read`] if `dir` is no readable folder.
    pub(crate) fn read(dir: &Path) -> Result<Self, ReportError> {
        fs::read_dir(dir).map_err(|source| ReportError::read(dir, source))?;
        let mut problems = Vec::new();
        let run = read_object(dir, "run.json", &mut problems);
        let summary = read_object(dir, "summary.json", &mut problems);
        let lines = read_lines(dir, "metrics.jsonl", &mut problems);
        let kind = |name: &str| lines.iter().filter(|line| line["kind"] == *name).cloned().collect::<Vec<_>>();
        let (steps, epochs) = (kind("step"), kind("epoch"));
        let weights = weight_histories(&read_lines(dir, "alphas.jsonl", &mut problems));
        let genotype = read_genotype(dir, &run, &epochs, &mut problems);
        Ok(Self { dir: dir.to_owned(), run, summary, steps, epochs, weights, genotype, problems })
    }

    /// How far it is.
    pub(crate) fn state(&self) -> State {
        if self.summary.is_object() {
            State::Finished
        } else if self.run.is_null() && self.steps.is_empty() && self.epochs.is_empty() {
            State::Empty
        } else {
            State::InProgress
        }
    }

    /// The last part of the folder's name.
    pub(crate) fn name(&self) -> String {
        let dir = fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone());
        dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The data's name, `cifar10`, …; empty if the folder does not say.
    pub(crate) fn task(&self) -> &str {
        let places = [
            &self.run["task"],
            &self.run["config"]["task"],
            &self.run["config"]["data"]["dataset"],
            &self.run["config"]["dataset"],
        ];
        places.iter().find_map(|value| value.as_str()).unwrap_or_default()
    }

    /// Whether it searches for a cell (else it trains one).
    pub(crate) fn is_search(&self) -> bool {
        match self.run["kind"].as_str() {
            Some(kind) => kind == "search",
            None => !self.weights.is_empty(),
        }
    }

    /// Whether the data was generated.
    pub(crate) fn is_synthetic(&self) -> bool {
        self.task().starts_with("synthetic") || self.run["data"]["synthetic"] == true
    }

    /// Whether it models language: its measure is perplexity, not error.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.task(), "ptb" | "wikitext2" | "text" | "synthetic-text") || self.run["corpus"].is_object()
    }

    /// A setting, wherever in the configuration it lies; a name may have dots between levels.
    pub(crate) fn setting(&self, name: &str) -> Option<&Value> {
        let mut levels = name.split('.');
        let top = find(&self.run["config"], levels.next()?)?;
        levels.try_fold(top, |value, level| value.get(level))
    }

    /// What has to be said wherever a figure of it is shown.
    pub(crate) fn note(&self) -> Option<&str> {
        self.run["corpus"]["note"].as_str()
    }

    /// The lowest perplexity that any model of a generated text has in the long run: e to the entropy of its source.
    pub(crate) fn source_perplexity(&self) -> Option<f64> {
        self.run["corpus"]["entropy"].as_f64().map(f64::exp)
    }

    /// Epochs that are planned.
    pub(crate) fn planned_epochs(&self) -> Option<u64> {
        self.setting("epochs").and_then(Value::as_u64)
    }

    /// A number of the summary.
    pub(crate) fn result(&self, name: &str) -> Option<f64> {
        self.summary[name].as_f64()
    }

    /// Error in percent on a split (`valid`, `test`), from the summary, or for `valid` from the last epoch of a run in progress.
    pub(crate) fn error_percent(&self, split: &str) -> Option<f64> {
        let error = self.result(&format!("{split}_error")).map(|error| 100.0 * error);
        let accuracy = || self.latest(&format!("{split}_accuracy")).map(|accuracy| 100.0 * (1.0 - accuracy));
        error.or_else(accuracy)
    }

    /// A figure from the summary or else from the last epoch that has it.
    pub(crate) fn latest(&self, name: &str) -> Option<f64> {
        self.result(name).or_else(|| self.epochs.iter().rev().find_map(|epoch| epoch[name].as_f64()))
    }

    /// The perplexity on a split: as it stands, or e to the loss.
    pub(crate) fn perplexity(&self, split: &str) -> Option<f64> {
        self.latest(&format!("{split}_perplexity")).or_else(|| self.latest(&format!("{split}_loss")).map(f64::exp))
    }

    /// Time spent so far, seconds.
    pub(crate) fn seconds(&self) -> Option<f64> {
        let known = self.result("wall_seconds").or_else(|| self.result("seconds"));
        known.or_else(|| {
            (!self.epochs.is_empty()).then(|| self.epochs.iter().filter_map(|epoch| epoch["seconds"].as_f64()).sum())
        })
    }

    /// A quantity of the epoch lines; an epoch's value stands at its end.
    pub(crate) fn epoch_points(&self, name: &str) -> Points {
        self.epochs.iter().filter_map(|line| Some((line["epoch"].as_f64()? + 1.0, line[name].as_f64()?))).collect()
    }

    /// A quantity of the step lines, thinned to a few hundred means. A step's position follows from its place among the lines of its epoch.
    pub(crate) fn step_points(&self, name: &str) -> Points {
        let mut counts: Vec<(f64, f64)> = Vec::new();
        for line in &self.steps {
            let Some(epoch) = line["epoch"].as_f64() else { continue };
            match counts.last_mut() {
                Some((last, count)) if *last == epoch => *count += 1.0,
                _ => counts.push((epoch, 1.0)),
            }
        }
        // The last epoch may be unfinished: it is taken to get as many lines as the fullest one, and so is one that is cut short.
        let full = counts.iter().map(|(_, count)| *count).fold(1.0, f64::max);
        let mut points = Points::new();
        let mut place = (f64::NAN, 0.0);
        for line in &self.steps {
            let Some(epoch) = line["epoch"].as_f64() else { continue };
            place = if place.0 == epoch { (epoch, place.1 + 1.0) } else { (epoch, 1.0) };
            if let Some(value) = line[name].as_f64() {
                points.push((epoch + place.1 / full, value));
            }
        }
        thin(&points, 300)
    }
}

/// Means of neighbouring points, so that at most `most` are left.
fn thin(points: &[(f64, f64)], most: usize) -> Points {
    let size = points.len().div_ceil(most).max(1);
    points
        .chunks(size)
        .map(|chunk| {
            let count = chunk.len() as f64;
            (
                chunk.iter().map(|point| point.0).sum::<f64>() / count,
                chunk.iter().map(|point| point.1).sum::<f64>() / count,
            )
        })
        .collect()
}

/// Looks for a key in an object and then in the objects within it.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(name).filter(|value| !value.is_null()).or_else(|| object.values().find_map(|value| find(value, name)))
}

fn read_text(dir: &Path, file: &str, problems: &mut Vec<String>) -> Option<String> {
    match fs::read(dir.join(file)) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            problems.push(format!("{file}: {error}"));
            None
        }
    }
}

fn read_object(dir: &Path, file: &str, problems: &mut Vec<String>) -> Value {
    let Some(text) = read_text(dir, file, problems) else { return Value::Null };
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.is_object() => value,
        Ok(_) => {
            problems.push(format!("{file}: expected a JSON object"));
            Value::Null
        }
        Err(error) => {
            problems.push(format!("{file}: {error}"));
            Value::Null
        }
    }
}

/// Lines that parse. A last line without its end is being written and is no problem; others that do not parse are counted as one.
fn read_lines(dir: &Path, file: &str, problems: &mut Vec<String>) -> Vec<Value> {
    let Some(text) = read_text(dir, file, problems) else { return Vec::new() };
    let mut lines = Vec::new();
    let mut broken = 0;
    for line in text.split_inclusive('\n') {
        match serde_json::from_str::<Value>(line) {
            Ok(value) if value.is_object() => lines.push(value),
            _ if !line.ends_with('\n') || line.trim().is_empty() => {}
            _ => broken += 1,
        }
    }
    if broken > 0 {
        problems.push(format!("{file}: {broken} lines that are no JSON objects were skipped"));
    }
    lines
}

fn read_genotype(dir: &Path, run: &Value, epochs: &[Value], problems: &mut Vec<String>) -> Option<Genotype> {
    if let Some(text) = read_text(dir, "genotype.json", problems) {
        match Genotype::read(text.as_bytes()) {
            Ok(genotype) => return Some(genotype),
            Err(error) => problems.push(format!("genotype.json: {error}")),
        }
    }
    let last = epochs.iter().rev().map(|epoch| &epoch["genotype"]).find(|value| value.is_object());
    [last, find(&run["config"], "genotype")]
        .into_iter()
        .flatten()
        .find_map(|value| Genotype::read(value.to_string().as_bytes()).ok())
}

fn weight_histories(lines: &[Value]) -> Vec<(CellKind, WeightHistory)> {
    let names = [
        (CellKind::Normal, ["alphas_normal", "normal"]),
        (CellKind::Reduce, ["alphas_reduce", "reduce"]),
        (CellKind::Recurrent, ["alphas", "recurrent"]),
    ];
    names
        .into_iter()
        .filter_map(|(kind, keys)| {
            let mut history = WeightHistory::default();
            for (place, line) in lines.iter().enumerate() {
                let Some(rows) = keys.iter().find_map(|key| matrix(&line[*key])) else { continue };
                // A history has one shape; a line of another shape is not of this run.
                let shape = |rows: &[Vec<f64>]| (rows.len(), rows.first().map(Vec::len));
                if history.weights.first().is_some_and(|first| shape(first) != shape(&rows)) {
                    continue;
                }
                history.epochs.push(line["epoch"].as_f64().unwrap_or(place as f64) + 1.0);
                history.weights.push(rows.iter().map(|row| softmax(row)).collect());
            }
            (!history.epochs.is_empty()).then_some((kind, history))
        })
        .collect()
}

/// A non-empty rectangular matrix of numbers.
fn matrix(value: &Value) -> Option<Vec<Vec<f64>>> {
    let rows: Vec<Vec<f64>> = value
        .as_array()?
        .iter()
        .map(|row| row.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>())
        .collect::<Option<_>>()?;
    let width = rows.first().map(Vec::len).filter(|width| *width > 0)?;
    rows.iter().all(|row| row.len() == width).then_some(rows)
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = row.iter().map(|value| (value - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(files: &[(&str, &str)]) -> Record {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Record::read(dir.path()).unwrap()
    }

    #[test]
    fn an_empty_folder_is_an_empty_record() {
        let record = record(&[]);
        assert_eq!(record.state(), State::Empty);
        assert!(record.problems.is_empty());
        assert!(record.step_points("train_loss").is_empty());
    }

    #[test]
    fn a_torn_last_line_is_no_problem_and_a_broken_one_is_counted() {
        let whole = "{\"kind\":\"epoch\",\"epoch\":0,\"train_loss\":1.5}\n";
        let torn = record(&[("metrics.jsonl", &format!("{whole}{{\"kind\":\"epo"))]);
        assert_eq!((torn.epochs.len(), torn.problems.len()), (1, 0));
        let broken = record(&[("metrics.jsonl", &format!("nonsense\n{whole}"))]);
        assert_eq!((broken.epochs.len(), broken.problems.len()), (1, 1));
        assert_eq!(broken.epoch_points("train_loss"), [(1.0, 1.5)]);
    }

    #[test]
    fn steps_lie_within_their_epoch_and_are_thinned() {
        let mut text = String::new();
        for epoch in 0..10 {
            for step in 0..100 {
                text.push_str(&format!(
                    "{}\n",
                    json!({"kind": "step", "epoch": epoch, "step": epoch * 100 + step, "lr": 0.5})
                ));
            }
        }
        let points = record(&[("metrics.jsonl", &text)]).step_points("lr");
        assert!(points.len() <= 300 && points.len() > 200);
        assert!(points.iter().all(|(x, y)| (0.0..=10.0).contains(x) && *y == 0.5));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn weights_are_the_softmax_of_alphas_and_other_shapes_are_left_out() {
        let text = "{\"epoch\":0,\"alphas_normal\":[[0,0],[0,1000]]}\n{\"epoch\":1,\"alphas_normal\":[[0,0,0]]}\n";
        let record = record(&[("alphas.jsonl", text)]);
        let (kind, history) = &record.weights[0];
        assert_eq!((*kind, history.epochs.as_slice()), (CellKind::Normal, [1.0].as_slice()));
        assert_eq!(history.weights[0], [vec![0.5, 0.5], vec![0.0, 1.0]]);
    }

    #[test]
    fn settings_are_found_at_any_depth_and_errors_in_either_form() {
        let record = record(&[
            ("run.json", r#"{"config":{"data":{"dataset":"synthetic-images"},"epochs":4}}"#),
            ("summary.json", r#"{"valid_accuracy":0.75,"test_error":0.125}"#),
        ]);
        assert_eq!(record.planned_epochs(), Some(4));
        assert!(record.is_synthetic() && !record.is_text());
        assert_eq!((record.error_percent("valid"), record.error_percent("test")), (Some(25.0), Some(12.5)));
    }
}

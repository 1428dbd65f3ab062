//! A whole experiment's folder: several searches, the short training of what each found, the full training of the best.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::report::{
    ReportError,
    record::{Record, State},
};

/// A seed's search and the short training of its cell.
pub(crate) struct Candidate {
    /// The seed, as the folder's name has it.
    pub(super) seed: String,
    /// `search-SEED`.
    pub(super) search: Option<Record>,
    /// `select-SEED`.
    pub(super) selection: Option<Record>,
}

/// What is in an experiment's folder.
pub(crate) struct Pipeline {
    /// The folder's name.
    pub(super) name: String,
    /// The data's name.
    pub(super) task: String,
    /// By seed, ascending.
    pub(super) candidates: Vec<Candidate>,
    /// `train`, and `train-…` where there are more.
    pub(super) trainings: Vec<Record>,
    /// The seed that `selection.json` names.
    named: Option<String>,
    /// What `selection.json` says of the candidates.
    selected: Vec<Value>,
}

impl Pipeline {
    /// Reads all stages that are there.
    ///
    /// # Errors
    /// [`ReportError::Read`] if `dir` is no readable folder.
    pub(crate) fn read(dir: &Path, task: &str) -> Result<Self, ReportError> {
        let fail = |source| ReportError::read(dir, source);
        let mut folders: Vec<(String, PathBuf)> = Vec::new();
        for entry in fs::read_dir(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.path().is_dir() {
                folders.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
            }
        }
        // Seeds count as numbers: 10 comes after 9.
        folders
            .sort_by_key(|(name, _)| (name.rsplit('-').next().and_then(|seed| seed.parse::<u64>().ok()), name.clone()));
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut trainings = Vec::new();
        for (name, path) in folders {
            if name == "train" || name.starts_with("train-") {
                trainings.push(Record::read(&path)?);
            } else if let Some((stage @ ("search" | "select"), seed)) = name.split_once('-') {
                let index = candidates.iter().position(|candidate| candidate.seed == seed).unwrap_or_else(|| {
                    candidates.push(Candidate { seed: seed.to_owned(), search: None, selection: None });
                    candidates.len() - 1
                });
                let record = Some(Record::read(&path)?);
                match stage {
                    "search" => candidates[index].search = record,
                    _ => candidates[index].selection = record,
                }
            }
        }
        let named =
            fs::read(dir.join("selection.json")).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let selected = named.as_ref().and_then(|value| value["candidates"].as_array().cloned()).unwrap_or_default();
        let named = named.and_then(|value| match &value["chosen"] {
            Value::String(seed) => Some(seed.clone()),
            Value::Number(seed) => Some(seed.to_string()),
            _ => None,
        });
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, task: task.to_owned(), candidates, trainings, named, selected })
    }

    /// All records, in the order of the stages.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        let searches = self.candidates.iter().filter_map(|candidate| candidate.search.as_ref());
        let selections = self.candidates.iter().filter_map(|candidate| candidate.selection.as_ref());
        searches.chain(selections).chain(&self.trainings)
    }

    /// Whether any of its data was generated.
    pub(super) fn is_synthetic(&self) -> bool {
        self.task.starts_with("synthetic") || self.records().any(Record::is_synthetic)
    }

    /// Whether its measure is perplexity.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.task.as_str(), "ptb" | "wikitext2" | "text" | "synthetic-text")
            || self.records().any(Record::is_text)
    }

    /// Whether the final training is done.
    pub(super) fn is_finished(&self) -> bool {
        !self.trainings.is_empty() && self.trainings.iter().all(|record| record.state() == State::Finished)
    }

    /// Whether short trainings were stopped on the way.
    pub(super) fn is_halved(&self) -> bool {
        self.selected.iter().any(|candidate| candidate["epochs"].is_u64())
    }

    /// The result at which a candidate's short training was stopped, and after which epoch, where it was.
    pub(super) fn stopped_at(&self, candidate: &Candidate) -> Option<(f64, u64)> {
        candidate.selection.as_ref().filter(|record| record.state() == State::InProgress)?;
        let entry = self
            .selected
            .iter()
            .find(|entry| entry["seed"].as_u64().is_some_and(|seed| candidate.seed.parse() == Ok(seed)))?;
        let error = entry["valid_accuracy"].as_f64().map(|accuracy| 100.0 * (1.0 - accuracy));
        Some((entry["valid_perplexity"].as_f64().or(error)?, entry["epochs"].as_u64()?))
    }

    /// The candidate that went on to the final training: the one that was named, or the best of the finished selections, or the only search.
    pub(super) fn chosen(&self) -> Option<&Candidate> {
        if let Some(seed) = &self.named {
            return self.candidates.iter().find(|candidate| candidate.seed == *seed);
        }
        let measured = self.candidates.iter().filter_map(|candidate| {
            let selection = candidate.selection.as_ref().filter(|record| record.state() == State::Finished)?;
            Some((self.measure(selection)?, candidate))
        });
        let best = measured.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate);
        best.or(match self.candidates.as_slice() {
            [only] => Some(only),
            _ => None,
        })
    }

    /// What is compared on validation data, lower is better: error in percent, or perplexity.
    pub(super) fn measure(&self, record: &Record) -> Option<f64> {
        if self.is_text() { record.perplexity("valid") } else { record.error_percent("valid") }
    }
}

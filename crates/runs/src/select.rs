//! Choosing between the cells of several searches, as the paper does (section 3.3): each is trained for a short while, and
//! the one that is best on held-out data is kept, at once or by successive halving (Jamieson & Talwalkar, AISTATS 2016). The
//! test set has no part in it. Running the searches and the trainings is their own business; this file reads what they left
//! in `select-SEED/` and writes `selection.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::folder::atomic;
use crate::metrics::{Metric, read_metrics, read_summary};

/// The file that says which search was chosen.
const FILE: &str = "selection.json";

/// One short training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Seed of the search and of the training.
    pub seed: u64,
    /// Share of the held-out images that are right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_accuracy: Option<f64>,
    /// Perplexity on the validation text, for language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_perplexity: Option<f64>,
    /// After how many epochs, where the training may have gone on or been stopped there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
}

impl Candidate {
    /// A number that is larger for a better candidate.
    fn score(&self) -> Option<f64> {
        self.valid_accuracy.or(self.valid_perplexity.map(|perplexity| -perplexity))
    }
}

/// `selection.json`: all candidates, and the one that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Seed of the best candidate; of equal ones the first.
    pub chosen: u64,
    /// All candidates, in the order given.
    pub candidates: Vec<Candidate>,
}

/// Compares the finished short trainings `dir/select-SEED` of these seeds, and writes `dir/selection.json`.
///
/// # Errors
/// [`Error::NotReady`] naming a training that is not finished or has no validation result, [`Error::Config`] when there is
/// nothing to choose from.
pub fn choose(dir: &Path, seeds: &[u64]) -> Result<Selection> {
    let candidates = seeds.iter().map(|&seed| finished(dir, seed)).collect::<Result<Vec<_>>>()?;
    record(dir, ranked(dir, &candidates)?.first(), candidates)
}

/// The short trainings `dir/select-SEED` of these seeds as they were after so many epochs, the best first.
///
/// # Errors
/// As [`choose`], for a training that has not got so far.
pub fn rank(dir: &Path, seeds: &[u64], epochs: usize) -> Result<Vec<Candidate>> {
    let candidates = seeds.iter().map(|&seed| after(dir, seed, epochs)).collect::<Result<Vec<_>>>()?;
    ranked(dir, &candidates)
}

/// Writes `dir/selection.json`: `chosen`, and all candidates with the result that decided about each.
///
/// # Errors
/// [`Error::Config`] when nobody was chosen, or the folder cannot be written to.
pub fn record(dir: &Path, chosen: Option<&Candidate>, candidates: Vec<Candidate>) -> Result<Selection> {
    let chosen = chosen.ok_or_else(|| Error::Config {
        field: "seeds",
        value: "none".into(),
        expected: "at least one search to choose".into(),
    })?;
    let selection = Selection { chosen: chosen.seed, candidates };
    let path = dir.join(FILE);
    let mut bytes = serde_json::to_vec(&selection).map_err(|e| Error::bad_file(&path, e))?;
    bytes.push(b'\n');
    atomic::write(&path, &bytes)?;
    Ok(selection)
}

fn folder(dir: &Path, seed: u64) -> PathBuf {
    dir.join(format!("select-{seed}"))
}

fn not_ready(dir: &Path, seed: u64, reason: impl Into<String>) -> Error {
    Error::NotReady { dir: folder(dir, seed), reason: reason.into() }
}

fn finished(dir: &Path, seed: u64) -> Result<Candidate> {
    let summary = read_summary(&folder(dir, seed))?
        .ok_or_else(|| not_ready(dir, seed, "is not finished: it has no summary.json"))?;
    let (valid_accuracy, valid_perplexity) = (summary.results.valid_accuracy, summary.results.valid_perplexity);
    Ok(Candidate { seed, valid_accuracy, valid_perplexity, epochs: None })
}

fn after(dir: &Path, seed: u64, epochs: usize) -> Result<Candidate> {
    let lines = read_metrics(&folder(dir, seed))?.into_iter();
    let epoch = lines.into_iter().find_map(|line| match line {
        Metric::Epoch(epoch) if epoch.epoch + 1 == epochs => Some(epoch),
        _ => None,
    });
    let epoch = epoch.ok_or_else(|| not_ready(dir, seed, format!("has not done {epochs} epochs yet")))?;
    let (valid_accuracy, valid_perplexity) = (epoch.valid_accuracy, epoch.valid_perplexity);
    Ok(Candidate { seed, valid_accuracy, valid_perplexity, epochs: Some(epochs) })
}

/// The best first; of equal ones the one that was given first.
fn ranked(dir: &Path, candidates: &[Candidate]) -> Result<Vec<Candidate>> {
    let mut scored = Vec::with_capacity(candidates.len());
    for &candidate in candidates {
        let no_result = || not_ready(dir, candidate.seed, "has no validation result: it held no data out");
        scored.push((candidate.score().ok_or_else(no_result)?, candidate));
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(scored.into_iter().map(|(_, candidate)| candidate).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use darts_cells::genotype::named;

    use super::*;
    use crate::config::RunKind;
    use crate::metrics::{EpochMetrics, METRICS, Results, SUMMARY, Summary};

    fn training(dir: &Path, seed: u64, results: Results) {
        let run = dir.join(format!("select-{seed}"));
        fs::create_dir_all(&run).unwrap();
        let summary = Summary {
            kind: RunKind::Train,
            genotype: named::conv("DARTS_V1").unwrap().into(),
            epochs: 1,
            steps: 1,
            train_loss: 1.0,
            train_accuracy: None,
            results,
            parameters: 1,
            parameters_with_auxiliary: None,
            multiply_adds: 1,
            wall_seconds: 1.0,
            peak_memory_bytes: 1,
            peak_device_bytes: None,
        };
        fs::write(run.join(SUMMARY), serde_json::to_vec(&summary).unwrap()).unwrap();
    }

    #[test]
    fn the_most_accurate_is_chosen_and_of_equal_ones_the_first() {
        let dir = tempfile::tempdir().unwrap();
        for (seed, accuracy) in [(3, 0.5), (1, 0.75), (2, 0.75)] {
            training(dir.path(), seed, Results { valid_accuracy: Some(accuracy), ..Results::default() });
        }
        let selection = choose(dir.path(), &[3, 1, 2]).unwrap();
        assert_eq!(selection.chosen, 1);
        let written: Selection = serde_json::from_slice(&fs::read(dir.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(written, selection);
    }

    #[test]
    fn the_lowest_perplexity_is_chosen() {
        let dir = tempfile::tempdir().unwrap();
        for (seed, perplexity) in [(0, 80.0), (1, 60.5), (2, 70.0)] {
            training(dir.path(), seed, Results { valid_perplexity: Some(perplexity), ..Results::default() });
        }
        assert_eq!(choose(dir.path(), &[0, 1, 2]).unwrap().chosen, 1);
    }

    #[test]
    fn trainings_are_compared_as_they_were_after_so_many_epochs() {
        let dir = tempfile::tempdir().unwrap();
        for (seed, perplexities) in [(0, vec![9.0, 8.0]), (1, vec![7.0, 8.5, 3.0]), (2, vec![9.5, 7.5])] {
            let run = folder(dir.path(), seed);
            fs::create_dir_all(&run).unwrap();
            let line = |(epoch, perplexity): (usize, &f64)| {
                let metrics = EpochMetrics { epoch, valid_perplexity: Some(*perplexity), ..EpochMetrics::default() };
                serde_json::to_string(&Metric::Epoch(metrics)).unwrap() + "\n"
            };
            fs::write(run.join(METRICS), perplexities.iter().enumerate().map(line).collect::<String>()).unwrap();
        }
        let seeds = |epochs| -> Vec<u64> {
            rank(dir.path(), &[0, 1, 2], epochs).unwrap().iter().map(|candidate| candidate.seed).collect()
        };
        assert_eq!((seeds(1), seeds(2)), (vec![1, 0, 2], vec![2, 0, 1]));
        let error = rank(dir.path(), &[0, 1], 3).unwrap_err().to_string();
        assert!(error.contains("select-0 has not done 3 epochs"), "{error}");
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        let dir = tempfile::tempdir().unwrap();
        training(dir.path(), 0, Results { test_accuracy: Some(0.9), ..Results::default() });
        let error = choose(dir.path(), &[0]).unwrap_err().to_string();
        assert!(error.contains("select-0") && error.contains("held no data out"), "{error}");
        let error = choose(dir.path(), &[7]).unwrap_err().to_string();
        assert!(error.contains("select-7") && error.contains("not finished"), "{error}");
        assert!(matches!(choose(dir.path(), &[]), Err(Error::Config { .. })));
    }
}

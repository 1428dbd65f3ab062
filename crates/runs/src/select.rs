//! Choosing between the cells of several searches, as the paper does (section 3.3): each is trained for a short while, and
//! the one that is best on held-out training data is kept. The test set has no part in it. Running the searches and the
//! trainings is their own business; this file reads what they left in `select-SEED/` and writes `selection.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::folder::atomic;
use crate::metrics::read_summary;

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
    let mut candidates = Vec::with_capacity(seeds.len());
    let mut best: Option<(f64, u64)> = None;
    for &seed in seeds {
        let run = dir.join(format!("select-{seed}"));
        let not_ready = |reason: &str| Error::NotReady { dir: run.clone(), reason: reason.into() };
        let summary = read_summary(&run)?.ok_or_else(|| not_ready("is not finished: it has no summary.json"))?;
        let (valid_accuracy, valid_perplexity) = (summary.results.valid_accuracy, summary.results.valid_perplexity);
        let candidate = Candidate { seed, valid_accuracy, valid_perplexity };
        let score = candidate.score().ok_or_else(|| not_ready("has no validation result: it held no data out"))?;
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, seed));
        }
        candidates.push(candidate);
    }
    let (_, chosen) = best.ok_or_else(|| Error::Config {
        field: "seeds",
        value: "none".into(),
        expected: "at least one search to choose".into(),
    })?;
    let selection = Selection { chosen, candidates };
    let path = dir.join(FILE);
    let mut bytes = serde_json::to_vec(&selection).map_err(|e| Error::bad_file(&path, e))?;
    bytes.push(b'\n');
    atomic::write(&path, &bytes)?;
    Ok(selection)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use darts_cells::genotype::named;

    use super::*;
    use crate::config::RunKind;
    use crate::metrics::{Results, SUMMARY, Summary};

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

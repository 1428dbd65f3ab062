//! `run.json`: what a run is and what it was made with. It is written once, before the first step, and read by everybody
//! who looks at the run afterwards.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use darts_data::dataset::{CHANNELS, ImageSize, Normalization};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::RunKind;
use crate::error::{Error, Result};
use crate::hardware::{COMMIT, Hardware, VERSION};

/// The file's name.
pub(crate) const FILE: &str = "run.json";

/// The largest images that a record may describe, pixels a side.
const LARGEST_SIDE: usize = 4096;

/// The contents of `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Search or training.
    pub kind: RunKind,
    /// The task: "cifar10", "image-folder", "synthetic-images" …
    pub task: String,
    /// The configuration, as JSON: what a resumed run must agree with.
    pub config: Value,
    /// The seed, which is part of the configuration too.
    pub seed: u64,
    /// What the data turned out to be, of a run on images.
    #[serde(default, skip_serializing_if = "DataRecord::is_absent")]
    pub data: DataRecord,
    /// What the text turned out to be, of a run on text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<CorpusRecord>,
    /// Version of the program.
    pub version: String,
    /// Commit that it was built from.
    pub commit: String,
    /// Where it computes.
    pub device: String,
    /// Worker threads of the first invocation.
    pub threads: usize,
    /// The machine.
    pub hardware: Hardware,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
}

/// What a run found where its data is, so that a resumed run notices other data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataRecord {
    /// Examples that train w.
    pub train: usize,
    /// Examples that train α (search) or are held out (training).
    pub valid: usize,
    /// Examples of the test set.
    pub test: usize,
    /// Classes in the order of their labels.
    pub classes: Vec<String>,
    /// Height and width of the images, pixels.
    pub image_size: (usize, usize),
    /// Mean of each colour channel, for values from 0 to 1.
    pub mean: Vec<f64>,
    /// Standard deviation of each colour channel.
    pub std: Vec<f64>,
    /// True for generated data, which says nothing about the world.
    pub synthetic: bool,
}

/// What a run found where its text is, so that a resumed run notices other text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CorpusRecord {
    /// Tokens that train w.
    pub train_tokens: usize,
    /// Tokens that train α (search) or are held out (training).
    pub valid_tokens: usize,
    /// Tokens of the test text.
    pub test_tokens: usize,
    /// Different tokens, which is the number of rows of the embedding.
    pub vocabulary: usize,
    /// Validation and test tokens that are `<unk>` because the vocabulary lacks what is there.
    #[serde(default)]
    pub unknown: usize,
    /// Entropy of a generated text's source, nats per token: no model's mean loss is lower in the long run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// What must be said wherever a figure of the run is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl DataRecord {
    /// Whether nothing was recorded: the run is not on images.
    fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that images can be read by it; the reason in words when not.
    pub(crate) fn validate(&self) -> std::result::Result<(), String> {
        let (height, width) = self.image_size;
        if !(1..=LARGEST_SIDE).contains(&height) || !(1..=LARGEST_SIDE).contains(&width) {
            return Err(format!("data.image_size is {height} x {width}, expected 1 to {LARGEST_SIDE} pixels a side"));
        }
        if self.classes.is_empty() {
            return Err("data.classes is empty".into());
        }
        let usable =
            |values: &[f64], least| values.len() == CHANNELS && values.iter().all(|v| (least..1e6).contains(v));
        if !usable(&self.mean, -1e6) || !usable(&self.std, 1e-6) {
            return Err(format!("data.mean and data.std are not {CHANNELS} usable numbers each"));
        }
        Ok(())
    }

    /// Size of the images.
    pub(crate) fn image_size(&self) -> ImageSize {
        let (height, width) = self.image_size;
        ImageSize { height, width }
    }

    /// The constants that images are normalized with, of a valid record.
    pub(crate) fn normalization(&self) -> Normalization {
        let channels = |values: &[f64]| std::array::from_fn(|c| values.get(c).copied().unwrap_or(1.0));
        Normalization { mean: channels(&self.mean), std: channels(&self.std) }
    }
}

impl RunRecord {
    /// The record of a run that begins now, on this machine.
    pub(crate) fn now(kind: RunKind, task: &str, config: Value, seed: u64, device: String, threads: usize) -> Self {
        Self {
            kind,
            task: task.into(),
            config,
            seed,
            data: DataRecord::default(),
            corpus: None,
            version: VERSION.into(),
            commit: COMMIT.into(),
            device,
            threads,
            hardware: Hardware::detect(),
            started: timestamp(SystemTime::now()),
        }
    }

    /// Whether the run is on text, with a recurrent network.
    pub fn is_text(&self) -> bool {
        self.corpus.is_some()
    }

    /// Reads the record of the run in `dir`.
    ///
    /// # Errors
    /// When there is none ([`Error::NotReady`]) or it is not valid ([`Error::BadFile`]).
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Err(Error::NotReady {
                    dir: dir.to_path_buf(),
                    reason: format!("is no run folder: it has no {FILE}"),
                });
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        Self::parse(&bytes).map_err(|e| Error::bad_file(&path, e))
    }

    fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// The configuration, typed.
    ///
    /// # Errors
    /// [`Error::BadFile`] when it is not one.
    pub(crate) fn config<C: serde::de::DeserializeOwned>(&self, dir: &Path) -> Result<C> {
        C::deserialize(&self.config).map_err(|e| Error::bad_file(dir.join(FILE), format!("config: {e}")))
    }
}

/// `time` as RFC 3339 in UTC, to the second.
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date of the Gregorian calendar: eras of 400 years that begin on a 1 March, so that the leap day
    // is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::SearchConfig;

    fn sample() -> RunRecord {
        let config = serde_json::to_value(SearchConfig::quick()).unwrap();
        RunRecord::now(RunKind::Search, "synthetic-images", config, 3, "cpu".into(), 2)
    }

    #[test]
    fn a_record_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), serde_json::to_vec(&sample()).unwrap()).unwrap();
        let back = RunRecord::read(dir.path()).unwrap();
        assert_eq!(back, sample_with_time_of(&back));
        assert_eq!(back.config::<SearchConfig>(dir.path()).unwrap(), SearchConfig::quick());
    }

    fn sample_with_time_of(other: &RunRecord) -> RunRecord {
        RunRecord { started: other.started.clone(), ..sample() }
    }

    #[test]
    fn times_match_a_calendar() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_164_800), "2024-02-29T00:00:00Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn ten_thousand_mutated_records_never_panic() {
        let good = serde_json::to_vec(&sample()).unwrap();
        let mut state = 7u64;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as usize) % n
        };
        for round in 0..10_000 {
            let mut bad = good.clone();
            for _ in 0..=round % 3 {
                match below(3) {
                    0 => {
                        let at = below(bad.len());
                        bad[at] = b"0123456789{}[]\",:-.eEx\\"[below(23)];
                    }
                    1 => bad.truncate(1 + below(bad.len())),
                    _ => {
                        let (at, byte) = (below(bad.len()), below(256) as u8);
                        bad.insert(at, byte);
                    }
                }
            }
            if let Ok(record) = RunRecord::parse(&bad)
                && let Ok(config) = record.config::<SearchConfig>(Path::new("fuzz"))
            {
                // A configuration that parses is either possible or refused by name.
                if let Err(error) = config.validate() {
                    assert!(!error.to_string().contains('\n'));
                }
            }
        }
    }

    #[test]
    fn a_folder_that_is_no_run_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = RunRecord::read(&dir.path().join("nowhere")).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("no run folder"), "{error}");
    }
}

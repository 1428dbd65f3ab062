//! A run's folder: who may use it, what must be true before it is used, and where everything in it lies. What the files
//! say is the business of their own modules.

pub(crate) mod atomic;
mod journal;
mod lock;
mod record;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use journal::Journal;
pub(crate) use record::FILE as RECORD;
pub use record::{CorpusRecord, DataRecord, RunRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Difference, RunKind, differences};
use crate::error::{Error, Result};
use crate::metrics::{ALPHAS, METRICS, SUMMARY};
use lock::Lock;

/// The folder of checkpoints inside a run folder.
pub(crate) const CHECKPOINTS: &str = "checkpoint";
/// The genotype, so far or final.
pub(crate) const GENOTYPE: &str = "genotype.json";
/// The trained weights.
pub(crate) const WEIGHTS: &str = "weights.safetensors";

/// What would be overwritten if a folder with any of these were taken for an empty one.
const OURS: [&str; 7] = [RECORD, SUMMARY, CHECKPOINTS, METRICS, ALPHAS, GENOTYPE, WEIGHTS];

/// A run folder that this process holds the lock of.
#[derive(Debug)]
pub(crate) struct RunFolder {
    dir: PathBuf,
    record: Option<RunRecord>,
    _lock: Lock,
}

impl RunFolder {
    /// Creates `dir` where needed, locks it, and checks that it may be used: it holds no run yet, or `resume` is wanted
    /// and the run in it is of this kind and task and was made with this configuration.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Exists`], [`Error::OtherRun`], [`Error::ConfigDiffers`], or an [`Error::Io`]. The folder's
    /// contents are not touched then.
    pub(crate) fn open<C>(dir: PathBuf, kind: RunKind, task: &str, config: &C, resume: bool) -> Result<Self>
    where
        C: Serialize + DeserializeOwned,
    {
        fs::create_dir_all(&dir).map_err(Error::io("create folder", &dir))?;
        let lock = Lock::take(&dir)?;
        let found = OURS.into_iter().find(|name| dir.join(name).exists());
        let record = match found {
            None => None,
            Some(found) if !resume => return Err(Error::Exists { dir, found }),
            Some(_) => Some(RunRecord::read(&dir)?),
        };
        if let Some(record) = &record {
            check_same(&dir, record, kind, task, config)?;
        }
        Ok(Self { dir, record, _lock: lock })
    }

    /// The record of the run that was there, or None for a new one.
    pub(crate) fn record(&self) -> Option<&RunRecord> {
        self.record.as_ref()
    }

    /// Writes `run.json` of a new run, or checks that the data is what the run in the folder was started on.
    pub(crate) fn begin(&mut self, record: RunRecord) -> Result<()> {
        match &self.record {
            None => {
                self.write_json(RECORD, &record)?;
                self.record = Some(record);
                Ok(())
            }
            Some(stored) => {
                let (stored, found) = ((&stored.data, &stored.corpus), (&record.data, &record.corpus));
                let data = differences(stored.0, found.0).map_err(|e| Error::bad_file(&self.dir, e))?;
                let corpus = differences(stored.1, found.1).map_err(|e| Error::bad_file(&self.dir, e))?;
                match data.into_iter().chain(corpus).next() {
                    None => Ok(()),
                    Some(Difference { field, first, second }) => {
                        Err(Error::DataDiffers { dir: self.dir.clone(), field, stored: first, given: second })
                    }
                }
            }
        }
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Replaces the file `name` by `value` as JSON, indented for people.
    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.path(name);
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::bad_file(&path, e))?;
        bytes.push(b'\n');
        atomic::write(&path, &bytes)
    }
}

fn check_same<C>(dir: &Path, record: &RunRecord, kind: RunKind, task: &str, config: &C) -> Result<()>
where
    C: Serialize + DeserializeOwned,
{
    if record.kind != kind || record.task != task {
        return Err(Error::OtherRun {
            dir: dir.to_path_buf(),
            found: record.kind,
            found_task: record.task.clone(),
            wanted: kind,
            wanted_task: task.into(),
        });
    }
    let stored: C = record.config(dir)?;
    let found = differences(&stored, config).map_err(|e| Error::bad_file(dir, e))?;
    let others = found.len().saturating_sub(1);
    match found.into_iter().next() {
        None => Ok(()),
        Some(Difference { field, first, second }) => {
            Err(Error::ConfigDiffers { dir: dir.to_path_buf(), field, stored: first, given: second, others })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SearchConfig;

    fn open(dir: &Path, config: &SearchConfig, resume: bool) -> Result<RunFolder> {
        RunFolder::open(dir.to_path_buf(), RunKind::Search, config.data.task(), config, resume)
    }

    fn begin(folder: &mut RunFolder, config: &SearchConfig, train: usize) -> Result<()> {
        let json = serde_json::to_value(config).unwrap();
        let mut record = RunRecord::now(RunKind::Search, config.data.task(), json, config.seed, "cpu".into(), 1);
        record.data.train = train;
        folder.begin(record)
    }

    #[test]
    fn an_existing_run_is_refused_without_resume_and_continued_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = SearchConfig::quick();
        begin(&mut open(dir.path(), &config, false).unwrap(), &config, 10).unwrap();
        let error = open(dir.path(), &config, false).unwrap_err().to_string();
        assert!(error.contains("--resume") && error.contains(&dir.path().display().to_string()), "{error}");
        assert!(open(dir.path(), &config, true).unwrap().record().is_some());
    }

    #[test]
    fn a_folder_where_nothing_was_saved_yet_is_started_afresh_with_resume() {
        let dir = tempfile::tempdir().unwrap();
        // A process that died before run.json leaves the lock and perhaps a partial file; a shell may have put its log there.
        fs::write(dir.path().join(".run.json.partial"), b"{").unwrap();
        fs::write(dir.path().join("log.txt"), b"starting").unwrap();
        assert!(open(dir.path(), &SearchConfig::quick(), true).unwrap().record().is_none());
    }

    #[test]
    fn another_configuration_is_refused_by_the_first_difference() {
        let dir = tempfile::tempdir().unwrap();
        let config = SearchConfig::quick();
        begin(&mut open(dir.path(), &config, false).unwrap(), &config, 10).unwrap();
        let other = SearchConfig { learning_rate: 0.5, epochs: 99, ..config };
        let error = open(dir.path(), &other, true).unwrap_err().to_string();
        assert!(error.contains("epochs was 3, now 99") && error.contains("1 more"), "{error}");
    }

    #[test]
    fn another_kind_or_task_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = SearchConfig::quick();
        begin(&mut open(dir.path(), &config, false).unwrap(), &config, 10).unwrap();
        let error = RunFolder::open(dir.path().into(), RunKind::Train, "cifar10", &config, true).unwrap_err();
        assert!(error.to_string().contains("holds a search of synthetic-images, not a training of cifar10"));
    }

    #[test]
    fn other_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = SearchConfig::quick();
        begin(&mut open(dir.path(), &config, false).unwrap(), &config, 10).unwrap();
        let error = begin(&mut open(dir.path(), &config, true).unwrap(), &config, 11).unwrap_err().to_string();
        assert!(error.contains("train = 10") && error.contains("train = 11"), "{error}");
    }

    #[test]
    fn results_without_a_record_are_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(WEIGHTS), b"precious").unwrap();
        assert!(matches!(open(dir.path(), &SearchConfig::quick(), false), Err(Error::Exists { found: WEIGHTS, .. })));
        assert!(matches!(open(dir.path(), &SearchConfig::quick(), true), Err(Error::NotReady { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_in_place_of_the_folder_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = open(&file, &SearchConfig::quick(), false).unwrap_err().to_string();
        assert!(error.contains("create folder") && !error.contains('\n'), "{error}");
    }
}

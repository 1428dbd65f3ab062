//! What opening and running have in common for every kind of run: checks, folder, data, threads, and a run that is
//! finished already.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::RunKind;
use crate::engine::{Learner, Outcome, drive};
use crate::error::{Error, Result};
use crate::folder::{CorpusRecord, DataRecord, RunFolder, RunRecord, atomic};
use crate::metrics::{SUMMARY, read_summary};
use crate::options::{Computer, RunOptions};
use crate::progress::{Level, Progress};

/// What a run is, whatever its task.
pub(crate) struct Identity<'a, C> {
    pub(crate) kind: RunKind,
    pub(crate) task: &'static str,
    pub(crate) seed: u64,
    pub(crate) config: &'a C,
}

/// What a run is about, as it was found.
pub(crate) enum Found {
    /// Images.
    Images(DataRecord),
    /// Text.
    Text(CorpusRecord),
}

/// A learner with what is kept of its data.
pub(crate) struct Made {
    pub(crate) learner: Box<dyn Learner>,
    pub(crate) found: Found,
    /// A file that a new run keeps in its folder, and its contents.
    pub(crate) file: Option<(&'static str, Vec<u8>)>,
}

/// A run whose folder is ours. A finished one has no learner.
pub(crate) struct OpenRun {
    kind: RunKind,
    folder: RunFolder,
    options: RunOptions,
    learner: Option<Box<dyn Learner>>,
}

impl OpenRun {
    /// Opens the device, locks and checks the folder, then lets `make` find the data and build the learner, then writes `run.json`: a data
    /// folder that is not there leaves no run behind.
    pub(crate) fn open<C>(
        dir: PathBuf,
        identity: Identity<'_, C>,
        options: RunOptions,
        make: impl FnOnce(&RunOptions, &RunFolder, Computer) -> Result<Made> + Send,
    ) -> Result<Self>
    where
        C: Serialize + DeserializeOwned,
    {
        options.validate()?;
        let computer = options.computer()?;
        let Identity { kind, task, seed, config } = identity;
        let mut folder = RunFolder::open(dir, kind, task, config, options.resume)?;
        if folder.record().is_some() && folder.path(SUMMARY).exists() {
            return Ok(Self { kind, folder, options, learner: None });
        }
        let gpu = computer.gpu_name();
        let Made { learner, found, file } = options.on_threads(|| make(&options, &folder, computer))?;
        if let (Some((name, bytes)), None) = (file, folder.record()) {
            atomic::write(&folder.path(name), &bytes)?;
        }
        let json = serde_json::to_value(config).map_err(|e| Error::bad_file(folder.dir(), e))?;
        let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let mut record = RunRecord::now(kind, task, json, seed, options.device.to_string(), threads);
        record.hardware.gpu = gpu;
        folder.begin(match found {
            Found::Images(data) => RunRecord { data, ..record },
            Found::Text(corpus) => RunRecord { corpus: Some(corpus), ..record },
        })?;
        Ok(Self { kind, folder, options, learner: Some(learner) })
    }

    /// Runs to the end, or until told to stop.
    pub(crate) fn run(self, progress: &mut dyn Progress) -> Result<Outcome> {
        let Self { kind, folder, options, learner } = self;
        match learner {
            Some(mut learner) => {
                if let Some(note) = folder.record().and_then(|record| record.corpus.as_ref()?.note.as_deref()) {
                    progress.message(Level::Warning, note);
                }
                options.on_threads(|| drive(kind, &folder, &mut *learner, &options, progress))
            }
            None => match read_summary(folder.dir())? {
                Some(summary) => Ok(Outcome::Finished(summary)),
                None => Err(Error::Disturbed { path: folder.path(SUMMARY), what: "vanished".into() }),
            },
        }
    }
}

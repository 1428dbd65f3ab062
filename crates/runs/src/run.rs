//! What opening and running have in common for every kind of run: checks, folder, data, threads, and a run that is
//! finished already.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::RunKind;
use crate::engine::{Learner, Outcome, drive};
use crate::error::{Error, Result};
use crate::folder::{DataRecord, RunFolder, RunRecord};
use crate::metrics::{SUMMARY, read_summary};
use crate::options::RunOptions;
use crate::progress::Progress;

/// What a run is, whatever its task.
pub(crate) struct Identity<'a, C> {
    pub(crate) kind: RunKind,
    pub(crate) task: &'static str,
    pub(crate) seed: u64,
    pub(crate) config: &'a C,
}

/// A run whose folder is ours. A finished one has no learner.
pub(crate) struct OpenRun<L> {
    kind: RunKind,
    folder: RunFolder,
    options: RunOptions,
    learner: Option<L>,
}

impl<L: Learner> OpenRun<L> {
    /// Locks and checks the folder, then lets `make` find the data and build the learner, then writes `run.json`: a data
    /// folder that is not there leaves no run behind.
    pub(crate) fn open<C>(
        dir: PathBuf,
        identity: Identity<'_, C>,
        options: RunOptions,
        make: impl FnOnce(&RunOptions) -> Result<(L, DataRecord)> + Send,
    ) -> Result<Self>
    where
        C: Serialize + DeserializeOwned,
    {
        options.validate()?;
        options.device.open()?;
        let Identity { kind, task, seed, config } = identity;
        let mut folder = RunFolder::open(dir, kind, task, config, options.resume)?;
        if folder.record().is_some() && folder.path(SUMMARY).exists() {
            return Ok(Self { kind, folder, options, learner: None });
        }
        let (learner, data) = options.on_threads(|| make(&options))?;
        let json = serde_json::to_value(config).map_err(|e| Error::bad_file(folder.dir(), e))?;
        let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let record = RunRecord::now(kind, task, json, seed, options.device.to_string(), threads);
        folder.begin(RunRecord { data, ..record })?;
        Ok(Self { kind, folder, options, learner: Some(learner) })
    }

    /// Runs to the end, or until told to stop.
    pub(crate) fn run(self, progress: &mut dyn Progress) -> Result<Outcome> {
        let Self { kind, folder, options, learner } = self;
        match learner {
            Some(mut learner) => options.on_threads(|| drive(kind, &folder, &mut learner, &options, progress)),
            None => match read_summary(folder.dir())? {
                Some(summary) => Ok(Outcome::Finished(summary)),
                None => Err(Error::Disturbed { path: folder.path(SUMMARY), what: "vanished".into() }),
            },
        }
    }
}

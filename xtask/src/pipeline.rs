//! Search with several seeds → short training of each cell → full training of the best: the stages of a reproduction, each a
//! run folder of its own. Short trainings are whole, or go on by successive halving: after so many epochs the better half. Which numbers go in is the task's business; what comes out is read from the runs' files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use darts_runs::{Metric, read_metrics, select};
use serde_json::Value;

use crate::darts::{Darts, watch};
use crate::stages::from_here;
use crate::workspace::root;

/// How often the report is rewritten while a stage runs.
const REPORT_EVERY: Duration = Duration::from_secs(20);

/// What to run; `*_arguments` follow the task's name on the command line of `darts`.
#[derive(Default)]
pub(crate) struct Pipeline {
    /// The task of `darts`: `cifar10`, `synthetic-images` ….
    pub(crate) task: &'static str,
    /// The folder with `search-SEED`, `select-SEED` and `train`.
    pub(crate) out: PathBuf,
    /// A search each.
    pub(crate) seeds: Vec<u64>,
    /// Train this cell instead of searching one.
    pub(crate) genotype: Option<String>,
    /// Arguments of every stage.
    pub(crate) arguments: Vec<String>,
    /// Arguments of the searches.
    pub(crate) search_arguments: Vec<String>,
    /// Arguments of the short trainings.
    pub(crate) selection_arguments: Vec<String>,
    /// Epochs after which the better half of the short trainings goes on, ascending; the last is how long they are. Empty: all
    /// are trained to their end.
    pub(crate) rungs: Vec<usize>,
    /// Arguments of the full training.
    pub(crate) train_arguments: Vec<String>,
}

impl Pipeline {
    /// Runs what is not done yet, then prints the line that `result` makes of the full training's summary, and where the report
    /// is.
    ///
    /// # Errors
    /// A stage failed or was interrupted, or left no results.
    pub(crate) fn finish(&self, darts: &Darts, result: impl FnOnce(&Value) -> String) -> Result<()> {
        println!("{}", result(&self.run(darts)?));
        println!("report: {}", from_here(&self.out.join("report.html")).display());
        Ok(())
    }

    /// Runs what is not done yet, and gives the full training's summary.
    fn run(&self, darts: &Darts) -> Result<Value> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let genotype = match &self.genotype {
            Some(genotype) => genotype.clone(),
            None => self.search(darts)?,
        };
        let mut arguments = vec!["--genotype".into(), genotype, "--seed".into(), self.first_seed().to_string()];
        arguments.extend(self.train_arguments.iter().cloned());
        self.stage(darts, "train", "train", arguments, None)?;
        read_summary(&self.out.join("train"))
    }

    fn first_seed(&self) -> u64 {
        self.seeds.first().copied().unwrap_or_default()
    }

    /// The folder of the search with the best cell.
    fn search(&self, darts: &Darts) -> Result<String> {
        for &seed in &self.seeds {
            let mut arguments = vec!["--seed".into(), seed.to_string()];
            arguments.extend(self.search_arguments.iter().cloned());
            self.stage(darts, &format!("search-{seed}"), "search", arguments, None)?;
        }
        // Nothing to choose between.
        if let [only] = self.seeds[..] {
            return Ok(self.search_folder(only));
        }
        let chosen = if self.rungs.is_empty() {
            for &seed in &self.seeds {
                self.selection(darts, seed, None)?;
            }
            select::choose(&self.out, &self.seeds)?.chosen
        } else {
            self.halve(darts)?
        };
        println!("best on held-out data: seed {chosen}");
        Ok(self.search_folder(chosen))
    }

    fn search_folder(&self, seed: u64) -> String {
        self.out.join(format!("search-{seed}")).display().to_string()
    }

    /// Trains all cells up to the first rung, the better half up to the second, and so on; gives the seed of the best.
    fn halve(&self, darts: &Darts) -> Result<u64> {
        let (mut left, mut decided) = (self.seeds.clone(), Vec::new());
        for (rung, &epochs) in self.rungs.iter().enumerate() {
            for &seed in &left {
                self.selection(darts, seed, Some(epochs))?;
            }
            let ranked = select::rank(&self.out, &left, epochs)?;
            let last = rung + 1 == self.rungs.len();
            let (kept, dropped) = ranked.split_at(if last { 1 } else { left.len().div_ceil(2) });
            let seeds = |candidates: &[select::Candidate]| {
                candidates.iter().map(|candidate| candidate.seed.to_string()).collect::<Vec<_>>().join(", ")
            };
            println!("after epoch {epochs}: seed {} kept, {} dropped", seeds(kept), seeds(dropped));
            decided.extend_from_slice(dropped);
            left = kept.iter().map(|candidate| candidate.seed).collect();
            if left.len() == 1 {
                let candidates = kept.iter().chain(decided.iter().rev()).copied().collect();
                return Ok(select::record(&self.out, kept.first(), candidates)?.chosen);
            }
        }
        bail!("no rung is left to choose at")
    }

    /// The short training of a seed's cell, to its end or up to an epoch.
    fn selection(&self, darts: &Darts, seed: u64, until: Option<usize>) -> Result<()> {
        let genotype = self.search_folder(seed);
        let mut arguments =
            vec!["--genotype".into(), genotype, "--seed".into(), seed.to_string(), "--selection".into()];
        if let (Some(&longest), Some(until)) = (self.rungs.last(), until) {
            let words = ["--epochs".into(), longest.to_string(), "--until-epoch".into(), until.to_string()];
            arguments.extend(words);
        }
        arguments.extend(self.selection_arguments.iter().cloned());
        self.stage(darts, &format!("select-{seed}"), "train", arguments, until)
    }

    /// One run: continued where it was interrupted, and over at once where it is done, `until` so many epochs or to its end.
    fn stage(
        &self,
        darts: &Darts,
        name: &str,
        subcommand: &str,
        arguments: Vec<String>,
        until: Option<usize>,
    ) -> Result<()> {
        let out = self.out.join(name);
        let was_done = out.join("summary.json").is_file() || until.is_some_and(|epochs| has_done(&out, epochs));
        println!("{name}: {}", if was_done { "done before" } else { "running" });
        let mut command = darts.command([subcommand, self.task]);
        command.args(arguments).args(&self.arguments).arg("--resume").arg("--out").arg(&out);
        let mut written = Instant::now();
        let result = watch(&mut command, || {
            if written.elapsed() >= REPORT_EVERY {
                written = Instant::now();
                self.report(false).ok();
            }
        });
        self.report(true)?;
        result
    }

    /// Rewrites the report beside the stages; `loudly` says what went wrong, which in mid-run is only a page not refreshed.
    fn report(&self, loudly: bool) -> Result<()> {
        match darts_runs::report::write_pipeline(&self.out, self.task) {
            Err(error) if loudly => bail!("cannot write the report: {error}"),
            _ => Ok(()),
        }
    }
}

/// The run in which the pipeline in `out` trained the cell that it chose, if it has got so far.
fn chosen_cell(out: &Path) -> Option<String> {
    let folder = out.join("train");
    folder.join("genotype.json").is_file().then(|| folder.display().to_string())
}

/// Whether a run has done so many epochs.
fn has_done(out: &Path, epochs: usize) -> bool {
    let is_there = |line: &Metric| matches!(line, Metric::Epoch(epoch) if epoch.epoch + 1 >= epochs);
    read_metrics(out).is_ok_and(|lines| lines.iter().any(is_there))
}

/// The cell that a transfer trains: the one that was typed, or what `task` left in `source`, or DARTS_V2. Says which.
pub(crate) fn cell_to_transfer(typed: Option<&str>, source: &str, task: &str) -> String {
    if let Some(typed) = typed {
        return typed.to_owned();
    }
    match chosen_cell(&root().join(source)) {
        Some(cell) => {
            println!("cell: {}, from {task}", from_here(Path::new(&cell)).display());
            cell
        }
        None => {
            println!("cell: DARTS_V2, for there is none in {source}");
            "DARTS_V2".to_owned()
        }
    }
}

/// The results of a finished run.
///
/// # Errors
/// There are none, or they cannot be read.
fn read_summary(out: &Path) -> Result<Value> {
    let path = out.join("summary.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

//! Search with several seeds → short training of each cell → full training of the best: the stages of a reproduction, each a
//! run folder of its own. Which numbers go in is the task's business; what comes out is read from the runs' files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use darts_runs::select;
use serde_json::Value;

use crate::darts::{Darts, watch};

/// How often the report is rewritten while a stage runs.
const REPORT_EVERY: Duration = Duration::from_secs(20);

/// What to run; `*_arguments` follow the task's name on the command line of `darts`.
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
    /// Arguments of the full training.
    pub(crate) train_arguments: Vec<String>,
}

impl Pipeline {
    /// Runs what is not done yet, and gives the full training's summary.
    ///
    /// # Errors
    /// A stage failed or was interrupted, or left no results.
    pub(crate) fn run(&self, darts: &Darts) -> Result<Value> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let genotype = match &self.genotype {
            Some(genotype) => genotype.clone(),
            None => self.search(darts)?,
        };
        let mut arguments = vec!["--genotype".into(), genotype, "--seed".into(), self.first_seed().to_string()];
        arguments.extend(self.train_arguments.iter().cloned());
        self.stage(darts, "train", "train", arguments)
    }

    fn first_seed(&self) -> u64 {
        self.seeds.first().copied().unwrap_or_default()
    }

    /// The folder of the search with the best cell.
    fn search(&self, darts: &Darts) -> Result<String> {
        let mut candidates = Vec::new();
        for &seed in &self.seeds {
            let name = format!("search-{seed}");
            let mut arguments = vec!["--seed".into(), seed.to_string()];
            arguments.extend(self.search_arguments.iter().cloned());
            self.stage(darts, &name, "search", arguments)?;
            candidates.push((seed, self.out.join(name).display().to_string()));
        }
        // Nothing to choose between.
        if let [(_, only)] = candidates.as_slice() {
            return Ok(only.clone());
        }
        for (seed, search) in &candidates {
            let mut arguments = vec!["--genotype".into(), search.clone(), "--seed".into(), seed.to_string()];
            arguments.extend(["--selection".into()].into_iter().chain(self.selection_arguments.iter().cloned()));
            self.stage(darts, &format!("select-{seed}"), "train", arguments)?;
        }
        let chosen = select::choose(&self.out, &self.seeds)?.chosen;
        println!("best on held-out training data: seed {chosen}");
        Ok(self.out.join(format!("search-{chosen}")).display().to_string())
    }

    /// One run: continued where it was interrupted, and over at once where it is done.
    fn stage(&self, darts: &Darts, name: &str, subcommand: &str, arguments: Vec<String>) -> Result<Value> {
        let out = self.out.join(name);
        let was_done = out.join("summary.json").is_file();
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
        result?;
        read_summary(&out)
    }

    /// Rewrites the report beside the stages; `loudly` says what went wrong, which in mid-run is only a page not refreshed.
    fn report(&self, loudly: bool) -> Result<()> {
        match darts_runs::report::write_pipeline(&self.out, self.task) {
            Err(error) if loudly => bail!("cannot write the report: {error}"),
            _ => Ok(()),
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

//! The quick pipeline in a few lines: search a cell on generated images, then train the network made of it.
//!
//! `cargo run --release -p darts-runs --example search_and_train [FOLDER]`

use std::path::PathBuf;
use std::time::Instant;

use darts_cells::genotype::Genotype;
use darts_runs::{EpochMetrics, Error, Outcome, Progress, RunOptions, SearchConfig, SearchRun, TrainConfig, TrainRun};

/// Prints a line per epoch.
struct Lines(Instant);

impl Progress for Lines {
    fn epoch(&mut self, m: &EpochMetrics) {
        let percent = |accuracy: Option<f64>| accuracy.map_or(f64::NAN, |a| 100.0 * a);
        println!(
            "{:6.1} s  epoch {}  training loss {:.3} ({:.1} %)  validation {:.1} %",
            self.0.elapsed().as_secs_f64(),
            m.epoch,
            m.train_loss,
            percent(m.train_accuracy),
            percent(m.valid_accuracy),
        );
    }
}

fn main() -> Result<(), Error> {
    let folder = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("darts-example"), PathBuf::from);
    let mut lines = Lines(Instant::now());
    // Resuming makes the example go on where it was interrupted, and cost nothing when it is finished.
    let options = RunOptions { resume: true, ..RunOptions::default() };

    let search = SearchRun::open_or_create(folder.join("search"), SearchConfig::quick(), options.clone())?;
    let Outcome::Finished(found) = search.run(&mut lines)? else { return Ok(()) };
    println!("{}", found.genotype);

    let Genotype::Conv(cell) = found.genotype else { return Ok(()) };
    let training = TrainRun::open_or_create(folder.join("train"), TrainConfig::quick(cell), options)?;
    if let Outcome::Finished(summary) = training.run(&mut lines)? {
        let error = summary.results.test_error.map_or(f64::NAN, |e| 100.0 * e);
        println!("test error {error:.1} %, {} parameters; see {}", summary.parameters, folder.display());
    }
    Ok(())
}

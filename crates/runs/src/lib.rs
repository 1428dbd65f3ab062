//! A run as a folder: searching for a cell, training what was found, evaluating it, and going on after an interruption as
//! if there had been none.
//!
//! ```no_run
//! use darts_runs::{Outcome, RunOptions, SearchConfig, SearchRun};
//!
//! let options = RunOptions { resume: true, ..RunOptions::default() };
//! match SearchRun::open_or_create("runs/first", SearchConfig::quick(), options)?.run(&mut ())? {
//!     Outcome::Finished(summary) => println!("{:?}", summary.genotype),
//!     Outcome::Stopped(stopped) => println!("step {} is saved: run this again", stopped.step),
//! }
//! # Ok::<(), darts_runs::Error>(())
//! ```
#![doc = include_str!("../README.md")]

mod checkpoint;
pub mod config;
#[cfg(feature = "cuda")]
mod device;
mod engine;
mod error;
mod evaluate;
mod evaluate_text;
mod folder;
pub mod genotype;
mod hardware;
pub mod language;
mod metrics;
mod options;
mod progress;
pub mod report;
mod run;
mod search;
pub mod select;
mod state;
pub mod supernet;
mod task;
mod tensorboard;
mod train;
pub mod verify;
mod weights;

pub use darts_cuda::Precision;

pub use config::{
    DataConfig, Order, RunKind, Schedule, SearchConfig, SearchSettings, TextConfig, TextSearchConfig, TextTrainConfig,
    TrainConfig, TrainSettings,
};
pub use engine::{Outcome, StopReason, Stopped};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, Prediction, Split, evaluate, predict};
pub use evaluate_text::{TextEvaluation, Writing, evaluate_text, write_text};
pub use folder::{CorpusRecord, DataRecord, RunRecord};
pub use genotype::{Derived, GenotypeKind, derive};
pub use hardware::{COMMIT, Hardware, VERSION, peak_memory_bytes};
pub use metrics::{EpochMetrics, Metric, Results, StepMetrics, Summary, read_metrics, read_summary};
pub use options::{Device, RunOptions};
pub use progress::{Level, Progress, Started, StepEvent};
pub use search::SearchRun;
pub use train::TrainRun;

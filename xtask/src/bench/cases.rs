//! The cases by name: what each does here, and the variants of it in Python. A case runs in a process of its own, which is
//! this program again.

use std::env;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use darts_runs::peak_memory_bytes;
use serde_json::json;

use super::measure::{Ceiling, Measured, Settings};
use super::{conv, loaders, profile, recurrent};
use crate::workspace::{output, program, typed};

/// Steps that are not timed: memory is fresh, caches are cold.
const WARM_UP: usize = 2;

/// Work whose steps can be timed.
pub(super) struct Work {
    /// One step.
    pub(super) step: Box<dyn FnMut() -> Result<()>>,
    /// Operations of a step that the definition asks for; a multiply-add is two.
    pub(super) flops: f64,
    /// Bytes that a step must read and write at least; 0 where nobody counted.
    pub(super) bytes: f64,
}

/// Something to measure.
pub(super) struct Case {
    /// Its name, here, in bench/pytorch/bench.py and in docs/benchmarks.json.
    pub(super) name: &'static str,
    /// Its variants in Python, the default first; none where it has no peer.
    pub(super) variants: &'static [&'static str],
    start: fn(&Settings) -> Result<Work>,
}

/// The case that needs images.
pub(super) const IMAGENET_LOADER: &str = "imagenet-loader";

const LAYOUTS: &[&str] = &["default", "channels-last", "compile"];

const COMPILED: &[&str] = &["default", "compile"];

/// All cases, in the order of the tables.
pub(super) const CASES: [Case; 11] = [
    Case { name: "conv-search-weight-step", variants: LAYOUTS, start: |s| conv::search(conv::Half::Weights, s.sizes) },
    Case {
        name: "conv-search-alpha-first",
        variants: LAYOUTS,
        start: |s| conv::search(conv::Half::AlphaFirst, s.sizes),
    },
    Case {
        name: "conv-search-alpha-second",
        variants: LAYOUTS,
        start: |s| conv::search(conv::Half::AlphaSecond, s.sizes),
    },
    Case { name: "conv-evaluation-step", variants: LAYOUTS, start: |_| conv::evaluation() },
    Case { name: "conv-imagenet-step", variants: &[], start: |_| conv::imagenet() },
    Case {
        name: "recurrent-search-weight-step",
        variants: COMPILED,
        start: |_| recurrent::search(recurrent::Half::Weights),
    },
    Case {
        name: "recurrent-search-alpha-first",
        variants: COMPILED,
        start: |_| recurrent::search(recurrent::Half::AlphaFirst),
    },
    Case {
        name: "recurrent-search-alpha-second",
        variants: COMPILED,
        start: |_| recurrent::search(recurrent::Half::AlphaSecond),
    },
    Case { name: "recurrent-training-step", variants: COMPILED, start: |_| recurrent::training() },
    Case { name: "cifar-loader", variants: &["default", "tensors"], start: loaders::cifar },
    Case { name: IMAGENET_LOADER, variants: &["default"], start: loaders::imagenet },
];

/// The variants of all cases, each once.
pub(super) fn variants() -> Vec<&'static str> {
    let mut all: Vec<&str> = CASES.iter().flat_map(|case| case.variants).copied().collect();
    all.sort();
    all.dedup();
    all
}

impl Case {
    /// Whether it is computation that a bound can be given for.
    pub(super) fn is_a_step(&self) -> bool {
        !self.name.ends_with("-loader")
    }
}

/// A case's work, warm.
struct Warm(Work);

impl Warm {
    fn new(name: &str, settings: &Settings) -> Result<Self> {
        let Some(case) = CASES.iter().find(|case| case.name == name) else { bail!("there is no case `{name}`") };
        let mut warm = Self((case.start)(settings)?);
        warm.seconds(WARM_UP)?;
        Ok(warm)
    }

    /// Of each of so many steps.
    fn seconds(&mut self, steps: usize) -> Result<Vec<f64>> {
        let timed = |_| {
            let begin = Instant::now();
            (self.0.step)()?;
            Ok(begin.elapsed().as_secs_f64())
        };
        (0..steps).map(timed).collect()
    }
}

/// Does a case's work in this process and prints what it came to as a line of JSON.
///
/// # Errors
/// The name is unknown, or the work fails.
pub(super) fn run_here(name: &str, settings: &Settings) -> Result<()> {
    let mut work = Warm::new(name, settings)?;
    let seconds = work.seconds(settings.steps)?;
    let (flops, bytes) = (work.0.flops, work.0.bytes);
    println!("{}", json!({ "seconds": seconds, "peak_bytes": peak_memory_bytes(), "flops": flops, "bytes": bytes }));
    Ok(())
}

/// Does a case's work in this process and prints where its time went.
///
/// # Errors
/// The name is unknown, or the work fails.
pub(super) fn profile_here(name: &str, settings: &Settings) -> Result<()> {
    let ceiling = Ceiling::measure(settings.threads);
    let mut work = Warm::new(name, settings)?;
    darts_ops::profile::start();
    let seconds: f64 = work.seconds(settings.steps)?.iter().sum();
    let entries = darts_ops::profile::stop();
    println!("{}", profile::table(name, &entries, seconds, settings.steps, &ceiling));
    Ok(())
}

/// The command that does a case's work in a new process.
///
/// # Errors
/// This program cannot be found.
pub(super) fn here(name: &str, settings: &Settings) -> Result<Command> {
    let mut command = program(env::current_exe().context("cannot find this program")?);
    command.args(["bench", name, "--here", "--steps", &settings.steps.to_string()]);
    command.args(["--threads", &settings.threads.to_string()]);
    command.args(settings.sizes.options());
    if let Some(images) = &settings.images {
        command.arg("--images").arg(images);
    }
    command.env("RAYON_NUM_THREADS", settings.threads.to_string());
    Ok(command)
}

/// Measures a case in a new process.
///
/// # Errors
/// It fails, or prints something else.
pub(super) fn measure(name: &str, settings: &Settings) -> Result<Measured> {
    let mut command = here(name, settings)?;
    Measured::parse(&output(&mut command)?).with_context(|| typed(&command))
}

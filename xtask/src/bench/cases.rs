//! The cases by name: what each does here, and the variants of it in Python. A case runs in a process of its own, which is
//! this program again.

use std::env;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use darts_runs::peak_memory_bytes;
use serde_json::json;

use super::measure::{Measured, Settings};
use super::{conv, loaders};
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
    /// Its variants in Python, the default first.
    pub(super) variants: &'static [&'static str],
    start: fn(&Settings) -> Result<Work>,
}

const LAYOUTS: &[&str] = &["default", "channels-last", "compile"];

/// All cases, in the order of the tables.
pub(super) const CASES: [Case; 5] = [
    Case { name: "conv-search-weight-step", variants: LAYOUTS, start: |_| conv::search(conv::Half::Weights) },
    Case { name: "conv-search-alpha-first", variants: LAYOUTS, start: |_| conv::search(conv::Half::AlphaFirst) },
    Case { name: "conv-search-alpha-second", variants: LAYOUTS, start: |_| conv::search(conv::Half::AlphaSecond) },
    Case { name: "conv-evaluation-step", variants: LAYOUTS, start: |_| conv::evaluation() },
    Case { name: "cifar-loader", variants: &["default", "tensors"], start: loaders::cifar },
];

impl Case {
    /// Whether it is computation that a bound can be given for.
    pub(super) fn is_a_step(&self) -> bool {
        !self.name.ends_with("-loader")
    }
}

/// Does a case's work in this process and prints what it came to as a line of JSON.
///
/// # Errors
/// The name is unknown, or the work fails.
pub(super) fn run_here(name: &str, settings: &Settings) -> Result<()> {
    let Some(case) = CASES.iter().find(|case| case.name == name) else { bail!("there is no case `{name}`") };
    let mut work = (case.start)(settings)?;
    let mut timed = || -> Result<f64> {
        let begin = Instant::now();
        (work.step)()?;
        Ok(begin.elapsed().as_secs_f64())
    };
    for _ in 0..WARM_UP {
        timed()?;
    }
    let seconds = (0..settings.steps).map(|_| timed()).collect::<Result<Vec<f64>>>()?;
    let (flops, bytes) = (work.flops, work.bytes);
    println!("{}", json!({ "seconds": seconds, "peak_bytes": peak_memory_bytes(), "flops": flops, "bytes": bytes }));
    Ok(())
}

/// Measures a case in a new process.
///
/// # Errors
/// It fails, or prints something else.
pub(super) fn measure(name: &str, settings: &Settings) -> Result<Measured> {
    let mut command = program(env::current_exe().context("cannot find this program")?);
    command.args(["bench", name, "--here", "--steps", &settings.steps.to_string()]);
    command.args(["--threads", &settings.threads.to_string()]);
    if let Some(images) = &settings.images {
        command.arg("--images").arg(images);
    }
    command.env("RAYON_NUM_THREADS", settings.threads.to_string());
    Measured::parse(&output(&mut command)?).with_context(|| typed(&command))
}

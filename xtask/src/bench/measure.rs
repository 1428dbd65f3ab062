//! What a measurement came to, and rows of a table that stand beside the machine's ceiling. Knows no kernel and no network.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use darts_ops::roofline::{KernelResult, copy_bandwidth, fma_rate};
use darts_ops::simd::InstructionSet;
use darts_runs::Hardware;
use serde_json::Value;

/// Relative difference of the first step's loss and gradient norm up to which two variants do the same work.
const SAME_WORK: f64 = 0.05;

/// How much to measure.
#[derive(Clone)]
pub(super) struct Settings {
    /// Timed steps of a process.
    pub(super) steps: usize,
    /// Times that both sides take turns.
    pub(super) rounds: usize,
    /// A process of the peer that takes longer is stopped: compiling a supernet can take very long.
    pub(super) time_limit: Duration,
    /// Variants of the peer that are measured; all of them where none is named.
    pub(super) variants: Vec<String>,
    /// Threads; a loader's workers.
    pub(super) threads: usize,
    /// Images in subfolders, for imagenet-loader.
    pub(super) images: Option<PathBuf>,
    /// Sizes that are not the paper's.
    pub(super) sizes: Sizes,
}

/// Sizes of the convolutional search, where they are not the paper's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Sizes {
    /// Convolutional search: images of a batch
    #[arg(long, value_name = "N", help_heading = "Sizes")]
    pub(super) batch: Option<usize>,
    /// Convolutional search: channels of the first cell
    #[arg(long, value_name = "C", help_heading = "Sizes")]
    pub(super) channels: Option<usize>,
    /// Convolutional search: cells
    #[arg(long, value_name = "N", help_heading = "Sizes")]
    pub(super) layers: Option<usize>,
    /// Convolutional search: intermediate nodes of a cell
    #[arg(long, value_name = "N", help_heading = "Sizes")]
    pub(super) nodes: Option<usize>,
}

impl Sizes {
    /// What a command line says to get them.
    pub(super) fn options(self) -> impl Iterator<Item = String> {
        let Self { batch, channels, layers, nodes } = self;
        let named = [("batch", batch), ("channels", channels), ("layers", layers), ("nodes", nodes)];
        named.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?)))
    }
}

/// What the processes of one side came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// Of each timed step.
    pub(super) seconds: Vec<f64>,
    /// The largest resident memory of a process.
    pub(super) peak_bytes: u64,
    /// What of it was there before any work: libraries. 0 where the process does not say.
    pub(super) imported_bytes: u64,
    /// Loss and gradient norm of the first step, where the case has them.
    pub(super) first: Option<(f64, f64)>,
    /// Operations of a step that the definition asks for, where it was said.
    pub(super) flops: f64,
    /// Bytes that a step must read and write at least, where it was said.
    pub(super) bytes: f64,
}

impl Measured {
    /// From the last line that a process printed.
    ///
    /// # Errors
    /// It is no object with `seconds` and `peak_bytes`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let line = text.lines().last().unwrap_or_default();
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("expected a line of JSON, got `{line}`"))?;
        let seconds: Vec<f64> = value["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let (Some(peak_bytes), false) = (value["peak_bytes"].as_u64(), seconds.is_empty()) else {
            bail!("expected `seconds` and `peak_bytes`, got `{line}`");
        };
        let number = |key: &str| value[key].as_f64().unwrap_or(0.0);
        Ok(Self {
            seconds,
            peak_bytes,
            imported_bytes: value["imported_bytes"].as_u64().unwrap_or(0),
            first: value["loss"].as_f64().zip(value["gradient_norm"].as_f64()),
            flops: number("flops"),
            bytes: number("bytes"),
        })
    }

    /// Takes another process of the same case in.
    pub(super) fn add(&mut self, other: Self) {
        self.seconds.extend(other.seconds);
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
        self.imported_bytes = self.imported_bytes.max(other.imported_bytes);
        self.first = self.first.or(other.first);
        (self.flops, self.bytes) = (other.flops, other.bytes);
    }

    /// The median of the seconds.
    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The seconds that this share of the steps stays within.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }

    /// Whether both started from the same numbers and got the same ones, as far as they tell.
    pub(super) fn same_work(&self, other: &Self) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= SAME_WORK * b.abs();
        match (self.first, other.first) {
            (Some(a), Some(b)) => near(a.0, b.0) && near(a.1, b.1),
            _ => true,
        }
    }
}

/// What the machine can do at most, measured in the same run.
#[derive(Clone, Copy)]
pub(super) struct Ceiling {
    /// Operations a second; a fused multiply-add is two.
    pub(super) flops: f64,
    /// Bytes read and written by a copy, a second.
    pub(super) bytes: f64,
}

impl Ceiling {
    /// Measures it with so many threads.
    pub(super) fn measure(threads: usize) -> Self {
        Self { flops: fma_rate(threads), bytes: copy_bandwidth(threads) }
    }

    /// What was measured, in words.
    pub(super) fn describe(&self) -> String {
        format!("{:.0} GFLOP/s FMA (f32), {:.1} GB/s copy (read + write)", self.flops / 1e9, self.bytes / 1e9)
    }
}

/// The machine in words; the same every time.
pub(super) fn machine(threads: usize) -> String {
    let Hardware { cpu, cores, .. } = Hardware::detect();
    format!("{cpu}, {cores} cores, {threads} threads, {}", InstructionSet::selected().name())
}

/// One line of the table.
pub(super) struct Row {
    /// What was run.
    pub(super) name: String,
    /// Median seconds of a run.
    pub(super) seconds: f64,
    /// Seconds of the fastest run.
    pub(super) fastest: f64,
    /// Operations that the definition asks for.
    pub(super) flops: f64,
    /// Bytes that must be read and written at least; 0 where nobody counted.
    pub(super) bytes: f64,
    /// Largest resident memory, where it was watched.
    pub(super) peak_memory: Option<u64>,
}

impl From<KernelResult> for Row {
    fn from(result: KernelResult) -> Self {
        let KernelResult { name, calls: _, seconds, fastest, flops, bytes } = result;
        Self { name, seconds, fastest, flops, bytes, peak_memory: None }
    }
}

impl Row {
    /// The row of a case.
    pub(super) fn of(name: &str, measured: &Measured) -> Self {
        Self {
            name: name.into(),
            seconds: measured.median(),
            fastest: measured.quantile(0.0),
            flops: measured.flops,
            bytes: measured.bytes,
            peak_memory: Some(measured.peak_bytes),
        }
    }

    /// The least time that the ceiling allows.
    pub(super) fn bound(&self, ceiling: &Ceiling) -> f64 {
        (self.flops / ceiling.flops).max(self.bytes / ceiling.bytes)
    }

    /// The row in Markdown; the columns are those of [`HEADER`].
    pub(super) fn markdown(&self, ceiling: &Ceiling) -> String {
        let rate =
            |amount: f64| if amount > 0.0 { format!("{:.1}", amount / self.seconds / 1e9) } else { "–".into() };
        let memory = self.peak_memory.map_or_else(|| "–".into(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
        let bound = self.bound(ceiling);
        let over = if bound > 0.0 { format!("{:.1} ×", self.seconds / bound) } else { "–".into() };
        format!(
            "| {} | {:.2} ms | {:.2} ms | {} | {} | {over} | {memory} |",
            self.name,
            1e3 * self.seconds,
            1e3 * self.fastest,
            rate(self.flops),
            rate(self.bytes),
        )
    }
}

/// The table's head.
pub(super) const HEADER: &str = "\
| what | median | fastest | GFLOP/s | GB/s | median over bound | peak memory |
|---|---|---|---|---|---|---|";

#[cfg(test)]
mod tests {
    use super::{Ceiling, Measured, Row};

    #[test]
    fn the_bound_is_the_larger_of_both_ceilings() {
        let row = |flops, bytes| Row { name: "x".into(), seconds: 2.0, fastest: 1.0, flops, bytes, peak_memory: None };
        let ceiling = Ceiling { flops: 10.0, bytes: 5.0 };
        assert_eq!(row(10.0, 0.0).bound(&ceiling), 1.0);
        assert_eq!(row(10.0, 20.0).bound(&ceiling), 4.0);
        assert!(row(10.0, 0.0).markdown(&ceiling).contains("| – | 2.0 × | – |"));
    }

    #[test]
    fn a_variant_with_another_gradient_does_other_work() {
        let measured = |norm| Measured { first: Some((2.0, norm)), ..Measured::default() };
        assert!(measured(1.001).same_work(&measured(1.0)));
        assert!(!measured(1.2).same_work(&measured(1.0)));
        assert!(!measured(f64::NAN).same_work(&measured(1.0)));
    }

    #[test]
    fn a_line_without_seconds_is_refused() {
        assert!(Measured::parse("{\"seconds\": [], \"peak_bytes\": 1}").is_err());
        let line = "chatter\n{\"seconds\": [0.5], \"peak_bytes\": 7, \"loss\": 1.0, \"gradient_norm\": 2.0}";
        let expected = Measured { seconds: vec![0.5], peak_bytes: 7, first: Some((1.0, 2.0)), ..Measured::default() };
        assert_eq!(Measured::parse(line).unwrap(), expected);
    }
}

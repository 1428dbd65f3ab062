//! Timing of whole steps, and rows of a table that stand beside the machine's ceiling. Knows no kernel and no network.

use std::time::Instant;

use darts_ops::roofline::KernelResult;
use serde_json::{Value, json};

/// What the machine can do at most, measured in the same run.
#[derive(Clone, Copy)]
pub(super) struct Ceiling {
    /// Operations a second; a fused multiply-add is two.
    pub(super) flops: f64,
    /// Bytes read and written by a copy, a second.
    pub(super) bytes: f64,
}

/// One line of the table.
pub(super) struct Row {
    /// What was run.
    pub(super) name: String,
    /// Runs.
    pub(super) runs: usize,
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
        let KernelResult { name, calls: runs, seconds, fastest, flops, bytes } = result;
        Self { name, runs, seconds, fastest, flops, bytes, peak_memory: None }
    }
}

impl Row {
    /// The least time that the ceiling allows.
    pub(super) fn bound(&self, ceiling: &Ceiling) -> f64 {
        (self.flops / ceiling.flops).max(self.bytes / ceiling.bytes)
    }

    /// The row in Markdown; the columns are those of [`HEADER`].
    pub(super) fn markdown(&self, ceiling: &Ceiling) -> String {
        let rate =
            |amount: f64| if amount > 0.0 { format!("{:.1}", amount / self.seconds / 1e9) } else { "–".into() };
        let memory = self.peak_memory.map_or_else(|| "–".into(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9));
        format!(
            "| {} | {:.2} ms | {:.2} ms | {} | {} | {:.1} × | {memory} |",
            self.name,
            1e3 * self.seconds,
            1e3 * self.fastest,
            rate(self.flops),
            rate(self.bytes),
            self.seconds / self.bound(ceiling),
        )
    }

    /// The row as an object.
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "runs": self.runs,
            "seconds": self.seconds,
            "fastest_seconds": self.fastest,
            "flops": self.flops,
            "bytes": self.bytes,
            "peak_memory_bytes": self.peak_memory,
        })
    }
}

/// The table's head.
pub(super) const HEADER: &str = "\
| what | median | fastest | GFLOP/s | GB/s | median over bound | peak memory |
|---|---|---|---|---|---|---|";

/// How long some work takes.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Median seconds.
    pub(super) median: f64,
    /// Seconds of the fastest run.
    pub(super) fastest: f64,
    /// Runs.
    pub(super) runs: usize,
}

/// Times `runs` runs of `work`, after one that does not count.
pub(super) fn time(runs: usize, mut work: impl FnMut()) -> Times {
    work();
    let timed = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<f64> = (0..runs.max(1)).map(timed).collect();
    times.sort_by(f64::total_cmp);
    Times { median: times[times.len() / 2], fastest: times[0], runs: times.len() }
}

/// Numbers from −1 to 1 that are the same in every run: a golden-ratio sequence, shifted by `seed`.
pub(super) fn numbers(len: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| (((i + 1) as f64 * 0.618_033_988_749_895 + seed as f64 * 0.37).fract() * 2.0 - 1.0) as f32;
    (0..len).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::{Ceiling, Row, time};

    #[test]
    fn the_bound_is_the_larger_of_both_ceilings() {
        let row = |flops, bytes| Row {
            name: "x".into(),
            runs: 3,
            seconds: 2.0,
            fastest: 1.0,
            flops,
            bytes,
            peak_memory: None,
        };
        let ceiling = Ceiling { flops: 10.0, bytes: 5.0 };
        assert_eq!(row(10.0, 0.0).bound(&ceiling), 1.0);
        assert_eq!(row(10.0, 20.0).bound(&ceiling), 4.0);
        assert!(row(10.0, 0.0).markdown(&ceiling).contains("| – | 2.0 × | – |"));
    }

    #[test]
    fn the_first_run_does_not_count() {
        let mut runs = 0;
        let times = time(4, || runs += 1);
        assert_eq!((runs, times.runs), (5, 4));
        assert!(times.fastest <= times.median);
    }
}

//! `cargo xtask bench`: the machine's ceiling first, then kernels and whole steps beside it.
//!
//! Without names everything is run, and docs/benchmarks.md and docs/benchmarks.json are written anew. Numbers are those of
//! the shipped functions, on all cores, in one process. Nothing here is tuned for a benchmark.

mod measure;
mod steps;

use std::fs;

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use darts_ops::roofline::{copy_bandwidth, fma_rate, kernel_benches};
use darts_ops::simd::InstructionSet;
use darts_runs::Hardware;
use serde_json::json;

use self::measure::{Ceiling, HEADER, Row};
use crate::workspace::root;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure [default: everything, and write docs/benchmarks.md]
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(BENCHES.map(|bench| bench.name)))]
    names: Vec<String>,
    /// Runs of each whole step
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
}

struct Bench {
    name: &'static str,
    run: fn(runs: usize) -> Result<Vec<Row>>,
}

/// Whole steps come first: their peak memory is the process's.
const BENCHES: [Bench; 3] = [
    Bench { name: "search", run: steps::search },
    Bench { name: "evaluation", run: steps::evaluation },
    Bench { name: "kernels", run: |_| Ok(kernel_benches().into_iter().map(Row::from).collect()) },
];

/// Measures, prints, and writes the two files where everything was asked for.
///
/// # Errors
/// A step fails, or a file cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let hardware = Hardware::detect();
    let ceiling = Ceiling { flops: fma_rate(hardware.cores), bytes: copy_bandwidth(hardware.cores) };
    let machine = format!(
        "{}, {} cores, {}: {:.0} GFLOP/s FMA (f32), {:.1} GB/s copy (read + write)",
        hardware.cpu,
        hardware.cores,
        InstructionSet::selected().name(),
        ceiling.flops / 1e9,
        ceiling.bytes / 1e9
    );
    println!("{machine}\n\n{HEADER}");
    let mut rows = Vec::new();
    for bench in BENCHES.iter().filter(|bench| args.names.is_empty() || args.names.iter().any(|n| n == bench.name)) {
        for row in (bench.run)(usize::from(args.runs))? {
            println!("{}", row.markdown(&ceiling));
            rows.push(row);
        }
    }
    if args.names.is_empty() {
        write(&machine, &hardware, &ceiling, &rows)?;
    }
    Ok(())
}

fn write(machine: &str, hardware: &Hardware, ceiling: &Ceiling, rows: &[Row]) -> Result<()> {
    let lines: Vec<String> = rows.iter().map(|row| row.markdown(ceiling)).collect();
    let page = format!("{INTRODUCTION}\n{machine}\n\n{HEADER}\n{}\n", lines.join("\n"));
    let data = json!({
        "hardware": hardware,
        "fma_flops": ceiling.flops,
        "copy_bytes": ceiling.bytes,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    let data = serde_json::to_string_pretty(&data).context("cannot format the results")? + "\n";
    for (file, text) in [("docs/benchmarks.md", page), ("docs/benchmarks.json", data)] {
        let path = root().join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("\nwritten: docs/benchmarks.md, docs/benchmarks.json");
    Ok(())
}

const INTRODUCTION: &str = "\
# Benchmarks

Written by `cargo xtask bench`: the functions that runs call, on all cores, in f32. The bound is the least time that the
machine's measured FMA rate and copy bandwidth allow: for the operations of the definition, and for reading every input and
writing every output once. Whole steps are those of the paper's networks: the search's at C 16, 8 layers, batch 64, whose
weight step is 115 GFLOP and, by estimate, at least 9 GB; the evaluation network's (DARTS_V2) at C 36, 20 layers, batch 96.
A second-order α step is four such passes.
";

//! `cargo xtask check`: everything that CI checks, cheapest first, stopping at the first failure.
//!
//! The table [`STEPS`] is the order. A step that wants a tool which is not installed says so and is skipped; under
//! `--strict` that is a failure, and so is a test that printed `SKIPPED:`. Nothing here installs anything: `.ci/run` does.

mod cuda;
mod documentation;
mod graph;
mod source;
mod suite;

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::builder::PossibleValuesParser;

/// Options of `cargo xtask check`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A skipped check or test is a failure
    #[arg(long)]
    strict: bool,
    /// Run these steps only
    #[arg(long, value_name = "STEP", value_delimiter = ',', value_parser = PossibleValuesParser::new(STEPS.map(|s| s.name)))]
    only: Vec<String>,
}

/// What a step was told, and what it leaves for the end of the page.
struct Context {
    strict: bool,
    closing_lines: Vec<String>,
}

/// How a step that did not fail ended.
enum Outcome {
    Passed,
    Skipped(String),
}

struct Step {
    name: &'static str,
    run: fn(&mut Context) -> Result<Outcome>,
}

const STEPS: [Step; 13] = [
    Step { name: "fmt", run: source::fmt },
    Step { name: "architecture", run: documentation::architecture },
    Step { name: "graph", run: graph::check },
    Step { name: "crate-docs", run: documentation::crates },
    Step { name: "deny", run: source::deny },
    Step { name: "clippy", run: source::clippy },
    Step { name: "cuda", run: cuda::kernels },
    Step { name: "rustdoc", run: documentation::rustdoc },
    Step { name: "package", run: source::package },
    Step { name: "doctests", run: suite::documentation },
    Step { name: "examples", run: suite::examples },
    Step { name: "tests", run: suite::all },
    Step { name: "readme", run: documentation::readme },
];

/// Runs the steps.
///
/// # Errors
/// The first step that fails; under `--strict`, skipped steps and tests, all of them named.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut context = Context { strict: args.strict, closing_lines: Vec::new() };
    let mut skipped = Vec::new();
    let begun = Instant::now();
    for step in STEPS.iter().filter(|step| args.only.is_empty() || args.only.iter().any(|name| name == step.name)) {
        println!("check: {} …", step.name);
        let start = Instant::now();
        let outcome = (step.run)(&mut context).with_context(|| format!("check {} failed", step.name))?;
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Outcome::Passed => println!("check: {} ok, {seconds:.1} s", step.name),
            Outcome::Skipped(why) => {
                println!("SKIPPED {}: {why}", step.name);
                skipped.push(step.name);
            }
        }
    }
    println!("check: all steps done, {:.0} s", begun.elapsed().as_secs_f64());
    if args.strict && !skipped.is_empty() {
        bail!("skipped under --strict: {}", skipped.join(", "));
    }
    for line in &context.closing_lines {
        println!("{line}");
    }
    Ok(())
}

//! `cargo xtask bench`: kernels and whole steps beside the machine's ceiling, or beside the same work in PyTorch.
//!
//! Every case is a process of its own, so that its peak memory is that case's. Each table is a section of docs/benchmarks.md.
//! Numbers are those of the shipped functions, in f32. Nothing here is tuned for a benchmark.

mod against;
mod cases;
mod conv;
mod environment;
mod growth;
mod loaders;
mod measure;
mod page;
mod profile;
mod recurrent;
mod results;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use clap::builder::PossibleValuesParser;
use darts_ops::roofline::kernel_benches;
use darts_runs::Hardware;

use self::cases::CASES;
use self::measure::{Ceiling, HEADER, Row, machine};
use self::page::Section;
use crate::workspace;

/// The kernels of a search, each by itself.
const KERNELS: &str = "kernels";

/// How a search step grows with its sizes; it has to be asked for.
const GROWTH: &str = "growth";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure [default: everything, and write docs/benchmarks.md]
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(CASES.map(|c| c.name).into_iter().chain([KERNELS, GROWTH])))]
    names: Vec<String>,
    /// Measure in turns with the same work in Python; makes a virtual environment at the first time
    #[arg(long, value_name = "PEER")]
    against: Option<Peer>,
    /// Timed steps of a process
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    steps: u16,
    /// With --against: times that both sides take turns
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// With --against: a variant of which a process takes longer is left out
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    time_limit: u32,
    /// With --against: these variants of the peer alone, separated by commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = PossibleValuesParser::new(cases::variants()))]
    variants: Vec<String>,
    /// Threads of both sides [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// imagenet-loader: a folder with a subfolder of images for each class
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Where the time of a step goes: its kernels, each beside its bound
    #[arg(long, conflicts_with = "against")]
    profile: bool,
    #[command(flatten)]
    sizes: measure::Sizes,
    /// Do one case's work in this process and print a line of JSON
    #[arg(long, hide = true, requires = "names")]
    here: bool,
}

/// Whom to measure against.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// All cases
    Pytorch,
    /// The loaders alone
    Torchvision,
}

impl Args {
    fn names(&self, name: &str) -> bool {
        self.names.iter().any(|named| named == name)
    }

    fn wants(&self, name: &str) -> bool {
        let needs_more = name == cases::IMAGENET_LOADER && self.images.is_none();
        self.names(name) || (self.names.is_empty() && !needs_more)
    }

    fn settings(&self) -> measure::Settings {
        measure::Settings {
            steps: usize::from(self.steps),
            rounds: usize::from(self.rounds),
            time_limit: Duration::from_secs(self.time_limit.into()),
            variants: self.variants.clone(),
            threads: self.threads.map_or_else(|| Hardware::detect().cores, usize::from),
            images: self.images.clone(),
            sizes: self.sizes,
        }
    }
}

/// Measures, prints, and writes the section where everything was asked for.
///
/// # Errors
/// A case fails, there is no Python to measure against, or a file cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let settings = args.settings();
    if let (true, Some(name)) = (args.here, args.names.first()) {
        return if args.profile { cases::profile_here(name, &settings) } else { cases::run_here(name, &settings) };
    }
    if args.profile {
        return CASES
            .iter()
            .filter(|case| args.wants(case.name) && case.is_a_step())
            .try_for_each(|case| workspace::run(cases::here(case.name, &settings)?.arg("--profile")));
    }
    if args.names(GROWTH) {
        return growth::run(&settings);
    }
    match args.against {
        Some(peer) => {
            let wanted = |name: &str| args.wants(name) && (peer == Peer::Pytorch || name.ends_with("-loader"));
            against(&settings, &wanted)
        }
        None => beside_ceiling(args, &settings),
    }
}

fn beside_ceiling(args: &Args, settings: &measure::Settings) -> Result<()> {
    let ceiling = Ceiling::measure(settings.threads);
    let machine = format!("{}: {}", machine(settings.threads), ceiling.describe());
    println!("{machine}\n\n{HEADER}");
    let mut lines = Vec::new();
    let mut add = |row: &Row| {
        let line = row.markdown(&ceiling);
        println!("{line}");
        lines.push(line);
    };
    for case in CASES.iter().filter(|case| args.names(case.name) || (args.wants(case.name) && case.is_a_step())) {
        add(&Row::of(case.name, &cases::measure(case.name, settings)?));
    }
    if args.wants(KERNELS) {
        kernel_benches().into_iter().for_each(|result| add(&Row::from(result)));
    }
    if args.names.is_empty() {
        page::write(Section::Ceiling, &format!("{machine}\n\n{HEADER}\n{}\n", lines.join("\n")))?;
    }
    Ok(())
}

fn against(settings: &measure::Settings, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let python = environment::python()?;
    let machine = format!("{}; {}", machine(settings.threads), environment::versions(&python)?);
    println!("{machine}\n\n{}", results::HEADER);
    against::run(settings, &python, wanted, &mut |comparison| {
        let Some(entry) = comparison.entry(&machine) else { return Ok(()) };
        println!("{}", entry.markdown());
        let entries = results::merge(&page::json(), entry, &CASES.map(|case| case.name))?;
        page::write(Section::Peer, &results::section(&entries))
    })
}

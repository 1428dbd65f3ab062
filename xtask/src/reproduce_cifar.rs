//! `cargo xtask reproduce-cifar`: the paper's experiment on CIFAR-10, or the whole pipeline in minutes on generated images.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::darts::{Darts, leave_interrupts_to_the_binary};
use crate::fetch;
use crate::pipeline::Pipeline;
use crate::stages::{MachineArgs, Preset, option};
use crate::workspace::root;

/// Options of `cargo xtask reproduce-cifar`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Generated images and small networks: the whole pipeline in minutes, nothing downloaded
    #[arg(long, conflicts_with = "preset")]
    quick: bool,
    /// Sizes of searches and trainings on CIFAR-10
    #[arg(long, default_value = "paper")]
    preset: Preset,
    /// Searches, with consecutive seeds [default: 4; laptop, quick: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    searches: Option<u16>,
    /// First seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Train this cell (a name, a file, a run folder) instead of searching one
    #[arg(long)]
    genotype: Option<String>,
    /// Epochs of each search
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Epochs of the short training of each cell
    #[arg(long, value_name = "N")]
    selection_epochs: Option<usize>,
    /// Epochs of the full training
    #[arg(long, value_name = "N")]
    train_epochs: Option<usize>,
    /// Architecture gradient of the searches
    #[arg(long, value_name = "first|second", value_parser = ["first", "second"])]
    order: Option<String>,
    /// Use only the first so many training images, in every stage
    #[arg(long, value_name = "N")]
    train_limit: Option<usize>,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Runs the pipeline and prints its result.
///
/// # Errors
/// The data cannot be had, or a stage fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.genotype.is_some() && (args.searches.is_some() || args.epochs.is_some()) {
        bail!("--genotype leaves nothing to search: drop --searches and --epochs");
    }
    let mut pipeline = pipeline(args);
    let darts = Darts::get(args.machine.device.as_deref())?;
    leave_interrupts_to_the_binary()?;
    if !args.quick {
        let folder = fetch::dataset("cifar10", args.machine.data.as_deref())?;
        pipeline.arguments.extend(["--data".into(), folder.display().to_string()]);
    }
    pipeline.finish(&darts, |summary| result(summary, args.quick))
}

fn pipeline(args: &Args) -> Pipeline {
    let (preset, searches, task, folder) = match (args.quick, args.preset) {
        (true, _) => ("quick", 2, "synthetic-images", "runs/cifar-quick"),
        (false, Preset::Paper) => ("paper", 4, "cifar10", "runs/cifar"),
        (false, Preset::Laptop) => ("laptop", 2, "cifar10", "runs/cifar"),
    };
    let searches = u64::from(args.searches.unwrap_or(searches));
    let mut arguments = vec!["--preset".to_owned(), preset.to_owned()];
    option(&mut arguments, "--train-limit", args.train_limit);
    args.machine.append(&mut arguments);
    let mut search_arguments = Vec::new();
    option(&mut search_arguments, "--epochs", args.epochs);
    option(&mut search_arguments, "--order", args.order.as_ref());
    let mut selection_arguments = Vec::new();
    option(&mut selection_arguments, "--epochs", args.selection_epochs);
    let mut train_arguments = Vec::new();
    option(&mut train_arguments, "--epochs", args.train_epochs);
    Pipeline {
        task,
        out: args.machine.out.clone().unwrap_or_else(|| root().join(folder)),
        seeds: (args.seed..args.seed.saturating_add(searches)).collect(),
        genotype: args.genotype.clone(),
        arguments,
        search_arguments,
        selection_arguments,
        train_arguments,
        ..Pipeline::default()
    }
}

/// The line that a person waited for.
fn result(summary: &Value, is_synthetic: bool) -> String {
    let error = match summary["test_error"].as_f64() {
        Some(error) => format!("test error {:.2} %", 100.0 * error),
        None => "no test error".into(),
    };
    let parameters = summary["parameters"].as_f64().unwrap_or_default() / 1e6;
    let beside = if is_synthetic {
        "on generated images: it says that everything works, and nothing about CIFAR-10"
    } else {
        "on CIFAR-10; the paper's second order reaches 2.76 ± 0.09 % with 3.3 M parameters"
    };
    format!("{error}, {parameters:.2} M parameters, {beside}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::{Args, pipeline, result};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Args {
        Line::try_parse_from(std::iter::once("reproduce-cifar").chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn quick_needs_no_data_and_has_a_folder_of_its_own() {
        let quick = pipeline(&parsed("--quick --seed 5 --threads 1"));
        assert!(quick.out.ends_with("runs/cifar-quick") && quick.task == "synthetic-images");
        assert_eq!(
            (quick.seeds.as_slice(), quick.arguments.join(" ").as_str()),
            (&[5, 6][..], "--preset quick --threads 1")
        );
    }

    #[test]
    fn epochs_go_to_their_own_stage() {
        let laptop = pipeline(&parsed("--preset laptop --searches 3 --epochs 5 --train-epochs 7 --order first"));
        assert_eq!((laptop.task, laptop.seeds.len()), ("cifar10", 3));
        assert_eq!(laptop.search_arguments.join(" "), "--epochs 5 --order first");
        assert_eq!((laptop.selection_arguments.len(), laptop.train_arguments.join(" ").as_str()), (0, "--epochs 7"));
    }

    #[test]
    fn a_synthetic_result_says_that_it_is_one() {
        let summary = json!({ "test_error": 0.125, "parameters": 250_000 });
        assert!(result(&summary, true).starts_with("test error 12.50 %, 0.25 M parameters, on generated images"));
        assert!(result(&summary, false).contains("2.76"));
    }
}

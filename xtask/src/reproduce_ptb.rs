//! `cargo xtask reproduce-ptb`: the paper's experiment on Penn Treebank, or the whole pipeline in minutes on generated text.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::darts::{Darts, leave_interrupts_to_the_binary};
use crate::fetch;
use crate::pipeline::Pipeline;
use crate::stages::{MachineArgs, Preset, option};
use crate::workspace::root;

/// Options of `cargo xtask reproduce-ptb`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Generated text and small networks: the whole pipeline in minutes, nothing downloaded
    #[arg(long, conflicts_with = "preset")]
    quick: bool,
    /// Sizes of searches and trainings on Penn Treebank
    #[arg(long, default_value = "paper")]
    preset: Preset,
    /// Searches, with consecutive seeds [default: 4; laptop: 2; quick: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    searches: Option<u16>,
    /// Epochs after which the better half of the cells is trained on, for choosing one [default: 20,60,180; laptop: 3,8; quick: 1,3]
    #[arg(long, value_name = "EPOCHS", value_delimiter = ',')]
    rungs: Vec<usize>,
    /// First seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Train this cell (a name, a file, a run folder) instead of searching one
    #[arg(long)]
    genotype: Option<String>,
    /// Epochs of each search
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Epochs of the full training
    #[arg(long, value_name = "N")]
    train_epochs: Option<usize>,
    /// Architecture gradient of the searches
    #[arg(long, value_name = "first|second", value_parser = ["first", "second"])]
    order: Option<String>,
    /// Units of the searches' networks
    #[arg(long, value_name = "N")]
    units: Option<usize>,
    /// Units of the trained networks
    #[arg(long, value_name = "N")]
    train_units: Option<usize>,
    /// Use only the first so many training tokens, in every stage
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
    if args.genotype.is_some() && (args.searches.is_some() || args.epochs.is_some() || !args.rungs.is_empty()) {
        bail!("--genotype leaves nothing to search: drop --searches, --rungs and --epochs");
    }
    let mut pipeline = pipeline(args)?;
    let darts = Darts::get(args.machine.device.as_deref())?;
    leave_interrupts_to_the_binary()?;
    if !args.quick {
        let folder = fetch::dataset("ptb", args.machine.data.as_deref())?;
        pipeline.arguments.extend(["--data".into(), folder.display().to_string()]);
    }
    pipeline.finish(&darts, |summary| result(summary, args.quick))
}

fn pipeline(args: &Args) -> Result<Pipeline> {
    let (preset, searches, rungs, task, folder) = match (args.quick, args.preset) {
        (true, _) => ("quick", 3, vec![1, 3], "synthetic-text", "runs/ptb-quick"),
        (false, Preset::Paper) => ("paper", 4, vec![20, 60, 180], "ptb", "runs/ptb"),
        (false, Preset::Laptop) => ("laptop", 2, vec![3, 8], "ptb", "runs/ptb"),
    };
    let rungs = if args.rungs.is_empty() { rungs } else { args.rungs.clone() };
    if rungs[0] == 0 || !rungs.is_sorted_by(|a, b| a < b) {
        let typed = rungs.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        bail!("--rungs {typed} is not possible: expected ascending numbers of epochs, as in 20,60,180");
    }
    let searches = u64::from(args.searches.unwrap_or(searches));
    let mut arguments = vec!["--preset".to_owned(), preset.to_owned()];
    option(&mut arguments, "--train-limit", args.train_limit);
    args.machine.append(&mut arguments);
    let mut search_arguments = Vec::new();
    option(&mut search_arguments, "--epochs", args.epochs);
    option(&mut search_arguments, "--order", args.order.as_ref());
    option(&mut search_arguments, "--units", args.units);
    let mut selection_arguments = Vec::new();
    option(&mut selection_arguments, "--units", args.train_units);
    let mut train_arguments = selection_arguments.clone();
    option(&mut train_arguments, "--epochs", args.train_epochs);
    Ok(Pipeline {
        task,
        out: args.machine.out.clone().unwrap_or_else(|| root().join(folder)),
        seeds: (args.seed..args.seed.saturating_add(searches)).collect(),
        genotype: args.genotype.clone(),
        arguments,
        search_arguments,
        selection_arguments,
        rungs,
        train_arguments,
    })
}

/// The line that a person waited for.
fn result(summary: &Value, is_synthetic: bool) -> String {
    let beside = if is_synthetic {
        "on generated text: it says that everything works, and nothing about Penn Treebank"
    } else {
        "on Penn Treebank; the paper's second order reaches 58.1 and 55.7 with 23 M parameters"
    };
    format!("{}, {beside}", perplexities(summary))
}

/// Both perplexities and the size of a trained network.
pub(crate) fn perplexities(summary: &Value) -> String {
    let perplexity = |split: &str| match summary[format!("{split}_perplexity")].as_f64() {
        Some(perplexity) => format!("{split} perplexity {perplexity:.2}"),
        None => format!("no {split} perplexity"),
    };
    let parameters = summary["parameters"].as_f64().unwrap_or_default() / 1e6;
    format!("{}, {}, {parameters:.2} M parameters", perplexity("valid"), perplexity("test"))
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
        Line::try_parse_from(std::iter::once("reproduce-ptb").chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn quick_needs_no_data_and_has_a_folder_of_its_own() {
        let quick = pipeline(&parsed("--quick --seed 5 --searches 2 --threads 1")).unwrap();
        assert!(quick.out.ends_with("runs/ptb-quick") && quick.task == "synthetic-text");
        assert_eq!(
            (quick.seeds.as_slice(), quick.arguments.join(" ").as_str()),
            (&[5, 6][..], "--preset quick --threads 1")
        );
    }

    #[test]
    fn rungs_ascend_and_settings_go_to_their_own_stage() {
        let paper = pipeline(&parsed("--searches 8 --rungs 20,60,180 --units 100 --train-units 200 --train-epochs 7"));
        let paper = paper.unwrap();
        assert_eq!((paper.task, paper.seeds.len(), paper.rungs), ("ptb", 8, vec![20, 60, 180]));
        assert_eq!(paper.search_arguments.join(" "), "--units 100");
        assert_eq!(paper.selection_arguments.join(" "), "--units 200");
        assert_eq!(paper.train_arguments.join(" "), "--units 200 --epochs 7");
        for rungs in ["20,20", "0,3", "5,2"] {
            let error = pipeline(&parsed(&format!("--rungs {rungs}"))).err().unwrap().to_string();
            assert!(error.contains(rungs) && error.contains("ascending"), "{error}");
        }
    }

    #[test]
    fn a_synthetic_result_says_that_it_is_one() {
        let summary = json!({ "valid_perplexity": 4.5, "test_perplexity": 4.625, "parameters": 25_000 });
        let quick = result(&summary, true);
        assert!(
            quick.starts_with("valid perplexity 4.50, test perplexity 4.62, 0.03 M parameters, on generated"),
            "{quick}"
        );
        assert!(result(&summary, false).contains("55.7"));
    }
}

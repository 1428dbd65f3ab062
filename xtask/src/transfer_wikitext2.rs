//! `cargo xtask transfer-wikitext2`: the cell that was searched on Penn Treebank, trained on WikiText-2 (section 3.3 of the
//! paper); or, in a minute, the quick search's cell on other generated text.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::darts::{Darts, leave_interrupts_to_the_binary};
use crate::fetch;
use crate::pipeline::{Pipeline, cell_to_transfer};
use crate::reproduce_ptb::perplexities;
use crate::stages::{MachineArgs, Preset, option};
use crate::workspace::root;

/// Options of `cargo xtask transfer-wikitext2`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Generated text and a small network: a minute, nothing downloaded
    #[arg(long, conflicts_with = "preset")]
    quick: bool,
    /// Size of the training
    #[arg(long, default_value = "paper")]
    preset: Preset,
    /// The cell: a name, a file or a run folder [default: what reproduce-ptb left, else DARTS_V2]
    #[arg(long)]
    genotype: Option<String>,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Epochs of the training
    #[arg(long, visible_alias = "train-epochs", value_name = "N")]
    epochs: Option<usize>,
    /// Units of the network
    #[arg(long, visible_alias = "train-units", value_name = "N")]
    units: Option<usize>,
    /// Use only the first so many training tokens
    #[arg(long, value_name = "N")]
    train_limit: Option<usize>,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Generated text that the quick search has not seen: the cell goes to a larger vocabulary there too.
const OTHER_TEXT: [&str; 4] = ["--data-seed", "1", "--vocabulary", "24"];

/// Trains the cell and prints its result.
///
/// # Errors
/// The data cannot be had, or the training fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut pipeline = pipeline(args);
    let darts = Darts::get(args.machine.device.as_deref())?;
    leave_interrupts_to_the_binary()?;
    let mut is_sample = false;
    if !args.quick {
        let data = wikitext2(args.machine.data.as_deref())?;
        is_sample = data.is_sample;
        pipeline.arguments.extend(["--data".into(), data.folder.display().to_string()]);
        if is_sample {
            println!("no wiki.train.tokens in {}: {SAMPLE}", data.folder.display());
            pipeline.arguments.push("--sample".into());
        }
    }
    pipeline.finish(&darts, |summary| result(summary, args.quick, is_sample))
}

const SAMPLE: &str = "training on nine tenths of wiki.valid.tokens; these figures compare with nobody's";

/// Where WikiText-2 is.
struct Data {
    folder: PathBuf,
    /// Whether its training text is missing.
    is_sample: bool,
}

/// WikiText-2, fetched where it is not there. A folder with the validation text alone is taken as it is.
fn wikitext2(typed: Option<&Path>) -> Result<Data> {
    let folders = [fetch::folder(typed), fetch::folder(typed).join("wikitext-2")];
    let with = |file: &str| folders.iter().find(|folder| folder.join(file).is_file()).cloned();
    match (with("wiki.train.tokens"), with("wiki.valid.tokens")) {
        (None, Some(folder)) => Ok(Data { folder, is_sample: true }),
        _ => Ok(Data { folder: fetch::dataset("wikitext-2", typed)?, is_sample: false }),
    }
}

fn pipeline(args: &Args) -> Pipeline {
    let (preset, task, folder, source) = match (args.quick, args.preset) {
        (true, _) => ("quick", "synthetic-text", "runs/wikitext2-quick", "runs/ptb-quick"),
        (false, Preset::Paper) => ("paper", "wikitext2", "runs/wikitext2", "runs/ptb"),
        (false, Preset::Laptop) => ("laptop", "wikitext2", "runs/wikitext2", "runs/ptb"),
    };
    let genotype = cell_to_transfer(args.genotype.as_deref(), source, "reproduce-ptb");
    let mut arguments = vec!["--preset".to_owned(), preset.to_owned()];
    option(&mut arguments, "--train-limit", args.train_limit);
    args.machine.append(&mut arguments);
    let mut train_arguments = Vec::new();
    option(&mut train_arguments, "--epochs", args.epochs);
    option(&mut train_arguments, "--units", args.units);
    if args.quick {
        train_arguments.extend(OTHER_TEXT.map(str::to_owned));
    }
    Pipeline {
        task,
        out: args.machine.out.clone().unwrap_or_else(|| root().join(folder)),
        seeds: vec![args.seed],
        genotype: Some(genotype),
        arguments,
        train_arguments,
        ..Pipeline::default()
    }
}

/// The line that a person waited for.
fn result(summary: &Value, is_synthetic: bool, is_sample: bool) -> String {
    let beside = match (is_synthetic, is_sample) {
        (true, _) => "on generated text: it says that everything works, and nothing about WikiText-2",
        (_, true) => "on WikiText-2 without its training text: nine tenths of the validation text stood in for it",
        _ => "on WikiText-2; the paper's cell reaches 71.2 and 69.6 with 33 M parameters",
    };
    format!("{}, {beside}", perplexities(summary))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::{Args, pipeline, result, wikitext2};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_cell_that_was_typed_is_trained() {
        let line = ["transfer-wikitext2", "--genotype", "ENAS", "--epochs", "3", "--preset", "laptop"];
        let pipeline = pipeline(&Line::try_parse_from(line).unwrap().args);
        assert_eq!((pipeline.task, pipeline.genotype.as_deref()), ("wikitext2", Some("ENAS")));
        assert_eq!(pipeline.train_arguments.join(" "), "--epochs 3");
    }

    #[test]
    fn a_folder_without_the_training_text_is_a_sample() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("wikitext-2")).unwrap();
        std::fs::write(folder.path().join("wikitext-2/wiki.valid.tokens"), "a\n").unwrap();
        let data = wikitext2(Some(folder.path())).unwrap();
        assert!(data.is_sample && data.folder.ends_with("wikitext-2"));
    }

    #[test]
    fn results_say_what_they_are_of() {
        let summary = json!({ "valid_perplexity": 90.0, "test_perplexity": 88.0, "parameters": 33_127_878 });
        assert!(result(&summary, true, false).contains("generated"));
        assert!(result(&summary, false, true).contains("without its training text"));
        assert!(result(&summary, false, false).starts_with("valid perplexity 90.00, test perplexity 88.00, 33.13 M"));
    }
}

//! `cargo xtask transfer-imagenet`: the cell that was searched on CIFAR-10, trained on ImageNet in the mobile setting
//! (section 3.4 of the paper), at smaller sizes, or, in minutes, on a small archive of generated images in the official
//! layout.

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use darts_data::imagenet::synthetic;
use serde_json::Value;

use crate::darts::{Darts, leave_interrupts_to_the_binary};
use crate::imagenet;
use crate::pipeline::{Pipeline, cell_to_transfer};
use crate::stages::{MachineArgs, option};
use crate::workspace::root;

/// Options of `cargo xtask transfer-imagenet`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A small archive of generated images and a small network: minutes, nothing downloaded
    #[arg(long, conflicts_with = "preset")]
    quick: bool,
    /// Size of the training
    #[arg(long, default_value = "paper")]
    preset: Preset,
    /// The cell: a name, a file or a run folder [default: what reproduce-cifar left, else DARTS_V2]
    #[arg(long)]
    genotype: Option<String>,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Epochs of the training
    #[arg(long, visible_alias = "train-epochs", value_name = "N")]
    epochs: Option<usize>,
    /// Use only the first so many training images
    #[arg(long, value_name = "N")]
    train_limit: Option<usize>,
    /// Side of the images, pixels
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Parts that a batch is cut into, for small memories
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,
    /// Unreadable images that may be left out
    #[arg(long, value_name = "N")]
    max_bad_images: Option<usize>,
    #[command(flatten)]
    machine: MachineArgs,
}

/// `--preset`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// The paper's: 250 epochs of 1.28 million images at 224 × 224 pixels
    Paper,
    /// Tiny-ImageNet: 200 classes, 64 × 64 pixels, 50 epochs
    TinyImagenet,
    /// An evening on a laptop's CPU: 100,000 images at 64 × 64 pixels, 15 epochs of a smaller network
    Laptop,
}

/// The generated archive: enough images for a small network to see that shape and texture matter together.
const QUICK: synthetic::Config =
    synthetic::Config { classes: 8, train_per_class: 200, val_per_class: 25, side: 72, seed: 0 };

/// Trains the cell and prints its result.
///
/// # Errors
/// The data cannot be had, or the training fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut pipeline = pipeline(args);
    let darts = Darts::get(args.machine.device.as_deref())?;
    leave_interrupts_to_the_binary()?;
    let data = if args.quick {
        let data = pipeline.out.join("data");
        // The mark is written last: archives without it were being written when somebody stopped it.
        if !data.join(synthetic::MARK).exists() {
            let config = synthetic::Config { seed: args.seed, ..QUICK };
            synthetic::write(&data, &config).context("cannot generate the archive")?;
        }
        data
    } else {
        imagenet::folder(args.machine.data.as_deref())?
    };
    pipeline.arguments.extend(["--data".into(), data.display().to_string()]);
    pipeline.finish(&darts, |summary| result(summary, args))
}

fn pipeline(args: &Args) -> Pipeline {
    let (preset, folder, source) = match (args.quick, args.preset) {
        (true, _) => ("quick", "runs/imagenet-quick", "runs/cifar-quick"),
        (false, Preset::Paper) => ("paper", "runs/imagenet", "runs/cifar"),
        (false, Preset::TinyImagenet) => ("tiny-imagenet", "runs/tiny-imagenet", "runs/cifar"),
        (false, Preset::Laptop) => ("laptop", "runs/imagenet-laptop", "runs/cifar"),
    };
    let genotype = cell_to_transfer(args.genotype.as_deref(), source, "reproduce-cifar");
    let mut arguments = vec!["--preset".to_owned(), preset.to_owned()];
    option(&mut arguments, "--train-limit", args.train_limit);
    option(&mut arguments, "--image-size", args.image_size);
    option(&mut arguments, "--accumulate", args.accumulate);
    option(&mut arguments, "--max-bad-images", args.max_bad_images);
    args.machine.append(&mut arguments);
    let mut train_arguments = Vec::new();
    option(&mut train_arguments, "--epochs", args.epochs);
    Pipeline {
        task: "imagenet",
        out: args.machine.out.clone().unwrap_or_else(|| root().join(folder)),
        seeds: vec![args.seed],
        genotype: Some(genotype),
        arguments,
        train_arguments,
        ..Pipeline::default()
    }
}

/// The line that a person waited for.
fn result(summary: &Value, args: &Args) -> String {
    let percent = |name: &str| match summary[name].as_f64() {
        Some(error) => format!("{:.2} %", 100.0 * error),
        None => "unknown".into(),
    };
    let millions = |name: &str| summary[name].as_f64().unwrap_or_default() / 1e6;
    let beside = match (args.quick, args.preset) {
        (true, _) => "on generated images: it says that everything works, and nothing about ImageNet",
        (_, Preset::Paper) => "on ImageNet; the paper's cell reaches 26.7 % and 8.7 % with 4.7 M parameters",
        (_, Preset::TinyImagenet) => "on smaller images; the paper has no figure to compare with",
        (_, Preset::Laptop) => "on a part of ImageNet, smaller; the paper has no figure to compare with",
    };
    format!(
        "top-1 error {}, top-5 error {}, {:.2} M parameters, {:.0} M multiply-adds, {beside}",
        percent("test_error"),
        percent("test_top5_error"),
        millions("parameters"),
        millions("multiply_adds"),
    )
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
        Line::try_parse_from(std::iter::once("transfer-imagenet").chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn every_size_has_a_folder_and_a_preset_of_its_own() {
        for (typed, folder, preset) in [
            ("--quick", "runs/imagenet-quick", "--preset quick"),
            ("", "runs/imagenet", "--preset paper"),
            ("--preset tiny-imagenet", "runs/tiny-imagenet", "--preset tiny-imagenet"),
            ("--preset laptop --accumulate 4", "runs/imagenet-laptop", "--preset laptop --accumulate 4"),
        ] {
            let pipeline = pipeline(&parsed(&format!("--genotype DARTS_V1 --epochs 3 {typed}")));
            assert!(pipeline.out.ends_with(folder), "{typed}");
            assert_eq!((pipeline.task, pipeline.genotype.as_deref()), ("imagenet", Some("DARTS_V1")));
            assert_eq!(pipeline.arguments.join(" "), preset);
            assert_eq!(pipeline.train_arguments.join(" "), "--epochs 3");
        }
    }

    #[test]
    fn results_say_what_they_are_of() {
        let summary = json!({ "test_error": 0.267, "test_top5_error": 0.087, "parameters": 4_718_752, "multiply_adds": 529_911_552 });
        let said = |line| result(&summary, &parsed(line));
        assert!(
            said("").starts_with("top-1 error 26.70 %, top-5 error 8.70 %, 4.72 M parameters, 530 M multiply-adds, on")
        );
        assert!(said("--quick").contains("generated") && said("--preset laptop").contains("a part of"));
    }
}

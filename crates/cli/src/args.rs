//! The command line as it was typed. Nothing is decided here: what was not typed is `None`, and `meant` fills it in.
//!
//! Doc comments of this file are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use darts_data::text::TokenizerSpec;
use darts_runs::{Device, Order, Precision};

/// Differentiable architecture search: search a cell, train the network made of it, test it
#[derive(Debug, Parser)]
#[command(name = "darts", version, max_term_width = 110, after_help = AFTER_HELP, arg_required_else_help = false, args_override_self = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Environment:
  DARTS_DATA  where datasets are, unless --data says so [default: datasets]
  DARTS_SIMD  portable, avx2 or avx512: use no better instructions than these

Exit status: 0 done, 1 failed, 2 wrong command line, 130 interrupted (and resumable)";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Search a cell
    #[command(allow_negative_numbers = true)]
    Search(SearchArgs),
    /// Train a network made of a cell, from scratch
    #[command(allow_negative_numbers = true)]
    Train(TrainArgs),
    /// Error or perplexity of a trained network
    Eval(EvalArgs),
    /// The five likeliest classes of images, or text that goes on from a prompt
    Predict(PredictArgs),
    /// The cell that a search has come to so far
    Derive(DeriveArgs),
    /// The built-in cells
    Genotypes(GenotypesArgs),
    /// Draw a cell
    #[command(allow_negative_numbers = true)]
    Plot(PlotArgs),
    /// Parameters, multiply-adds and memory of a network
    #[command(allow_negative_numbers = true)]
    Profile(ProfileArgs),
    /// Compare this build on this machine with the golden values
    Verify(VerifyArgs),
}

/// What a search can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SearchTask {
    /// CIFAR-10 in its binary layout
    Cifar10,
    /// Any folder of images with a subfolder for each class
    ImageFolder,
    /// Images generated from a seed
    SyntheticImages,
    /// Penn Treebank
    Ptb,
    /// Any text files
    Text,
    /// Text generated from a seed
    SyntheticText,
}

/// What a training can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainTask {
    /// CIFAR-10 in its binary layout
    Cifar10,
    /// ImageNet (ILSVRC 2012)
    Imagenet,
    /// Any folder of images with a subfolder for each class
    ImageFolder,
    /// Images generated from a seed
    SyntheticImages,
    /// Penn Treebank
    Ptb,
    /// WikiText-2
    Wikitext2,
    /// Any text files
    Text,
    /// Text generated from a seed
    SyntheticText,
}

/// Which settings to start from; single settings are typed on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// The paper's
    Paper,
    /// A night on a laptop's CPU
    Laptop,
    /// Minutes on two cores
    Quick,
    /// For Tiny-ImageNet, 64 × 64 pixels (imagenet)
    TinyImagenet,
}

/// `--schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleArg {
    /// Half a cosine, down to --learning-rate-min
    Cosine,
    /// Times --decay at every epoch
    Exponential,
}

/// `--order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OrderArg {
    /// The gradient at the current weights
    First,
    /// Through one virtual step of the weights
    Second,
}

impl From<OrderArg> for Order {
    fn from(order: OrderArg) -> Self {
        match order {
            OrderArg::First => Self::First,
            OrderArg::Second => Self::Second,
        }
    }
}

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// Not rounded
    F32,
    /// 10 bits of mantissa: tensor cores
    Tf32,
    /// 7 bits of mantissa: tensor cores at their full rate
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Tf32 => Self::Tf32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

/// `--kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Convolutional cells
    Conv,
    /// Recurrent cells
    Recurrent,
}

/// `darts search`.
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// What to search on
    pub(crate) task: SearchTask,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Architecture gradient [default: second]
    #[arg(long, help_heading = "Settings")]
    pub(crate) order: Option<OrderArg>,
    /// Intermediate nodes of a cell
    #[arg(long, value_name = "N", help_heading = "Settings")]
    pub(crate) nodes: Option<usize>,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Learning rate of the architecture parameters (Adam)
    #[arg(long, value_name = "RATE", help_heading = "Settings")]
    pub(crate) alpha_learning_rate: Option<f64>,
    /// L2 on the architecture parameters
    #[arg(long, value_name = "L2", help_heading = "Settings")]
    pub(crate) alpha_weight_decay: Option<f64>,
    /// Step of the second order's finite difference, times the gradient's norm
    #[arg(long, value_name = "R", help_heading = "Settings")]
    pub(crate) radius: Option<f64>,
}

/// `darts train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// What to train on
    pub(crate) task: TrainTask,
    /// The cell: a built-in name, a file, or the folder of a search
    #[arg(long, value_name = "NAME|FILE|RUN_DIR")]
    pub(crate) genotype: String,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// A short training that leaves the test set alone, for choosing between cells
    #[arg(long)]
    pub(crate) selection: bool,
    #[command(flatten)]
    pub(crate) settings: SettingArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Share of the training images that is kept for validation; the test set is then left alone
    #[arg(long, value_name = "SHARE", help_heading = "Settings")]
    pub(crate) held_out: Option<f64>,
    /// Train with an auxiliary head
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Settings")]
    pub(crate) auxiliary: Option<bool>,
    /// Weight of the auxiliary head's loss
    #[arg(long, value_name = "WEIGHT", help_heading = "Settings")]
    pub(crate) auxiliary_weight: Option<f64>,
    /// Side of the square cut out of training images, pixels; 0 for none
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, default_missing_value = "16", help_heading = "Settings")]
    pub(crate) cutout: Option<usize>,
    /// Probability of dropping a path in the last epoch
    #[arg(long, value_name = "P", help_heading = "Settings")]
    pub(crate) drop_path_prob: Option<f64>,
    /// Share of the target spread over all classes
    #[arg(long, value_name = "SHARE", help_heading = "Settings")]
    pub(crate) label_smoothing: Option<f64>,
    /// How the learning rate falls [default: cosine; imagenet: exponential]
    #[arg(long, help_heading = "Settings")]
    pub(crate) schedule: Option<ScheduleArg>,
    /// Factor of the learning rate at every epoch (exponential)
    #[arg(long, value_name = "FACTOR", help_heading = "Settings")]
    pub(crate) decay: Option<f64>,
    /// Parts that a batch is cut into, for small memories; batch norm then sees a part at a time
    #[arg(long, value_name = "N", help_heading = "Settings")]
    pub(crate) accumulate: Option<usize>,
    /// Unreadable images that may be left out; they are listed in bad-images.txt [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) max_bad_images: Option<usize>,
    /// Coefficient of the activation regularizer
    #[arg(long, value_name = "AR", help_heading = "Settings of text")]
    pub(crate) activation_regularization: Option<f64>,
    /// Average the weights once the validation loss has not fallen for so many epochs
    #[arg(long, value_name = "EPOCHS", help_heading = "Settings of text")]
    pub(crate) nonmono: Option<usize>,
}

/// Options that change how a run is carried out, and not its result.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Continue the run in --out, with the same settings
    #[arg(long)]
    pub(crate) resume: bool,
    /// Stop cleanly after so many steps
    #[arg(long, value_name = "N")]
    pub(crate) max_steps: Option<u64>,
    /// Stop cleanly when so many epochs are done, counted from the run's beginning
    #[arg(long, value_name = "N")]
    pub(crate) until_epoch: Option<usize>,
    /// Save every so many steps, besides after each epoch
    #[arg(long, value_name = "STEPS")]
    pub(crate) checkpoint_every: Option<u64>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// Where the data is and what computes.
#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    /// The dataset's own folder, or the folder that holds it; for text also a file
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// cpu, cuda or cuda:I [default: cuda where this build and this machine have it, else cpu]
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
    /// On a GPU: what the factors of matrix products and dense convolutions are rounded to [default: f32]
    #[arg(long)]
    pub(crate) precision: Option<PrecisionArg>,
    /// On a GPU: launch kernels one by one rather than a step as one graph
    #[arg(long)]
    pub(crate) no_graph: bool,
    /// Worker threads; the result is the same for any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Print results and errors only
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Settings of the data, each of some tasks only.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArgs {
    /// Side that images are resized to (image-folder, imagenet) or made in (synthetic-images), pixels
    #[arg(long, value_name = "PIXELS")]
    pub(crate) image_size: Option<usize>,
    /// Shorter side of an image whose centre is evaluated (imagenet) [default: 8/7 of the image size]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) resize: Option<usize>,
    /// Least share of an image's area that a random crop shows (imagenet)
    #[arg(long, value_name = "SHARE")]
    pub(crate) least_area: Option<f64>,
    /// Change colours at random in training (imagenet)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) colour_jitter: Option<bool>,
    /// Share of each class that is the test set where the folder has no val/ (image-folder)
    #[arg(long, value_name = "SHARE")]
    pub(crate) test_fraction: Option<f64>,
    /// Number of training images (synthetic-images)
    #[arg(long, value_name = "N")]
    pub(crate) train_images: Option<usize>,
    /// Number of test images (synthetic-images)
    #[arg(long, value_name = "N")]
    pub(crate) test_images: Option<usize>,
    /// Seed of the images or the text (synthetic-images, synthetic-text)
    #[arg(long, value_name = "N")]
    pub(crate) data_seed: Option<u64>,
}

/// Settings of text and recurrent networks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings of text")]
pub(crate) struct TextArgs {
    /// What text is cut into: words, words:N, bpe:N, or a tokenizer's .json file [default: words]
    #[arg(long, value_name = "TOKENIZER", value_parser = tokenizer)]
    pub(crate) tokenizer: Option<TokenizerSpec>,
    /// Train on nine tenths of the validation text, where the training text is missing (wikitext2)
    #[arg(long)]
    pub(crate) sample: bool,
    /// Number of different tokens (synthetic-text)
    #[arg(long, value_name = "N")]
    pub(crate) vocabulary: Option<usize>,
    /// Probability that a token follows from the two before it (synthetic-text)
    #[arg(long, value_name = "P")]
    pub(crate) predictability: Option<f64>,
    /// Number of training tokens (synthetic-text)
    #[arg(long, value_name = "N")]
    pub(crate) train_tokens: Option<usize>,
    /// Number of validation tokens, and of test tokens (synthetic-text)
    #[arg(long, value_name = "N")]
    pub(crate) valid_tokens: Option<usize>,
    /// Units of the embedding and of every state
    #[arg(long, visible_alias = "embedding", value_name = "N")]
    pub(crate) units: Option<usize>,
    /// Time steps of a sequence
    #[arg(long, value_name = "STEPS")]
    pub(crate) bptt: Option<usize>,
    /// Dropout on the output
    #[arg(long, value_name = "P")]
    pub(crate) dropout: Option<f64>,
    /// Dropout on hidden states
    #[arg(long, value_name = "P")]
    pub(crate) dropout_hidden: Option<f64>,
    /// Dropout on the input of the first matrix
    #[arg(long, value_name = "P")]
    pub(crate) dropout_x: Option<f64>,
    /// Dropout on embedded words
    #[arg(long, value_name = "P")]
    pub(crate) dropout_embedding: Option<f64>,
    /// Dropout of whole words
    #[arg(long, value_name = "P")]
    pub(crate) dropout_words: Option<f64>,
    /// Coefficient of the temporal activation regularizer
    #[arg(long, value_name = "TAR")]
    pub(crate) temporal_regularization: Option<f64>,
}

/// clap puts the option and the value before this.
fn tokenizer(text: &str) -> Result<TokenizerSpec, String> {
    text.parse().map_err(|_| "expected words, words:N, bpe:N with N from 258, or a tokenizer's .json file".into())
}

/// Settings that a search and a training share.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingArgs {
    /// Settings to start from [default: paper; generated data: quick]
    #[arg(long)]
    pub(crate) preset: Option<Preset>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Passes over the training data
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<usize>,
    /// Examples in a batch
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Use only the first so many training examples or tokens
    #[arg(long, value_name = "N")]
    pub(crate) train_limit: Option<usize>,
    /// Channels of the first cells
    #[arg(long, value_name = "N")]
    pub(crate) init_channels: Option<usize>,
    /// Cells of the network
    #[arg(long, value_name = "N")]
    pub(crate) layers: Option<usize>,
    /// Initial learning rate of the weights
    #[arg(long, value_name = "RATE")]
    pub(crate) learning_rate: Option<f64>,
    /// What the learning rate falls to
    #[arg(long, value_name = "RATE")]
    pub(crate) learning_rate_min: Option<f64>,
    /// Momentum of the weights
    #[arg(long, value_name = "M")]
    pub(crate) momentum: Option<f64>,
    /// Weight decay
    #[arg(long, value_name = "L2")]
    pub(crate) weight_decay: Option<f64>,
    /// Largest norm of the gradient
    #[arg(long, value_name = "NORM")]
    pub(crate) grad_clip: Option<f64>,
}

/// clap puts the option and the value before this.
fn device(text: &str) -> Result<Device, String> {
    text.parse().map_err(|_| "expected cpu, cuda or cuda:I".into())
}

/// `--split`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitArg {
    /// The training data that was held out, or the validation text
    Valid,
    /// The test set
    Test,
}

/// `darts eval`. Its --data may also be any folder that has nothing but folders of images, named like classes of the run.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// Folder of a finished training
    pub(crate) run_dir: PathBuf,
    /// Which part of the data
    #[arg(long, default_value = "test")]
    pub(crate) split: SplitArg,
    /// Unreadable images that may be left out
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_bad_images: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// `darts predict`.
#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// Folder of a finished training
    pub(crate) run_dir: PathBuf,
    /// Image files, for a network that was trained on images
    pub(crate) images: Vec<PathBuf>,
    /// What to go on from, for a network that was trained on text
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Tokens to write [default: 50]
    #[arg(long, value_name = "N")]
    pub(crate) length: Option<usize>,
    /// Below 1 the likely becomes likelier; 0 always takes the likeliest [default: 1]
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f64>,
    /// Draw from so many of the likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Seed of the text [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Print JSON, one object per image or text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// `darts derive`.
#[derive(Debug, Args)]
pub(crate) struct DeriveArgs {
    /// Folder of a search, finished or not
    pub(crate) run_dir: PathBuf,
    /// Print Genotype(normal=[…], …) instead of JSON
    #[arg(long)]
    pub(crate) text: bool,
}

/// `darts genotypes`.
#[derive(Debug, Args)]
pub(crate) struct GenotypesArgs {
    /// Cells of this kind only
    #[arg(long)]
    pub(crate) kind: Option<Kind>,
    /// Print JSON, one object per cell
    #[arg(long)]
    pub(crate) json: bool,
}

/// `darts plot`.
#[derive(Debug, Args)]
pub(crate) struct PlotArgs {
    /// A built-in name, a file, or the folder of a run
    #[arg(value_name = "GENOTYPE")]
    pub(crate) genotype: String,
    /// File to write, .svg or .png
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Which of the two cells a built-in name means [default: conv]
    #[arg(long)]
    pub(crate) kind: Option<Kind>,
    /// Pixels per point of a PNG
    #[arg(long, default_value_t = 2.0, value_name = "X")]
    pub(crate) scale: f32,
}

/// What a profile is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileTask {
    /// CIFAR-10
    Cifar10,
    /// ImageNet
    Imagenet,
    /// Penn Treebank
    Ptb,
    /// WikiText-2
    Wikitext2,
}

/// `darts profile`.
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// A built-in name, a file, the folder of a run, or `supernet`
    #[arg(value_name = "GENOTYPE")]
    pub(crate) genotype: String,
    /// The task, which fixes image size, classes and stem
    #[arg(long)]
    pub(crate) task: ProfileTask,
    /// Channels of the first cells [default: the paper's]
    #[arg(long, value_name = "N")]
    pub(crate) init_channels: Option<usize>,
    /// Cells of the network [default: the paper's]
    #[arg(long, value_name = "N")]
    pub(crate) layers: Option<usize>,
    /// Units of a recurrent network [default: the paper's]
    #[arg(long, value_name = "N")]
    pub(crate) units: Option<usize>,
    /// Time steps of a sequence [default: the paper's]
    #[arg(long, value_name = "STEPS")]
    pub(crate) bptt: Option<usize>,
    /// Examples in a training batch [default: the paper's]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `darts verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Folder of golden files [default: DARTS_GOLDEN_DIR, else tests/golden]
    #[arg(long, value_name = "DIR")]
    pub(crate) golden: Option<PathBuf>,
    /// Files of this family only
    #[arg(long)]
    pub(crate) only: Option<Family>,
    /// cpu, cuda or cuda:I
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
}

/// `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Family {
    /// Operations, supernet, bilevel steps and CIFAR networks
    Conv,
    /// ImageNet networks
    Imagenet,
    /// Recurrent cells
    Recurrent,
}

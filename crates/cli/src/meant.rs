//! From what was typed to what is meant: presets and defaults are filled in here, and combinations that make no sense are
//! refused. No file is opened but the one that `--genotype` names.

use std::env;
use std::path::{Path, PathBuf};

use darts_cells::genotype::{ConvGenotype, Genotype};
use darts_data::ImageNetConfig;
use darts_runs::config::Data;
use darts_runs::genotype::{GenotypeKind, resolve};
use darts_runs::{
    DataConfig, Device, RunOptions, Schedule, SearchConfig, SearchSettings, TextConfig, TrainConfig, TrainSettings,
};

use crate::args::{
    DataArgs, Kind, MachineArgs, Preset, RunArgs, ScheduleArg, SearchArgs, SearchTask, SettingArgs, TextArgs,
    TrainArgs, TrainTask,
};
use crate::failure::{Failure, Result, failed, usage};

/// The settings that searches and trainings of both kinds have, of a configuration.
struct Common<'a> {
    seed: &'a mut u64,
    epochs: &'a mut usize,
    batch_size: &'a mut usize,
    train_limit: &'a mut Option<usize>,
    learning_rate: &'a mut f64,
    weight_decay: &'a mut f64,
    grad_clip: &'a mut f64,
}

/// The common settings of a configuration of any kind: all have them under the same names.
macro_rules! common {
    ($config:ident) => {
        $crate::meant::Common {
            seed: &mut $config.seed,
            epochs: &mut $config.epochs,
            batch_size: &mut $config.batch_size,
            train_limit: &mut $config.train_limit,
            learning_rate: &mut $config.learning_rate,
            weight_decay: &mut $config.weight_decay,
            grad_clip: &mut $config.grad_clip,
        }
    };
}

pub(crate) mod text;

impl Common<'_> {
    /// Sets what was typed.
    fn take(self, typed: &SettingArgs) {
        set(self.seed, typed.seed);
        set(self.epochs, typed.epochs);
        set(self.batch_size, typed.batch_size);
        set(self.train_limit, typed.train_limit.map(Some));
        set(self.learning_rate, typed.learning_rate);
        set(self.weight_decay, typed.weight_decay);
        set(self.grad_clip, typed.grad_clip);
    }
}

/// Refuses the first option that was typed and that the task has not.
fn refuse(task: &str, options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, typed)| *typed) {
        Some((option, _)) => Err(usage(format!("{task} has no {option}"))),
        None => Ok(()),
    }
}

/// What a run is about.
enum Subject {
    Images(Images),
    Text(TextConfig),
}

/// Which images a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Images {
    Cifar10,
    ImageNet,
    Folder,
    Synthetic,
}

impl Subject {
    fn of_search(task: SearchTask) -> Self {
        match task {
            SearchTask::Cifar10 => Self::Images(Images::Cifar10),
            SearchTask::ImageFolder => Self::Images(Images::Folder),
            SearchTask::SyntheticImages => Self::Images(Images::Synthetic),
            SearchTask::Ptb => Self::Text(TextConfig::ptb()),
            SearchTask::Text => Self::Text(TextConfig::text()),
            SearchTask::SyntheticText => Self::Text(TextConfig::synthetic_text()),
        }
    }

    fn of_training(task: TrainTask) -> Self {
        match task {
            TrainTask::Cifar10 => Self::Images(Images::Cifar10),
            TrainTask::ImageFolder => Self::Images(Images::Folder),
            TrainTask::SyntheticImages => Self::Images(Images::Synthetic),
            TrainTask::Imagenet => Self::Images(Images::ImageNet),
            TrainTask::Ptb => Self::Text(TextConfig::ptb()),
            TrainTask::Wikitext2 => Self::Text(TextConfig::wikitext2()),
            TrainTask::Text => Self::Text(TextConfig::text()),
            TrainTask::SyntheticText => Self::Text(TextConfig::synthetic_text()),
        }
    }
}

impl Images {
    /// The preset where none was typed: generated images are there for trying things out.
    fn preset(self) -> Preset {
        match self {
            Self::Cifar10 | Self::ImageNet | Self::Folder => Preset::Paper,
            Self::Synthetic => Preset::Quick,
        }
    }

    /// The data's settings where neither a preset nor an option says more.
    fn data(self) -> DataConfig {
        match self {
            Self::Cifar10 => DataConfig::Cifar10 {},
            Self::ImageNet => DataConfig::imagenet(),
            Self::Folder => DataConfig::image_folder(),
            Self::Synthetic => DataConfig::synthetic_images(),
        }
    }

    /// The data's settings `config`, with what was typed on top of them.
    fn typed(self, mut config: DataConfig, typed: &DataArgs) -> Result<DataConfig> {
        let mut wrong = Vec::new();
        match &mut config {
            DataConfig::Cifar10 {} => wrong.extend(typed.image_size.map(|_| "--image-size")),
            DataConfig::ImageNet { image_size, resize, least_area, colour_jitter } => {
                if let Some(side) = typed.image_size {
                    (*image_size, *resize) = (side, ImageNetConfig::new(side).resize);
                }
                set(resize, typed.resize);
                set(least_area, typed.least_area);
                set(colour_jitter, typed.colour_jitter);
            }
            DataConfig::ImageFolder { image_size, test_fraction } => {
                set(image_size, typed.image_size);
                set(test_fraction, typed.test_fraction);
            }
            DataConfig::SyntheticImages { image_size, train_images, test_images, data_seed } => {
                set(image_size, typed.image_size);
                set(train_images, typed.train_images);
                set(test_images, typed.test_images);
                set(data_seed, typed.data_seed);
            }
        }
        if self != Self::Folder {
            wrong.extend(typed.test_fraction.map(|_| "--test-fraction"));
        }
        if self != Self::ImageNet {
            wrong.extend(typed.resize.map(|_| "--resize"));
            wrong.extend(typed.least_area.map(|_| "--least-area"));
            wrong.extend(typed.colour_jitter.map(|_| "--colour-jitter"));
        }
        if self != Self::Synthetic {
            wrong.extend(typed.train_images.map(|_| "--train-images (use --train-limit)"));
            wrong.extend(typed.test_images.map(|_| "--test-images"));
            wrong.extend(typed.data_seed.map(|_| "--data-seed"));
        }
        match wrong.first() {
            None => Ok(config),
            Some(option) => Err(usage(format!("{} has no {option}", config.task()))),
        }
    }
}

fn no_preset(task: &str) -> Failure {
    usage(format!("{task} has no preset tiny-imagenet"))
}

/// Settings of text, which images have not.
fn refuse_text(task: &str, typed: &TextArgs) -> Result<()> {
    refuse(
        task,
        &[
            ("--tokenizer", typed.tokenizer.is_some()),
            ("--sample", typed.sample),
            ("--vocabulary", typed.vocabulary.is_some()),
            ("--predictability", typed.predictability.is_some()),
            ("--train-tokens (use --train-limit)", typed.train_tokens.is_some()),
            ("--valid-tokens", typed.valid_tokens.is_some()),
            ("--units (use --init-channels)", typed.units.is_some()),
            ("--bptt", typed.bptt.is_some()),
            ("--dropout", typed.dropout.is_some()),
            ("--dropout-hidden", typed.dropout_hidden.is_some()),
            ("--dropout-x", typed.dropout_x.is_some()),
            ("--dropout-embedding", typed.dropout_embedding.is_some()),
            ("--dropout-words", typed.dropout_words.is_some()),
            ("--temporal-regularization", typed.temporal_regularization.is_some()),
        ],
    )
}

fn set<T: Copy>(setting: &mut T, typed: Option<T>) {
    if let Some(value) = typed {
        *setting = value;
    }
}

/// The search that was meant.
///
/// # Errors
/// [`Failure::Usage`] for a task that this version cannot do, an option that its task has not, a setting out of range.
pub(crate) fn search(typed: &SearchArgs) -> Result<SearchSettings> {
    let settings: SearchSettings = match Subject::of_search(typed.task) {
        Subject::Images(images) => image_search(images, typed)?.into(),
        Subject::Text(data) => text::search(data, typed)?.into(),
    };
    settings.validate()?;
    Ok(settings)
}

fn image_search(images: Images, typed: &SearchArgs) -> Result<SearchConfig> {
    let data = images.typed(images.data(), &typed.data)?;
    refuse_text(data.task(), &typed.text)?;
    let settings = &typed.settings;
    let preset = match settings.preset.unwrap_or(images.preset()) {
        Preset::Paper => SearchConfig::cifar10(),
        Preset::Laptop => SearchConfig::laptop(),
        Preset::Quick => SearchConfig::quick(),
        Preset::TinyImagenet => return Err(no_preset(data.task())),
    };
    let mut config = SearchConfig { data, ..preset };
    set(&mut config.order, typed.order.map(Into::into));
    set(&mut config.nodes, typed.nodes);
    set(&mut config.alpha_learning_rate, typed.alpha_learning_rate);
    set(&mut config.alpha_weight_decay, typed.alpha_weight_decay);
    set(&mut config.radius, typed.radius);
    common!(config).take(settings);
    set(&mut config.init_channels, settings.init_channels);
    set(&mut config.layers, settings.layers);
    config.learning_rate_min = floor(settings, config.learning_rate, config.learning_rate_min);
    set(&mut config.momentum, settings.momentum);
    Ok(config)
}

/// The training that was meant.
///
/// # Errors
/// As [`search`], and for a genotype that cannot be had.
pub(crate) fn train(typed: &TrainArgs) -> Result<TrainSettings> {
    let settings: TrainSettings = match Subject::of_training(typed.task) {
        Subject::Images(images) => image_training(images, typed)?.into(),
        Subject::Text(data) => text::train(data, typed)?.into(),
    };
    settings.validate()?;
    Ok(settings)
}

fn image_training(images: Images, typed: &TrainArgs) -> Result<TrainConfig> {
    let task = images.data().task();
    refuse_text(task, &typed.text)?;
    refuse(
        task,
        &[
            ("--activation-regularization", typed.activation_regularization.is_some()),
            ("--nonmono", typed.nonmono.is_some()),
        ],
    )?;
    let settings = &typed.settings;
    let genotype = conv_genotype(&typed.genotype)?;
    let preset = match (images, settings.preset.unwrap_or(images.preset()), typed.selection) {
        (Images::ImageNet, _, true) => return Err(usage("imagenet has no --selection: cells are chosen on cifar10")),
        (Images::ImageNet, Preset::Paper, _) => TrainConfig::imagenet(genotype),
        (Images::ImageNet, Preset::Laptop, _) => TrainConfig::imagenet_laptop(genotype),
        (Images::ImageNet, Preset::Quick, _) => TrainConfig::imagenet_quick(genotype),
        (Images::ImageNet, Preset::TinyImagenet, _) => TrainConfig::tiny_imagenet(genotype),
        (_, Preset::Paper, false) => TrainConfig::for_data(images.data(), genotype),
        (_, Preset::Paper, true) => TrainConfig::cifar10_selection(genotype),
        (_, Preset::Laptop, false) => TrainConfig::laptop(genotype),
        (_, Preset::Laptop, true) => TrainConfig::laptop_selection(genotype),
        (_, Preset::Quick, false) => TrainConfig::quick(genotype),
        (_, Preset::Quick, true) => TrainConfig::quick_selection(genotype),
        (_, Preset::TinyImagenet, _) => return Err(no_preset(images.data().task())),
    };
    let data = if images == Images::ImageNet { preset.data.clone() } else { images.data() };
    let mut config = TrainConfig { data: images.typed(data, &typed.data)?, ..preset };
    if let Some(schedule) = typed.schedule {
        config.schedule = match schedule {
            ScheduleArg::Cosine => Schedule::Cosine { learning_rate_min: 0.0 },
            ScheduleArg::Exponential => Schedule::Exponential { decay: 0.97 },
        };
    }
    set(&mut config.accumulate, typed.accumulate);
    set(&mut config.held_out, typed.held_out);
    set(&mut config.auxiliary, typed.auxiliary);
    set(&mut config.auxiliary_weight, typed.auxiliary_weight);
    set(&mut config.cutout, typed.cutout);
    set(&mut config.drop_path_prob, typed.drop_path_prob);
    set(&mut config.label_smoothing, typed.label_smoothing);
    common!(config).take(settings);
    set(&mut config.init_channels, settings.init_channels);
    set(&mut config.layers, settings.layers);
    match &mut config.schedule {
        Schedule::Cosine { .. } if typed.decay.is_some() => {
            return Err(usage("--decay is for --schedule exponential"));
        }
        Schedule::Cosine { learning_rate_min } => {
            *learning_rate_min = floor(settings, config.learning_rate, *learning_rate_min);
        }
        Schedule::Exponential { .. } if settings.learning_rate_min.is_some() => {
            return Err(usage("--learning-rate-min is for --schedule cosine"));
        }
        Schedule::Exponential { decay } => set(decay, typed.decay),
    }
    set(&mut config.momentum, settings.momentum);
    Ok(config)
}

/// The learning rate's floor: what was typed, else the preset's, but never above the learning rate itself.
fn floor(settings: &SettingArgs, learning_rate: f64, preset: f64) -> f64 {
    settings.learning_rate_min.unwrap_or(preset.min(learning_rate))
}

/// How the run is to be carried out; `needs_data` says whether its data comes from a folder.
///
/// # Errors
/// [`Failure::Usage`] where images or a text of one's own were meant and none were named.
pub(crate) fn run_options(typed: &RunArgs, data: Data<'_>) -> Result<RunOptions> {
    let mut options = machine(&typed.machine);
    match data {
        Data::Images(DataConfig::SyntheticImages { .. }) | Data::Text(TextConfig::SyntheticText { .. }) => {
            options.data_dir = None;
        }
        Data::Images(DataConfig::ImageFolder { .. }) if typed.machine.data.is_none() => {
            return Err(usage("image-folder needs --data DIR, a folder with a subfolder of images for each class"));
        }
        Data::Text(TextConfig::Text { .. }) if typed.machine.data.is_none() => {
            return Err(usage(
                "text needs --data FILE|DIR, one text file or a folder with train.txt, valid.txt and test.txt",
            ));
        }
        _ => {}
    }
    options.resume = typed.resume;
    options.max_steps = typed.max_steps;
    options.until_epoch = typed.until_epoch;
    options.checkpoint_every = typed.checkpoint_every;
    Ok(options)
}

/// What `--data`, `--device` and `--threads` mean together with the environment.
pub(crate) fn machine(typed: &MachineArgs) -> RunOptions {
    let data = typed.data.clone().or_else(|| env::var_os("DARTS_DATA").map(PathBuf::from));
    RunOptions {
        data_dir: Some(data.unwrap_or_else(|| PathBuf::from("datasets"))),
        device: typed.device.unwrap_or_else(Device::preferred),
        precision: typed.precision.map(Into::into).unwrap_or_default(),
        no_graph: typed.no_graph,
        threads: typed.threads.map(usize::from),
        ..RunOptions::default()
    }
}

/// The convolutional cell that a name, a file or a run folder means.
///
/// # Errors
/// It cannot be had, or it is a recurrent one.
pub(crate) fn conv_genotype(text: &str) -> Result<ConvGenotype> {
    match resolve(text, GenotypeKind::Conv)? {
        Genotype::Conv(genotype) => Ok(genotype),
        Genotype::Recurrent(_) => Err(failed(format!("{text} is a recurrent cell; images need a convolutional one"))),
    }
}

/// The cell of either kind that is meant; `kind` is for names that mean one of each, and conv goes first.
///
/// # Errors
/// It cannot be had, or it is not of the kind that was typed.
pub(crate) fn genotype(text: &str, kind: Option<Kind>) -> Result<Genotype> {
    Ok(match kind {
        Some(Kind::Conv) => resolve(text, GenotypeKind::Conv)?,
        Some(Kind::Recurrent) => resolve(text, GenotypeKind::Recurrent)?,
        None => resolve(text, GenotypeKind::Conv)
            .or_else(|error| resolve(text, GenotypeKind::Recurrent).map_err(|_| error))?,
    })
}

/// Where the golden files are: what was typed, `DARTS_GOLDEN_DIR`, or the repository's own.
pub(crate) fn golden(typed: Option<&Path>) -> PathBuf {
    match typed {
        Some(dir) => dir.to_path_buf(),
        None => env::var_os("DARTS_GOLDEN_DIR").map_or_else(|| PathBuf::from("tests/golden"), PathBuf::from),
    }
}

//! From what was typed to what is meant: presets and defaults are filled in here, and combinations that make no sense are
//! refused. No file is opened but the one that `--genotype` names.

use std::env;
use std::path::{Path, PathBuf};

use darts_cells::genotype::{ConvGenotype, Genotype};
use darts_data::ImageNetConfig;
use darts_runs::genotype::{GenotypeKind, resolve};
use darts_runs::{DataConfig, Device, RunOptions, Schedule, SearchConfig, TrainConfig};

use crate::args::{
    DataArgs, Kind, MachineArgs, Preset, RunArgs, ScheduleArg, SearchArgs, SearchTask, SettingArgs, TrainArgs,
    TrainTask,
};
use crate::failure::{Failure, Result, failed, usage};

/// Which images a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Images {
    Cifar10,
    ImageNet,
    Folder,
    Synthetic,
}

impl Images {
    fn of_search(task: SearchTask) -> Result<Self> {
        match task {
            SearchTask::Cifar10 => Ok(Self::Cifar10),
            SearchTask::ImageFolder => Ok(Self::Folder),
            SearchTask::SyntheticImages => Ok(Self::Synthetic),
            SearchTask::Ptb | SearchTask::Text | SearchTask::SyntheticText => Err(no_text("search")),
        }
    }

    fn of_training(task: TrainTask) -> Result<Self> {
        match task {
            TrainTask::Cifar10 => Ok(Self::Cifar10),
            TrainTask::ImageFolder => Ok(Self::Folder),
            TrainTask::SyntheticImages => Ok(Self::Synthetic),
            TrainTask::Imagenet => Ok(Self::ImageNet),
            TrainTask::Ptb | TrainTask::Wikitext2 | TrainTask::Text | TrainTask::SyntheticText => Err(no_text("train")),
        }
    }

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

fn no_preset(data: &DataConfig) -> Failure {
    usage(format!("{} has no preset tiny-imagenet", data.task()))
}

fn no_text(verb: &str) -> Failure {
    usage(format!(
        "this version cannot {verb} on text: it has no recurrent cells; use cifar10, image-folder or synthetic-images"
    ))
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
pub(crate) fn search(typed: &SearchArgs) -> Result<SearchConfig> {
    let images = Images::of_search(typed.task)?;
    let data = images.typed(images.data(), &typed.data)?;
    let settings = &typed.settings;
    let preset = match settings.preset.unwrap_or(images.preset()) {
        Preset::Paper => SearchConfig::cifar10(),
        Preset::Laptop => SearchConfig::laptop(),
        Preset::Quick => SearchConfig::quick(),
        Preset::TinyImagenet => return Err(no_preset(&data)),
    };
    let mut config = SearchConfig { data, ..preset };
    set(&mut config.order, typed.order.map(Into::into));
    set(&mut config.nodes, typed.nodes);
    set(&mut config.alpha_learning_rate, typed.alpha_learning_rate);
    set(&mut config.alpha_weight_decay, typed.alpha_weight_decay);
    set(&mut config.radius, typed.radius);
    set(&mut config.seed, settings.seed);
    set(&mut config.epochs, settings.epochs);
    set(&mut config.batch_size, settings.batch_size);
    set(&mut config.train_limit, settings.train_limit.map(Some));
    set(&mut config.init_channels, settings.init_channels);
    set(&mut config.layers, settings.layers);
    set(&mut config.learning_rate, settings.learning_rate);
    config.learning_rate_min = floor(settings, config.learning_rate, config.learning_rate_min);
    set(&mut config.momentum, settings.momentum);
    set(&mut config.weight_decay, settings.weight_decay);
    set(&mut config.grad_clip, settings.grad_clip);
    config.validate()?;
    Ok(config)
}

/// The training that was meant.
///
/// # Errors
/// As [`search`], and for a genotype that cannot be had.
pub(crate) fn train(typed: &TrainArgs) -> Result<TrainConfig> {
    let images = Images::of_training(typed.task)?;
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
        (_, Preset::TinyImagenet, _) => return Err(no_preset(&images.data())),
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
    set(&mut config.seed, settings.seed);
    set(&mut config.epochs, settings.epochs);
    set(&mut config.batch_size, settings.batch_size);
    set(&mut config.train_limit, settings.train_limit.map(Some));
    set(&mut config.init_channels, settings.init_channels);
    set(&mut config.layers, settings.layers);
    set(&mut config.learning_rate, settings.learning_rate);
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
    set(&mut config.weight_decay, settings.weight_decay);
    set(&mut config.grad_clip, settings.grad_clip);
    config.validate()?;
    Ok(config)
}

/// The learning rate's floor: what was typed, else the preset's, but never above the learning rate itself.
fn floor(settings: &SettingArgs, learning_rate: f64, preset: f64) -> f64 {
    settings.learning_rate_min.unwrap_or(preset.min(learning_rate))
}

/// How the run is to be carried out; `needs_data` says whether its data comes from a folder.
///
/// # Errors
/// [`Failure::Usage`] where an image folder was meant and none was named.
pub(crate) fn run_options(typed: &RunArgs, data: &DataConfig) -> Result<RunOptions> {
    let mut options = machine(&typed.machine);
    match data {
        DataConfig::SyntheticImages { .. } => options.data_dir = None,
        DataConfig::ImageFolder { .. } if typed.machine.data.is_none() => {
            return Err(usage("image-folder needs --data DIR, a folder with a subfolder of images for each class"));
        }
        _ => {}
    }
    options.resume = typed.resume;
    options.max_steps = typed.max_steps;
    options.checkpoint_every = typed.checkpoint_every;
    Ok(options)
}

/// What `--data`, `--device` and `--threads` mean together with the environment.
pub(crate) fn machine(typed: &MachineArgs) -> RunOptions {
    let data = typed.data.clone().or_else(|| env::var_os("DARTS_DATA").map(PathBuf::from));
    RunOptions {
        data_dir: Some(data.unwrap_or_else(|| PathBuf::from("datasets"))),
        device: typed.device.unwrap_or(Device::Cpu),
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

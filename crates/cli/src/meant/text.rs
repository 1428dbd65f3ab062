//! From what was typed to a search or a training on text.

use darts_cells::genotype::{Genotype, RecurrentGenotype};
use darts_runs::config::Dropout;
use darts_runs::genotype::{GenotypeKind, resolve};
use darts_runs::{TextConfig, TextSearchConfig, TextTrainConfig};

use super::{no_preset, refuse, set};
use crate::args::{DataArgs, Preset, SearchArgs, SettingArgs, TextArgs, TrainArgs};
use crate::failure::{Result, failed};

/// The search that was meant, on the task's text.
pub(super) fn search(data: TextConfig, typed: &SearchArgs) -> Result<TextSearchConfig> {
    let data = with_data(data, &typed.data, &typed.text)?;
    let settings = &typed.settings;
    refuse_images(data.task(), settings)?;
    let preset = match settings.preset.unwrap_or(preset(&data)) {
        Preset::Paper => TextSearchConfig::ptb(),
        Preset::Laptop => TextSearchConfig::laptop(),
        Preset::Quick => TextSearchConfig::quick(),
        Preset::TinyImagenet => return Err(no_preset(data.task())),
    };
    let mut config = TextSearchConfig { data, ..preset };
    set(&mut config.order, typed.order.map(Into::into));
    set(&mut config.nodes, typed.nodes);
    set(&mut config.alpha_learning_rate, typed.alpha_learning_rate);
    set(&mut config.alpha_weight_decay, typed.alpha_weight_decay);
    set(&mut config.radius, typed.radius);
    set(&mut config.units, typed.text.units);
    set(&mut config.bptt, typed.text.bptt);
    set(&mut config.temporal_regularization, typed.text.temporal_regularization);
    with_dropout(&mut config.dropout, &typed.text);
    common!(config).take(settings);
    Ok(config)
}

/// The training that was meant, on the task's text.
pub(super) fn train(data: TextConfig, typed: &TrainArgs) -> Result<TextTrainConfig> {
    let data = with_data(data, &typed.data, &typed.text)?;
    let (settings, task) = (&typed.settings, data.task());
    refuse_images(task, settings)?;
    refuse(
        task,
        &[
            ("--held-out (the validation text is held out)", typed.held_out.is_some()),
            ("--auxiliary", typed.auxiliary.is_some()),
            ("--auxiliary-weight", typed.auxiliary_weight.is_some()),
            ("--cutout", typed.cutout.is_some()),
            ("--drop-path-prob", typed.drop_path_prob.is_some()),
            ("--label-smoothing", typed.label_smoothing.is_some()),
            ("--schedule: its learning rate does not fall", typed.schedule.is_some()),
            ("--decay: its learning rate does not fall", typed.decay.is_some()),
            ("--accumulate", typed.accumulate.is_some()),
            ("--max-bad-images", typed.max_bad_images.is_some()),
        ],
    )?;
    let genotype = genotype(&typed.genotype)?;
    let preset = match settings.preset.unwrap_or(preset(&data)) {
        Preset::Paper => TextTrainConfig::for_data(data.clone(), genotype),
        Preset::Laptop => TextTrainConfig::laptop(genotype),
        Preset::Quick => TextTrainConfig::quick(genotype),
        Preset::TinyImagenet => return Err(no_preset(task)),
    };
    let preset = if typed.selection { preset.selection() } else { preset };
    let mut config = TextTrainConfig { data, ..preset };
    set(&mut config.units, typed.text.units);
    set(&mut config.bptt, typed.text.bptt);
    set(&mut config.temporal_regularization, typed.text.temporal_regularization);
    set(&mut config.activation_regularization, typed.activation_regularization);
    set(&mut config.nonmono, typed.nonmono);
    with_dropout(&mut config.dropout, &typed.text);
    common!(config).take(settings);
    Ok(config)
}

/// The preset where none was typed: generated text is there for trying things out.
fn preset(data: &TextConfig) -> Preset {
    match data {
        TextConfig::SyntheticText { .. } => Preset::Quick,
        _ => Preset::Paper,
    }
}

/// The recurrent cell that a name, a file or a run folder means.
pub(crate) fn genotype(text: &str) -> Result<RecurrentGenotype> {
    match resolve(text, GenotypeKind::Recurrent)? {
        Genotype::Recurrent(genotype) => Ok(genotype),
        Genotype::Conv(_) => Err(failed(format!("{text} is a convolutional cell; text needs a recurrent one"))),
    }
}

/// The data's settings, with what was typed on top of the defaults.
fn with_data(mut config: TextConfig, data: &DataArgs, text: &TextArgs) -> Result<TextConfig> {
    let task = config.task();
    refuse(
        task,
        &[
            ("--image-size", data.image_size.is_some()),
            ("--resize", data.resize.is_some()),
            ("--least-area", data.least_area.is_some()),
            ("--colour-jitter", data.colour_jitter.is_some()),
            ("--test-fraction", data.test_fraction.is_some()),
            ("--train-images", data.train_images.is_some()),
            ("--test-images", data.test_images.is_some()),
        ],
    )?;
    let is_wikitext2 = matches!(config, TextConfig::WikiText2 { .. });
    refuse(task, &[("--sample: that is for wikitext2", text.sample && !is_wikitext2)])?;
    match &mut config {
        TextConfig::SyntheticText { vocabulary, predictability, train_tokens, valid_tokens, data_seed } => {
            refuse(task, &[("--tokenizer: its tokens are generated", text.tokenizer.is_some())])?;
            set(vocabulary, text.vocabulary);
            set(predictability, text.predictability);
            set(train_tokens, text.train_tokens);
            set(valid_tokens, text.valid_tokens);
            set(data_seed, data.data_seed);
            return Ok(config);
        }
        TextConfig::WikiText2 { tokenizer, sample } => {
            *sample = text.sample;
            *tokenizer = text.tokenizer.clone().unwrap_or_default();
        }
        TextConfig::Ptb { tokenizer } | TextConfig::Text { tokenizer } => {
            *tokenizer = text.tokenizer.clone().unwrap_or_default();
        }
    }
    refuse(
        task,
        &[
            ("--vocabulary (use --tokenizer words:N)", text.vocabulary.is_some()),
            ("--predictability", text.predictability.is_some()),
            ("--train-tokens (use --train-limit)", text.train_tokens.is_some()),
            ("--valid-tokens", text.valid_tokens.is_some()),
            ("--data-seed", data.data_seed.is_some()),
        ],
    )?;
    Ok(config)
}

fn with_dropout(dropout: &mut Dropout, typed: &TextArgs) {
    set(&mut dropout.output, typed.dropout);
    set(&mut dropout.hidden, typed.dropout_hidden);
    set(&mut dropout.x, typed.dropout_x);
    set(&mut dropout.embedding, typed.dropout_embedding);
    set(&mut dropout.words, typed.dropout_words);
}

/// Settings that recurrent networks do not have.
fn refuse_images(task: &str, settings: &SettingArgs) -> Result<()> {
    refuse(
        task,
        &[
            ("--init-channels (use --units)", settings.init_channels.is_some()),
            ("--layers: a recurrent network has one", settings.layers.is_some()),
            ("--learning-rate-min: its learning rate does not fall", settings.learning_rate_min.is_some()),
            ("--momentum", settings.momentum.is_some()),
        ],
    )
}

//! `darts profile`: how large a network is and what it costs, without training it.

use darts_cells::conv::{ConvNetwork, NetworkConfig};
use darts_cells::recurrent::{RecurrentConfig, RecurrentNetwork};
use darts_cells::space::{ConvSpace, RecurrentSpace};
use darts_data::text::Bptt;
use serde_json::json;

use crate::args::{ProfileArgs, ProfileTask};
use crate::failure::{Result, failed, print, usage};
use crate::meant;

/// Multiply-adds of a network in the mobile setting are fewer than this (section 3.4 of the paper).
const MOBILE_LIMIT: u64 = 600_000_000;
/// Words of Penn Treebank and of WikiText-2.
const PTB_WORDS: usize = 10_000;
const WIKITEXT2_WORDS: usize = 33_278;

/// What a network is and costs.
struct Profile {
    parameters: usize,
    with_auxiliary: usize,
    /// For one image or one token.
    multiply_adds: u64,
    bytes: u64,
    batch: String,
}

pub(crate) fn run(typed: &ProfileArgs) -> Result<()> {
    let profile = match typed.task {
        ProfileTask::Cifar10 | ProfileTask::Imagenet => conv(typed)?,
        ProfileTask::Ptb | ProfileTask::Wikitext2 => recurrent(typed)?,
    };
    let Profile { parameters, with_auxiliary, multiply_adds, bytes, batch } = profile;
    let mobile = (typed.task == ProfileTask::Imagenet).then_some(multiply_adds < MOBILE_LIMIT);
    if typed.json {
        let mut profile = json!({
            "parameters": parameters,
            "parameters_with_auxiliary": with_auxiliary,
            "multiply_adds": multiply_adds,
            "training_bytes": bytes,
        });
        if let Some(mobile) = mobile {
            profile["mobile"] = mobile.into();
        }
        return print(&profile.to_string());
    }
    print(&format!("parameters           {}", grouped(parameters as u64)))?;
    if with_auxiliary != parameters {
        print(&format!("  with auxiliary     {}", grouped(with_auxiliary as u64)))?;
    }
    print(&format!("multiply-adds        {}", grouped(multiply_adds)))?;
    if let Some(mobile) = mobile {
        let verdict = if mobile { "within" } else { "beyond" };
        print(&format!("  mobile setting     {verdict} its limit of less than {}", grouped(MOBILE_LIMIT)))?;
    }
    print(&format!("a training step      {:.2} GB at {batch}", bytes as f64 / 1e9))
}

fn recurrent(typed: &ProfileArgs) -> Result<Profile> {
    for (option, is_typed) in [("--init-channels", typed.init_channels.is_some()), ("--layers", typed.layers.is_some())]
    {
        if is_typed {
            return Err(usage(format!("a recurrent network has no {option}; it has --units")));
        }
    }
    let is_supernet = typed.genotype == "supernet";
    let (mut config, batch) = match typed.task {
        ProfileTask::Wikitext2 if is_supernet => {
            return Err(usage("there is no search on wikitext2; profile supernet --task ptb"));
        }
        ProfileTask::Wikitext2 => (RecurrentConfig::wikitext2(WIKITEXT2_WORDS), 64),
        _ if is_supernet => (RecurrentConfig::search(PTB_WORDS), 256),
        _ => (RecurrentConfig::penn_treebank(PTB_WORDS), 64),
    };
    config.hidden = within("--units", typed.units.unwrap_or(config.hidden), 16_384)?;
    let batch = within("--batch-size", typed.batch_size.unwrap_or(batch), 65_536)?;
    let length = within("--bptt", typed.bptt.unwrap_or(35), 10_000)?;
    let (network, bptt) = if is_supernet {
        (RecurrentNetwork::supernet(&RecurrentSpace::darts(), &config), Bptt::Search { length })
    } else {
        (RecurrentNetwork::discrete(&meant::text::genotype(&typed.genotype)?, &config), Bptt::Training { length })
    };
    let (network, steps) = (network.map_err(failed)?, bptt.longest());
    Ok(Profile {
        parameters: network.parameter_count(),
        with_auxiliary: network.parameter_count(),
        multiply_adds: network.multiply_adds(),
        bytes: network.training_bytes(batch, steps),
        batch: format!("batch {batch}, {steps} time steps"),
    })
}

fn conv(typed: &ProfileArgs) -> Result<Profile> {
    for (option, is_typed) in [("--units", typed.units.is_some()), ("--bptt", typed.bptt.is_some())] {
        if is_typed {
            return Err(usage(format!("a convolutional network has no {option}; it has --init-channels")));
        }
    }
    let is_supernet = typed.genotype == "supernet";
    let (mut config, batch) = match typed.task {
        ProfileTask::Cifar10 if is_supernet => (NetworkConfig::cifar_search(10), 64),
        ProfileTask::Cifar10 => (NetworkConfig::cifar_evaluation(10), 96),
        ProfileTask::Imagenet if is_supernet => {
            return Err(usage("there is no search on imagenet; profile supernet --task cifar10"));
        }
        _ => (NetworkConfig::imagenet(1000), 128),
    };
    config.init_channels = within("--init-channels", typed.init_channels.unwrap_or(config.init_channels), 1024)?;
    config.layers = within("--layers", typed.layers.unwrap_or(config.layers), 200)?;
    let batch = within("--batch-size", typed.batch_size.unwrap_or(batch), 65_536)?;
    let network = if is_supernet {
        ConvNetwork::supernet(&ConvSpace::darts(), &config)
    } else {
        ConvNetwork::discrete(&meant::conv_genotype(&typed.genotype)?, &config)
    };
    let network = network.map_err(failed)?;
    let (parameters, with_auxiliary) = network.parameter_count();
    Ok(Profile {
        parameters,
        with_auxiliary,
        multiply_adds: network.multiply_adds(),
        bytes: network.training_bytes(batch),
        batch: format!("batch {batch}"),
    })
}

fn within(option: &str, value: usize, most: usize) -> Result<usize> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(usage(format!("{option} {value} is not possible: expected a whole number from 1 to {most}")))
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_come_in_threes() {
        assert_eq!([0, 7, 999, 1000, 1_930_618].map(grouped), ["0", "7", "999", "1,000", "1,930,618"]);
    }
}

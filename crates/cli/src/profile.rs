//! `darts profile`: how large a network is and what it costs, without training it.

use darts_cells::conv::{ConvNetwork, NetworkConfig};
use darts_cells::space::ConvSpace;
use serde_json::json;

use crate::args::{ProfileArgs, ProfileTask};
use crate::failure::{Result, failed, print, usage};
use crate::meant;

/// Multiply-adds of a network in the mobile setting are fewer than this (section 3.4 of the paper).
const MOBILE_LIMIT: u64 = 600_000_000;

pub(crate) fn run(typed: &ProfileArgs) -> Result<()> {
    let is_supernet = typed.genotype == "supernet";
    let (mut config, batch) = match typed.task {
        ProfileTask::Cifar10 if is_supernet => (NetworkConfig::cifar_search(10), 64),
        ProfileTask::Cifar10 => (NetworkConfig::cifar_evaluation(10), 96),
        ProfileTask::Imagenet if is_supernet => {
            return Err(usage("there is no search on imagenet; profile supernet --task cifar10"));
        }
        ProfileTask::Imagenet => (NetworkConfig::imagenet(1000), 128),
        ProfileTask::Ptb | ProfileTask::Wikitext2 => {
            return Err(usage("this version has no recurrent cells; use --task cifar10 or imagenet"));
        }
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
    let (multiply_adds, bytes) = (network.multiply_adds(), network.training_bytes(batch));
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
    print(&format!("a training step      {:.2} GB at batch {batch}", bytes as f64 / 1e9))
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

//! Images and convolutional networks as a task: the data, the search problem, the training problem, and evaluation.

pub(crate) mod data;
#[cfg(feature = "cuda")]
pub(crate) mod device;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod train;

use darts_cells::conv::{ConvNetwork, NetworkConfig, Stem};
use darts_data::ImageSize;

use crate::config::DataConfig;
use crate::error::Result;
use crate::hardware::refuse_beyond_memory;
use crate::task::Size;

/// The network's sizes for images like these.
pub(crate) fn network_config(
    init_channels: usize,
    layers: usize,
    auxiliary: bool,
    classes: usize,
    size: ImageSize,
    data: &DataConfig,
) -> NetworkConfig {
    let stem = match data {
        DataConfig::ImageNet { .. } => Stem::ImageNet,
        DataConfig::Cifar10 {} | DataConfig::ImageFolder { .. } | DataConfig::SyntheticImages { .. } => {
            Stem::Cifar { multiplier: 3 }
        }
    };
    NetworkConfig { init_channels, layers, classes, image: (size.height, size.width), stem, auxiliary }
}

/// Refuses a network that cannot be trained on this machine, before the allocator ends the process over it.
pub(crate) fn check_memory(network: &ConvNetwork, batch: usize) -> Result<()> {
    refuse_beyond_memory(network.training_bytes(batch), batch, "--batch-size, --init-channels or --layers")
}

pub(crate) fn size(network: &ConvNetwork) -> Size {
    let (without, with) = network.parameter_count();
    Size {
        parameters: without as u64,
        parameters_with_auxiliary: (with != without).then_some(with as u64),
        multiply_adds: network.multiply_adds(),
    }
}

//! Text and recurrent networks as a task: the data, the search problem, the training problem, and evaluation.

pub(crate) mod data;
#[cfg(feature = "cuda")]
pub(crate) mod device;
pub(crate) mod passage;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod train;

use darts_cells::recurrent::RecurrentNetwork;

use crate::error::Result;
use crate::hardware::refuse_beyond_memory;
use crate::task::Size;

/// Refuses a network that cannot be trained on this machine, before the allocator ends the process over it.
pub(crate) fn check_memory(network: &RecurrentNetwork, batch: usize, steps: usize) -> Result<()> {
    refuse_beyond_memory(network.training_bytes(batch, steps), batch, "--batch-size, --units or --bptt")
}

pub(crate) fn size(network: &RecurrentNetwork) -> Size {
    Size {
        parameters: network.parameter_count() as u64,
        parameters_with_auxiliary: None,
        multiply_adds: network.multiply_adds(),
    }
}

//! Text and recurrent networks on a GPU.

pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod train;

use darts_cells::recurrent::{DeviceRecurrent, DeviceSequence};
use darts_cuda::{Backend, Memory, View};

use super::passage::Passage;
use crate::error::Result;
use crate::language::Sequence;

/// Sends a sequence with its masks.
fn send(
    device: &dyn Backend,
    network: &DeviceRecurrent,
    sequence: &mut DeviceSequence,
    passage: &Passage,
) -> Result<()> {
    Ok(network.upload(device, sequence, passage.tokens(), passage.targets(), &passage.dropout())?)
}

/// Overwrites hidden states with zeros: a text is read from its beginning.
fn clear(device: &dyn Backend, hidden: View) -> Result<()> {
    Ok(device.upload(hidden, &vec![0.0; hidden.len])?)
}

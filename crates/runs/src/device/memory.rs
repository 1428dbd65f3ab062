//! What a run takes of a GPU's memory, held against what is free before any of it is asked for.

use darts_cuda::driver::Device;

use crate::error::{Error, Result};

/// Refuses what needs more bytes than are free; `remedy` says what takes less.
pub(crate) fn refuse_beyond_free(device: &Device, needed: u64, remedy: impl FnOnce() -> String) -> Result<()> {
    let (free, total) = device.memory()?;
    if needed <= free as u64 {
        return Ok(());
    }
    Err(Error::DeviceMemory { needed: needed as usize, free, total, remedy: remedy() })
}

/// What takes less of a model that is there already: nothing of it can be chosen any more.
pub(crate) fn of_a_model() -> String {
    "free what other programs hold, or use --device cpu".into()
}

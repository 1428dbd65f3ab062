//! How long the device takes, by its own clock.

use std::time::Duration;

use cudarc::driver::sys::CUevent_flags;

use super::Device;
use super::failure::Failed;
use crate::error::Result;

impl Device {
    /// Time on the device between the start and the end of what `work` asks of it. Waits for the end.
    ///
    /// # Errors
    /// Those of `work`, and what the driver says.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
        const OPERATION: &str = "timing";
        self.bind()?;
        let event = || self.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).in_call(OPERATION);
        let (start, end) = (event()?, event()?);
        start.record(&self.stream).in_call(OPERATION)?;
        work()?;
        end.record(&self.stream).in_call(OPERATION)?;
        let milliseconds = start.elapsed_ms(&end).in_call(OPERATION)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }
}

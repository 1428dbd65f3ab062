//! Copies to the device ahead of their turn: a stream of their own, so that they need not wait for the programs that run, and an
//! event by which the device's main stream waits for them. They order nothing else: who asks for such a copy knows that nothing
//! that was asked for before still uses the place.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::failure::Failed;
use super::staging::Ring;
use crate::error::Result;

pub(super) struct Ahead {
    ring: Ring,
    stream: Arc<CudaStream>,
    /// When the last copies are done.
    copied: CudaEvent,
    /// Whether there are copies that the main stream does not wait for yet.
    is_pending: bool,
}

impl Ahead {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        const OPERATION: &str = "making a second stream";
        let stream = context.new_stream().in_call(OPERATION)?;
        let copied = context.new_event(None).in_call(OPERATION)?;
        Ok(Self { ring: Ring::new(context)?, stream, copied, is_pending: false })
    }

    /// Asks for a copy.
    pub(super) fn upload(&mut self, to: u64, from: &[u8]) -> Result<()> {
        self.is_pending = true;
        self.ring.upload(&self.stream, to, from)
    }

    /// Lets `main` wait for the copies so far before it does anything else.
    pub(super) fn join(&mut self, main: &CudaStream) -> Result<()> {
        const OPERATION: &str = "waiting for what was written to the device";
        if self.is_pending {
            self.copied.record(&self.stream).in_call(OPERATION)?;
            main.wait(&self.copied).in_call(OPERATION)?;
            self.is_pending = false;
        }
        Ok(())
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // The ring's memory is not freed under a copy. Where the device is lost there is nobody to tell.
        let _ = self.stream.synchronize();
    }
}

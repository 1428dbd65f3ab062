//! Ctrl-C: the first asks the run to stop after its step, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Result, failed};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Starts listening.
///
/// # Errors
/// Where the operating system refuses a handler.
pub(crate) fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })
    .map_err(|error| failed(format!("cannot listen for Ctrl-C: {error}")))
}

/// Whether Ctrl-C was pressed.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

//! Golden values: every file of a folder is read, what it describes is computed on this machine, and each stored number is
//! compared. `darts verify` and the tests both call this. A key that nothing recognises is a failure, not a curiosity.

pub mod bilevel;
pub mod compare;
pub mod conv;
pub mod derive;
#[cfg(feature = "device")]
pub mod device;
pub mod file;
pub mod folder;
pub mod optimizers;
pub mod place;
pub mod recurrent;
pub mod schedules;

use std::path::PathBuf;

pub use compare::{Failure, FileReport, Tolerance};
#[cfg(feature = "device")]
pub use device::OnDevice;
pub use file::Golden;
pub use place::{Place, Processor, with_place};

/// Why a golden file could not be checked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is not what a golden file is.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What the file describes cannot be built.
    #[error(transparent)]
    Cells(#[from] darts_cells::Error),
    /// The device on which it is computed fails.
    #[cfg(feature = "device")]
    #[error(transparent)]
    Device(#[from] darts_cuda::Error),
    /// What the file describes cannot be computed.
    #[error(transparent)]
    Vector(#[from] darts_ops::vector::Error),
}

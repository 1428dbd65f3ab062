//! What a run looks like to a person: one HTML file that needs nothing else, and drawings of cells.
//!
//! [`write_run`] reports on one run's folder, [`write_pipeline`] on searches, selection and final training together. Both read what is there, so they serve
//! as the live view of a run as well as its record. No script, font or picture is loaded from anywhere, and no figure is shown that a file does not hold or
//! that does not follow from one by plain arithmetic. Runs are never changed here.

pub mod cell_drawing;
mod charts;
mod html;
mod page;
mod record;
pub mod tables;

use std::{
    io,
    path::{Path, PathBuf},
};

use record::Record;

use crate::folder::atomic;

/// The name of the file that is written.
pub const FILE: &str = "report.html";

/// Why a report or a drawing could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A folder that cannot be read.
    #[error("report: cannot read {}: {source}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The page cannot be written.
    #[error("report: {0}")]
    Write(Box<crate::Error>),
    /// A picture that cannot be rendered.
    #[error("drawing: {reason}")]
    Drawing {
        /// What was wrong, and what was expected.
        reason: String,
    },
}

impl ReportError {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

/// Writes `report.html` into a run's folder, from whatever of its files is there, and returns its path.
///
/// A run without `summary.json` gives a page that says how far it is and reloads itself. The old page stays until the new one is whole.
///
/// # Errors
/// [`ReportError::Read`] if the folder cannot be read, [`ReportError::Write`] if the page cannot be written.
pub fn write_run(dir: &Path) -> Result<PathBuf, ReportError> {
    write_page(dir, &page::run(&Record::read(dir)?))
}

/// Writes `report.html` into the folder of a whole experiment: `search-SEED/` and `select-SEED/` for several seeds, and `train/`, each if it is there.
/// `task` names the data, `cifar10`, `synthetic-images`, …, and so the published table that the result stands beside.
///
/// # Errors
/// [`ReportError::Read`] if a folder cannot be read, [`ReportError::Write`] if the page cannot be written.
pub fn write_pipeline(dir: &Path, task: &str) -> Result<PathBuf, ReportError> {
    write_page(dir, &page::pipeline(&page::Pipeline::read(dir, task)?))
}

fn write_page(dir: &Path, page: &str) -> Result<PathBuf, ReportError> {
    let path = dir.join(FILE);
    atomic::write(&path, page.as_bytes()).map_err(|error| ReportError::Write(Box::new(error)))?;
    Ok(path)
}

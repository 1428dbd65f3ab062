//! What the tasks that drive several runs share: options that every one of them has, and words for a person.

use std::env;
use std::path::{Path, PathBuf};

/// Options that change how runs are carried out, and where.
#[derive(clap::Args)]
pub(crate) struct MachineArgs {
    /// cpu, cuda or cuda:I
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Worker threads
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u16>,
    /// Where the data is [default: DARTS_DATA, else datasets]
    #[arg(long, value_name = "DIR", conflicts_with = "quick")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the runs [default: in runs/]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

impl MachineArgs {
    /// Appends what was typed and `darts` has under the same name.
    pub(crate) fn append(&self, arguments: &mut Vec<String>) {
        option(arguments, "--device", self.device.as_ref());
        option(arguments, "--threads", self.threads);
    }
}

/// `--preset` of the tasks that have sizes.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Preset {
    /// The paper's
    Paper,
    /// A night on a laptop's CPU
    Laptop,
}

/// Appends `name value` where there is a value.
pub(crate) fn option(arguments: &mut Vec<String>, name: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        arguments.extend([name.to_owned(), value.to_string()]);
    }
}

/// A path as a person would type it: relative, where it is below the folder they are in.
pub(crate) fn from_here(path: &Path) -> &Path {
    env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

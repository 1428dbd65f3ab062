//! A folder of golden files: which check a file's name asks for, and what all of them came to. A `.safetensors` or `.json` file
//! that no check knows is a failure; files with other extensions are none of its business.

use std::path::{Path, PathBuf};

use super::compare::FileReport;
use super::file::Golden;
use super::place::Place;
use super::{VerifyError, bilevel, conv, derive, optimizers, recurrent, schedules};

/// A part of the golden files that can be checked alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Operations, supernet, search steps, CIFAR networks, derivation, schedules, optimizers.
    Conv,
    /// ImageNet networks.
    ImageNet,
    /// Recurrent networks and their search, derivation, optimizers.
    Recurrent,
}

/// What a file's name asks for.
type Check = fn(&Path, &dyn Place) -> Result<FileReport, VerifyError>;

/// A kind of golden file.
struct Kind {
    /// How its name begins.
    prefix: &'static str,
    extension: &'static str,
    families: &'static [Family],
    /// `None`: it is not checked yet.
    check: Option<Check>,
}

/// Every kind of golden file; the first whose prefix fits is taken.
const KINDS: [Kind; 11] = [
    Kind::tensors("conv_ops", &[Family::Conv], Some(|path, place| conv::operations(Golden::open(path)?, place))),
    Kind::tensors("conv_supernet", &[Family::Conv], Some(|path, place| conv::supernet(Golden::open(path)?, place))),
    Kind::tensors("bilevel_conv_", &[Family::Conv], Some(|path, place| bilevel::conv(Golden::open(path)?, place))),
    Kind::tensors("cifar_", &[Family::Conv], Some(|path, place| conv::discrete(Golden::open(path)?, false, place))),
    Kind::json("derive_conv", &[Family::Conv], |path, _| derive::conv(path)),
    Kind::json("schedules", &[Family::Conv], |path, _| schedules::schedules(path)),
    Kind::tensors(
        "optimizers",
        &[Family::Conv, Family::Recurrent],
        Some(|path, place| optimizers::optimizers(Golden::open(path)?, place)),
    ),
    Kind::tensors(
        "imagenet_",
        &[Family::ImageNet],
        Some(|path, place| conv::discrete(Golden::open(path)?, true, place)),
    ),
    Kind::json("derive_recurrent", &[Family::Recurrent], |path, _| derive::recurrent(path)),
    Kind::tensors("rnn_", &[Family::Recurrent], Some(|path, place| recurrent::network(Golden::open(path)?, place))),
    Kind::tensors(
        "bilevel_rnn_",
        &[Family::Recurrent],
        Some(|path, place| recurrent::bilevel(Golden::open(path)?, place)),
    ),
];

impl Kind {
    const fn tensors(prefix: &'static str, families: &'static [Family], check: Option<Check>) -> Self {
        Self { prefix, extension: "safetensors", families, check }
    }

    const fn json(prefix: &'static str, families: &'static [Family], check: Check) -> Self {
        Self { prefix, extension: "json", families, check: Some(check) }
    }

    fn of(path: &Path) -> Option<&'static Self> {
        let (name, extension) = (path.file_name()?.to_str()?, path.extension()?.to_str()?);
        KINDS.iter().find(|kind| name.starts_with(kind.prefix) && extension == kind.extension)
    }
}

/// What became of one file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It was compared; the report says whether it passed.
    Checked(FileReport),
    /// It could not be compared, which is a failure.
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        error: VerifyError,
    },
    /// Such files are not checked yet.
    Skipped {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

impl Outcome {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Checked(report) => &report.path,
            Self::Failed { path, .. } | Self::Skipped { path, .. } => path,
        }
    }

    /// Whether this file lets the whole check pass.
    pub fn passed(&self) -> bool {
        match self {
            Self::Checked(report) => report.passed(),
            Self::Failed { .. } => false,
            Self::Skipped { .. } => true,
        }
    }
}

/// The golden files of a folder, by name; with a family, only that family's. A file that no check knows is in the list
/// whatever the family.
///
/// # Errors
/// [`VerifyError::Read`] where the folder cannot be read; [`VerifyError::Invalid`] where no such file is in it.
pub fn golden_files(folder: &Path, only: Option<Family>) -> Result<Vec<PathBuf>, VerifyError> {
    let read = |source| VerifyError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let golden = path.extension().is_some_and(|extension| extension == "safetensors" || extension == "json");
        let wanted = match (only, Kind::of(&path)) {
            (Some(family), Some(kind)) => kind.families.contains(&family),
            _ => true,
        };
        if golden && wanted {
            files.push(path);
        }
    }
    if files.is_empty() {
        let reason = "no golden file in this folder, expected .safetensors or .json files".to_owned();
        return Err(VerifyError::Invalid { path: folder.to_owned(), reason });
    }
    files.sort();
    Ok(files)
}

/// Checks one file, by what its name asks for.
pub fn check_file(path: &Path, place: &dyn Place) -> Outcome {
    let Some(kind) = Kind::of(path) else {
        let known: Vec<String> = KINDS.iter().map(|kind| format!("{}*.{}", kind.prefix, kind.extension)).collect();
        let reason = format!("not recognised, expected one of {}", known.join(", "));
        let error = VerifyError::Invalid { path: path.to_owned(), reason };
        return Outcome::Failed { path: path.to_owned(), error };
    };
    let Some(check) = kind.check else {
        return Outcome::Skipped { path: path.to_owned(), reason: "such files are not checked yet" };
    };
    match check(path, place) {
        Ok(report) => Outcome::Checked(report),
        Err(error) => Outcome::Failed { path: path.to_owned(), error },
    }
}

/// Checks the golden files of a folder, or of one family, in the order of their names; `each` is told of every one when it is
/// done.
///
/// # Errors
/// Those of [`golden_files`]. Files that fail are no errors here: [`Summary::failed`] counts them.
pub fn check_folder(
    folder: &Path,
    only: Option<Family>,
    place: &dyn Place,
    each: &mut dyn FnMut(&Outcome),
) -> Result<Summary, VerifyError> {
    let mut summary = Summary::default();
    for path in golden_files(folder, only)? {
        let outcome = check_file(&path, place);
        summary.add(&outcome);
        each(&outcome);
    }
    Ok(summary)
}

/// What the check of several files came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files compared, those that failed included.
    pub files: usize,
    /// Numbers compared.
    pub values: usize,
    /// Files that are not checked yet.
    pub skipped: usize,
    /// Files out of tolerance, or not to be compared at all.
    pub failed: usize,
}

impl Summary {
    /// Counts one file.
    pub fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Checked(report) => {
                self.files += 1;
                self.values += report.values;
            }
            Outcome::Failed { .. } => self.files += 1,
            Outcome::Skipped { .. } => self.skipped += 1,
        }
        self.failed += usize::from(!outcome.passed());
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { files, values, skipped, .. } = self;
        write!(f, "verify: {files} files, {values} values, {skipped} skipped")
    }
}

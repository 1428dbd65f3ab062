//! From what a person types to a genotype: the name of a published cell, a file, or the folder of a run.

use std::fs;
use std::path::Path;

use darts_cells::genotype::{Genotype, named};

use crate::checkpoint;
use crate::config::RunKind;
use crate::error::{Error, Result, one_line};
use crate::folder::{CHECKPOINTS, GENOTYPE, RunRecord};
use crate::task::image::search as image;
use crate::task::text::search as text;

/// A larger file is no genotype.
const LARGEST_FILE: u64 = 1 << 20;

/// Which kind of cell is wanted: DARTS_V1 and DARTS_V2 name one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenotypeKind {
    /// A normal and a reduction cell.
    Conv,
    /// A recurrent cell.
    Recurrent,
}

/// The genotype that `text` stands for: the folder of a run, a file in JSON or in the text form, or a name.
///
/// # Errors
/// [`Error::Genotype`] when it is none of the three or of the other kind, [`Error::BadFile`] when the file is no genotype.
pub fn resolve(text: &str, kind: GenotypeKind) -> Result<Genotype> {
    let path = Path::new(text);
    let genotype = if path.is_dir() {
        derive(path)?.genotype
    } else if path.exists() {
        read(path)?
    } else {
        let named = match kind {
            GenotypeKind::Conv => named::conv(text).map(Genotype::Conv),
            GenotypeKind::Recurrent => named::recurrent(text).map(Genotype::Recurrent),
        };
        named.map_err(|e| {
            let reason = format!("no file or run folder, and as a name: {}", one_line(&e.to_string()));
            Error::Genotype { text: text.into(), reason }
        })?
    };
    let (found, wanted) = match (&genotype, kind) {
        (Genotype::Conv(_), GenotypeKind::Recurrent) => ("convolutional", "recurrent"),
        (Genotype::Recurrent(_), GenotypeKind::Conv) => ("recurrent", "convolutional"),
        _ => return Ok(genotype),
    };
    Err(Error::Genotype { text: text.into(), reason: format!("a {found} cell, and this needs a {wanted} one") })
}

fn read(path: &Path) -> Result<Genotype> {
    let size = fs::metadata(path).map_err(Error::io("read", path))?.len();
    if size > LARGEST_FILE {
        return Err(Error::bad_file(path, format!("{size} bytes are too many for a genotype")));
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    Genotype::read(&bytes).map_err(|e| Error::bad_file(path, e))
}

/// A genotype and the moment of the run that it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// The cell.
    pub genotype: Genotype,
    /// Epochs finished at that moment.
    pub epoch: usize,
    /// Steps done at that moment.
    pub step: u64,
}

/// The cell of the run in `dir`: of a search, what its latest good checkpoint stands for, also while it is running; of a
/// training, the cell that is trained.
///
/// # Errors
/// [`Error::NotReady`] when the folder is no run or nothing was saved yet, [`Error::NoUsableCheckpoint`], and
/// [`Error::BadFile`].
pub fn derive(dir: &Path) -> Result<Derived> {
    let record = RunRecord::read(dir)?;
    if record.kind == RunKind::Train {
        return Ok(Derived { genotype: read(&dir.join(GENOTYPE))?, epoch: 0, step: 0 });
    }
    let Some((mut checkpoint, path)) = checkpoint::latest(&dir.join(CHECKPOINTS), |_| ())? else {
        return Err(Error::NotReady {
            dir: dir.to_path_buf(),
            reason: "has saved nothing yet; wait for its first checkpoint".into(),
        });
    };
    let mut alphas = |len: usize| checkpoint.state.take("alphas", len).map_err(|reason| Error::bad_file(&path, reason));
    let genotype = if record.is_text() {
        let space = text::space(&record.config(dir)?);
        space.derive(&alphas(space.edges() * space.operations())?)?.into()
    } else {
        let space = image::space(&record.config(dir)?);
        space.derive(&alphas(2 * space.edges() * space.operations())?)?.into()
    };
    Ok(Derived { genotype, epoch: checkpoint.position.epoch, step: checkpoint.position.total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_a_json_file_and_a_text_file_are_one_genotype() {
        let dir = tempfile::tempdir().unwrap();
        let named = resolve("DARTS_V2", GenotypeKind::Conv).unwrap();
        for (name, text) in [("cell.json", named.to_json().unwrap()), ("cell.txt", named.to_string())] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            assert_eq!(resolve(path.to_str().unwrap(), GenotypeKind::Conv).unwrap(), named, "{name}");
        }
    }

    #[test]
    fn what_is_no_genotype_is_named_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "what I had\nfor lunch").unwrap();
        for (text, part) in [
            (path.to_str().unwrap(), "notes.txt"),
            ("DARTS_V9", "DARTS_V2"),
            (dir.path().to_str().unwrap(), "run.json"),
        ] {
            let error = resolve(text, GenotypeKind::Conv).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_cell_of_the_other_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cell.json");
        fs::write(&path, resolve("DARTS_V1", GenotypeKind::Recurrent).unwrap().to_json().unwrap()).unwrap();
        let error = resolve(path.to_str().unwrap(), GenotypeKind::Conv).unwrap_err().to_string();
        assert!(error.contains("a recurrent cell"), "{error}");
    }
}

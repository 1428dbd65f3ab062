//! Reading whole files with a size that is known beforehand. It refuses to allocate for more than the file holds.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::Error;

/// The bytes of a file that must have exactly `expected` of them; nothing is allocated for a file of another size.
pub(crate) fn read_exactly(path: &Path, expected: u64) -> Result<Vec<u8>, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let found = file.metadata().map_err(Error::io("inspect", path))?.len();
    let wrong = |found| Error::WrongSize { path: path.to_path_buf(), found, expected: format!("{expected} bytes") };
    if found != expected {
        return Err(wrong(found));
    }
    let mut bytes = Vec::with_capacity(expected as usize);
    file.by_ref().take(expected).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 != expected {
        return Err(wrong(bytes.len() as u64));
    }
    Ok(bytes)
}

//! Golden files: where they are, and what is in them.

use std::{collections::HashMap, path::PathBuf};

/// Golden files whose names start with `family` and end in `extension`, in `$DARTS_GOLDEN_DIR` or the project's own copy.
pub(crate) fn golden_files(family: &str, extension: &str) -> Vec<PathBuf> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let folder = std::env::var_os("DARTS_GOLDEN_DIR").map_or_else(|| PathBuf::from(own), PathBuf::from);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        path.extension().is_some_and(|other| other == extension)
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(family))
    });
    files.sort();
    if files.is_empty() {
        println!("no {family}*.{extension} in {}", folder.display());
    }
    files
}

/// Metadata of a safetensors file.
#[allow(dead_code, reason = "not every test binary reads metadata")]
pub(crate) fn metadata(path: &std::path::Path) -> HashMap<String, String> {
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    metadata.metadata().clone().unwrap_or_default()
}

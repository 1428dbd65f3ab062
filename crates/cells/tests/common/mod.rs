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

/// A golden file: tensors as f32 or u32 vectors, hyperparameters parsed from its metadata.
#[allow(dead_code, reason = "not every test binary reads tensors")]
pub(crate) struct Golden {
    name: String,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

#[allow(dead_code, reason = "not every test binary reads tensors")]
impl Golden {
    pub(crate) fn open(path: &std::path::Path) -> Self {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Self { name, bytes: std::fs::read(path).unwrap(), metadata: metadata(path) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A value of the metadata.
    pub(crate) fn setting(&self, key: &str) -> serde_json::Value {
        let text = self.metadata.get(key).unwrap_or_else(|| panic!("{}: no metadata '{key}'", self.name));
        serde_json::from_str(text).unwrap()
    }

    pub(crate) fn has_setting(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    pub(crate) fn number(&self, key: &str) -> f64 {
        self.setting(key).as_f64().unwrap()
    }

    pub(crate) fn size(&self, key: &str) -> usize {
        usize::try_from(self.setting(key).as_u64().unwrap()).unwrap()
    }

    /// All names of tensors.
    pub(crate) fn keys(&self) -> Vec<String> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let mut keys: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        keys.sort();
        keys
    }

    pub(crate) fn shape(&self, key: &str) -> Vec<usize> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        file.tensor(key).unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name)).shape().to_vec()
    }

    pub(crate) fn floats(&self, key: &str) -> Vec<f32> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(key).unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name));
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{}: {key}", self.name);
        view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    pub(crate) fn floats_if_present(&self, key: &str) -> Option<Vec<f32>> {
        self.keys().iter().any(|other| other == key).then(|| self.floats(key))
    }

    pub(crate) fn words(&self, key: &str) -> Vec<u32> {
        let file = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(key).unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name));
        assert_eq!(view.dtype(), safetensors::Dtype::I64, "{}: {key}", self.name);
        let word = |bytes: &[u8]| u32::try_from(i64::from_le_bytes(bytes.try_into().unwrap())).unwrap();
        view.data().chunks_exact(8).map(word).collect()
    }

    /// The flat vector of `table` from the tensors whose names follow `prefix`.
    pub(crate) fn vector(&self, prefix: &str, table: &darts_cells::parameters::Table) -> Vec<f32> {
        let mut values = vec![0.0; table.len()];
        for entry in table.entries() {
            let key = format!("{prefix}{}", entry.name);
            assert_eq!(self.shape(&key), entry.shape, "{}: {key}", self.name);
            values[entry.range()].copy_from_slice(&self.floats(&key));
        }
        values
    }

    /// Compares `actual` with the tensor at `key`: the largest difference over the largest magnitude. Zeros must be zeros.
    #[track_caller]
    pub(crate) fn compare(&self, key: &str, actual: &[f32], tolerance: f64) {
        let expected = self.floats(key);
        assert_eq!(actual.len(), expected.len(), "{}: {key}", self.name);
        let largest = expected.iter().fold(0f64, |largest, value| largest.max(f64::from(value.abs())));
        let difference = |i: usize| (f64::from(actual[i]) - f64::from(expected[i])).abs();
        let worst = (0..actual.len()).max_by(|&a, &b| difference(a).total_cmp(&difference(b))).unwrap_or(0);
        assert!(
            difference(worst) <= tolerance * largest,
            "{}: {key}[{worst}] is {}, expected {} (error {:.2e} of the largest, tolerance {tolerance:e})",
            self.name,
            actual[worst],
            expected[worst],
            difference(worst) / largest
        );
    }
}

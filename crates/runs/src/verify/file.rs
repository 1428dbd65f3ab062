//! A golden file: tensors with names, and metadata in JSON. Remembers which tensors were used, so that a key that nothing
//! understood is found. Refuses files that are no safetensors, and asks for nothing that the file does not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;

use super::VerifyError;
use super::compare::{FileReport, Tolerance};

/// One stored tensor; integers are kept apart from real numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers in row-major order; empty where it holds integers.
    pub data: Vec<f32>,
    /// Its integers; empty where it holds real numbers.
    pub integers: Vec<i64>,
}

/// A golden file being checked.
#[derive(Debug)]
pub struct Golden {
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
    used: BTreeSet<String>,
    report: FileReport,
}

impl Golden {
    /// Reads a whole file.
    ///
    /// # Errors
    /// A file that cannot be read, is no safetensors file, or holds a type other than f32 and i64.
    pub fn open(path: &Path) -> Result<Self, VerifyError> {
        let bytes = std::fs::read(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
        let invalid = |reason: String| VerifyError::Invalid { path: path.to_owned(), reason };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| invalid(e.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let file = SafeTensors::deserialize(&bytes).map_err(|e| invalid(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let mut tensor = Tensor { shape: view.shape().to_vec(), data: Vec::new(), integers: Vec::new() };
            match view.dtype() {
                Dtype::F32 => {
                    let (numbers, _) = view.data().as_chunks::<4>();
                    tensor.data = numbers.iter().map(|&b| f32::from_le_bytes(b)).collect();
                }
                Dtype::I64 => {
                    let (numbers, _) = view.data().as_chunks::<8>();
                    tensor.integers = numbers.iter().map(|&b| i64::from_le_bytes(b)).collect();
                }
                other => return Err(invalid(format!("tensor '{name}' is {other:?}, expected F32 or I64"))),
            }
            tensors.insert(name.to_owned(), tensor);
        }
        let report = FileReport::new(path);
        Ok(Self { path: path.to_owned(), metadata, tensors, used: BTreeSet::new(), report })
    }

    /// A metadata value, parsed from its JSON text.
    ///
    /// # Errors
    /// Where it is missing or of another type.
    pub fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<T, VerifyError> {
        let text = self.metadata.get(key).ok_or_else(|| self.invalid(format!("metadata '{key}' is missing")))?;
        serde_json::from_str(text).map_err(|e| self.invalid(format!("metadata '{key}' is {text}: {e}")))
    }

    /// A metadata value that may be absent.
    ///
    /// # Errors
    /// Where it is of another type.
    pub fn optional_meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, VerifyError> {
        if self.metadata.contains_key(key) { self.meta(key).map(Some) } else { Ok(None) }
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Whether a tensor of this name is stored.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor that is an input of the check.
    ///
    /// # Errors
    /// Where it is missing.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor, VerifyError> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.invalid(format!("tensor '{name}' is missing")))?;
        self.used.insert(name.to_owned());
        Ok(tensor.clone())
    }

    /// Class labels or tokens.
    ///
    /// # Errors
    /// Where the tensor is missing, or an element is negative or beyond u32.
    pub fn labels(&mut self, name: &str) -> Result<Vec<u32>, VerifyError> {
        let tensor = self.tensor(name)?;
        let label = |&i: &i64| u32::try_from(i).map_err(|_| self.invalid(format!("tensor '{name}' holds {i}")));
        tensor.integers.iter().map(label).collect()
    }

    /// Compares a result with the stored tensor of this name, in its order.
    ///
    /// # Errors
    /// Where no such tensor is stored.
    pub fn compare(&mut self, name: &str, actual: &[f32], tolerance: Tolerance) -> Result<(), VerifyError> {
        let expected = self.tensor(name)?;
        self.report.compare(name, actual, &expected.data, tolerance);
        Ok(())
    }

    /// Compares where the file stores the result; says nothing where it does not.
    pub fn compare_if_stored(&mut self, name: &str, actual: &[f32], tolerance: Tolerance) -> Result<(), VerifyError> {
        if self.has(name) { self.compare(name, actual, tolerance) } else { Ok(()) }
    }

    /// An error about this file.
    pub fn invalid(&self, reason: impl Into<String>) -> VerifyError {
        VerifyError::Invalid { path: self.path.clone(), reason: reason.into() }
    }

    /// The result; names that nothing has used count as failures.
    pub fn finish(mut self) -> FileReport {
        let unused: Vec<String> = self.tensors.keys().filter(|name| !self.used.contains(*name)).cloned().collect();
        self.report.unrecognised(unused);
        self.report
    }
}

/// Reads a golden file that is JSON.
///
/// # Errors
/// A file that cannot be read, or holds anything else than a `T`.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, VerifyError> {
    let bytes = std::fs::read(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|e| VerifyError::Invalid { path: path.to_owned(), reason: e.to_string() })
}

/// `[N, C, H, W]` data as `[N, H, W, C]`.
pub fn to_channels_last(tensor: &Tensor) -> Vec<f32> {
    let [n, c, h, w] = four(&tensor.shape);
    permute(&tensor.data, n, c, h * w)
}

/// `[N, H, W, C]` data as `[N, C, H, W]`.
pub fn to_channels_first(data: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    permute(data, n, h * w, c)
}

/// Swaps the last two of three axes.
fn permute(data: &[f32], n: usize, rows: usize, columns: usize) -> Vec<f32> {
    let size = rows * columns;
    (0..n * size)
        .map(|i| {
            let (sample, rest) = (i / size, i % size);
            data[sample * size + rest % rows * columns + rest / rows]
        })
        .collect()
}

/// A shape as its four dimensions; dimensions that are not there are 1.
pub fn four(shape: &[usize]) -> [usize; 4] {
    [0, 1, 2, 3].map(|i| shape.get(i).copied().unwrap_or(1))
}

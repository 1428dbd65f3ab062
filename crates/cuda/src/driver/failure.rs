//! The driver's errors as this crate's.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

use crate::error::{Error, Result};

/// After one of these every later call fails as well: the device's memory is lost to this process.
const LOST: &[CUresult] = &[
    CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
    CUresult::CUDA_ERROR_LAUNCH_FAILED,
    CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
    CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
    CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
    CUresult::CUDA_ERROR_INVALID_PC,
    CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
    CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
    CUresult::CUDA_ERROR_ASSERT,
    CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
    CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
    CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
    CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
    CUresult::CUDA_ERROR_EXTERNAL_DEVICE,
    CUresult::CUDA_ERROR_UNKNOWN,
];

/// What was asked of the driver, put to its error.
pub(super) trait Failed<T> {
    /// The result, with an error that says what was asked for.
    fn in_call(self, operation: &'static str) -> Result<T>;
}

impl<T> Failed<T> for std::result::Result<T, DriverError> {
    fn in_call(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| error(operation, source))
    }
}

/// The driver's error in a call that was to do `operation`.
pub(super) fn error(operation: &'static str, source: DriverError) -> Error {
    let text = source.error_string().map(|text| text.to_string_lossy().into_owned());
    let what = format!("{:?}, {}", source.0, text.unwrap_or_else(|_| "which has no text".into()));
    if LOST.contains(&source.0) { Error::DeviceLost { what } } else { Error::Driver { operation, what } }
}

//! The crate's error type. Refuses to carry prose made up at the call site: each variant names the operation, the
//! offending value and what was expected.
//!
//! Kernels themselves return nothing and panic when a slice has the wrong length: their callers are stages, which
//! planned every length themselves. Errors are for what comes from outside: tensors, settings, environment variables.

/// What can be wrong with a value that came from outside the crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor or buffer of the wrong shape.
    #[error("{operation}: {what} has shape {actual:?}, expected {expected}")]
    Shape {
        /// Operation that was asked for.
        operation: &'static str,
        /// Name of the argument.
        what: &'static str,
        /// Shape that was passed.
        actual: Vec<usize>,
        /// Shape that fits, in words or symbols.
        expected: String,
    },
    /// A setting outside of its range.
    #[error("{operation}: {what} is {actual}, expected {expected}")]
    Value {
        /// Operation that was asked for.
        operation: &'static str,
        /// Name of the setting.
        what: &'static str,
        /// Value that was passed.
        actual: String,
        /// What the setting may be.
        expected: &'static str,
    },
    /// `DARTS_SIMD` names no instruction set.
    #[error("DARTS_SIMD is {value:?}, expected portable, avx2 or avx512")]
    UnknownInstructionSet {
        /// What was given.
        value: String,
    },
    /// `DARTS_SIMD` names an instruction set that this machine lacks.
    #[error("DARTS_SIMD is {name}, which this machine lacks; it has {available}")]
    MissingInstructionSet {
        /// What was given.
        name: &'static str,
        /// The sets that the machine has.
        available: String,
    },
    /// An error of candle below an operation of this crate.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

//! What can go wrong: a setting out of range, a saved state that does not fit, a step that failed.

use darts_ops::vector;

use crate::problem::Pass;

/// An error of setting up or restoring a search or an optimizer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting out of its range.
    #[error("setting {name} is {value}, expected {expected}")]
    Setting {
        /// The setting's path, `sgd.momentum` say.
        name: &'static str,
        /// What was given.
        value: f64,
        /// What would have been right.
        expected: &'static str,
    },
    /// A saved state lacks something.
    #[error("saved state: expected \"{name}\", which is missing")]
    StateMissing {
        /// The vector's or counter's name.
        name: String,
    },
    /// A saved state has something that is not known, or has it twice.
    #[error("saved state: \"{name}\" is unknown or occurs twice, expected one each of {expected}")]
    StateUnknown {
        /// The vector's or counter's name.
        name: String,
        /// All names known, in order.
        expected: String,
    },
    /// A saved vector of another length.
    #[error("saved state: expected {expected} elements in \"{name}\", found {found}")]
    StateLength {
        /// The vector's name.
        name: String,
        /// Its length here.
        expected: usize,
        /// Its length in the saved state.
        found: usize,
    },
    /// An operation on a vector failed.
    #[error(transparent)]
    Vector(#[from] vector::Error),
    /// The device failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] darts_cuda::Error),
}

/// A number that a step computed or was given, and that must be finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantity {
    /// The loss that the problem returned.
    Loss,
    /// The norm of the gradient with respect to `w`.
    WeightGradient,
    /// The norm of the gradient with respect to `α`.
    AlphaGradient,
    /// The learning rate passed to the step.
    LearningRate,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Quantity::Loss => "loss",
            Quantity::WeightGradient => "norm of the weight gradient",
            Quantity::AlphaGradient => "norm of the α gradient",
            Quantity::LearningRate => "learning rate",
        })
    }
}

/// An error of a search step. What the failing half of the step (α or weights) would have changed is unchanged; an
/// α step that was completed before stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError<E: std::error::Error + 'static> {
    /// A loss or a gradient stopped being finite.
    #[error(
        "search step {step}, {pass} pass, learning rate {learning_rate}: the {quantity} is {value}, expected a finite number"
    )]
    NonFinite {
        /// Which number.
        quantity: Quantity,
        /// The evaluation it came from.
        pass: Pass,
        /// The step, counted from 0.
        step: u64,
        /// The weight learning rate of the step.
        learning_rate: f64,
        /// NaN or an infinity.
        value: f64,
    },
    /// The problem failed to evaluate.
    #[error("search step {step}, {pass} pass: {source}")]
    Problem {
        /// The evaluation that failed.
        pass: Pass,
        /// The step, counted from 0.
        step: u64,
        /// The problem's error.
        source: E,
    },
    /// An operation on a vector failed.
    #[error(transparent)]
    Vector(#[from] vector::Error),
    /// The device failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] darts_cuda::Error),
}

/// `Ok` if `valid`, else the error that names the setting.
pub(crate) fn check_setting(valid: bool, name: &'static str, value: f64, expected: &'static str) -> Result<(), Error> {
    if valid { Ok(()) } else { Err(Error::Setting { name, value, expected }) }
}

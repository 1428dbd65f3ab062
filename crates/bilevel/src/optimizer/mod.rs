//! Optimizers over flat vectors: settings, state, one fused pass per step.
//!
//! The learning rate is an argument of each step (schedules and sequence lengths decide it), and so is the clip
//! coefficient that the gradient is multiplied with before weight decay is added. They refuse to own the weights,
//! to compute norms and to know parameter groups.

mod adam;
mod averaged_sgd;
mod non_monotonic;
mod sgd;

pub use adam::{Adam, AdamConfig};
pub use averaged_sgd::{AveragedSgd, AveragedSgdConfig};
pub use non_monotonic::NonMonotonic;
pub use sgd::{Sgd, SgdConfig};

//! Schedules: numbers that are a function of the epoch alone. They hold no state, so a resumed run needs none of
//! theirs. Epochs count from 0.

use std::f64::consts::PI;

/// Cosine annealing without restarts: `minimum + (initial − minimum)/2 · (1 + cos(π·epoch/epochs))`.
///
/// ```
/// use darts_bilevel::schedule::Cosine;
/// let search = Cosine { initial: 0.025, minimum: 0.001, epochs: 50 };
/// assert_eq!(search.at(0), 0.025);
/// assert!((search.at(49) - 1.023679e-3).abs() < 1e-9);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cosine {
    /// Value at epoch 0.
    pub initial: f64,
    /// Value that epoch `epochs` would have; the last epoch is one before it.
    pub minimum: f64,
    /// Number of epochs.
    pub epochs: u64,
}

impl Cosine {
    /// Cosine annealing from `initial` to 0, as the retraining on CIFAR-10 uses.
    pub fn to_zero(initial: f64, epochs: u64) -> Self {
        Self { initial, minimum: 0.0, epochs }
    }

    /// The value at `epoch`. Beyond the end it stays at the minimum.
    pub fn at(&self, epoch: u64) -> f64 {
        let half = (self.initial - self.minimum) / 2.0;
        self.minimum + half * (1.0 + (PI * progress(epoch, self.epochs)).cos())
    }
}

/// Exponential decay: `initial · gammaᵉᵖᵒᶜʰ`, as the ImageNet transfer uses (γ = 0.97).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exponential {
    /// Value at epoch 0.
    pub initial: f64,
    /// Factor from one epoch to the next.
    pub gamma: f64,
}

impl Exponential {
    /// The value at `epoch`.
    pub fn at(&self, epoch: u64) -> f64 {
        self.initial * self.gamma.powf(epoch as f64)
    }
}

/// The probability of path dropout: `maximum · epoch/epochs`, rising linearly from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DropPath {
    /// Probability that epoch `epochs` would have.
    pub maximum: f64,
    /// Number of epochs.
    pub epochs: u64,
}

impl DropPath {
    /// The probability at `epoch`. Beyond the end it stays at the maximum.
    pub fn at(&self, epoch: u64) -> f64 {
        self.maximum * progress(epoch, self.epochs)
    }
}

/// `epoch/epochs`, at most 1; a schedule of no epochs is at its end.
fn progress(epoch: u64, epochs: u64) -> f64 {
    if epoch < epochs { epoch as f64 / epochs as f64 } else { 1.0 }
}

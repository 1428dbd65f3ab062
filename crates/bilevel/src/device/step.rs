//! Steps of the optimizers on a device, from the settings that they have on the CPU.

use darts_cuda::vector::{AdamStep, Scalar, SgdStep};

use crate::optimizer::{AdamConfig, SgdConfig};

/// A step of SGD whose gradient is multiplied with `coefficient`.
pub fn sgd_step(config: SgdConfig, coefficient: impl Into<Scalar>, learning_rate: impl Into<Scalar>) -> SgdStep {
    let SgdConfig { momentum, weight_decay } = config;
    SgdStep { momentum, coefficient: coefficient.into(), weight_decay, learning_rate: learning_rate.into() }
}

/// A step of Adam that is made where `gate` is finite.
pub fn adam_step(config: AdamConfig, gate: impl Into<Scalar>) -> AdamStep {
    let AdamConfig { learning_rate, betas: (beta1, beta2), epsilon, weight_decay } = config;
    AdamStep { learning_rate: learning_rate.into(), beta1, beta2, epsilon, weight_decay, gate: gate.into() }
}

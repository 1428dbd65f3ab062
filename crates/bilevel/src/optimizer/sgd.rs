//! Stochastic gradient descent with momentum and coupled weight decay; no dampening, no Nesterov.

use candle_core::Device;
use darts_ops::vector::{self, SgdStep, Vector};

use crate::error::{Error, check_setting};
use crate::state::Stateful;

/// Settings of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// What is kept of the buffer at each step, in [0, 1). With 0 there is no buffer.
    pub momentum: f64,
    /// Weight decay on every weight (biases and batch norm included).
    pub weight_decay: f64,
}

impl SgdConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<(), Error> {
        let momentum = self.momentum;
        check_setting((0.0..1.0).contains(&momentum), "sgd.momentum", momentum, "a number in [0, 1)")?;
        let decay = self.weight_decay;
        check_setting(decay >= 0.0 && decay.is_finite(), "sgd.weight_decay", decay, "a number from 0 up")
    }

    /// The coefficients of one step.
    pub(crate) fn step(&self, coefficient: f64, learning_rate: f64) -> SgdStep {
        SgdStep { momentum: self.momentum, coefficient, weight_decay: self.weight_decay, learning_rate }
    }
}

/// `buffer ← momentum·buffer + coefficient·g + weight_decay·w`, `w ← w − lr·buffer`, from a buffer of zeros.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    buffer: Option<Vector>,
}

impl Sgd {
    /// An optimizer for `len` weights on `device`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of range, [`Error::Vector`] where there is no memory for the buffer.
    pub fn new(config: SgdConfig, len: usize, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        let buffer = match config.momentum {
            0.0 => None,
            _ => Some(Vector::zeros(len, device)?),
        };
        Ok(Self { config, buffer })
    }

    /// The settings.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }

    /// The momentum buffer; none without momentum.
    pub fn buffer(&self) -> Option<&Vector> {
        self.buffer.as_ref()
    }

    /// One step: `gradient` without weight decay, multiplied with `coefficient` (a clip coefficient, or 1).
    ///
    /// # Errors
    /// [`vector::Error::Length`] for vectors of other lengths than the optimizer's.
    pub fn step(
        &mut self,
        w: &mut Vector,
        gradient: &Vector,
        coefficient: f64,
        learning_rate: f64,
    ) -> Result<(), vector::Error> {
        w.sgd_step(self.buffer.as_mut(), gradient, self.config.step(coefficient, learning_rate))
    }
}

impl Stateful for Sgd {
    fn vectors(&self) -> Vec<(&'static str, &Vector)> {
        self.buffer.iter().map(|buffer| ("sgd.momentum", buffer)).collect()
    }

    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)> {
        self.buffer.iter_mut().map(|buffer| ("sgd.momentum", buffer)).collect()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        Vec::new()
    }
}

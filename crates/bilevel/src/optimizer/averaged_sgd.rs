//! Averaged SGD (Polyak & Juditsky 1992): plain SGD, and beside it the average of the points it went through, which
//! is what one evaluates and saves.

use candle_core::Device;
use darts_ops::vector::{self, SgdStep, Vector};

use crate::error::{Error, check_setting};
use crate::state::Stateful;

/// Settings of [`AveragedSgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AveragedSgdConfig {
    /// Weight decay on every weight.
    pub weight_decay: f64,
    /// `t0`: the average is the weights themselves up to step `t0 + 2`, counted from 1.
    pub start: u64,
}

/// `w_t = w_{t−1} − lr·(coefficient·g + weight_decay·w_{t−1})`, `a_t = a_{t−1} + μ_t·(w_t − a_{t−1})` with
/// `μ_t = 1/max(1, t − 1 − t0)` and `t` from 1.
#[derive(Debug)]
pub struct AveragedSgd {
    config: AveragedSgdConfig,
    average: Vector,
    steps: u64,
}

impl AveragedSgd {
    /// An optimizer for `len` weights on `device`; its average is zero before the first step.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of range, [`Error::Vector`] where there is no memory for the average.
    pub fn new(config: AveragedSgdConfig, len: usize, device: &Device) -> Result<Self, Error> {
        let decay = config.weight_decay;
        check_setting(decay >= 0.0 && decay.is_finite(), "averaged_sgd.weight_decay", decay, "a number from 0 up")?;
        Ok(Self { config, average: Vector::zeros(len, device)?, steps: 0 })
    }

    /// The settings.
    pub fn config(&self) -> &AveragedSgdConfig {
        &self.config
    }

    /// The average of the weights so far.
    pub fn average(&self) -> &Vector {
        &self.average
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
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
        let step = SgdStep { momentum: 0.0, coefficient, weight_decay: self.config.weight_decay, learning_rate };
        w.sgd_step(None, gradient, step)?;
        self.steps += 1;
        let averaged = self.steps.saturating_sub(1).saturating_sub(self.config.start);
        self.average.average_towards(1.0 / averaged.max(1) as f64, w)
    }
}

impl Stateful for AveragedSgd {
    fn vectors(&self) -> Vec<(&'static str, &Vector)> {
        vec![("averaged_sgd.average", &self.average)]
    }

    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)> {
        vec![("averaged_sgd.average", &mut self.average)]
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("averaged_sgd.steps", self.steps)]
    }

    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![("averaged_sgd.steps", &mut self.steps)]
    }
}

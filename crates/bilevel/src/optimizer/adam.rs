//! Adam (Kingma & Ba 2015) with bias correction and coupled L2: the decay is added to the gradient, not to the step.

use candle_core::Device;
use darts_ops::vector::{self, AdamStep, Vector};

use crate::error::{Error, check_setting};
use crate::state::Stateful;

/// Settings of [`Adam`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Step size.
    pub learning_rate: f64,
    /// Decay rates of the first and the second moment, each in [0, 1).
    pub betas: (f64, f64),
    /// Added to the root of the second moment; above 0.
    pub epsilon: f64,
    /// L2 coefficient.
    pub weight_decay: f64,
}

impl AdamConfig {
    /// α's optimizer in the search on CIFAR-10 (section A.1.1 of the paper).
    pub fn cifar10_alphas() -> Self {
        Self { learning_rate: 3e-4, betas: (0.5, 0.999), epsilon: 1e-8, weight_decay: 1e-3 }
    }

    /// α's optimizer in the search on Penn Treebank (section A.1.2 of the paper).
    pub fn penn_treebank_alphas() -> Self {
        Self { learning_rate: 3e-3, betas: (0.9, 0.999), epsilon: 1e-8, weight_decay: 1e-3 }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<(), Error> {
        let unit = 0.0..1.0;
        let (rate, decay) = (self.learning_rate, self.weight_decay);
        let from_zero = |x: f64| x >= 0.0 && x.is_finite();
        check_setting(from_zero(rate), "adam.learning_rate", rate, "a number from 0 up")?;
        check_setting(unit.contains(&self.betas.0), "adam.betas.0", self.betas.0, "a number in [0, 1)")?;
        check_setting(unit.contains(&self.betas.1), "adam.betas.1", self.betas.1, "a number in [0, 1)")?;
        check_setting(
            self.epsilon > 0.0 && self.epsilon.is_finite(),
            "adam.epsilon",
            self.epsilon,
            "a number above 0",
        )?;
        check_setting(from_zero(decay), "adam.weight_decay", decay, "a number from 0 up")
    }
}

/// `d = g + weight_decay·x`, `m ← β₁m + (1 − β₁)d`, `v ← β₂v + (1 − β₂)d²`,
/// `x ← x − lr · (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε)`, from moments of zero and `t` from 1.
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    first_moment: Vector,
    second_moment: Vector,
    steps: u64,
}

impl Adam {
    /// An optimizer for `len` parameters on `device`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of range, [`Error::Vector`] where there is no memory for the moments.
    pub fn new(config: AdamConfig, len: usize, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        Ok(Self {
            config,
            first_moment: Vector::zeros(len, device)?,
            second_moment: Vector::zeros(len, device)?,
            steps: 0,
        })
    }

    /// The settings.
    pub fn config(&self) -> &AdamConfig {
        &self.config
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step; `gradient` is without L2.
    ///
    /// # Errors
    /// [`vector::Error::Length`] for vectors of other lengths than the optimizer's; nothing is changed then.
    pub fn step(&mut self, parameters: &mut Vector, gradient: &Vector) -> Result<(), vector::Error> {
        let step = AdamStep {
            learning_rate: self.config.learning_rate,
            beta1: self.config.betas.0,
            beta2: self.config.betas.1,
            epsilon: self.config.epsilon,
            weight_decay: self.config.weight_decay,
            step: self.steps + 1,
        };
        parameters.adam_step(&mut self.first_moment, &mut self.second_moment, gradient, step)?;
        self.steps = step.step;
        Ok(())
    }
}

impl Stateful for Adam {
    fn vectors(&self) -> Vec<(&'static str, &Vector)> {
        vec![("adam.first_moment", &self.first_moment), ("adam.second_moment", &self.second_moment)]
    }

    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)> {
        vec![("adam.first_moment", &mut self.first_moment), ("adam.second_moment", &mut self.second_moment)]
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("adam.steps", self.steps)]
    }

    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![("adam.steps", &mut self.steps)]
    }
}

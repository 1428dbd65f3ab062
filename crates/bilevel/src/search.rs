//! Algorithm 1 of the paper: an α step on a validation batch, then a weight step on a training batch, in turn.
//!
//! [`Search`] owns `w`, `α` and the state of their optimizers, and every vector that a step needs: after
//! construction a step allocates nothing of a size that grows with `w`. It refuses to know epochs, schedules, data
//! and networks: the caller passes batches and the learning rate, the problem evaluates.

use darts_ops::vector::Vector;

use crate::clip;
use crate::error::{Error, Quantity, StepError, check_setting};
use crate::optimizer::{Adam, AdamConfig, Sgd, SgdConfig};
use crate::problem::{BilevelProblem, Gradients, Pass};
use crate::second_order::{Output, SecondOrder, SecondOrderReport, Start, Workspace};
use crate::state::Stateful;
use crate::step::Step;
use crate::{first_order, second_order};

/// How the gradient with respect to `α` is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Strategy {
    /// `∇α L_val(w, α)`: one evaluation.
    FirstOrder,
    /// Through one virtual step of the weights: four evaluations.
    SecondOrder(SecondOrder),
}

/// Settings of a [`Search`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchConfig {
    /// How the α gradient is taken.
    pub strategy: Strategy,
    /// The weights' optimizer; its learning rate is an argument of each step.
    pub sgd: SgdConfig,
    /// Limit of the norm of the weight step's gradient, taken without weight decay.
    pub clip: Option<f64>,
    /// α's optimizer. Its gradient is not clipped.
    pub adam: AdamConfig,
}

impl SearchConfig {
    /// The search on CIFAR-10 (section A.1.1 of the paper), first order: momentum 0.9, weight decay 3e-4, gradients
    /// clipped at 5. For the second order, set `strategy` to [`SecondOrder::default`].
    pub fn cifar10() -> Self {
        Self {
            strategy: Strategy::FirstOrder,
            sgd: SgdConfig { momentum: 0.9, weight_decay: 3e-4 },
            clip: Some(5.0),
            adam: AdamConfig::cifar10_alphas(),
        }
    }

    /// The search on Penn Treebank (section A.1.2 of the paper), first order: no momentum, weight decay 5e-7,
    /// gradients clipped at 0.25. For the second order, set `strategy` to [`SecondOrder::clipped`] at 0.25.
    pub fn penn_treebank() -> Self {
        Self {
            strategy: Strategy::FirstOrder,
            sgd: SgdConfig { momentum: 0.0, weight_decay: 5e-7 },
            clip: Some(0.25),
            adam: AdamConfig::penn_treebank_alphas(),
        }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<(), Error> {
        self.sgd.validate()?;
        self.adam.validate()?;
        let limit = self.clip.unwrap_or(1.0);
        check_setting(limit > 0.0 && limit.is_finite(), "clip", limit, "a number above 0")?;
        match &self.strategy {
            Strategy::FirstOrder => Ok(()),
            Strategy::SecondOrder(settings) => settings.validate(),
        }
    }
}

/// What an α step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AlphaReport {
    /// `L_val`: at `w` in first order, at `w'` in second order.
    pub valid_loss: f64,
    /// Norms of the virtual step and the finite difference; `None` in first order.
    pub second_order: Option<SecondOrderReport>,
}

/// What a weight step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightReport {
    /// `L_train` at the new α and the weights before the update.
    pub train_loss: f64,
    /// Norm of the weight gradient, without weight decay, before clipping.
    pub grad_norm: f64,
    /// What the gradient was multiplied with: 1 where it was not clipped.
    pub clip: f64,
}

/// What one step (α, then weights) saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// `L_val`: at `w` in first order, at `w'` in second order.
    pub valid_loss: f64,
    /// `L_train` at the new α and the weights before the update.
    pub train_loss: f64,
    /// Norm of the weight gradient, without weight decay, before clipping.
    pub grad_norm: f64,
    /// What the weight gradient was multiplied with: 1 where it was not clipped.
    pub clip: f64,
    /// Norms of the virtual step and the finite difference; `None` in first order.
    pub second_order: Option<SecondOrderReport>,
}

/// The state of Algorithm 1.
#[derive(Debug)]
pub struct Search {
    config: SearchConfig,
    w: Vector,
    alpha: Vector,
    sgd: Sgd,
    adam: Adam,
    steps: u64,
    gradient: Vector,
    alpha_gradient: Vector,
    second_order: Option<Workspace>,
}

impl Search {
    /// A search that starts from the weights `w` and the architecture `alpha`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of range, [`Error::Vector`] where there is no memory for the vectors: in
    /// first order two more as long as `w` (momentum, gradient), in second order three.
    pub fn new(w: Vector, alpha: Vector, config: SearchConfig) -> Result<Self, Error> {
        config.validate()?;
        let second_order = match config.strategy {
            Strategy::FirstOrder => None,
            Strategy::SecondOrder(_) => Some(Workspace::new(w.len(), alpha.len(), w.device())?),
        };
        Ok(Self {
            config,
            sgd: Sgd::new(config.sgd, w.len(), w.device())?,
            adam: Adam::new(config.adam, alpha.len(), alpha.device())?,
            steps: 0,
            gradient: Vector::zeros(w.len(), w.device())?,
            alpha_gradient: Vector::zeros(alpha.len(), alpha.device())?,
            second_order,
            w,
            alpha,
        })
    }

    /// One step of Algorithm 1: [`Search::alpha_step`], then [`Search::weight_step`].
    ///
    /// # Errors
    /// See [`StepError`].
    pub fn step<P: BilevelProblem + ?Sized>(
        &mut self,
        problem: &mut P,
        train: &P::Batch,
        valid: &P::Batch,
        learning_rate: f64,
    ) -> Result<StepReport, StepError<P::Error>> {
        let AlphaReport { valid_loss, second_order } = self.alpha_step(problem, train, valid, learning_rate)?;
        let WeightReport { train_loss, grad_norm, clip } = self.weight_step(problem, train, learning_rate)?;
        Ok(StepReport { valid_loss, train_loss, grad_norm, clip, second_order })
    }

    /// The α half of a step: takes α's gradient and lets Adam make a step of it. The weights keep their bytes.
    ///
    /// `train` is the batch of the weight step that follows and `learning_rate` its learning rate (ξ, unless
    /// [`SecondOrder::xi`] is set); first order uses neither.
    ///
    /// # Errors
    /// See [`StepError`].
    pub fn alpha_step<P: BilevelProblem + ?Sized>(
        &mut self,
        problem: &mut P,
        train: &P::Batch,
        valid: &P::Batch,
        learning_rate: f64,
    ) -> Result<AlphaReport, StepError<P::Error>> {
        let step = self.begin(Pass::Validation, learning_rate)?;
        let (w, alpha, alpha_gradient) = (&self.w, &self.alpha, &mut self.alpha_gradient);
        let (valid_loss, report) = match (&self.config.strategy, &mut self.second_order) {
            (Strategy::SecondOrder(settings), Some(workspace)) => {
                let start = Start { w, alpha, sgd: &self.sgd };
                let output = Output { workspace, gradient: &mut self.gradient, alpha_gradient };
                let (loss, report) =
                    second_order::alpha_gradient(settings, problem, step, start, (train, valid), output)?;
                (loss, Some(report))
            }
            _ => (first_order::alpha_gradient(problem, step, w, alpha, valid, alpha_gradient)?, None),
        };
        step.finite(Quantity::AlphaGradient, Pass::Validation, self.alpha_gradient.norm2()?)?;
        self.adam.step(&mut self.alpha, &self.alpha_gradient)?;
        Ok(AlphaReport { valid_loss, second_order: report })
    }

    /// The weight half of a step, at the present α; it completes the step. Alone it is what a warm-up does, in which
    /// α stays.
    ///
    /// # Errors
    /// See [`StepError`].
    pub fn weight_step<P: BilevelProblem + ?Sized>(
        &mut self,
        problem: &mut P,
        train: &P::Batch,
        learning_rate: f64,
    ) -> Result<WeightReport, StepError<P::Error>> {
        let step = self.begin(Pass::Weight, learning_rate)?;
        let gradients = Gradients { w: Some(&mut self.gradient), alpha: None };
        let train_loss = step.evaluate(problem, Pass::Weight, (&self.w, &self.alpha), train, gradients)?;
        let grad_norm = step.finite(Quantity::WeightGradient, Pass::Weight, self.gradient.norm2()?)?;
        let clip = clip::coefficient(grad_norm, self.config.clip);
        self.sgd.step(&mut self.w, &self.gradient, clip, learning_rate)?;
        self.steps += 1;
        Ok(WeightReport { train_loss, grad_norm, clip })
    }

    /// The settings.
    pub fn config(&self) -> &SearchConfig {
        &self.config
    }

    /// The weights `w`.
    pub fn weights(&self) -> &Vector {
        &self.w
    }

    /// The architecture parameters `α`.
    pub fn alphas(&self) -> &Vector {
        &self.alpha
    }

    /// The weights' momentum buffer; none without momentum.
    pub fn momentum(&self) -> Option<&Vector> {
        self.sgd.buffer()
    }

    /// Steps completed.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The gradient that the last α step handed to Adam, without L2; zeros before the first.
    pub fn alpha_gradient(&self) -> &Vector {
        &self.alpha_gradient
    }

    /// Of that gradient, `∇α L_val` alone, without the implicit term of the second order.
    pub fn direct_alpha_gradient(&self) -> &Vector {
        self.second_order.as_ref().map_or(&self.alpha_gradient, |workspace| &workspace.direct)
    }

    /// Gives up the search for its weights and α.
    pub fn into_parts(self) -> (Vector, Vector) {
        (self.w, self.alpha)
    }

    fn begin<E: std::error::Error + 'static>(&self, pass: Pass, learning_rate: f64) -> Result<Step, StepError<E>> {
        let step = Step { number: self.steps, learning_rate };
        step.finite(Quantity::LearningRate, pass, learning_rate)?;
        Ok(step)
    }
}

impl Stateful for Search {
    fn vectors(&self) -> Vec<(&'static str, &Vector)> {
        let mut vectors = vec![("weights", &self.w), ("alphas", &self.alpha)];
        vectors.extend(self.sgd.vectors());
        vectors.extend(self.adam.vectors());
        vectors
    }

    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)> {
        let mut vectors = vec![("weights", &mut self.w), ("alphas", &mut self.alpha)];
        vectors.extend(self.sgd.vectors_mut());
        vectors.extend(self.adam.vectors_mut());
        vectors
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = vec![("search.steps", self.steps)];
        counters.extend(self.adam.counters());
        counters
    }

    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        let mut counters = vec![("search.steps", &mut self.steps)];
        counters.extend(self.adam.counters_mut());
        counters
    }
}

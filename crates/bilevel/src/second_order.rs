//! The second-order α gradient: through one virtual step of the weights, with the Hessian-vector product as a finite
//! difference (equations 7 and 8 of the paper).
//!
//! With `g = ∇w L_train(w, α)`:
//! * `w' = w − ξ·(momentum·buffer + c·g + weight_decay·w)`, `c` the clip coefficient of `g`;
//! * `v = d·∇w' L_val(w', α)`, `d` the clip coefficient of that gradient;
//! * `ε = radius/‖v‖₂`, `w± = w ± ε·v`;
//! * the gradient is `∇α L_val(w', α) − ξ·c·[∇α L_train(w⁺, α) − ∇α L_train(w⁻, α)]/(2ε)`.
//!
//! Without clipping (the convolutional search) `c = d = 1`. The weights are read and never written: `w'`, `w⁺` and
//! `w⁻` take turns in one vector of their own, so `w` has the same bytes afterwards.

use candle_core::Device;
use darts_ops::vector::{self, Vector};

use crate::clip;
use crate::error::{Error, Quantity, StepError, check_setting};
use crate::optimizer::Sgd;
use crate::problem::{BilevelProblem, Gradients, Pass};
use crate::step::Step;

/// Settings of the second-order α gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SecondOrder {
    /// Distance `‖w± − w‖₂` where the direction is not clipped: `ε = radius/‖v‖₂`.
    pub radius: f64,
    /// ξ, the length of the virtual step; `None`: the learning rate of the weight step.
    pub xi: Option<f64>,
    /// Limit of the norm of `∇w L_train` in the virtual step.
    pub clip_virtual: Option<f64>,
    /// Limit of the norm of `∇w' L_val` as the direction of the finite difference.
    pub clip_direction: Option<f64>,
}

impl Default for SecondOrder {
    /// As the convolutional search: radius 0.01, ξ the learning rate, nothing clipped.
    fn default() -> Self {
        Self { radius: 0.01, xi: None, clip_virtual: None, clip_direction: None }
    }
}

impl SecondOrder {
    /// As the recurrent search: both gradients clipped at `limit`, as the weight step's is.
    pub fn clipped(limit: f64) -> Self {
        Self { clip_virtual: Some(limit), clip_direction: Some(limit), ..Self::default() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn validate(&self) -> Result<(), Error> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        check_setting(positive(self.radius), "second_order.radius", self.radius, "a number above 0")?;
        let xi = self.xi.unwrap_or(0.0);
        check_setting(xi >= 0.0 && xi.is_finite(), "second_order.xi", xi, "a number from 0 up")?;
        for (name, limit) in
            [("second_order.clip_virtual", self.clip_virtual), ("second_order.clip_direction", self.clip_direction)]
        {
            let limit = limit.unwrap_or(1.0);
            check_setting(positive(limit), name, limit, "a number above 0")?;
        }
        Ok(())
    }
}

/// What a second-order α step saw on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SecondOrderReport {
    /// `L_train(w, α)` of the virtual step.
    pub virtual_loss: f64,
    /// `‖∇w L_train(w, α)‖₂`, before clipping.
    pub virtual_grad_norm: f64,
    /// `‖∇w' L_val(w', α)‖₂`, before clipping.
    pub valid_grad_norm: f64,
    /// ε of the finite difference; infinite where the direction was zero and there was none.
    pub epsilon: f64,
}

/// Vectors that a second-order step needs beside those of the search, allocated once.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// `w'`, then `w⁺`, then `w⁻`.
    point: Vector,
    /// `∇α L_train(w⁺, α)` and `∇α L_train(w⁻, α)`.
    plus: Vector,
    minus: Vector,
    /// `∇α L_val(w', α)` alone.
    pub(crate) direct: Vector,
}

impl Workspace {
    pub(crate) fn new(weights: usize, alphas: usize, device: &Device) -> Result<Self, vector::Error> {
        Ok(Self {
            point: Vector::zeros(weights, device)?,
            plus: Vector::zeros(alphas, device)?,
            minus: Vector::zeros(alphas, device)?,
            direct: Vector::zeros(alphas, device)?,
        })
    }
}

/// What the step starts from; none of it is changed.
pub(crate) struct Start<'a> {
    pub(crate) w: &'a Vector,
    pub(crate) alpha: &'a Vector,
    pub(crate) sgd: &'a Sgd,
}

/// Where the step writes.
pub(crate) struct Output<'a> {
    pub(crate) workspace: &'a mut Workspace,
    /// Scratch as long as `w`: holds the training gradient, then the direction.
    pub(crate) gradient: &'a mut Vector,
    pub(crate) alpha_gradient: &'a mut Vector,
}

/// Writes the gradient to `output.alpha_gradient`; returns the validation loss (at `w'`) and the report.
pub(crate) fn alpha_gradient<P: BilevelProblem + ?Sized>(
    settings: &SecondOrder,
    problem: &mut P,
    step: Step,
    start: Start<'_>,
    (train, valid): (&P::Batch, &P::Batch),
    output: Output<'_>,
) -> Result<(f64, SecondOrderReport), StepError<P::Error>> {
    let Start { w, alpha, sgd } = start;
    let Output { workspace: Workspace { point, plus, minus, direct }, gradient, alpha_gradient } = output;
    let xi = settings.xi.unwrap_or(step.learning_rate);

    let gradients = Gradients { w: Some(&mut *gradient), alpha: None };
    let virtual_loss = step.evaluate(problem, Pass::Virtual, (w, alpha), train, gradients)?;
    let virtual_grad_norm = step.finite(Quantity::WeightGradient, Pass::Virtual, gradient.norm2()?)?;
    let virtual_clip = clip::coefficient(virtual_grad_norm, settings.clip_virtual);
    point.virtual_step_from(w, sgd.buffer(), gradient, sgd.config().step(virtual_clip, xi))?;

    let gradients = Gradients { w: Some(&mut *gradient), alpha: Some(&mut *direct) };
    let valid_loss = step.evaluate(problem, Pass::Validation, (point, alpha), valid, gradients)?;
    let valid_grad_norm = step.finite(Quantity::WeightGradient, Pass::Validation, gradient.norm2()?)?;
    let direction_clip = clip::coefficient(valid_grad_norm, settings.clip_direction);
    let epsilon = settings.radius / (direction_clip * valid_grad_norm);
    alpha_gradient.copy_from(direct)?;

    // A direction of zero (or one so small that ε overflows) means that L_val does not depend on w' here: then there
    // is no implicit term, and no finite difference could be taken.
    if epsilon.is_finite() {
        let mut at = |sign: f64, into: &mut Vector| {
            point.perturb_from(w, sign * epsilon * direction_clip, gradient)?;
            let gradients = Gradients { w: None, alpha: Some(into) };
            step.evaluate(problem, Pass::Perturbed, (point, alpha), train, gradients)
        };
        at(1.0, plus)?;
        at(-1.0, minus)?;
        alpha_gradient.add_scaled_difference(-xi * virtual_clip / (2.0 * epsilon), plus, minus)?;
    }
    Ok((valid_loss, SecondOrderReport { virtual_loss, virtual_grad_norm, valid_grad_norm, epsilon }))
}

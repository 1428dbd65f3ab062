//! The first-order α gradient: `∇α L_val(w, α)`, the weights taken as they are (ξ = 0 in equation 6 of the paper).

use darts_ops::vector::Vector;

use crate::error::StepError;
use crate::problem::{BilevelProblem, Gradients, Pass};
use crate::step::Step;

/// Writes the gradient to `alpha_gradient` and returns the validation loss.
pub(crate) fn alpha_gradient<P: BilevelProblem + ?Sized>(
    problem: &mut P,
    step: Step,
    w: &Vector,
    alpha: &Vector,
    valid: &P::Batch,
    alpha_gradient: &mut Vector,
) -> Result<f64, StepError<P::Error>> {
    let gradients = Gradients { w: None, alpha: Some(alpha_gradient) };
    step.evaluate(problem, Pass::Validation, (w, alpha), valid, gradients)
}

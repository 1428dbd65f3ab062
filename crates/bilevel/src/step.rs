//! One evaluation within a step: calls the problem, says where it failed, stops at what is not finite.

use darts_ops::vector::Vector;

use crate::error::{Quantity, StepError};
use crate::problem::{BilevelProblem, Gradients, Pass};

/// Which step is being made, for its errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Counted from 0.
    pub(crate) number: u64,
    /// Of the weights.
    pub(crate) learning_rate: f64,
}

impl Step {
    /// `value` if it is finite, else the error that says where it came from.
    pub(crate) fn finite<E: std::error::Error + 'static>(
        &self,
        quantity: Quantity,
        pass: Pass,
        value: f64,
    ) -> Result<f64, StepError<E>> {
        if value.is_finite() {
            return Ok(value);
        }
        Err(StepError::NonFinite { quantity, pass, step: self.number, learning_rate: self.learning_rate, value })
    }

    /// The problem's loss, finite.
    pub(crate) fn evaluate<P: BilevelProblem + ?Sized>(
        &self,
        problem: &mut P,
        pass: Pass,
        (w, alpha): (&Vector, &Vector),
        batch: &P::Batch,
        gradients: Gradients<'_>,
    ) -> Result<f64, StepError<P::Error>> {
        let loss = problem.evaluate(pass, w, alpha, batch, gradients).map_err(|source| StepError::Problem {
            pass,
            step: self.number,
            source,
        })?;
        self.finite(Quantity::Loss, pass, loss)
    }
}

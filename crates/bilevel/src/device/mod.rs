//! Algorithm 1 on a device. The twin of [`Search`](crate::Search): the same formulas in the same order, but a step is a program
//! that is laid down once and run again and again. What changes from step to step (learning rate, ε, norms, clip coefficients,
//! Adam's counter) lies in device memory, so nothing in a step waits for the host. It refuses to know epochs, schedules, data and
//! networks, as its twin does.

mod memory;
mod report;
mod search;
mod step;

use darts_cuda::{Precision, Program, View};

use crate::problem::Pass;

pub use report::DeviceReport;
pub use search::DeviceSearch;
pub use step::{adam_step, sgd_step};

/// One evaluation of a loss: where it is taken, and where its results go.
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct Evaluation {
    /// What it is for.
    pub pass: Pass,
    /// The weights: `w`, or `w'` and `w±`, which have a place of their own.
    pub w: View,
    /// The architecture parameters.
    pub alpha: View,
    /// The gradients that are asked for.
    pub gradients: DeviceGradients,
    /// What the factors of matrix products are rounded to. The finite difference is always taken in f32: it is a difference of
    /// numbers that are alike to four digits and more.
    pub precision: Precision,
    /// Two numbers: the loss, and whatever else the problem wants to know of its weight passes ([`DeviceReport::measure`]), such as
    /// how many examples were right. Both are overwritten.
    pub results: View<f64>,
}

/// The gradients that an evaluation is asked for; each is overwritten, never accumulated into.
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct DeviceGradients {
    /// Receives `∂L/∂w`, without weight decay; as long as `w`.
    pub w: Option<View>,
    /// Receives `∂L/∂α`, without L2; as long as `α`.
    pub alpha: Option<View>,
}

/// Two losses over `w` and `α` whose evaluations are programs: the twin of [`BilevelProblem`](crate::BilevelProblem).
pub trait DeviceProblem {
    /// Where a batch lies, and how large it is: what a program depends on. Its contents may change from step to step; a batch that
    /// is equal to one that was met before gets its program.
    type Batch: Clone + PartialEq;
    /// Why an evaluation cannot be laid down.
    type Error: std::error::Error + 'static;

    /// Appends what the evaluations of a step on `batch` have in common: what makes it out of what was uploaded, say.
    ///
    /// # Errors
    /// The problem's own.
    fn prepare(&self, program: &mut Program, batch: &Self::Batch) -> Result<(), Self::Error> {
        let _ = (program, batch);
        Ok(())
    }

    /// Appends an evaluation on `batch`. It must not write to `w` and `alpha`.
    ///
    /// # Errors
    /// The problem's own.
    fn lay_down(&self, program: &mut Program, evaluation: &Evaluation, batch: &Self::Batch) -> Result<(), Self::Error>;
}

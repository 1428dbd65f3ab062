//! The bilevel problem: what Algorithm 1 needs to know of whatever it optimizes.
//!
//! `min_α L_val(w*(α), α)` subject to `w*(α) = argmin_w L_train(w, α)` (Liu et al. 2019, equations 3 and 4). A
//! problem evaluates one of the two losses, on a batch, at a point that it is handed; which of the two the batch
//! says, and [`Pass`] says what for. It refuses to hold `w` or `α`: those belong to [`crate::Search`].

use darts_ops::vector::Vector;

/// What an evaluation is for.
///
/// The value of a loss and its gradients do not depend on it, except where a problem regularizes the weight step
/// alone. What an evaluation leaves behind does: batch norm's running statistics are updated by
/// [`Pass::Weight`] only, and a recurrent problem carries the hidden state of its training text on from
/// [`Pass::Weight`], that of its validation text on from [`Pass::Validation`], and from no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// `L_val` for the α gradient: at `w` in first order, at `w'` in second order.
    Validation,
    /// `L_train` at `w`, for the virtual step to `w'` (second order).
    Virtual,
    /// `L_train` at `w⁺` or `w⁻`, for the finite difference (second order).
    Perturbed,
    /// `L_train` at `w` and the new α, for the weight step.
    Weight,
}

impl std::fmt::Display for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pass::Validation => "validation",
            Pass::Virtual => "virtual",
            Pass::Perturbed => "perturbed",
            Pass::Weight => "weight",
        })
    }
}

/// The gradients that an evaluation is asked for; each is overwritten, never accumulated into.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Receives `∂L/∂w`, without weight decay; as long as `w`.
    pub w: Option<&'a mut Vector>,
    /// Receives `∂L/∂α`, without L2; as long as `α`.
    pub alpha: Option<&'a mut Vector>,
}

/// Two losses over weights `w` and architecture parameters (or hyperparameters) `α`.
pub trait BilevelProblem {
    /// A batch of the training or of the validation set.
    type Batch: ?Sized;
    /// Why an evaluation failed.
    type Error: std::error::Error + 'static;

    /// The loss at `(w, alpha)` on `batch`, and the gradients asked for.
    ///
    /// `w` is not always the search's own vector: `w'` and `w±` come here too. What it holds must not be changed
    /// (say, through a clone of its tensor).
    ///
    /// # Errors
    /// The problem's own. A loss that is not finite is no error here: return it, the search reports it.
    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        batch: &Self::Batch,
        gradients: Gradients<'_>,
    ) -> Result<f64, Self::Error>;
}

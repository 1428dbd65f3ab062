//! Bilevel optimization by gradient: the optimizer of DARTS (Liu, Simonyan, Yang, ICLR 2019), for anything that
//! implements a trait.
//!
//! The problem is `min_α L_val(w*(α), α)` subject to `w*(α) = argmin_w L_train(w, α)`: architecture parameters or
//! hyperparameters `α` above, weights `w` below. [`Search`] alternates a step of α and a step of w, where the
//! gradient of α is taken to first order (`w` as it is) or to second order (through one virtual step of `w`, the
//! Hessian-vector product by a finite difference).
//!
//! * [`BilevelProblem`]: what you implement. [`Search`], [`SearchConfig`]: what runs it.
//! * [`optimizer`]: SGD, Adam, averaged SGD over flat vectors; [`schedule`], [`clip`]: what goes with them. A plain
//!   training loop uses them as well.
//! * `device`, with the feature `cuda`: the same search on a GPU, a step of it one program.
//! * [`Stateful`]: state as named vectors and counters, from which a search goes on bit for bit.
//!
//! It knows nothing of networks, data or files, and draws no random number.
//!
//! # Example
//! The toy problem of the paper, `L_val = αw − 2α + 1`, `L_train = (w − α)²`, whose optimum is α = w = 1. First order
//! ends at α = w = 2, second order at `α = 2/(1 + 2ξ)`: at the optimum for ξ = ½.
//! ```
//! use candle_core::Device;
//! use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
//! use darts_bilevel::{BilevelProblem, Gradients, Pass, Search, SearchConfig, SecondOrder, Strategy};
//! use darts_ops::vector::{Error, Vector};
//!
//! struct Toy;
//!
//! impl BilevelProblem for Toy {
//!     type Batch = ();
//!     type Error = Error;
//!
//!     fn evaluate(&mut self, pass: Pass, w: &Vector, alpha: &Vector, _: &(), g: Gradients<'_>) -> Result<f64, Error> {
//!         let (w, a) = (w.to_vec()?[0], alpha.to_vec()?[0]);
//!         let (loss, dw, da) = match pass {
//!             Pass::Validation => (a * w - 2.0 * a + 1.0, a, w - 2.0),
//!             _ => ((w - a) * (w - a), 2.0 * (w - a), 2.0 * (a - w)),
//!         };
//!         if let Some(out) = g.w {
//!             out.fill(dw)?;
//!         }
//!         if let Some(out) = g.alpha {
//!             out.fill(da)?;
//!         }
//!         Ok(f64::from(loss))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = SearchConfig {
//!     strategy: Strategy::SecondOrder(SecondOrder { xi: Some(0.5), ..SecondOrder::default() }),
//!     sgd: SgdConfig { momentum: 0.0, weight_decay: 0.0 },
//!     clip: None,
//!     adam: AdamConfig { learning_rate: 0.02, betas: (0.5, 0.999), epsilon: 1e-8, weight_decay: 0.0 },
//! };
//! let (w, alpha) = (Vector::from_slice(&[-2.0], &Device::Cpu)?, Vector::from_slice(&[2.0], &Device::Cpu)?);
//! let mut search = Search::new(w, alpha, config)?;
//! for _ in 0..2000 {
//!     search.step(&mut Toy, &(), &(), 0.05)?;
//! }
//! assert!((search.alphas().to_vec()?[0] - 1.0).abs() < 0.01);
//! # Ok(())
//! # }
//! ```

pub mod clip;
#[cfg(feature = "cuda")]
pub mod device;
mod error;
mod first_order;
pub mod optimizer;
mod problem;
pub mod schedule;
mod search;
mod second_order;
mod state;
mod step;

pub use error::{Error, Quantity, StepError};
pub use problem::{BilevelProblem, Gradients, Pass};
pub use search::{AlphaReport, Search, SearchConfig, StepReport, Strategy, WeightReport};
pub use second_order::{SecondOrder, SecondOrderReport};
pub use state::Stateful;

/// Compiles and runs the README's example with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

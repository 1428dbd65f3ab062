//! The toy bilevel problem of the paper and where a search goes on it.

use std::error::Error;

use candle_core::Device;
use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
use darts_bilevel::{BilevelProblem, Gradients, Pass, Search, SearchConfig, SecondOrder, Strategy};
use darts_ops::vector::{self, Vector};

/// `L_val(w, α) = αw − 2α + 1`, `L_train(w, α) = w² − 2αw + α²`. The inner optimum is w*(α) = α, the bilevel optimum
/// α = w = 1.
pub(crate) struct Toy;

impl BilevelProblem for Toy {
    type Batch = ();
    type Error = vector::Error;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        _: &(),
        gradients: Gradients<'_>,
    ) -> Result<f64, vector::Error> {
        let (w, a) = (w.read(|w| w[0])?, alpha.read(|a| a[0])?);
        let (loss, dw, da) = match pass {
            Pass::Validation => (a * w - 2.0 * a + 1.0, a, w - 2.0),
            Pass::Virtual | Pass::Perturbed | Pass::Weight => {
                (w * w - 2.0 * a * w + a * a, 2.0 * (w - a), 2.0 * (a - w))
            }
        };
        if let Some(out) = gradients.w {
            out.fill(dw)?;
        }
        if let Some(out) = gradients.alpha {
            out.fill(da)?;
        }
        Ok(f64::from(loss))
    }
}

/// The points (α, w) of a search with this ξ from (2, −2): the start and one after each step.
pub(crate) fn trajectory(xi: f64, steps: usize) -> Result<Vec<(f32, f32)>, Box<dyn Error>> {
    let config = SearchConfig {
        strategy: Strategy::SecondOrder(SecondOrder { xi: Some(xi), ..SecondOrder::default() }),
        sgd: SgdConfig { momentum: 0.0, weight_decay: 0.0 },
        clip: None,
        adam: AdamConfig { learning_rate: 0.02, betas: (0.5, 0.999), epsilon: 1e-8, weight_decay: 0.0 },
    };
    let (w, alpha) = (Vector::from_slice(&[-2.0], &Device::Cpu)?, Vector::from_slice(&[2.0], &Device::Cpu)?);
    let mut search = Search::new(w, alpha, config)?;
    let mut points = vec![(2.0, -2.0)];
    for _ in 0..steps {
        search.step(&mut Toy, &(), &(), 0.025)?;
        points.push((search.alphas().read(|a| a[0])?, search.weights().read(|w| w[0])?));
    }
    Ok(points)
}

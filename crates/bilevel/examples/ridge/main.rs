//! A bilevel problem that is no network: one ridge penalty per feature, found by gradient on held-out data.
//!
//! `y = X·w₀ + noise`, where most features are irrelevant. With `α` the logarithms of the penalties,
//! `L_train(w, α) = ‖Xw − y‖²/(2m) + ½ Σ exp(αᵢ)·wᵢ²` and `L_val(w) = ‖Zw − t‖²/(2m)`. The second-order search should
//! raise the penalties of the irrelevant features above those of the relevant ones.
//!
//! `cargo run --release -p darts-bilevel --example ridge`

use std::error::Error;

use candle_core::Device;
use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
use darts_bilevel::{BilevelProblem, Gradients, Pass, Search, SearchConfig, SecondOrder, Strategy};
use darts_ops::vector::{self, Vector};

const FEATURES: usize = 40;
/// The first of the features are the ones that matter.
const RELEVANT: usize = 8;
const ROWS: usize = 60;
const STEPS: usize = 4000;
/// Of the weights. A penalty stays stable up to 2 / LEARNING_RATE.
const LEARNING_RATE: f64 = 0.05;

/// Rows of features, and what they should give.
struct Data {
    x: Vec<f32>,
    y: Vec<f32>,
}

struct Ridge;

impl BilevelProblem for Ridge {
    type Batch = Data;
    type Error = vector::Error;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        data: &Data,
        gradients: Gradients<'_>,
    ) -> Result<f64, vector::Error> {
        let (w, alpha) = (w.to_vec()?, alpha.to_vec()?);
        let (mut loss, mut dw) = data.squared_error(&w);
        let mut da = vec![0.0; alpha.len()];
        if pass != Pass::Validation {
            for i in 0..w.len() {
                let penalty = alpha[i].exp();
                da[i] = 0.5 * penalty * w[i] * w[i];
                dw[i] += penalty * w[i];
                loss += f64::from(da[i]);
            }
        }
        if let Some(out) = gradients.w {
            out.copy_from_slice(&dw)?;
        }
        if let Some(out) = gradients.alpha {
            out.copy_from_slice(&da)?;
        }
        Ok(loss)
    }
}

impl Data {
    /// `‖Xw − y‖²/(2m)` and its gradient.
    fn squared_error(&self, w: &[f32]) -> (f64, Vec<f32>) {
        let rows = self.y.len() as f32;
        let (mut loss, mut dw) = (0.0, vec![0.0; w.len()]);
        for (row, y) in self.x.chunks(w.len()).zip(&self.y) {
            let residual = row.iter().zip(w).map(|(x, w)| x * w).sum::<f32>() - y;
            loss += f64::from(residual * residual / (2.0 * rows));
            dw.iter_mut().zip(row).for_each(|(d, x)| *d += residual * x / rows);
        }
        (loss, dw)
    }

    /// Rows of noise and noisy targets, from a seed.
    fn draw(seed: u64) -> Self {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut data = Self { x: Vec::new(), y: Vec::new() };
        for _ in 0..ROWS {
            let row: Vec<f32> = (0..FEATURES).map(|_| 1.7 * uniform()).collect();
            data.y.push(row[..RELEVANT].iter().sum::<f32>() + 2.0 * uniform());
            data.x.extend(row);
        }
        data
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (train, valid, test) = (Data::draw(1), Data::draw(2), Data::draw(3));
    let config = SearchConfig {
        strategy: Strategy::SecondOrder(SecondOrder::default()),
        sgd: SgdConfig { momentum: 0.0, weight_decay: 0.0 },
        clip: None,
        adam: AdamConfig { learning_rate: 0.003, betas: (0.5, 0.999), epsilon: 1e-8, weight_decay: 0.0 },
    };
    let zeros = || Vector::zeros(FEATURES, &Device::Cpu);
    let mut alphas = zeros()?;
    alphas.fill(-4.0)?;
    let mut search = Search::new(zeros()?, alphas, config)?;

    // The weights at the first penalties, for comparison.
    for _ in 0..STEPS {
        search.weight_step(&mut Ridge, &train, LEARNING_RATE)?;
    }
    println!("test error, one penalty for all:     {:.3}", test.squared_error(&search.weights().to_vec()?).0);
    for step in 1..=STEPS {
        let report = search.step(&mut Ridge, &train, &valid, LEARNING_RATE)?;
        if step % 1000 == 0 {
            println!("step {step}: training loss {:.3}, validation loss {:.3}", report.train_loss, report.valid_loss);
        }
    }
    println!("test error, a penalty per feature:   {:.3}", test.squared_error(&search.weights().to_vec()?).0);
    let alphas = search.alphas().to_vec()?;
    let mean = |alphas: &[f32]| alphas.iter().sum::<f32>() / alphas.len() as f32;
    println!("mean log penalty, relevant features:   {:+.2}", mean(&alphas[..RELEVANT]));
    println!("mean log penalty, irrelevant features: {:+.2}", mean(&alphas[RELEVANT..]));
    Ok(())
}

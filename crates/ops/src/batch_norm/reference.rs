//! Batch normalization of a whole tensor, written out: the oracle of the tests. Plain loops in f64, never optimized.
//!
//! Axes: P = all pixels (N·H·W), C = channels; tensors are [P, C].

use super::EPS;

/// Output and what the backward pass needs.
pub(super) struct Forward {
    pub(super) u: Vec<f64>,
    pub(super) mean: Vec<f64>,
    pub(super) var: Vec<f64>,
}

/// u = γ·(z − μ)/√(σ² + ε) + β with the statistics of z itself.
pub(super) fn forward(z: &[f64], c: usize, gamma: &[f64], beta: &[f64]) -> Forward {
    let p = z.len() / c;
    let mut out = Forward { u: vec![0.0; z.len()], mean: vec![0.0; c], var: vec![0.0; c] };
    for k in 0..c {
        for i in 0..p {
            out.mean[k] += z[i * c + k] / p as f64;
        }
        for i in 0..p {
            out.var[k] += (z[i * c + k] - out.mean[k]).powi(2) / p as f64;
        }
        for i in 0..p {
            out.u[i * c + k] = gamma[k] * (z[i * c + k] - out.mean[k]) / (out.var[k] + EPS).sqrt() + beta[k];
        }
    }
    out
}

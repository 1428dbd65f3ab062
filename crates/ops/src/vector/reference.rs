//! Plain loops in f64 that the kernels of `cpu` are tested against. Never optimized, never called by a program.

use super::{AdamStep, SgdStep};

/// What became of the weights and of the buffer in one SGD step.
pub(super) fn sgd(w: &[f64], buffer: &[f64], g: &[f64], s: SgdStep) -> (Vec<f64>, Vec<f64>) {
    let mut new_w = Vec::new();
    let mut new_buffer = Vec::new();
    for i in 0..w.len() {
        let b = s.momentum * buffer[i] + s.coefficient * g[i] + s.weight_decay * w[i];
        new_buffer.push(b);
        new_w.push(w[i] - s.learning_rate * b);
    }
    (new_w, new_buffer)
}

/// What became of the weights and of both moments in one Adam step.
pub(super) fn adam(w: &[f64], m: &[f64], v: &[f64], g: &[f64], s: AdamStep) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let t = i32::try_from(s.step).expect("a small step number");
    let (mut new_w, mut new_m, mut new_v) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..w.len() {
        let d = g[i] + s.weight_decay * w[i];
        let m = s.beta1 * m[i] + (1.0 - s.beta1) * d;
        let v = s.beta2 * v[i] + (1.0 - s.beta2) * d * d;
        let m_hat = m / (1.0 - s.beta1.powi(t));
        let v_hat = v / (1.0 - s.beta2.powi(t));
        new_m.push(m);
        new_v.push(v);
        new_w.push(w[i] - s.learning_rate * m_hat / (v_hat.sqrt() + s.epsilon));
    }
    (new_w, new_m, new_v)
}

/// `Σ aᵢ·bᵢ`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

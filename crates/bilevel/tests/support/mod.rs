//! Shared by the tests: a nonlinear bilevel problem small enough to write out, and the whole of Algorithm 1 on it in
//! f64, written from the formulas with none of the crate's code.
//!
//! With matrices X, Z (rows × n), targets y, t, a vector c and the hyperparameters α (n):
//! `L_train = ½‖Xw − y‖² + ½ Σ exp(αᵢ)·wᵢ²`, `L_val = ½‖Zw − t‖² + (ρ/2)‖α − c‖²`.
//! A batch is the pair (first row, number of rows) that the losses are taken over.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use darts_bilevel::{BilevelProblem, Gradients, Pass};
use darts_ops::vector::{Error, Vector};

/// Weight of the direct dependence of `L_val` on α.
pub(crate) const RHO: f64 = 0.3;

/// A batch: first row and number of rows.
pub(crate) type Rows = (usize, usize);

/// The problem, in f64; its f32 face is its [`BilevelProblem`].
#[derive(Debug, Clone)]
pub(crate) struct Ridge {
    pub(crate) n: usize,
    x: Vec<f64>,
    y: Vec<f64>,
    z: Vec<f64>,
    t: Vec<f64>,
    c: Vec<f64>,
    /// Every evaluation so far: pass, batch, which gradients were asked for.
    pub(crate) calls: Vec<(Pass, Rows, bool, bool)>,
    /// Makes the evaluation of this number (from 0) return NaN.
    pub(crate) poisoned: Option<usize>,
}

/// Deterministic numbers in (−1, 1) that f32 holds exactly.
pub(crate) fn numbers(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f64::from(((state >> 40) as f32) / ((1u64 << 23) as f32) - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

impl Ridge {
    pub(crate) fn new(n: usize, rows: usize) -> Self {
        Self {
            n,
            x: numbers(rows * n, 1),
            y: numbers(rows, 2),
            z: numbers(rows * n, 3),
            t: numbers(rows, 4),
            c: numbers(n, 5),
            calls: Vec::new(),
            poisoned: None,
        }
    }

    /// Loss, `∂/∂w` and `∂/∂α` of `L_val` or `L_train`, in f64.
    pub(crate) fn losses(&self, validation: bool, w: &[f64], alpha: &[f64], rows: Rows) -> (f64, Vec<f64>, Vec<f64>) {
        let (matrix, target) = if validation { (&self.z, &self.t) } else { (&self.x, &self.y) };
        let (mut loss, mut dw, mut da) = (0.0, vec![0.0; self.n], vec![0.0; self.n]);
        for r in rows.0..rows.0 + rows.1 {
            let row = &matrix[r * self.n..(r + 1) * self.n];
            let residual = row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>() - target[r];
            loss += 0.5 * residual * residual;
            dw.iter_mut().zip(row).for_each(|(d, a)| *d += residual * a);
        }
        for i in 0..self.n {
            if validation {
                loss += 0.5 * RHO * (alpha[i] - self.c[i]).powi(2);
                da[i] = RHO * (alpha[i] - self.c[i]);
            } else {
                let penalty = alpha[i].exp();
                loss += 0.5 * penalty * w[i] * w[i];
                dw[i] += penalty * w[i];
                da[i] = 0.5 * penalty * w[i] * w[i];
            }
        }
        (loss, dw, da)
    }

    /// `(∂²L_train/∂α∂w)·v`, in closed form: `exp(αᵢ)·wᵢ·vᵢ`.
    pub(crate) fn mixed_product(&self, w: &[f64], alpha: &[f64], v: &[f64]) -> Vec<f64> {
        (0..self.n).map(|i| alpha[i].exp() * w[i] * v[i]).collect()
    }
}

impl BilevelProblem for Ridge {
    type Batch = Rows;
    type Error = Error;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        batch: &Rows,
        gradients: Gradients<'_>,
    ) -> Result<f64, Error> {
        self.calls.push((pass, *batch, gradients.w.is_some(), gradients.alpha.is_some()));
        if self.poisoned == Some(self.calls.len() - 1) {
            return Ok(f64::NAN);
        }
        let (loss, dw, da) = self.losses(pass == Pass::Validation, &wide(w), &wide(alpha), *batch);
        if let Some(out) = gradients.w {
            out.copy_from_slice(&narrow(&dw))?;
        }
        if let Some(out) = gradients.alpha {
            out.copy_from_slice(&narrow(&da))?;
        }
        Ok(loss)
    }
}

/// A vector's elements in f64.
pub(crate) fn wide(v: &Vector) -> Vec<f64> {
    v.to_vec().expect("a CPU vector").into_iter().map(f64::from).collect()
}

/// f64 numbers rounded to f32.
pub(crate) fn narrow(v: &[f64]) -> Vec<f32> {
    v.iter().map(|&v| v as f32).collect()
}

/// The bytes of a vector.
pub(crate) fn bits(v: &Vector) -> Vec<u32> {
    v.to_vec().expect("a CPU vector").iter().map(|v| v.to_bits()).collect()
}

/// Largest difference relative to the largest magnitude expected.
pub(crate) fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
    found.iter().zip(expected).fold(0.0f64, |m, (f, e)| m.max((f - e).abs())) / scale
}

fn norm(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Settings of the f64 computation, under names of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) second_order: bool,
    pub(crate) radius: f64,
    pub(crate) clip_virtual: f64,
    pub(crate) clip_direction: f64,
    pub(crate) clip_weights: f64,
    pub(crate) momentum: f64,
    pub(crate) weight_decay: f64,
    pub(crate) alpha_lr: f64,
    pub(crate) betas: (f64, f64),
    pub(crate) eps: f64,
    pub(crate) alpha_decay: f64,
}

/// State of the f64 computation.
#[derive(Debug, Clone)]
pub(crate) struct HandWritten {
    pub(crate) w: Vec<f64>,
    pub(crate) alpha: Vec<f64>,
    pub(crate) buffer: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    t: i32,
    /// Whether any of virtual step, direction, weight step was clipped so far, and whether any was not.
    pub(crate) clipped: [bool; 3],
    pub(crate) unclipped: [bool; 3],
}

impl HandWritten {
    pub(crate) fn new(w: Vec<f64>, alpha: Vec<f64>) -> Self {
        let (n, k) = (w.len(), alpha.len());
        Self {
            w,
            alpha,
            buffer: vec![0.0; n],
            m: vec![0.0; k],
            v: vec![0.0; k],
            t: 0,
            clipped: [false; 3],
            unclipped: [false; 3],
        }
    }

    fn clip(&mut self, which: usize, norm: f64, limit: f64) -> f64 {
        let coefficient = (limit / (norm + 1e-6)).min(1.0);
        self.clipped[which] |= coefficient < 1.0;
        self.unclipped[which] |= coefficient == 1.0;
        coefficient
    }

    /// One step; returns the α gradient handed to Adam.
    pub(crate) fn step(&mut self, p: &Ridge, rules: &Rules, train: Rows, valid: Rows, lr: f64) -> Vec<f64> {
        let n = self.w.len();
        let gradient = if rules.second_order {
            let (_, g, _) = p.losses(false, &self.w, &self.alpha, train);
            let c = self.clip(0, norm(&g), rules.clip_virtual);
            let virtual_w: Vec<f64> = (0..n)
                .map(|i| self.w[i] - lr * (rules.momentum * self.buffer[i] + c * g[i] + rules.weight_decay * self.w[i]))
                .collect();
            let (_, v, direct) = p.losses(true, &virtual_w, &self.alpha, valid);
            let d = self.clip(1, norm(&v), rules.clip_direction);
            let v: Vec<f64> = v.iter().map(|v| d * v).collect();
            let epsilon = rules.radius / norm(&v);
            let at = |sign: f64| -> Vec<f64> {
                let point: Vec<f64> = (0..n).map(|i| self.w[i] + sign * epsilon * v[i]).collect();
                p.losses(false, &point, &self.alpha, train).2
            };
            let (plus, minus) = (at(1.0), at(-1.0));
            (0..direct.len()).map(|i| direct[i] - lr * c * (plus[i] - minus[i]) / (2.0 * epsilon)).collect()
        } else {
            p.losses(true, &self.w, &self.alpha, valid).2
        };
        self.adam(rules, &gradient);
        let (_, g, _) = p.losses(false, &self.w, &self.alpha, train);
        let c = self.clip(2, norm(&g), rules.clip_weights);
        for (i, g) in g.iter().enumerate() {
            self.buffer[i] = rules.momentum * self.buffer[i] + c * g + rules.weight_decay * self.w[i];
            self.w[i] -= lr * self.buffer[i];
        }
        gradient
    }

    fn adam(&mut self, rules: &Rules, gradient: &[f64]) {
        self.t += 1;
        let (b1, b2) = rules.betas;
        for (i, g) in gradient.iter().enumerate() {
            let d = g + rules.alpha_decay * self.alpha[i];
            self.m[i] = b1 * self.m[i] + (1.0 - b1) * d;
            self.v[i] = b2 * self.v[i] + (1.0 - b2) * d * d;
            let m = self.m[i] / (1.0 - b1.powi(self.t));
            let v = self.v[i] / (1.0 - b2.powi(self.t));
            self.alpha[i] -= rules.alpha_lr * m / (v.sqrt() + rules.eps);
        }
    }
}

//! The kernels of [`super::Vector`] on plain slices: parallel over fixed blocks, written so that the compiler
//! vectorizes them. They move 8 to 24 bytes per element for a handful of operations, so memory bounds them, and a
//! choice of instruction set at run time would change their bits and not their time: there is none.
//!
//! Every output is overwritten or updated in place as its doc says; lengths are equal (the caller has checked).

use rayon::prelude::*;

use super::{AdamStep, BLOCK, SgdStep};

/// Independent f64 sums within a block.
const LANES: usize = 16;

/// Runs a body on matching blocks of slices: those before the semicolon mutable, those after it not. Slices of one
/// block or less stay on this thread.
macro_rules! blocks {
    ([$first:ident $(, $m:ident)*; $($x:ident),*] $body:block) => {
        if $first.len() <= BLOCK {
            $body
        } else {
            ($first.par_chunks_mut(BLOCK), $($m.par_chunks_mut(BLOCK),)* $($x.par_chunks(BLOCK),)*)
                .into_par_iter()
                .for_each(|($first, $($m,)* $($x,)*)| $body)
        }
    };
}

pub(super) fn copy(out: &mut [f32], source: &[f32]) {
    blocks!([out; source] { out.copy_from_slice(source) });
}

pub(super) fn fill(out: &mut [f32], value: f32) {
    blocks!([out;] { out.fill(value) });
}

pub(super) fn scale(out: &mut [f32], factor: f32) {
    blocks!([out;] {
        for o in out.iter_mut() {
            *o *= factor;
        }
    });
}

pub(super) fn axpy(out: &mut [f32], factor: f32, x: &[f32]) {
    blocks!([out; x] {
        for (o, &x) in out.iter_mut().zip(x) {
            *o += factor * x;
        }
    });
}

pub(super) fn add_scaled_difference(out: &mut [f32], factor: f32, x: &[f32], y: &[f32]) {
    blocks!([out; x, y] {
        for ((o, &x), &y) in out.iter_mut().zip(x).zip(y) {
            *o += factor * (x - y);
        }
    });
}

pub(super) fn perturb(out: &mut [f32], point: &[f32], factor: f32, direction: &[f32]) {
    blocks!([out; point, direction] {
        for ((o, &p), &d) in out.iter_mut().zip(point).zip(direction) {
            *o = p + factor * d;
        }
    });
}

pub(super) fn average(out: &mut [f32], rate: f32, value: &[f32]) {
    blocks!([out; value] {
        for (o, &v) in out.iter_mut().zip(value) {
            *o += rate * (v - *o);
        }
    });
}

/// An [`SgdStep`] in the precision of the kernels.
struct Sgd {
    momentum: f32,
    coefficient: f32,
    weight_decay: f32,
    learning_rate: f32,
}

impl From<SgdStep> for Sgd {
    fn from(step: SgdStep) -> Self {
        Self {
            momentum: step.momentum as f32,
            coefficient: step.coefficient as f32,
            weight_decay: step.weight_decay as f32,
            learning_rate: step.learning_rate as f32,
        }
    }
}

pub(super) fn sgd_momentum(w: &mut [f32], buffer: &mut [f32], g: &[f32], step: SgdStep) {
    let s = Sgd::from(step);
    blocks!([w, buffer; g] {
        for ((w, b), &g) in w.iter_mut().zip(buffer.iter_mut()).zip(g) {
            *b = s.momentum * *b + (s.coefficient * g + s.weight_decay * *w);
            *w -= s.learning_rate * *b;
        }
    });
}

pub(super) fn sgd(w: &mut [f32], g: &[f32], step: SgdStep) {
    let s = Sgd::from(step);
    blocks!([w; g] {
        for (w, &g) in w.iter_mut().zip(g) {
            *w -= s.learning_rate * (s.coefficient * g + s.weight_decay * *w);
        }
    });
}

pub(super) fn virtual_step(out: &mut [f32], w: &[f32], buffer: Option<&[f32]>, g: &[f32], step: SgdStep) {
    let s = Sgd::from(step);
    match buffer {
        Some(buffer) => blocks!([out; w, buffer, g] {
            for (((o, &w), &b), &g) in out.iter_mut().zip(w).zip(buffer).zip(g) {
                *o = w - s.learning_rate * (s.momentum * b + (s.coefficient * g + s.weight_decay * w));
            }
        }),
        None => blocks!([out; w, g] {
            for ((o, &w), &g) in out.iter_mut().zip(w).zip(g) {
                *o = w - s.learning_rate * (s.coefficient * g + s.weight_decay * w);
            }
        }),
    }
}

pub(super) fn adam(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: AdamStep) {
    let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
    let rate = (step.learning_rate / correction(step.beta1)) as f32;
    let root = (1.0 / correction(step.beta2).sqrt()) as f32;
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (gain1, gain2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let (epsilon, weight_decay) = (step.epsilon as f32, step.weight_decay as f32);
    blocks!([w, m, v; g] {
        for (((w, m), v), &g) in w.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(g) {
            let d = g + weight_decay * *w;
            *m = beta1 * *m + gain1 * d;
            *v = beta2 * *v + gain2 * (d * d);
            *w -= rate * (*m / (v.sqrt() * root + epsilon));
        }
    });
}

/// `Σ aᵢ·bᵢ` in f64: a partial sum for each block of [`BLOCK`] elements, added up in order.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    if a.len() <= BLOCK {
        return block_dot(a, b);
    }
    let partial: Vec<f64> = a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK)).map(|(a, b)| block_dot(a, b)).collect();
    partial.iter().sum()
}

fn block_dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_body.iter().zip(b_body) {
        for i in 0..LANES {
            lanes[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    let tail: f64 = a_tail.iter().zip(b_tail).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    lanes.iter().sum::<f64>() + tail
}

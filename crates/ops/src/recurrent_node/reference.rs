//! The node in plain loops and f64, as the formula of the module says it. Never optimized.

use super::{Function, Mix, NodeShape};
use crate::batch_norm::EPS;

/// An incoming edge; gates `[B, 2H]`.
#[derive(Clone)]
pub(super) struct Edge {
    pub(super) state: Vec<f64>,
    pub(super) gates: Vec<f64>,
    pub(super) mix: Mix,
}

/// Mean and variance that a batch norm uses.
#[derive(Clone)]
pub(super) enum Normalization {
    None,
    Batch,
    Running { mean: Vec<f64>, variance: Vec<f64> },
}

/// Gradients with respect to the edges' states and gates, and to the weights of every mixture.
pub(super) struct Gradients {
    pub(super) states: Vec<Vec<f64>>,
    pub(super) gates: Vec<Vec<f64>>,
    pub(super) mixes: Vec<[f64; 4]>,
}

const FUNCTIONS: [Function; 4] = [Function::Tanh, Function::Relu, Function::Sigmoid, Function::Identity];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn value(function: Function, x: f64) -> f64 {
    match function {
        Function::Tanh => x.tanh(),
        Function::Relu => x.max(0.0),
        Function::Sigmoid => sigmoid(x),
        Function::Identity => x,
    }
}

fn slope(function: Function, x: f64) -> f64 {
    match function {
        Function::Tanh => 1.0 - x.tanh().powi(2),
        Function::Relu => f64::from(x > 0.0),
        Function::Sigmoid => sigmoid(x) * (1.0 - sigmoid(x)),
        Function::Identity => 1.0,
    }
}

fn weights(mix: Mix) -> [f64; 4] {
    match mix {
        Mix::One(function) => FUNCTIONS.map(|other| f64::from(other == function)),
        Mix::Sum(weights) => weights.map(f64::from),
    }
}

/// Mean and variance by column, or 0 and 1 − ε where there is no norm.
fn statistics(shape: NodeShape, u: &[f64], normalization: &Normalization) -> (Vec<f64>, Vec<f64>) {
    let NodeShape { batch, hidden } = shape;
    match normalization {
        Normalization::None => (vec![0.0; hidden], vec![1.0 - EPS; hidden]),
        Normalization::Running { mean, variance } => (mean.clone(), variance.clone()),
        Normalization::Batch => {
            let column = |i: usize| (0..batch).map(move |b| u[b * hidden + i]);
            let mean: Vec<f64> = (0..hidden).map(|i| column(i).sum::<f64>() / batch as f64).collect();
            let variance =
                (0..hidden).map(|i| column(i).map(|u| (u - mean[i]).powi(2)).sum::<f64>() / batch as f64).collect();
            (mean, variance)
        }
    }
}

/// The node's state, and the mean and variance that it was normalized with.
pub(super) fn forward(
    shape: NodeShape,
    edges: &[Edge],
    normalization: &Normalization,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let NodeShape { batch, hidden } = shape;
    let mut u = vec![0.0; shape.len()];
    for edge in edges {
        for b in 0..batch {
            for i in 0..hidden {
                let (c, h) = (edge.gates[2 * b * hidden + i], edge.gates[(2 * b + 1) * hidden + i]);
                let s = edge.state[b * hidden + i];
                for (function, w) in FUNCTIONS.into_iter().zip(weights(edge.mix)) {
                    u[b * hidden + i] += w * (s + sigmoid(c) * (value(function, h) - s));
                }
            }
        }
    }
    let (mean, variance) = statistics(shape, &u, normalization);
    let normalized = |(index, u): (usize, &f64)| (u - mean[index % hidden]) / (variance[index % hidden] + EPS).sqrt();
    let node = u.iter().enumerate().map(normalized).collect();
    (node, mean, variance)
}

/// Gradients of Σ node·d_node.
pub(super) fn backward(shape: NodeShape, edges: &[Edge], d_node: &[f64], normalization: &Normalization) -> Gradients {
    let NodeShape { batch, hidden } = shape;
    let (node, _, variance) = forward(shape, edges, normalization);
    let mut du = vec![0.0; shape.len()];
    for (i, variance) in variance.iter().enumerate() {
        let column = |b: usize| b * hidden + i;
        let (mut mean, mut product) = (0.0, 0.0);
        if matches!(normalization, Normalization::Batch) {
            mean = (0..batch).map(|b| d_node[column(b)]).sum::<f64>() / batch as f64;
            product = (0..batch).map(|b| d_node[column(b)] * node[column(b)]).sum::<f64>() / batch as f64;
        }
        for b in 0..batch {
            let centred = d_node[column(b)] - mean - node[column(b)] * product;
            du[column(b)] = centred / (variance + EPS).sqrt();
        }
    }
    let mut gradients = Gradients { states: vec![], gates: vec![], mixes: vec![] };
    for edge in edges {
        let (mut d_state, mut d_gates, mut d_mix) = (vec![0.0; shape.len()], vec![0.0; 2 * shape.len()], [0.0; 4]);
        for b in 0..batch {
            for i in 0..hidden {
                let (at_c, at_h, at) = (2 * b * hidden + i, (2 * b + 1) * hidden + i, b * hidden + i);
                let (c, h, s, g) = (edge.gates[at_c], edge.gates[at_h], edge.state[at], du[at]);
                let gate = sigmoid(c);
                for (k, (function, w)) in FUNCTIONS.into_iter().zip(weights(edge.mix)).enumerate() {
                    d_state[at] += g * w * (1.0 - gate);
                    d_gates[at_c] += g * w * (value(function, h) - s) * gate * (1.0 - gate);
                    d_gates[at_h] += g * w * gate * slope(function, h);
                    d_mix[k] += g * (s + gate * (value(function, h) - s));
                }
            }
        }
        gradients.states.push(d_state);
        gradients.gates.push(d_gates);
        gradients.mixes.push(d_mix);
    }
    gradients
}

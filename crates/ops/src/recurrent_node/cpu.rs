//! The node on the CPU. A task is a block of up to 32 columns with all rows: batch statistics then need no other task, the
//! sums over rows have one order, and a block's rows stay in the first-level cache from the mixture to the batch norm.

use super::{Edge, EdgeBackward, Function, Mix, NodeShape, Normalization, NormalizationBackward};
use crate::{
    ahead::ask_for,
    batch_norm::{EPS, MOMENTUM},
    elementary::{mul_add, sigmoid, tanh},
    shared::Shared,
    simd::{InstructionSet, Kernel, Lanes},
};
use rayon::prelude::*;
use std::ops::Range;

/// Columns of a task.
const BLOCK: usize = 32;
/// Rows whose α gradient is added up in f32 before it goes to f64.
const ROWS: usize = 16;

/// Sums over a block's columns.
type Columns = [f64; BLOCK];

fn blocks(hidden: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let block = move |index| index * BLOCK..hidden.min((index + 1) * BLOCK);
    (0..hidden.div_ceil(BLOCK)).into_par_iter().map(block)
}

/// What a batch norm reads and writes, shared by the tasks.
enum Statistics<'a> {
    None,
    Batch { rstd: Shared<'a, f32>, running: Option<(Shared<'a, f32>, Shared<'a, f32>)> },
    Running { mean: &'a [f32], variance: &'a [f32], rstd: Shared<'a, f32> },
}

pub(super) fn forward(
    set: InstructionSet,
    shape: NodeShape,
    edges: &[Edge],
    node: &mut [f32],
    normalization: Normalization,
) {
    let node = Shared::new(node);
    let statistics = match normalization {
        Normalization::None => Statistics::None,
        Normalization::Batch { rstd, running } => Statistics::Batch {
            rstd: Shared::new(rstd),
            running: running.map(|(mean, variance)| (Shared::new(mean), Shared::new(variance))),
        },
        Normalization::Running { mean, variance, rstd } => {
            Statistics::Running { mean, variance, rstd: Shared::new(rstd) }
        }
    };
    blocks(shape.hidden).for_each(|columns| {
        set.run(ForwardBlock { shape, columns, edges, node, statistics: &statistics });
    });
}

struct ForwardBlock<'a> {
    shape: NodeShape,
    columns: Range<usize>,
    edges: &'a [Edge<'a>],
    node: Shared<'a, f32>,
    statistics: &'a Statistics<'a>,
}

impl Kernel for ForwardBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let NodeShape { batch, hidden } = self.shape;
        let columns = self.columns.clone();
        let row = |b: usize| b * hidden + columns.start..b * hidden + columns.end;
        for b in 0..batch {
            // SAFETY: tasks have disjoint columns, so no other task holds this part of the row.
            let out = unsafe { self.node.part(row(b)) };
            for (e, edge) in self.edges.iter().enumerate() {
                let gate = &edge.gates[b * edge.stride..];
                let gates = (&gate[columns.clone()], &gate[hidden + columns.start..hidden + columns.end]);
                let state = &edge.state[row(b)];
                if b + 1 < batch {
                    // Rows of gates are far apart: no stream that the machine would run ahead of.
                    let gate = &edge.gates[(b + 1) * edge.stride..];
                    ask_for(&gate[columns.clone()]);
                    ask_for(&gate[hidden + columns.start..hidden + columns.end]);
                    ask_for(&edge.state[row(b + 1)]);
                }
                if e == 0 {
                    edge_forward::<L, true>(edge.mix, state, gates, out);
                } else {
                    edge_forward::<L, false>(edge.mix, state, gates, out);
                }
            }
        }
        self.normalize();
    }
}

/// out (+)= W·s + σ(c)·(m(h) − W·s) along a row.
#[inline(always)]
fn edge_forward<L: Lanes, const FIRST: bool>(mix: Mix, s: &[f32], (c, h): (&[f32], &[f32]), out: &mut [f32]) {
    match mix {
        Mix::One(Function::Tanh) => highway::<L, FIRST>(1.0, s, (c, h), out, tanh::<L>),
        Mix::One(Function::Relu) => highway::<L, FIRST>(1.0, s, (c, h), out, relu),
        Mix::One(Function::Sigmoid) => highway::<L, FIRST>(1.0, s, (c, h), out, sigmoid::<L>),
        Mix::One(Function::Identity) => highway::<L, FIRST>(1.0, s, (c, h), out, |h| h),
        Mix::Sum(w) => {
            let total = w[0] + w[1] + w[2] + w[3];
            highway::<L, FIRST>(total, s, (c, h), out, |h| {
                let m = w[3] * h;
                let m = mul_add::<L>(w[2], sigmoid::<L>(h), m);
                let m = mul_add::<L>(w[1], relu(h), m);
                mul_add::<L>(w[0], tanh::<L>(h), m)
            });
        }
    }
}

#[inline(always)]
fn relu(h: f32) -> f32 {
    // Keeps NaN, which `max` would turn into 0.
    if h < 0.0 { 0.0 } else { h }
}

#[inline(always)]
fn highway<L: Lanes, const FIRST: bool>(
    total: f32,
    s: &[f32],
    (c, h): (&[f32], &[f32]),
    out: &mut [f32],
    mixture: impl Fn(f32) -> f32,
) {
    let n = out.len();
    let (s, c, h) = (&s[..n], &c[..n], &h[..n]);
    for i in 0..n {
        let carried = total * s[i];
        let value = mul_add::<L>(sigmoid::<L>(c[i]), mixture(h[i]) - carried, carried);
        out[i] = if FIRST { value } else { out[i] + value };
    }
}

impl ForwardBlock<'_> {
    /// Batch norm of the block's columns, in place.
    #[inline(always)]
    fn normalize(&self) {
        let NodeShape { batch, hidden } = self.shape;
        let columns = self.columns.clone();
        let width = columns.len();
        let row = |b: usize| b * hidden + columns.start..b * hidden + columns.end;
        let (mut mean, mut scale) = ([0f32; BLOCK], [0f32; BLOCK]);
        match self.statistics {
            Statistics::None => return,
            Statistics::Batch { rstd, running } => {
                let (mut sum, mut squares): (Columns, Columns) = ([0.0; BLOCK], [0.0; BLOCK]);
                for b in 0..batch {
                    // SAFETY: tasks have disjoint columns, so no other task holds this part of the row.
                    let values = unsafe { self.node.part(row(b)) };
                    for (sum, &value) in sum.iter_mut().zip(&*values) {
                        *sum += f64::from(value);
                    }
                }
                let count = batch as f64;
                sum.iter_mut().for_each(|sum| *sum /= count);
                for b in 0..batch {
                    // SAFETY: as above.
                    let values = unsafe { self.node.part(row(b)) };
                    for ((squares, &mean), &value) in squares.iter_mut().zip(&sum).zip(&*values) {
                        *squares += (f64::from(value) - mean).powi(2);
                    }
                }
                // SAFETY: tasks have disjoint columns.
                let rstd = unsafe { rstd.part(columns.clone()) };
                for i in 0..width {
                    mean[i] = sum[i] as f32;
                    scale[i] = (1.0 / (squares[i] / count + EPS).sqrt()) as f32;
                    rstd[i] = scale[i];
                }
                if let Some((running_mean, running_variance)) = running {
                    // SAFETY: tasks have disjoint columns.
                    let (means, variances) =
                        unsafe { (running_mean.part(columns.clone()), running_variance.part(columns.clone())) };
                    let blend = |old: f32, new: f64| ((1.0 - MOMENTUM) * f64::from(old) + MOMENTUM * new) as f32;
                    for i in 0..width {
                        means[i] = blend(means[i], sum[i]);
                        variances[i] = blend(variances[i], squares[i] / (count - 1.0));
                    }
                }
            }
            Statistics::Running { mean: given, variance, rstd } => {
                // SAFETY: tasks have disjoint columns.
                let rstd = unsafe { rstd.part(columns.clone()) };
                mean[..width].copy_from_slice(&given[columns.clone()]);
                for (i, &variance) in variance[columns.clone()].iter().enumerate() {
                    scale[i] = (1.0 / (f64::from(variance) + EPS).sqrt()) as f32;
                    rstd[i] = scale[i];
                }
            }
        }
        for b in 0..batch {
            // SAFETY: tasks have disjoint columns, so no other task holds this part of the row.
            let values = unsafe { self.node.part(row(b)) };
            for ((value, mean), scale) in values.iter_mut().zip(mean).zip(scale) {
                *value = (*value - mean) * scale;
            }
        }
    }
}

/// An edge's buffers, shared by the tasks.
struct SharedEdge<'a> {
    state: &'a [f32],
    d_state: Shared<'a, f32>,
    gates: Shared<'a, f32>,
    stride: usize,
    mix: Mix,
    wants_mix: bool,
}

pub(super) fn backward(
    set: InstructionSet,
    shape: NodeShape,
    edges: &mut [EdgeBackward],
    node: &[f32],
    d_node: &mut [f32],
    normalization: NormalizationBackward,
) {
    let (mut shared, mut d_mixes) = (Vec::with_capacity(edges.len()), Vec::with_capacity(edges.len()));
    for edge in edges {
        shared.push(SharedEdge {
            state: edge.state,
            d_state: Shared::new(edge.d_state),
            gates: Shared::new(edge.gates),
            stride: edge.stride,
            mix: edge.mix,
            wants_mix: edge.d_mix.is_some(),
        });
        d_mixes.push(&mut edge.d_mix);
    }
    let d_node = Shared::new(d_node);
    let partial: Vec<Vec<[f64; 4]>> = blocks(shape.hidden)
        .map(|columns| set.run(BackwardBlock { shape, columns, edges: &shared, node, d_node, normalization }))
        .collect();
    for (e, d_mix) in d_mixes.into_iter().enumerate() {
        if let Some(d_mix) = d_mix {
            for block in &partial {
                d_mix.iter_mut().zip(block[e]).for_each(|(sum, term)| *sum += term);
            }
        }
    }
}

struct BackwardBlock<'a> {
    shape: NodeShape,
    columns: Range<usize>,
    edges: &'a [SharedEdge<'a>],
    node: &'a [f32],
    d_node: Shared<'a, f32>,
    normalization: NormalizationBackward<'a>,
}

impl Kernel for BackwardBlock<'_> {
    type Output = Vec<[f64; 4]>;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> Vec<[f64; 4]> {
        self.denormalize();
        let NodeShape { batch, hidden } = self.shape;
        let (first, width) = (self.columns.start, self.columns.len());
        let mut d_mixes = vec![[0.0; 4]; self.edges.len()];
        for start in (0..batch).step_by(ROWS) {
            for (edge, d_mix) in self.edges.iter().zip(&mut d_mixes) {
                let mut sums = [[0f32; BLOCK]; 5];
                for b in start..batch.min(start + ROWS) {
                    let row = b * hidden + first..b * hidden + first + width;
                    let gates = b * edge.stride + first;
                    // SAFETY: tasks have disjoint columns; c and h of a row lie `hidden` apart, which is at least `width`; and no two edges of a
                    // node share gates or gradients, since each is an exclusive slice of its own.
                    let (g, d_state, c, h) = unsafe {
                        (
                            &*self.d_node.part(row.clone()),
                            edge.d_state.part(row.clone()),
                            edge.gates.part(gates..gates + width),
                            edge.gates.part(gates + hidden..gates + hidden + width),
                        )
                    };
                    if b + 1 < batch {
                        let (next, gates) = (row.start + hidden..row.end + hidden, gates + edge.stride);
                        ask_for(&edge.state[next.clone()]);
                        ask_for(edge.d_state.run(next));
                        ask_for(edge.gates.run(gates..gates + width));
                        ask_for(edge.gates.run(gates + hidden..gates + hidden + width));
                    }
                    let row = Row { g, s: &edge.state[row], c, h, d_state };
                    edge_backward::<L>(edge.mix, edge.wants_mix, row, &mut sums);
                }
                if edge.wants_mix {
                    let total = |sum: &[f32; BLOCK]| sum.iter().map(|&value| f64::from(value)).sum::<f64>();
                    let carried = total(&sums[4]);
                    for (d_mix, sum) in d_mix.iter_mut().zip(&sums) {
                        *d_mix += carried + total(sum);
                    }
                }
            }
        }
        d_mixes
    }
}

/// A piece of a row of one edge: g = du, the state, the gates (overwritten with their gradients), the state's gradient.
struct Row<'a> {
    g: &'a [f32],
    s: &'a [f32],
    c: &'a mut [f32],
    h: &'a mut [f32],
    d_state: &'a mut [f32],
}

#[inline(always)]
fn edge_backward<L: Lanes>(mix: Mix, wants_mix: bool, row: Row, sums: &mut [[f32; BLOCK]; 5]) {
    match mix {
        Mix::One(Function::Tanh) => highway_backward::<L>(row, |h| {
            let t = tanh::<L>(h);
            (t, mul_add::<L>(-t, t, 1.0))
        }),
        Mix::One(Function::Relu) => highway_backward::<L>(row, |h| (relu(h), if h > 0.0 { 1.0 } else { 0.0 })),
        Mix::One(Function::Sigmoid) => highway_backward::<L>(row, |h| {
            let q = sigmoid::<L>(h);
            (q, q * (1.0 - q))
        }),
        Mix::One(Function::Identity) => highway_backward::<L>(row, |h| (h, 1.0)),
        Mix::Sum(w) if wants_mix => mixture_backward::<L, true>(w, row, sums),
        Mix::Sum(w) => mixture_backward::<L, false>(w, row, sums),
    }
}

/// The edge of one activation; `function` gives f and f′.
#[inline(always)]
fn highway_backward<L: Lanes>(row: Row, function: impl Fn(f32) -> (f32, f32)) {
    let n = row.g.len();
    let (g, s, c, h, d_state) = (row.g, &row.s[..n], &mut row.c[..n], &mut row.h[..n], &mut row.d_state[..n]);
    for i in 0..n {
        let gate = sigmoid::<L>(c[i]);
        let (value, slope) = function(h[i]);
        let kept = 1.0 - gate;
        let through = g[i] * gate;
        d_state[i] = mul_add::<L>(g[i], kept, d_state[i]);
        c[i] = through * kept * (value - s[i]);
        h[i] = through * slope;
    }
}

/// The edge of a mixture. `sums`: g·σ(c)·f_k(h) of the four activations, then g·s·(1 − σ(c)), by column, accumulated.
#[inline(always)]
fn mixture_backward<L: Lanes, const WANTS_MIX: bool>(w: [f32; 4], row: Row, sums: &mut [[f32; BLOCK]; 5]) {
    let n = row.g.len().min(BLOCK);
    let (g, s, c, h, d_state) = (&row.g[..n], &row.s[..n], &mut row.c[..n], &mut row.h[..n], &mut row.d_state[..n]);
    let total = w[0] + w[1] + w[2] + w[3];
    let [sum_tanh, sum_relu, sum_sigmoid, sum_identity, sum_carried] = sums;
    for i in 0..n {
        let gate = sigmoid::<L>(c[i]);
        let x = h[i];
        let (t, r, q) = (tanh::<L>(x), relu(x), sigmoid::<L>(x));
        let m = w[3] * x;
        let m = mul_add::<L>(w[2], q, m);
        let m = mul_add::<L>(w[1], r, m);
        let m = mul_add::<L>(w[0], t, m);
        let slope = w[3] + if x > 0.0 { w[1] } else { 0.0 };
        let slope = mul_add::<L>(w[2], q * (1.0 - q), slope);
        let slope = mul_add::<L>(w[0], mul_add::<L>(-t, t, 1.0), slope);
        let kept = 1.0 - gate;
        let through = g[i] * gate;
        let held = g[i] * kept;
        if WANTS_MIX {
            sum_tanh[i] = mul_add::<L>(through, t, sum_tanh[i]);
            sum_relu[i] = mul_add::<L>(through, r, sum_relu[i]);
            sum_sigmoid[i] = mul_add::<L>(through, q, sum_sigmoid[i]);
            sum_identity[i] = mul_add::<L>(through, x, sum_identity[i]);
            sum_carried[i] = mul_add::<L>(held, s[i], sum_carried[i]);
        }
        d_state[i] = mul_add::<L>(held, total, d_state[i]);
        c[i] = through * kept * mul_add::<L>(-total, s[i], m);
        h[i] = through * slope;
    }
}

impl BackwardBlock<'_> {
    /// du from ds for the block's columns, in place: rstd·(g − mean g − s·mean(g·s)).
    #[inline(always)]
    fn denormalize(&self) {
        let NodeShape { batch, hidden } = self.shape;
        let columns = self.columns.clone();
        let row = |b: usize| b * hidden + columns.start..b * hidden + columns.end;
        let (rstd, batch_statistics) = match self.normalization {
            NormalizationBackward::None => return,
            NormalizationBackward::Batch { rstd } => (rstd, true),
            NormalizationBackward::Running { rstd } => (rstd, false),
        };
        let (mut mean, mut slope) = ([0f32; BLOCK], [0f32; BLOCK]);
        if batch_statistics {
            let (mut sum, mut product): (Columns, Columns) = ([0.0; BLOCK], [0.0; BLOCK]);
            for b in 0..batch {
                // SAFETY: tasks have disjoint columns, so no other task holds this part of the row.
                let g = unsafe { &*self.d_node.part(row(b)) };
                for (((sum, product), &g), &s) in sum.iter_mut().zip(&mut product).zip(g).zip(&self.node[row(b)]) {
                    *sum += f64::from(g);
                    *product += f64::from(g) * f64::from(s);
                }
            }
            for i in 0..columns.len() {
                mean[i] = (sum[i] / batch as f64) as f32;
                slope[i] = (product[i] / batch as f64) as f32;
            }
        }
        let rstd = &rstd[columns.clone()];
        for b in 0..batch {
            // SAFETY: tasks have disjoint columns, so no other task holds this part of the row.
            let g = unsafe { self.d_node.part(row(b)) };
            let s = &self.node[row(b)];
            for i in 0..columns.len() {
                g[i] = rstd[i] * (g[i] - mean[i] - s[i] * slope[i]);
            }
        }
    }
}

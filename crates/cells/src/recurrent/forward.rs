//! The pass through time, forwards.

use darts_ops::{
    embedding::{self, Lookup},
    images::Write,
    matmul::{Matrix, MatrixMut, multiply, multiply_packed},
    recurrent_node::{self, Edge, Function, Mix, NodeShape, Normalization},
};
use rayon::prelude::*;

use super::{
    Input, Mode, RecurrentNetwork, Statistics, Workspace,
    cell::{Choice, Incoming},
};

/// Floats of a task of an elementwise pass.
const PIECE: usize = 1 << 14;

/// out = values·mask, the mask repeated as often as it takes.
pub(super) fn apply_mask(values: &[f32], mask: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(mask.len()).zip(values.par_chunks(mask.len())).for_each(|(out, values)| {
        for ((out, value), mask) in out.iter_mut().zip(values).zip(mask) {
            *out = value * mask;
        }
    });
}

/// A product's left factor: `values` under the mask, in `buffer` where there is one.
pub(super) fn under_mask<'a>(values: &'a [f32], mask: Option<&[f32]>, buffer: &'a mut [f32]) -> &'a [f32] {
    match mask {
        Some(mask) => {
            let buffer = &mut buffer[..values.len()];
            apply_mask(values, mask, buffer);
            buffer
        }
        None => values,
    }
}

/// What an edge makes of its h.
pub(super) fn mix(incoming: &Incoming, mixes: &[[f32; 4]]) -> Mix {
    match incoming.choice {
        Choice::Mixed { row } => Mix::Sum(mixes[row]),
        Choice::One(function) => Mix::One(function),
    }
}

/// The position of a function in a [`Mix::Sum`].
pub(super) fn position(function: Function) -> usize {
    match function {
        Function::Tanh => 0,
        Function::Relu => 1,
        Function::Sigmoid => 2,
        Function::Identity => 3,
    }
}

impl RecurrentNetwork {
    /// All time steps; the arguments have been checked.
    pub(super) fn run_forward(&self, ws: &mut Workspace, input: &Input, statistics: &mut Statistics) {
        let hidden = self.config.hidden;
        let rows = input.tokens.len();
        let (steps, state) = (rows / input.batch, input.batch * hidden);
        ws.last = (steps, input.batch);
        ws.batch_statistics = matches!(statistics, Statistics::Batch { .. });
        self.gather(ws, input);

        let locked: Vec<&[f32]> = [input.masks.embedding_locked, input.masks.x].into_iter().flatten().collect();
        let lookup = self.lookup(input, &locked);
        let x = &mut ws.x[..rows * hidden];
        embedding::forward(&input.theta[self.places.encoder.clone()], &lookup, x);
        let w0 = &input.theta[self.places.w0.clone()];
        let gates = MatrixMut::new(&mut ws.gates0, rows, 2 * hidden);
        multiply(Matrix::new(x, rows, hidden), Matrix::new(w0, hidden, 2 * hidden), gates, Write::Overwrite);

        ws.raw[..state].copy_from_slice(input.hidden);
        for step in 0..steps {
            self.first_state(ws, input, statistics, step);
            self.product(ws, input, 0, step);
            for node in 1..=self.cell.nodes() {
                self.node(ws, input, statistics, node, step);
                self.product(ws, input, node, step);
            }
            self.mean(ws, input, step);
        }
        let raw = &ws.raw[state..][..rows * hidden];
        let output = &mut ws.output[..rows * hidden];
        match input.masks.output_locked {
            Some(mask) => apply_mask(raw, mask, output),
            None => output.copy_from_slice(raw),
        }
    }

    /// The embedding's words and masks.
    pub(super) fn lookup<'a>(&self, input: &Input<'a>, locked: &'a [&'a [f32]]) -> Lookup<'a> {
        let rows = input.masks.embedding_rows;
        Lookup { tokens: input.tokens, batch: input.batch, hidden: self.config.hidden, rows, locked }
    }

    /// Lays out the matrices that meet every time step and sorts the operation weights by function.
    fn gather(&self, ws: &mut Workspace, input: &Input) {
        let (hidden, wide) = (self.config.hidden, 2 * self.config.hidden);
        let packed = &mut ws.packed;
        let h = Matrix::new(&input.theta[self.places.w0.clone()][wide * hidden..], hidden, wide);
        packed.h.pack(0, 0, h);
        if ws.mode == Mode::Training {
            packed.h_transposed.pack(0, 0, h.transposed());
        }
        for (block, &node) in self.cell.order.iter().enumerate() {
            let matrix = Matrix::new(&input.theta[self.places.nodes[node - 1].clone()], hidden, wide);
            packed.nodes.pack(block, 0, matrix);
            if ws.mode == Mode::Training {
                packed.nodes_transposed.pack(0, block * wide, matrix.transposed());
            }
        }
        let columns = &self.cell.columns;
        for (mix, weights) in ws.mixes.iter_mut().zip(input.weights.chunks_exact(columns.len().max(1))) {
            *mix = [0.0; 4];
            for (&function, &weight) in columns.iter().zip(weights) {
                if let Some(function) = function {
                    mix[position(function)] = weight;
                }
            }
        }
    }

    fn shape(&self, input: &Input) -> NodeShape {
        NodeShape { batch: input.batch, hidden: self.config.hidden }
    }

    /// s₀ from the hidden state: the product with the input's half of W₀ stands in `gates0` already.
    fn first_state(&self, ws: &mut Workspace, input: &Input, statistics: &mut Statistics, step: usize) {
        let (batch, hidden) = (input.batch, self.config.hidden);
        let state = batch * hidden;
        let kept = ws.kept(step);
        let h = &ws.raw[step * state..(step + 1) * state];
        let gates = &mut ws.gates0[2 * step * state..2 * (step + 1) * state];
        multiply_packed(
            Matrix::new(under_mask(h, input.masks.h, &mut ws.masked), batch, hidden),
            &ws.packed.h,
            0..hidden,
            0..1,
            MatrixMut::new(gates, batch, 2 * hidden),
            Write::Accumulate,
        );
        let edge = Edge { state: h, gates, stride: 2 * hidden, mix: Mix::One(Function::Tanh) };
        let out = &mut ws.states[0][kept * state..(kept + 1) * state];
        let rstd = self.rstd_range(ws.mode, ws.steps, 0, kept);
        let normalization = self.normalization(statistics, &mut ws.rstd[rstd]);
        recurrent_node::forward(self.shape(input), &[edge], out, normalization);
    }

    /// A node from the states before it.
    fn node(&self, ws: &mut Workspace, input: &Input, statistics: &mut Statistics, node: usize, step: usize) {
        let hidden = self.config.hidden;
        let state = input.batch * hidden;
        let kept = ws.kept(step);
        let here = kept * state..(kept + 1) * state;
        let (before, rest) = ws.states.split_at_mut(node);
        let edges: Vec<Edge> = self.cell.incoming[node - 1]
            .iter()
            .map(|incoming| {
                let stride = self.cell.groups[incoming.source].len() * 2 * hidden;
                let start = kept * input.batch * stride + incoming.block * 2 * hidden;
                let end = (kept + 1) * input.batch * stride;
                Edge {
                    state: &before[incoming.source][here.clone()],
                    gates: &ws.gates[incoming.source][start..end],
                    stride,
                    mix: mix(incoming, &ws.mixes),
                }
            })
            .collect();
        let rstd = self.rstd_range(ws.mode, ws.steps, node, kept);
        let normalization = self.normalization(statistics, &mut ws.rstd[rstd]);
        recurrent_node::forward(self.shape(input), &edges, &mut rest[0][here.clone()], normalization);
    }

    /// The product of a state with the matrices of all nodes that it feeds.
    fn product(&self, ws: &mut Workspace, input: &Input, from: usize, step: usize) {
        let (batch, hidden) = (input.batch, self.config.hidden);
        let group = &self.cell.groups[from];
        if group.is_empty() {
            return;
        }
        let kept = ws.kept(step);
        let columns = group.len() * 2 * hidden;
        let s = &ws.states[from][kept * batch * hidden..(kept + 1) * batch * hidden];
        multiply_packed(
            Matrix::new(under_mask(s, input.masks.h, &mut ws.masked), batch, hidden),
            &ws.packed.nodes,
            0..hidden,
            group.clone(),
            MatrixMut::new(&mut ws.gates[from][kept * batch * columns..], batch, columns),
            Write::Overwrite,
        );
    }

    /// The next hidden state: the mean of the concat nodes.
    fn mean(&self, ws: &mut Workspace, input: &Input, step: usize) {
        let state = input.batch * self.config.hidden;
        let kept = ws.kept(step);
        let factor = 1.0 / self.cell.concat.len() as f32;
        let parts: Vec<&[f32]> =
            self.cell.concat.iter().map(|&node| &ws.states[node][kept * state..(kept + 1) * state]).collect();
        let next = &mut ws.raw[(step + 1) * state..(step + 2) * state];
        next.par_chunks_mut(PIECE).enumerate().for_each(|(piece, next)| {
            let start = piece * PIECE;
            next.fill(0.0);
            for part in &parts {
                next.iter_mut().zip(&part[start..]).for_each(|(sum, value)| *sum += value);
            }
            next.iter_mut().for_each(|value| *value *= factor);
        });
    }

    /// Where 1/σ of one batch norm stands; empty where there is none.
    pub(super) fn rstd_range(&self, mode: Mode, steps: usize, state: usize, kept: usize) -> std::ops::Range<usize> {
        if !self.cell.normalized {
            return 0..0;
        }
        let steps = if mode == Mode::Training { steps } else { 1 };
        let start = (state * steps + kept) * self.config.hidden;
        start..start + self.config.hidden
    }

    fn normalization<'a>(&self, statistics: &'a mut Statistics, rstd: &'a mut [f32]) -> Normalization<'a> {
        if !self.cell.normalized {
            return Normalization::None;
        }
        let hidden = self.config.hidden;
        match statistics {
            Statistics::Batch { update } => {
                let running = update.as_mut().map(|running| running.split_at_mut(hidden));
                Normalization::Batch { rstd, running }
            }
            Statistics::Running(running) => {
                Normalization::Running { mean: &running[..hidden], variance: &running[hidden..], rstd }
            }
        }
    }
}

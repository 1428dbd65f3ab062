//! The pass through time, forwards, as launches.

use darts_cuda::hidden_state::{self, Copied};
use darts_cuda::matmul::Matrix;
use darts_cuda::recurrent_node::{self, Edge, Function, Masked, Mix, Normalization};
use darts_cuda::{Program, View, Write, elementwise, embedding};
use darts_ops::recurrent_node as cpu;

use super::DeviceStatistics;
use super::run::Run;
use crate::recurrent::cell::{Choice, Incoming};

/// The device's name of a function.
pub(super) fn function(function: cpu::Function) -> Function {
    match function {
        cpu::Function::Tanh => Function::Tanh,
        cpu::Function::Relu => Function::Relu,
        cpu::Function::Sigmoid => Function::Sigmoid,
        cpu::Function::Identity => Function::Identity,
    }
}

impl Run<'_> {
    pub(super) fn forward(&self, program: &mut Program) {
        let (buffers, hidden, state) = (self.buffers, self.hidden, self.state());
        let columns = self.columns();
        if !columns.is_empty() {
            recurrent_node::mixes(program, &columns, self.pass.weights, buffers.mixes);
        }
        self.gather(program);
        let x = buffers.x.slice(0..self.rows() * hidden);
        let encoder = self.pass.theta.slice(self.network.places.encoder.clone());
        embedding::forward(program, encoder, &self.lookup(&self.locked()), x);
        self.multiply(
            program,
            Matrix::new(x, self.rows(), hidden),
            self.w0(0),
            Matrix::new(buffers.gates0, self.rows(), 2 * hidden),
            Write::Overwrite,
            None,
        );
        let copies = self.masks.h.map(|mask| Copied { mask: Some(mask), out: buffers.masked_raw.slice(0..state) });
        hidden_state::forward(program, &[self.pass.hidden], self.raw(0), copies.as_slice());
        for step in 0..self.steps {
            self.first_state(program, step);
            self.product(program, 0, step);
            for node in 1..=self.network.cell.nodes() {
                self.node(program, node, step);
                self.product(program, node, step);
            }
            self.mean(program, step);
        }
        if let Some(next) = self.pass.next_hidden {
            hidden_state::forward(program, &[self.raw(self.steps)], next, &[]);
        }
    }

    /// The function of each column of the operation weights.
    pub(super) fn columns(&self) -> Vec<Option<Function>> {
        self.network.cell.columns.iter().map(|column| column.map(function)).collect()
    }

    /// Puts the matrices of all nodes side by side.
    fn gather(&self, program: &mut Program) {
        let pairs: Vec<(View, View)> = self.blocks(self.pass.theta, self.buffers.concatenated).collect();
        let shape = self.block_rows();
        elementwise::copy(program, shape, &pairs);
    }

    /// Of every node's matrix its place in θ, or a vector laid out like it, and in the concatenated matrices.
    pub(super) fn blocks(&self, theta: View, concatenated: View) -> impl Iterator<Item = (View, View)> {
        let wide = 2 * self.hidden;
        self.network.cell.order.iter().enumerate().map(move |(block, &node)| {
            let matrix = theta.slice(self.network.places.nodes[node - 1].clone());
            (matrix, concatenated.slice(block * wide..concatenated.len))
        })
    }

    /// From θ to the concatenated matrices.
    pub(super) fn block_rows(&self) -> elementwise::Rows {
        let wide = 2 * self.hidden;
        let to_stride = self.network.cell.nodes() * wide;
        elementwise::Rows { rows: self.hidden, width: wide, from_stride: wide, to_stride }
    }

    /// The half of W₀ that meets the input (0) or the hidden state (1), `[H, 2H]`.
    pub(super) fn w0(&self, half: usize) -> Matrix {
        let len = 2 * self.hidden * self.hidden;
        let w0 = self.pass.theta.slice(self.network.places.w0.clone());
        Matrix::new(w0.slice(half * len..(half + 1) * len), self.hidden, 2 * self.hidden)
    }

    /// The hidden state before a time step `[B, H]`.
    pub(super) fn raw(&self, step: usize) -> View {
        self.buffers.raw.slice(step * self.state()..(step + 1) * self.state())
    }

    /// The hidden states before `steps` time steps from `first` on, as products read them.
    pub(super) fn masked_raw(&self, first: usize, steps: usize) -> View {
        let all = if self.masks.h.is_some() { self.buffers.masked_raw } else { self.buffers.raw };
        all.slice(first * self.state()..(first + steps) * self.state())
    }

    /// A time step's place in buffers that an inference keeps for one time step only.
    pub(super) fn kept(&self, step: usize) -> usize {
        step % self.buffers.kept
    }

    /// A time step's part of what is kept of a state.
    pub(super) fn at(&self, view: View, step: usize) -> View {
        let kept = self.kept(step);
        view.slice(kept * self.state()..(kept + 1) * self.state())
    }

    /// States of `steps` time steps from `first` on, as products read them.
    pub(super) fn masked_states(&self, index: usize, first: usize, steps: usize) -> View {
        let of = if self.masks.h.is_some() { &self.buffers.masked_states } else { &self.buffers.states };
        let kept = self.kept(first);
        of[index].slice(kept * self.state()..(kept + steps) * self.state())
    }

    /// The gates of s₀ at a time step `[B, 2H]`.
    pub(super) fn gates0(&self, step: usize) -> View {
        self.buffers.gates0.slice(2 * step * self.state()..2 * (step + 1) * self.state())
    }

    /// What a state's product is at a time step `[B, columns]`, and its number of columns.
    pub(super) fn gates(&self, from: usize, step: usize) -> (View, usize) {
        let columns = self.network.cell.groups[from].len() * 2 * self.hidden;
        let (kept, len) = (self.kept(step), self.batch * columns);
        (self.buffers.gates[from].slice(kept * len..(kept + 1) * len), columns)
    }

    /// The columns of the concatenated matrices, or of their gradient, that a state is multiplied with, `[H, group·2H]`.
    pub(super) fn group_matrix(&self, concatenated: View, from: usize) -> Matrix {
        let wide = 2 * self.hidden;
        let group = &self.network.cell.groups[from];
        let data = concatenated.slice(group.start * wide..concatenated.len);
        Matrix::with_stride(data, self.hidden, group.len() * wide, self.network.cell.nodes() * wide)
    }

    /// Where 1/σ of one batch norm stands.
    pub(super) fn rstd(&self, state: usize, step: usize) -> View {
        let start = (state * self.buffers.kept + self.kept(step)) * self.hidden;
        self.buffers.rstd.slice(start..start + self.hidden)
    }

    /// An incoming edge's gates at a time step: from its block's first column to the end, and the floats from row to row.
    pub(super) fn edge_gates(&self, incoming: &Incoming, step: usize) -> (View, usize) {
        let (gates, columns) = self.gates(incoming.source, step);
        (gates.slice(incoming.block * 2 * self.hidden..gates.len), columns)
    }

    pub(super) fn mix(&self, incoming: &Incoming) -> Mix {
        match incoming.choice {
            Choice::Mixed { row } => Mix::Sum(self.buffers.mixes.slice(4 * row..4 * row + 4)),
            Choice::One(one) => Mix::One(function(one)),
        }
    }

    fn normalization(&self, state: usize, step: usize) -> Normalization {
        if !self.network.cell.normalized {
            return Normalization::None;
        }
        let rstd = self.rstd(state, step);
        let split = |running: View| (running.slice(0..self.hidden), running.slice(self.hidden..2 * self.hidden));
        match self.pass.statistics {
            DeviceStatistics::Batch { update } => Normalization::Batch { rstd, running: update.map(split) },
            DeviceStatistics::Running(running) => {
                let (mean, variance) = split(running);
                Normalization::Running { mean, variance, rstd }
            }
        }
    }

    /// A state under the hidden state's mask, where there is one and a product reads it.
    fn masked(&self, state: usize, step: usize) -> Option<Masked> {
        let feeds = !self.network.cell.groups[state].is_empty();
        let mask = self.masks.h.filter(|_| feeds)?;
        Some(Masked { mask, out: self.at(self.buffers.masked_states[state], step) })
    }

    /// s₀ from the hidden state: the product with the input's half of W₀ stands in its gates already.
    fn first_state(&self, program: &mut Program, step: usize) {
        let gates = self.gates0(step);
        self.multiply(
            program,
            Matrix::new(self.masked_raw(step, 1), self.batch, self.hidden),
            self.w0(1),
            Matrix::new(gates, self.batch, 2 * self.hidden),
            Write::Accumulate,
            None,
        );
        let edge = Edge { state: self.raw(step), gates, stride: 2 * self.hidden, mix: Mix::One(Function::Tanh) };
        let out = self.at(self.buffers.states[0], step);
        let normalization = self.normalization(0, step);
        recurrent_node::forward(program, self.shape(), &[edge], out, normalization, self.masked(0, step));
    }

    /// A node from the states before it.
    fn node(&self, program: &mut Program, node: usize, step: usize) {
        let edge = |incoming: &Incoming| {
            let (gates, stride) = self.edge_gates(incoming, step);
            let state = self.at(self.buffers.states[incoming.source], step);
            Edge { state, gates, stride, mix: self.mix(incoming) }
        };
        let edges: Vec<Edge> = self.network.cell.incoming[node - 1].iter().map(edge).collect();
        let out = self.at(self.buffers.states[node], step);
        let normalization = self.normalization(node, step);
        recurrent_node::forward(program, self.shape(), &edges, out, normalization, self.masked(node, step));
    }

    /// The product of a state with the matrices of all nodes that it feeds.
    fn product(&self, program: &mut Program, from: usize, step: usize) {
        if self.network.cell.groups[from].is_empty() {
            return;
        }
        let (gates, columns) = self.gates(from, step);
        self.multiply(
            program,
            Matrix::new(self.masked_states(from, step, 1), self.batch, self.hidden),
            self.group_matrix(self.buffers.concatenated, from),
            Matrix::new(gates, self.batch, columns),
            Write::Overwrite,
            None,
        );
    }

    /// The next hidden state, the mean of the concat nodes, with what is read of it: the output and the next product's input.
    fn mean(&self, program: &mut Program, step: usize) {
        let concat = &self.network.cell.concat;
        let parts: Vec<View> = concat.iter().map(|&node| self.at(self.buffers.states[node], step)).collect();
        let here = |view: View, step: usize| view.slice(step * self.state()..(step + 1) * self.state());
        let mut copies = vec![Copied { mask: self.masks.output_locked, out: here(self.buffers.output, step) }];
        if let Some(mask) = self.masks.h.filter(|_| step + 1 < self.steps) {
            copies.push(Copied { mask: Some(mask), out: here(self.buffers.masked_raw, step + 1) });
        }
        hidden_state::forward(program, &parts, self.raw(step + 1), &copies);
    }
}

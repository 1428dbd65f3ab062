//! The pass through time, backwards, as launches. Gates are overwritten with their gradients as the pass meets them, so that
//! afterwards the gradient of every matrix is one product over all time steps.

use darts_cuda::hidden_state;
use darts_cuda::matmul::Matrix;
use darts_cuda::recurrent_node::{self, EdgeBackward, Function, Mix, NormalizationBackward, d_mix_len};
use darts_cuda::{Program, View, Write, elementwise, embedding};

use super::DeviceStatistics;
use super::run::Run;
use crate::recurrent::cell::{Choice, Incoming};

impl Run<'_> {
    /// Gradients of everything before the output, whose own gradient, through its dropout, stands in `d_output`. The gradients of
    /// embedding and decoder bias hold the decoder's part and are added to.
    pub(super) fn backward(&self, program: &mut Program) {
        let (buffers, state) = (self.buffers, self.state());
        for step in (0..self.steps).rev() {
            let d_output = buffers.d_output.slice(step * state..(step + 1) * state);
            // Nothing comes back from beyond the last time step.
            let d_next = (step + 1 < self.steps).then_some(buffers.d_hidden);
            hidden_state::backward(program, &buffers.d_states, &self.network.cell.concat, d_output, d_next);
            for node in (1..=self.network.cell.nodes()).rev() {
                self.product_backward(program, node, step);
                self.node_backward(program, node, step);
            }
            self.product_backward(program, 0, step);
            self.first_state_backward(program, step);
        }
        let gradients = self.pass.gradients;
        if let Some(d_hidden) = gradients.hidden {
            hidden_state::forward(program, &[buffers.d_hidden], d_hidden, &[]);
        }
        if let Some(d_weights) = gradients.weights.filter(|d_weights| !d_weights.is_empty()) {
            recurrent_node::mixes_backward(program, self.hidden, &self.columns(), buffers.d_mixes, d_weights);
        }
        if let Some(d_theta) = gradients.theta {
            self.theta_backward(program, d_theta);
        }
    }

    /// Adds what a state's product sends back.
    fn product_backward(&self, program: &mut Program, from: usize, step: usize) {
        if self.network.cell.groups[from].is_empty() {
            return;
        }
        let (d_gates, columns) = self.gates(from, step);
        self.multiply(
            program,
            Matrix::new(d_gates, self.batch, columns),
            self.group_matrix(self.buffers.concatenated, from).transposed(),
            Matrix::new(self.buffers.d_states[from], self.batch, self.hidden),
            Write::Accumulate,
            self.masks.h,
        );
    }

    fn normalization_backward(&self, state: usize, step: usize) -> NormalizationBackward {
        if !self.network.cell.normalized {
            return NormalizationBackward::None;
        }
        let rstd = self.rstd(state, step);
        match self.pass.statistics {
            DeviceStatistics::Batch { .. } => NormalizationBackward::Batch { rstd },
            DeviceStatistics::Running(_) => NormalizationBackward::Running { rstd },
        }
    }

    /// Gradients of a node's incoming states, gates and mixtures.
    fn node_backward(&self, program: &mut Program, node: usize, step: usize) {
        let one = d_mix_len(self.hidden);
        // The pass meets the last time step first.
        let write = if step + 1 == self.steps { Write::Overwrite } else { Write::Accumulate };
        let edge = |incoming: &Incoming| {
            let (gates, stride) = self.edge_gates(incoming, step);
            let d_mix = match incoming.choice {
                Choice::Mixed { row } => Some((self.buffers.d_mixes.slice(row * one..(row + 1) * one), write)),
                Choice::One(_) => None,
            };
            EdgeBackward {
                state: self.at(self.buffers.states[incoming.source], step),
                d_state: self.buffers.d_states[incoming.source],
                write: Write::Accumulate,
                gates,
                stride,
                mix: self.mix(incoming),
                d_mix: d_mix.filter(|_| self.pass.gradients.weights.is_some()),
            }
        };
        let edges: Vec<EdgeBackward> = self.network.cell.incoming[node - 1].iter().map(edge).collect();
        let s = self.at(self.buffers.states[node], step);
        let normalization = self.normalization_backward(node, step);
        let d_node = self.buffers.d_states[node];
        recurrent_node::backward(program, self.shape(), &edges, s, d_node, normalization);
    }

    /// Gradients of s₀'s gates and of the incoming hidden state, which replaces the one of the time step after.
    fn first_state_backward(&self, program: &mut Program, step: usize) {
        let (buffers, gates) = (self.buffers, self.gates0(step));
        let edge = EdgeBackward {
            state: self.raw(step),
            d_state: buffers.d_hidden,
            write: Write::Overwrite,
            gates,
            stride: 2 * self.hidden,
            mix: Mix::One(Function::Tanh),
            d_mix: None,
        };
        let s = self.at(buffers.states[0], step);
        let normalization = self.normalization_backward(0, step);
        recurrent_node::backward(program, self.shape(), &[edge], s, buffers.d_states[0], normalization);
        self.multiply(
            program,
            Matrix::new(gates, self.batch, 2 * self.hidden),
            self.w0(1).transposed(),
            Matrix::new(buffers.d_hidden, self.batch, self.hidden),
            Write::Accumulate,
            self.masks.h,
        );
    }

    /// Gradients of all matrices, each one product over all time steps, and the lookup's part of the embedding's.
    fn theta_backward(&self, program: &mut Program, d_theta: View) {
        let (buffers, hidden, rows) = (self.buffers, self.hidden, self.rows());
        let cell = &self.network.cell;
        let mut product = |a: Matrix, b: Matrix, out: Matrix, write| {
            self.multiply(program, a, b, out, write, None);
        };
        // In a search cell s₀ feeds all nodes, so its product writes everything that later ones add to; in a discrete cell no two
        // states feed the same node.
        let mut written = vec![false; cell.nodes()];
        for (from, group) in cell.groups.iter().enumerate().filter(|(_, group)| !group.is_empty()) {
            let write = if written[group.start] { Write::Accumulate } else { Write::Overwrite };
            written[group.clone()].fill(true);
            let columns = group.len() * 2 * hidden;
            let s = Matrix::new(self.masked_states(from, 0, self.steps), rows, hidden).transposed();
            let d_gates = Matrix::new(buffers.gates[from], rows, columns);
            product(s, d_gates, self.group_matrix(buffers.d_concatenated, from), write);
        }
        let d_gates = Matrix::new(buffers.gates0, rows, 2 * hidden);
        let d_w0 = d_theta.slice(self.network.places.w0.clone());
        let (x, h) = (buffers.x, self.masked_raw(0, self.steps));
        for (half, values) in [x, h].into_iter().enumerate() {
            let len = 2 * hidden * hidden;
            let out = Matrix::new(d_w0.slice(half * len..(half + 1) * len), hidden, 2 * hidden);
            product(Matrix::new(values, rows, hidden).transposed(), d_gates, out, Write::Overwrite);
        }
        let d_x = buffers.d_x.slice(0..rows * hidden);
        product(d_gates, self.w0(0).transposed(), Matrix::new(d_x, rows, hidden), Write::Overwrite);

        let pairs: Vec<(View, View)> =
            self.blocks(d_theta, buffers.d_concatenated).map(|(to, from)| (from, to)).collect();
        let shape = self.block_rows();
        let shape = elementwise::Rows { from_stride: shape.to_stride, to_stride: shape.from_stride, ..shape };
        elementwise::copy(program, shape, &pairs);

        let encoder = d_theta.slice(self.network.places.encoder.clone());
        let occurrences = self.room.occurrences.slice(0..embedding::occurrences_len(rows));
        embedding::backward(program, encoder, &self.lookup(&self.locked()), occurrences, d_x);
    }
}

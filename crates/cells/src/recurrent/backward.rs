//! The pass through time, backwards. Gates are overwritten with their gradients as the pass meets them, so that afterwards the
//! gradient of every matrix is one product over all time steps.

use std::ops::Range;

use darts_ops::{
    embedding,
    images::Write,
    matmul::{Matrix, MatrixMut, Packed, multiply, multiply_packed},
    recurrent_node::{self, EdgeBackward, Function, Mix, NodeShape, NormalizationBackward},
};

use super::{
    Gradients, Input, RecurrentNetwork, Workspace,
    forward::{mix, position, under_mask},
};

impl RecurrentNetwork {
    /// Gradients of everything before the output, whose own gradient, through its dropout, stands in `ws.d_output`. The gradients
    /// of embedding and decoder bias hold the decoder's part and are added to.
    pub(super) fn run_backward(&self, ws: &mut Workspace, input: &Input, gradients: Gradients) {
        let hidden = self.config.hidden;
        let state = input.batch * hidden;
        let steps = input.tokens.len() / input.batch;
        ws.d_mixes.fill([0.0; 4]);
        ws.d_hidden[..state].fill(0.0);
        for step in (0..steps).rev() {
            self.spread(ws, state, step);
            for node in (1..=self.cell.nodes()).rev() {
                self.product_backward(ws, input, node, step);
                self.node_backward(ws, input, node, step);
            }
            self.product_backward(ws, input, 0, step);
            self.first_state_backward(ws, input, step);
        }
        if let Some(d_hidden) = gradients.hidden {
            d_hidden.copy_from_slice(&ws.d_hidden[..state]);
        }
        if let Some(d_weights) = gradients.weights {
            self.weights_backward(ws, d_weights);
        }
        if let Some(d_theta) = gradients.theta {
            self.theta_backward(ws, input, d_theta);
        }
    }

    /// Gradients of the states from that of their mean: what comes from the decoder and what the next time step sends back.
    fn spread(&self, ws: &mut Workspace, state: usize, step: usize) {
        let factor = 1.0 / self.cell.concat.len() as f32;
        let d_mean = &mut ws.d_output[step * state..(step + 1) * state];
        for (d_mean, d_hidden) in d_mean.iter_mut().zip(&ws.d_hidden) {
            *d_mean = factor * (*d_mean + d_hidden);
        }
        for (index, d_state) in ws.d_states.iter_mut().enumerate() {
            if self.cell.concat.contains(&index) {
                d_state[..state].copy_from_slice(d_mean);
            } else {
                d_state[..state].fill(0.0);
            }
        }
    }

    /// Adds what a state's product sends back.
    fn product_backward(&self, ws: &mut Workspace, input: &Input, from: usize, step: usize) {
        let (batch, hidden) = (input.batch, self.config.hidden);
        let group = &self.cell.groups[from];
        if group.is_empty() {
            return;
        }
        let wide = 2 * hidden;
        let columns = group.len() * wide;
        let d_gates = &ws.gates[from][step * batch * columns..];
        add_product(
            Matrix::new(d_gates, batch, columns),
            (&ws.packed.nodes_transposed, group.start * wide..group.end * wide),
            input.masks.h,
            &mut ws.masked[..batch * hidden],
            &mut ws.d_states[from][..batch * hidden],
            hidden,
        );
    }

    fn normalization_backward<'a>(&self, ws: &'a Workspace, state: usize, step: usize) -> NormalizationBackward<'a> {
        if !self.cell.normalized {
            return NormalizationBackward::None;
        }
        let rstd = &ws.rstd[self.rstd_range(ws.mode, ws.steps, state, step)];
        if ws.batch_statistics {
            NormalizationBackward::Batch { rstd }
        } else {
            NormalizationBackward::Running { rstd }
        }
    }

    /// Gradients of a node's incoming states, gates and mixtures.
    fn node_backward(&self, ws: &mut Workspace, input: &Input, node: usize, step: usize) {
        let (batch, hidden) = (input.batch, self.config.hidden);
        let state = batch * hidden;
        let here = step * state..(step + 1) * state;
        let mut gates = std::mem::take(&mut ws.gates);
        let mut d_states = std::mem::take(&mut ws.d_states);
        let mut d_mixes = std::mem::take(&mut ws.d_mixes);
        let (d_before, d_rest) = d_states.split_at_mut(node);

        // Sources ascend, so one pass over the states before the node meets every edge; its rows of mixtures follow each other.
        let mut d_mix = self.mixed_rows(node, &mut d_mixes).iter_mut();
        let mut edges = Vec::with_capacity(node);
        for (source, (gates, d_state)) in gates.iter_mut().zip(d_before).enumerate() {
            let Some(incoming) = self.cell.incoming[node - 1].iter().find(|incoming| incoming.source == source) else {
                continue;
            };
            let stride = self.cell.groups[source].len() * 2 * hidden;
            let start = step * batch * stride + incoming.block * 2 * hidden;
            edges.push(EdgeBackward {
                state: &ws.states[source][here.clone()],
                d_state: &mut d_state[..state],
                gates: &mut gates[start..(step + 1) * batch * stride],
                stride,
                mix: mix(incoming, &ws.mixes),
                d_mix: d_mix.next(),
            });
        }
        let normalization = self.normalization_backward(ws, node, step);
        let (s, d_node) = (&ws.states[node][here.clone()], &mut d_rest[0][..state]);
        recurrent_node::backward(NodeShape { batch, hidden }, &mut edges, s, d_node, normalization);
        drop(edges);
        (ws.gates, ws.d_states, ws.d_mixes) = (gates, d_states, d_mixes);
    }

    /// The rows of mixtures of a node's edges; none in a discrete cell.
    fn mixed_rows<'a>(&self, node: usize, d_mixes: &'a mut [[f64; 4]]) -> &'a mut [[f64; 4]] {
        if d_mixes.is_empty() {
            return d_mixes;
        }
        let first: usize = self.cell.incoming[..node - 1].iter().map(Vec::len).sum();
        &mut d_mixes[first..first + self.cell.incoming[node - 1].len()]
    }

    /// Gradients of s₀'s gates and of the incoming hidden state, which replaces the one in `ws.d_hidden`.
    fn first_state_backward(&self, ws: &mut Workspace, input: &Input, step: usize) {
        let (batch, hidden) = (input.batch, self.config.hidden);
        let state = batch * hidden;
        let mut d_node = std::mem::take(&mut ws.d_states[0]);
        let mut d_hidden = std::mem::take(&mut ws.d_hidden);
        let mut gates0 = std::mem::take(&mut ws.gates0);
        let gates = &mut gates0[2 * step * state..2 * (step + 1) * state];
        d_hidden[..state].fill(0.0);
        let edge = EdgeBackward {
            state: &ws.raw[step * state..(step + 1) * state],
            d_state: &mut d_hidden[..state],
            gates,
            stride: 2 * hidden,
            mix: Mix::One(Function::Tanh),
            d_mix: None,
        };
        let s = &ws.states[0][step * state..(step + 1) * state];
        let normalization = self.normalization_backward(ws, 0, step);
        recurrent_node::backward(NodeShape { batch, hidden }, &mut [edge], s, &mut d_node[..state], normalization);
        add_product(
            Matrix::new(&gates0[2 * step * state..], batch, 2 * hidden),
            (&ws.packed.h_transposed, 0..2 * hidden),
            input.masks.h,
            &mut ws.masked[..state],
            &mut d_hidden[..state],
            hidden,
        );
        (ws.d_states[0], ws.d_hidden, ws.gates0) = (d_node, d_hidden, gates0);
    }

    /// Gradients of the operation weights in the order of their columns; that of `none` is 0.
    fn weights_backward(&self, ws: &Workspace, d_weights: &mut [f32]) {
        let columns = &self.cell.columns;
        for (d_row, d_mix) in d_weights.chunks_exact_mut(columns.len().max(1)).zip(&ws.d_mixes) {
            for (d_weight, &function) in d_row.iter_mut().zip(columns) {
                *d_weight = function.map_or(0.0, |function| d_mix[position(function)] as f32);
            }
        }
    }

    /// Gradients of all matrices, each one product over all time steps, and the lookup's part of the embedding's.
    fn theta_backward(&self, ws: &mut Workspace, input: &Input, d_theta: &mut [f32]) {
        let hidden = self.config.hidden;
        let (rows, wide) = (input.tokens.len(), 2 * hidden);
        let row = self.cell.nodes() * wide;
        ws.d_concatenated.fill(0.0);
        for (from, group) in self.cell.groups.iter().enumerate().filter(|(_, group)| !group.is_empty()) {
            let columns = group.len() * wide;
            let s = under_mask(&ws.states[from][..rows * hidden], input.masks.h, &mut ws.masked);
            multiply(
                Matrix::new(s, rows, hidden).transposed(),
                Matrix::new(&ws.gates[from], rows, columns),
                MatrixMut::with_stride(&mut ws.d_concatenated[group.start * wide..], hidden, columns, row),
                Write::Accumulate,
            );
        }
        for (block, &node) in self.cell.order.iter().enumerate() {
            let d_matrix = &mut d_theta[self.places.nodes[node - 1].clone()];
            for (unit, d_row) in d_matrix.chunks_exact_mut(wide).enumerate() {
                d_row.copy_from_slice(&ws.d_concatenated[unit * row + block * wide..][..wide]);
            }
        }

        let d_gates = Matrix::new(&ws.gates0, rows, wide);
        let (d_from_x, d_from_h) = d_theta[self.places.w0.clone()].split_at_mut(hidden * wide);
        let x = Matrix::new(&ws.x, rows, hidden).transposed();
        multiply(x, d_gates, MatrixMut::new(d_from_x, hidden, wide), Write::Overwrite);
        let h = under_mask(&ws.raw[..rows * hidden], input.masks.h, &mut ws.masked);
        let h = Matrix::new(h, rows, hidden).transposed();
        multiply(h, d_gates, MatrixMut::new(d_from_h, hidden, wide), Write::Overwrite);

        let w0 = Matrix::new(&input.theta[self.places.w0.clone()], hidden, wide).transposed();
        let d_x = &mut ws.d_x[..rows * hidden];
        multiply(d_gates, w0, MatrixMut::new(d_x, rows, hidden), Write::Overwrite);
        let locked: Vec<&[f32]> = [input.masks.embedding_locked, input.masks.x].into_iter().flatten().collect();
        embedding::backward(&mut d_theta[self.places.encoder.clone()], &self.lookup(input, &locked), d_x);
    }
}

/// out += (a·b)·mask, with `buffer` for the product where there is a mask.
fn add_product(
    a: Matrix,
    (b, rows): (&Packed, Range<usize>),
    mask: Option<&[f32]>,
    buffer: &mut [f32],
    out: &mut [f32],
    hidden: usize,
) {
    let batch = out.len() / hidden;
    match mask {
        None => multiply_packed(a, b, rows, 0..1, MatrixMut::new(out, batch, hidden), Write::Accumulate),
        Some(mask) => {
            multiply_packed(a, b, rows, 0..1, MatrixMut::new(buffer, batch, hidden), Write::Overwrite);
            for ((out, term), mask) in out.iter_mut().zip(buffer).zip(mask) {
                *out += *term * mask;
            }
        }
    }
}

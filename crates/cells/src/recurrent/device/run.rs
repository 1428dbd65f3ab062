//! A pass that is being laid down: sizes, places, and the loss between the two passes through time.

use darts_cuda::matmul::{self, Matrix};
use darts_cuda::{Program, View, Write, elementwise, embedding, recurrent_node, regularizer, tied_decoder};

use super::buffers::Buffers;
use super::{DeviceMasks, DevicePass, DeviceRecurrent, Key, Room};
use crate::recurrent::RecurrentNetwork;

/// A pass that is being laid down.
pub(super) struct Run<'a> {
    pub(super) device: &'a DeviceRecurrent,
    pub(super) network: &'a RecurrentNetwork,
    pub(super) buffers: &'a Buffers,
    pub(super) pass: DevicePass,
    pub(super) masks: DeviceMasks,
    pub(super) room: Room,
    /// T.
    pub(super) steps: usize,
    /// B.
    pub(super) batch: usize,
    /// H.
    pub(super) hidden: usize,
}

impl<'a> Run<'a> {
    pub(super) fn new(device: &'a DeviceRecurrent, key: &Key) -> Self {
        let Key { pass, room, masks, steps } = *key;
        let (network, buffers) = (&device.network, &device.buffers);
        Self { device, network, buffers, pass, masks, room, steps, batch: device.batch, hidden: network.config.hidden }
    }

    /// Floats of a state.
    pub(super) fn state(&self) -> usize {
        self.batch * self.hidden
    }

    /// Positions of the sequence, T·B.
    pub(super) fn rows(&self) -> usize {
        self.steps * self.batch
    }

    /// The pass's outputs after their dropout `[T, B, H]`.
    pub(super) fn output(&self) -> View {
        self.buffers.output.slice(0..self.steps * self.state())
    }

    pub(super) fn shape(&self) -> recurrent_node::NodeShape {
        recurrent_node::NodeShape { batch: self.batch, hidden: self.hidden }
    }

    pub(super) fn lookup<'b>(&self, locked: &'b [View]) -> embedding::Lookup<'b> {
        let tokens = self.room.tokens.slice(0..self.rows());
        embedding::Lookup { tokens, batch: self.batch, hidden: self.hidden, rows: self.masks.embedding_rows, locked }
    }

    pub(super) fn locked(&self) -> Vec<View> {
        [self.masks.embedding_locked, self.masks.x].into_iter().flatten().collect()
    }

    /// out (+)= scale·a·b in the pass's precision.
    pub(super) fn multiply(
        &self,
        program: &mut Program,
        a: Matrix,
        b: Matrix,
        out: Matrix,
        write: Write,
        scale: Option<View>,
    ) {
        matmul::multiply(program, self.pass.precision, a, b, out, write, scale, self.buffers.products);
    }

    /// The decoder's loss and the regularizers, with the gradient of what the cell put out.
    pub(super) fn loss(&self, program: &mut Program) {
        let (buffers, places, state) = (self.buffers, &self.network.places, self.state());
        let DevicePass { gradients, loss, .. } = self.pass;
        let output = self.output();
        let d_output = gradients.any().then(|| buffers.d_output.slice(0..output.len));
        let decoder_gradients = d_output.map(|d_output| tied_decoder::DecoderGradients {
            scale: 1.0 / self.rows() as f64,
            d_output,
            parameters: gradients
                .theta
                .map(|theta| (theta.slice(places.encoder.clone()), theta.slice(places.bias.clone()))),
        });
        let value = |index: usize| buffers.values.slice(index..index + 1);
        let scratch =
            tied_decoder::Scratch { chunk: buffers.chunk, products: buffers.products, losses: buffers.losses };
        let targets = self.room.targets.slice(0..self.rows());
        let decoder = self.device.decoder(self.pass.theta);
        tied_decoder::loss(
            program,
            self.pass.precision,
            decoder,
            output,
            targets,
            decoder_gradients,
            value(0),
            scratch,
        );
        regularizer::activation(program, output, loss.activation, d_output, value(1), buffers.losses);
        if let (Some(d_output), Some(mask)) = (d_output, self.masks.output_locked) {
            elementwise::mask(program, d_output, mask, d_output);
        }
        let raw = buffers.raw.slice(state..state + output.len);
        regularizer::temporal(program, raw, state, loss.temporal, d_output, value(2), buffers.losses);
    }
}

//! One operation of the space by itself, outside any network: for tests against golden values, and for users who want a
//! candidate as a building block. Adds nothing to what the operation computes inside a cell.

use darts_ops::{Plan, Slot};

use super::build::{Buffer, Builder, Geometry};
use super::convolution::Activate;
use super::graph::{Entry, Graph};
use super::pass::{Backward, Forward, ForwardInput, Gradients, Statistics, Workspace};
use super::preprocess::ConvNorm;
use crate::error::Error;
use crate::parameters::Table;
use crate::primitive::Primitive;

/// Which operation stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SingleOperation {
    /// A candidate of the search space, or an operation of a named genotype, with its stride.
    Candidate {
        /// The operation.
        primitive: Primitive,
        /// 1, or 2 as out of a reduction cell's inputs.
        stride: usize,
    },
    /// ReLU, 1×1 convolution to `c_out` channels, BN.
    ReluConvBn {
        /// Output channels.
        c_out: usize,
    },
    /// ReLU, two 1×1 convolutions of stride 2 on shifted inputs, concatenated to `c_out` channels, BN.
    FactorizedReduce {
        /// Output channels.
        c_out: usize,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Graph(Graph),
    Preprocess { layer: Box<ConvNorm>, output: Buffer, d_output: Buffer },
}

/// An operation with its parameters' and statistics' tables, evaluated like a network of one layer.
#[derive(Clone, Debug)]
pub struct ConvOperation {
    pub(super) parameters: Table,
    pub(super) statistics: Table,
    activations: Plan,
    pub(super) channels: Plan,
    pub(super) input: Buffer,
    pub(super) d_input: Buffer,
    pub(super) body: Body,
    temporaries: Vec<Slot>,
    /// Floats of each buffer per sample, by `Buffer::id`.
    pub(super) buffers: Vec<usize>,
}

impl ConvOperation {
    /// `operation` on activations `[N, h, w, c]`; `affine`: the discrete form (BN with γ, β; bare pools) or the search form.
    ///
    /// # Errors
    /// A factorized reduce of an odd height or width.
    pub fn new(operation: SingleOperation, (h, w): (usize, usize), c: usize, affine: bool) -> Result<Self, Error> {
        let mut builder = Builder::default();
        let shape = Geometry { h, w, c };
        let input = builder.buffer(shape);
        let (body, d_input) = match operation {
            SingleOperation::Candidate { primitive, stride } => {
                let entry = Entry { name: String::new(), primitive, source: 0, target: 1, weight: None };
                let graph = Graph::new(&mut builder, vec![input], stride, &[entry], affine, None)?;
                let d_input = graph.gradients[0];
                (Body::Graph(graph), d_input)
            }
            SingleOperation::ReluConvBn { c_out } => {
                let layer = ConvNorm::relu_conv_bn(&mut builder, "", shape, c_out, affine);
                (Body::preprocess(&mut builder, layer), builder.buffer(shape))
            }
            SingleOperation::FactorizedReduce { c_out } => {
                let layer = ConvNorm::factorized_reduce(&mut builder, "", shape, c_out, affine)?;
                (Body::preprocess(&mut builder, layer), builder.buffer(shape))
            }
        };
        let temporaries = builder.reserve_temporaries();
        let Builder { parameters, statistics, activations, channels, buffers, .. } = builder;
        Ok(Self { parameters, statistics, activations, channels, input, d_input, body, temporaries, buffers })
    }

    /// Names, shapes and places of the parameters.
    pub fn parameters(&self) -> &Table {
        &self.parameters
    }

    /// Names, shapes and places of the running statistics.
    pub fn statistics(&self) -> &Table {
        &self.statistics
    }

    /// Memory for passes over up to `batch` samples.
    pub fn workspace(&self, batch: usize) -> Workspace {
        Workspace::new(&self.activations, &self.channels, batch)
    }

    /// Height, width and channels of the output.
    pub fn output_shape(&self) -> [usize; 3] {
        let Geometry { h, w, c } = self.output().0.shape;
        [h, w, c]
    }

    pub(super) fn output(&self) -> (&Buffer, &Buffer) {
        match &self.body {
            Body::Graph(graph) => (&graph.nodes[1], &graph.gradients[1]),
            Body::Preprocess { output, d_output, .. } => (output, d_output),
        }
    }

    /// The output `[N, h', w', c']`, left in the workspace and returned. `input.images` are the activations.
    pub fn forward<'w>(&self, ws: &'w mut Workspace, input: &ForwardInput, statistics: Statistics) -> &'w [f32] {
        ws.begin(input.batch, &statistics);
        let x = ws.slot(&self.input);
        ws.activations.write(x).copy_from_slice(input.images);
        let mut pass = Forward { ws, input: *input, statistics };
        match &self.body {
            Body::Graph(graph) => graph.forward(&mut pass),
            Body::Preprocess { layer, output, .. } => layer.forward(&mut pass, &[self.input], Activate::Relu, output),
        }
        ws.activations.read(ws.slot(self.output().0))
    }

    /// From ∂loss/∂output of the last forward pass, which had the same `input`, the gradients that are given.
    pub fn backward(&self, ws: &mut Workspace, input: &ForwardInput, d_output: &[f32], gradients: Gradients) {
        let gradient = self.output().1;
        let slot = ws.slot(gradient);
        ws.activations.write(slot).copy_from_slice(d_output);
        let mut pass = Backward::new(ws, *input, gradients.theta, None, self.buffers.len(), &self.temporaries);
        pass.written[gradient.id] = true;
        match &self.body {
            Body::Graph(graph) => graph.backward(&mut pass, [true; 2]),
            Body::Preprocess { layer, .. } => {
                layer.backward(&mut pass, &[self.input], Activate::Relu, gradient, &[self.d_input], None);
            }
        }
        pass.ensure(&self.d_input);
        if let Some(images) = gradients.images {
            images.copy_from_slice(ws.activations.read(ws.slot(&self.d_input)));
        }
    }
}

impl Body {
    fn preprocess(builder: &mut Builder, layer: ConvNorm) -> Self {
        let (output, d_output) = (builder.buffer(layer.z.shape), builder.buffer(layer.z.shape));
        Self::Preprocess { layer: Box::new(layer), output, d_output }
    }
}

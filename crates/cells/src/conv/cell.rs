//! A cell: two inputs brought to its channels, and the graph between them. Knows nothing of the network around it.

use super::build::{Buffer, Builder};
use super::convolution::Activate;
use super::graph::{Entry, Graph};
use super::pass::{Backward, Forward};
use super::preprocess::ConvNorm;
use crate::error::Error;

/// An activation in parts (their channels concatenated), with the gradients of the parts.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) parts: Vec<Buffer>,
    pub(crate) gradients: Vec<Buffer>,
}

impl State {
    pub(crate) fn single(builder: &mut Builder, value: Buffer) -> Self {
        Self { parts: vec![value], gradients: vec![builder.buffer(value.shape)] }
    }

    /// Whether both are the same activation.
    #[cfg(feature = "cuda")]
    pub(super) fn is(&self, other: &Self) -> bool {
        self.parts.iter().map(|part| part.id).eq(other.parts.iter().map(|part| part.id))
    }

    pub(crate) fn channels(&self) -> usize {
        self.parts.iter().map(|part| part.shape.c).sum()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(super) inputs: [State; 2],
    pub(super) preprocess: [ConvNorm; 2],
    pub(super) graph: Graph,
    pub(crate) output: State,
}

/// What distinguishes one cell of a network from another.
pub(crate) struct CellPlan<'a> {
    pub(crate) name: String,
    pub(crate) channels: usize,
    pub(crate) reduction: bool,
    /// Whether the cell before this one halved the size, so that input 0 is twice as large as input 1.
    pub(crate) after_reduction: bool,
    pub(crate) affine: bool,
    pub(crate) entries: &'a [Entry],
    pub(crate) concat: &'a [usize],
}

impl Cell {
    pub(crate) fn new(
        builder: &mut Builder,
        plan: &CellPlan,
        inputs: [State; 2],
        masks: Option<&mut usize>,
    ) -> Result<Self, Error> {
        let shapes = [0, 1].map(|i| inputs[i].parts[0].shape.with_channels(inputs[i].channels()));
        let names = [0, 1].map(|i| format!("{}.preprocess{i}", plan.name));
        let &CellPlan { channels: c, affine, .. } = plan;
        let preprocess = [
            if plan.after_reduction {
                ConvNorm::factorized_reduce(builder, &names[0], shapes[0], c, affine)?
            } else {
                ConvNorm::relu_conv_bn(builder, &names[0], shapes[0], c, affine)
            },
            ConvNorm::relu_conv_bn(builder, &names[1], shapes[1], c, affine),
        ];
        let nodes = [0, 1].map(|i| builder.buffer(preprocess[i].z.shape)).to_vec();
        let stride = if plan.reduction { 2 } else { 1 };
        let graph = Graph::new(builder, nodes, stride, plan.entries, affine, masks)?;
        let pick = |buffers: &[Buffer]| plan.concat.iter().map(|&node| buffers[node]).collect();
        let output = State { parts: pick(&graph.nodes), gradients: pick(&graph.gradients) };
        Ok(Self { inputs, preprocess, graph, output })
    }

    pub(crate) fn forward(&self, pass: &mut Forward) {
        for ((preprocess, input), node) in self.preprocess.iter().zip(&self.inputs).zip(&self.graph.nodes) {
            preprocess.forward(pass, &input.parts, Activate::Relu, node);
        }
        self.graph.forward(pass);
    }

    /// `wanted`: which inputs are to receive a gradient.
    pub(crate) fn backward(&self, pass: &mut Backward, wanted: [bool; 2]) {
        self.graph.backward(pass, wanted);
        let inputs = self.preprocess.iter().zip(&self.inputs).zip(&self.graph.gradients).zip(wanted);
        for (((preprocess, input), gradient), _) in inputs.filter(|&(_, wanted)| wanted) {
            preprocess.backward(pass, &input.parts, Activate::Relu, gradient, &input.gradients, None);
        }
    }
}

//! One operation by itself on a device, in f32, for tests against golden values.

use darts_cuda::{Memory, Precision, Program, View};

use super::lower::Lower;
use super::places::{Places, Uses};
use super::{DeviceConvGradients, DeviceConvPass, argument, length};
use crate::conv::LossConfig;
use crate::conv::build::Buffer;
use crate::conv::convolution::Activate;
use crate::conv::single::{Body, ConvOperation};
use crate::device::DeviceStatistics;
use crate::error::Error;

/// An operation's buffers on one device, for batches of one size.
#[derive(Debug)]
pub struct DeviceOperation {
    operation: ConvOperation,
    batch: usize,
    places: Places,
    output: View,
}

/// What a pass of one operation reads and writes, all in device memory.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct DeviceOperationPass {
    /// x `[N, H, W, C]`.
    pub input: View,
    /// All weights, as [`ConvOperation::parameters`] lays them out.
    pub theta: View,
    /// Which statistics batch norm uses.
    pub statistics: DeviceStatistics,
    /// ∂loss/∂output, and where those of the weights and of the input go; none: forward alone.
    pub gradients: Option<OperationGradients>,
}

/// The backward pass of a [`DeviceOperationPass`].
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct OperationGradients {
    /// ∂loss/∂output.
    pub output: View,
    /// ∂loss/∂weights, overwritten.
    pub theta: View,
    /// ∂loss/∂x, overwritten.
    pub input: View,
}

impl DeviceOperation {
    /// Allocates the buffers for passes over `batch` samples.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch of 0, [`Error::Device`] without memory.
    pub fn new(device: &(impl Memory + ?Sized), operation: ConvOperation, batch: usize) -> Result<Self, Error> {
        if batch == 0 {
            return Err(argument("the batch", batch.to_string(), "1 or more"));
        }
        let apart = Places::apart(&operation.buffers, operation.channels.len(), batch);
        let anywhere = |len: usize| View::at(1 << 20, len);
        let input = anywhere(operation.input.shape.len() * batch);
        let theta = anywhere(operation.parameters.len());
        let output = anywhere(operation.output().0.shape.len() * batch);
        let gradients = OperationGradients { output, theta, input };
        let statistics = DeviceStatistics::Batch { update: None };
        let pass = DeviceOperationPass { input, theta, statistics, gradients: Some(gradients) };
        let mut program = Program::default();
        let mut lower = lower(&operation, (&apart, output), batch, &mut program, &pass);
        lay_all(&operation, &mut lower, &pass);
        let between = lower.needed();
        let mut uses = Uses::default();
        uses.add(&apart, &program);
        let mut places = apart.together(&uses, between);
        places.start = device.allocate::<u8>(places.bytes() as usize)?.address;
        let output = device.allocate(output.len)?;
        Ok(Self { operation, batch, places, output })
    }

    /// Appends a pass: forward, and backward where gradients are asked for.
    ///
    /// # Errors
    /// [`Error::Length`] for a view that does not fit the operation.
    pub fn lay_down(&self, program: &mut Program, pass: &DeviceOperationPass) -> Result<(), Error> {
        let operation = &self.operation;
        let (input, theta) = (operation.input.shape.len() * self.batch, operation.parameters.len());
        length("input", pass.input.len, input)?;
        length("theta", pass.theta.len, theta)?;
        if let DeviceStatistics::Batch { update: Some(running) } | DeviceStatistics::Running(running) = pass.statistics
        {
            length("running statistics", running.len, operation.statistics.len())?;
        }
        if let Some(gradients) = &pass.gradients {
            length("the gradient of the output", gradients.output.len, self.output().len)?;
            length("the gradient of theta", gradients.theta.len, theta)?;
            length("the gradient of the input", gradients.input.len, input)?;
        }
        let mut lower = lower(operation, (&self.places, self.output), self.batch, program, pass);
        lay_all(operation, &mut lower, pass);
        Ok(())
    }

    /// The output `[N, h', w', c']` of the last pass.
    pub fn output(&self) -> View {
        self.output
    }
}

fn d_input(operation: &ConvOperation) -> &Buffer {
    match &operation.body {
        Body::Graph(graph) => &graph.gradients[0],
        Body::Preprocess { .. } => &operation.d_input,
    }
}

fn lower<'a>(
    operation: &ConvOperation,
    (places, output): (&'a Places, View),
    batch: usize,
    program: &'a mut Program,
    pass: &DeviceOperationPass,
) -> Lower<'a> {
    let gradients = pass.gradients;
    let as_network = DeviceConvPass {
        images: pass.input,
        labels: View::none(),
        theta: pass.theta,
        weights: View::none(),
        masks: None,
        statistics: pass.statistics,
        loss: LossConfig::default(),
        gradients: DeviceConvGradients {
            theta: gradients.map(|g| g.theta),
            weights: None,
            images: gradients.map(|g| g.input),
        },
        precision: Precision::F32,
    };
    let elsewhere = vec![
        (operation.input.id, pass.input),
        (d_input(operation).id, gradients.map_or(View::none(), |g| g.input)),
        (operation.output().0.id, output),
        (operation.output().1.id, gradients.map_or(View::none(), |g| g.output)),
    ];
    Lower::new(places, batch, as_network, elsewhere, program)
}

fn lay_all(operation: &ConvOperation, lower: &mut Lower, pass: &DeviceOperationPass) {
    match &operation.body {
        Body::Graph(graph) => graph.lay_forward(lower),
        Body::Preprocess { layer, output, .. } => {
            layer.lay_forward(lower, &[operation.input], Activate::Relu, output);
        }
    }
    if pass.gradients.is_none() {
        return;
    }
    let gradient = operation.output().1;
    // It is there already.
    let _ = lower.write_to(gradient);
    match &operation.body {
        Body::Graph(graph) => graph.lay_backward(lower, [true; 2]),
        Body::Preprocess { layer, .. } => {
            let d_input = [operation.d_input];
            layer.lay_backward(lower, &[operation.input], Activate::Relu, gradient, &d_input, None);
        }
    }
    lower.ensure(d_input(operation));
    lower.fold_pending();
}

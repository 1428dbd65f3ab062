//! One operation by itself on a device, in f32, for tests against golden values.

use darts_cuda::{Memory, Precision, Program, View};

use super::lower::{Lower, Places, Planned};
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
        let places = Places::new(batch, &operation.activations, &operation.channels);
        let mut this = Self { operation, batch, places };
        let anywhere = |len: usize| View::at(1 << 20, len);
        let input = anywhere(this.operation.input.shape.len() * batch);
        let theta = anywhere(this.operation.parameters.len());
        let output = anywhere(this.operation.output().0.shape.len() * batch);
        let pass = DeviceOperationPass {
            input,
            theta,
            statistics: DeviceStatistics::Batch { update: None },
            gradients: Some(OperationGradients { output, theta, input }),
        };
        this.places.scratch = {
            let mut program = Program::default();
            let mut lower = this.lower(&mut program, &pass);
            lower.measure();
            this.lay_all(&mut lower, &pass);
            lower.scratch_needed()
        };
        this.places.start = device.allocate::<u8>(this.places.bytes() as usize)?.address;
        Ok(this)
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
        let mut lower = self.lower(program, pass);
        self.lay_all(&mut lower, pass);
        Ok(())
    }

    /// The output `[N, h', w', c']` of the last pass.
    pub fn output(&self) -> View {
        self.places.activation(self.operation.output().0.slot, self.batch)
    }

    fn d_input(&self) -> &Buffer {
        match &self.operation.body {
            Body::Graph(graph) => &graph.gradients[0],
            Body::Preprocess { .. } => &self.operation.d_input,
        }
    }

    fn lower<'a>(&'a self, program: &'a mut Program, pass: &DeviceOperationPass) -> Lower<'a> {
        let operation = &self.operation;
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
        let output = gradients.map_or(View::none(), |g| g.output);
        let planned = Planned {
            temporaries: &operation.temporaries,
            buffers: operation.buffers,
            elsewhere: vec![
                (operation.input.id, pass.input),
                (self.d_input().id, as_network.gradients.images.unwrap_or(View::none())),
                (operation.output().1.id, output),
            ],
        };
        Lower::new(planned, &self.places, self.batch, as_network, program)
    }

    fn lay_all(&self, lower: &mut Lower, pass: &DeviceOperationPass) {
        let operation = &self.operation;
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
        lower.ensure(self.d_input());
    }
}

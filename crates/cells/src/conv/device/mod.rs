//! A convolutional network on a device: its passes laid down as programs of darts-cuda, over the buffers that the network has
//! planned for the CPU. The same stages in the same order, with more of them in one launch; nothing here computes, and nothing
//! waits for the device.
//!
//! What changes from step to step (images, labels, θ, operation weights, masks of path dropout) lies in device memory, so a pass
//! that has been laid down once is run again and again.

mod graph;
mod layers;
mod lower;
mod single;

use darts_cuda::head::{self, CrossEntropy};
use darts_cuda::{Memory, Precision, Program, View, Write, vector};

use self::lower::{Lower, Places, Planned};
pub use self::single::{DeviceOperation, DeviceOperationPass, OperationGradients};
use super::build::Buffer;
use super::{ConvNetwork, LossConfig};
use crate::device::DeviceStatistics;
use crate::error::Error;

/// What a pass reads and writes, all in device memory.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct DeviceConvPass {
    /// Normalized images `[N, H, W, 3]`.
    pub images: View,
    /// The class of each, less than the number of classes.
    pub labels: View<u32>,
    /// All weights, as [`ConvNetwork::parameters`] lays them out.
    pub theta: View,
    /// Operation weights `[2·edges, operations]`, normal cell first; none for a discrete network.
    pub weights: View,
    /// Path-dropout factors `[operations, N]`, already divided by the keep probability; none: nothing is dropped.
    pub masks: Option<View>,
    /// Which statistics batch norm uses; running ones as [`ConvNetwork::statistics`] lays them out.
    pub statistics: DeviceStatistics,
    /// The loss.
    pub loss: LossConfig,
    /// The gradients that are asked for.
    pub gradients: DeviceConvGradients,
    /// What the factors of the products of dense and pointwise convolutions and classifiers are rounded to. Depthwise convolutions
    /// are computed in f32 whatever it is, and so are pointwise ones behind a kernel of more than five rows or between channels
    /// that are no multiples of 16.
    pub precision: Precision,
}

/// The gradients of the loss that are asked for; each is overwritten.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct DeviceConvGradients {
    /// With respect to all weights, laid out as they are.
    pub theta: Option<View>,
    /// With respect to the operation weights.
    pub weights: Option<View>,
    /// With respect to the images `[N, H, W, 3]`.
    pub images: Option<View>,
}

impl DeviceConvGradients {
    fn any(&self) -> bool {
        self.theta.is_some() || self.weights.is_some() || self.images.is_some()
    }
}

/// A network's buffers on one device, for batches of given sizes.
#[derive(Debug)]
pub struct DeviceConv {
    network: ConvNetwork,
    batches: Vec<usize>,
    places: Places,
}

impl DeviceConv {
    /// Allocates the buffers for passes over batches of these sizes.
    ///
    /// # Errors
    /// [`Error::Argument`] without a batch or for one of 0, [`Error::Device`] without memory.
    pub fn new(device: &(impl Memory + ?Sized), network: ConvNetwork, batches: &[usize]) -> Result<Self, Error> {
        if batches.is_empty() || batches.contains(&0) {
            return Err(argument("the batches", format!("{batches:?}"), "one or more, of 1 image or more"));
        }
        let mut places = Self::plan(&network, batches);
        places.start = device.allocate::<u8>(places.bytes() as usize)?.address;
        Ok(Self { network, batches: batches.to_vec(), places })
    }

    /// Bytes of device memory that [`DeviceConv::new`] asks for.
    pub fn bytes(network: &ConvNetwork, batches: &[usize]) -> u64 {
        Self::plan(network, batches).bytes()
    }

    /// The places of a network's buffers, but for their common address.
    fn plan(network: &ConvNetwork, batches: &[usize]) -> Places {
        let capacity = batches.iter().copied().max().unwrap_or(0);
        let mut places = Places::new(capacity, &network.activations, &network.channels);
        // What kernels need between their launches depends on how they are cut: passes are laid down to see.
        for (batch, precision) in batches.iter().flat_map(|&batch| Precision::ALL.map(|precision| (batch, precision))) {
            let anywhere = |len: usize| View::at(1 << 20, len);
            let pass = DeviceConvPass {
                images: anywhere(network.images.shape.len() * batch),
                labels: View::at(1 << 20, batch),
                theta: anywhere(network.parameters.len()),
                weights: anywhere(network.weights),
                masks: None,
                statistics: DeviceStatistics::Batch { update: None },
                loss: LossConfig::default(),
                gradients: DeviceConvGradients {
                    theta: Some(anywhere(network.parameters.len())),
                    weights: (network.weights > 0).then(|| anywhere(network.weights)),
                    images: Some(anywhere(network.images.shape.len() * batch)),
                },
                precision,
            };
            let mut program = Program::default();
            let mut lower = Lower::new(network.planned(&pass), &places, batch, pass, &mut program);
            lower.measure();
            network.lay_down(&mut lower, View::at(1 << 20, 2));
            places.scratch = places.scratch.max(lower.scratch_needed());
        }
        places
    }

    /// The network.
    pub fn network(&self) -> &ConvNetwork {
        &self.network
    }

    /// Appends a pass over `batch` images: forward, the loss, and backward where gradients are asked for. `results`: the loss,
    /// and how many predictions are right.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch that was not planned for, [`Error::Length`] for a view that does not fit the network.
    pub fn lay_down(
        &self,
        program: &mut Program,
        batch: usize,
        pass: &DeviceConvPass,
        results: View<f64>,
    ) -> Result<(), Error> {
        self.check(batch, pass)?;
        length("results", results.len, 2)?;
        let mut lower = Lower::new(self.network.planned(pass), &self.places, batch, *pass, program);
        self.network.lay_down(&mut lower, results);
        Ok(())
    }

    /// Logits `[N, classes]` of the last pass, which was over `batch` images.
    pub fn logits(&self, batch: usize) -> View {
        self.places.activation(self.network.classifier.linear.logits.slot, batch)
    }

    /// The auxiliary head's logits, where there is one.
    pub fn auxiliary_logits(&self, batch: usize) -> Option<View> {
        let (_, auxiliary) = self.network.auxiliary.as_ref()?;
        Some(self.places.activation(auxiliary.linear.logits.slot, batch))
    }

    fn check(&self, batch: usize, pass: &DeviceConvPass) -> Result<(), Error> {
        if !self.batches.contains(&batch) {
            return Err(argument("the batch", batch.to_string(), format!("one of {:?}, as planned", self.batches)));
        }
        let network = &self.network;
        let images = network.images.shape.len() * batch;
        length("images", pass.images.len, images)?;
        length("labels", pass.labels.len, batch)?;
        length("theta", pass.theta.len, network.parameters.len())?;
        length("operation weights", pass.weights.len, network.weights)?;
        if let Some(masks) = pass.masks {
            length("path-dropout masks", masks.len, network.droppable.len() * batch)?;
        }
        match pass.statistics {
            DeviceStatistics::Batch { update: Some(running) } | DeviceStatistics::Running(running) => {
                length("running statistics", running.len, network.statistics.len())?;
            }
            DeviceStatistics::Batch { update: None } => {}
        }
        let DeviceConvGradients { theta, weights, images: d_images } = pass.gradients;
        let gradients = [
            ("the gradient of theta", theta, network.parameters.len()),
            ("the gradient of the operation weights", weights, network.weights),
            ("the gradient of the images", d_images, images),
        ];
        for (what, gradient, expected) in gradients {
            if let Some(gradient) = gradient {
                length(what, gradient.len, expected)?;
            }
        }
        Ok(())
    }
}

impl ConvNetwork {
    /// Images and their gradient lie where the caller says.
    fn planned(&self, pass: &DeviceConvPass) -> Planned<'_> {
        let d_images = pass.gradients.images.unwrap_or(View::none());
        Planned {
            temporaries: &self.temporaries,
            buffers: self.buffers,
            elsewhere: vec![(self.images.id, pass.images), (self.d_images.id, d_images)],
        }
    }

    fn lay_down(&self, lower: &mut Lower, results: View<f64>) {
        self.stem.lay_forward(lower, &self.images);
        for (layer, cell) in self.cells.iter().enumerate() {
            cell.lay_forward(lower);
            if let Some((_, auxiliary)) = self.auxiliary.as_ref().filter(|(at, _)| *at == layer) {
                auxiliary.lay_forward(lower, &cell.output.parts);
            }
        }
        let output = &self.cells[self.cells.len() - 1].output;
        self.classifier.lay_forward(lower, &output.parts);
        self.lay_loss(lower, results);
        if !lower.pass.gradients.any() {
            return;
        }
        let DeviceConvGradients { theta, weights, images } = lower.pass.gradients;
        let everything = theta.is_some() || images.is_some();
        // Contributions to the operation weights add up over cells.
        if let Some(weights) = weights.filter(|weights| !weights.is_empty()) {
            vector::fill(lower.program, weights, 0.0);
        }
        self.classifier.lay_backward(lower, &output.gradients);
        for (layer, cell) in self.cells.iter().enumerate().rev() {
            if let Some((_, auxiliary)) = self.auxiliary.as_ref().filter(|(at, _)| *at == layer) {
                auxiliary.lay_backward(lower, &cell.output.parts, &cell.output.gradients);
            }
            cell.lay_backward(lower, Self::wanted_inputs(layer, everything));
        }
        if everything {
            let wanted: &[Buffer] = if images.is_some() { std::slice::from_ref(&self.d_images) } else { &[] };
            self.stem.lay_backward(lower, &self.images, wanted);
        }
    }

    fn lay_loss(&self, lower: &mut Lower, results: View<f64>) {
        let LossConfig { label_smoothing, auxiliary_weight } = lower.pass.loss;
        let main = (&self.classifier.linear, 1.0);
        let auxiliary = self.auxiliary.as_ref().map(|(_, a)| (&a.linear, auxiliary_weight));
        for (index, (linear, weight)) in std::iter::once(main).chain(auxiliary).enumerate() {
            let config = CrossEntropy {
                label_smoothing,
                weight,
                counts: index == 0,
                write: if index == 0 { Write::Overwrite } else { Write::Accumulate },
            };
            let mark = lower.mark();
            let samples = lower.take(2 * lower.batch);
            let (logits, d_logits) = (lower.view(&linear.logits), lower.view(&linear.d_logits));
            let d_logits = lower.pass.gradients.any().then_some(d_logits);
            head::cross_entropy(lower.program, logits, lower.pass.labels, config, d_logits, samples, results);
            lower.release(mark);
        }
    }
}

fn argument(what: &'static str, value: String, expected: impl Into<String>) -> Error {
    Error::Argument { operation: "network on a device", what, value, expected: expected.into() }
}

fn length(what: &'static str, actual: usize, expected: usize) -> Result<(), Error> {
    let operation = "network on a device";
    if actual == expected { Ok(()) } else { Err(Error::Length { operation, what, actual, expected }) }
}

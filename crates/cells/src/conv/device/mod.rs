//! A convolutional network on a device: its passes laid down as programs of darts-cuda, over the buffers that the network has
//! planned for the CPU, at places of its own. The same stages in the same order, with more of them in one launch; nothing here
//! computes, and nothing waits for the device.
//!
//! What changes from step to step (images, labels, θ, operation weights, masks of path dropout) lies in device memory, so a pass
//! that has been laid down once is run again and again.

mod graph;
mod layers;
mod lower;
mod places;
mod single;
#[cfg(test)]
mod tests;

use darts_cuda::head::{self, CrossEntropy};
use darts_cuda::{Memory, Precision, Program, View, Write, vector};

use self::lower::Lower;
use self::places::{Between, Places, Uses};
pub use self::single::{DeviceOperation, DeviceOperationPass, OperationGradients};
use super::build::Buffer;
use super::cell::{Cell, State};
use super::convolution::Activate;
use super::preprocess::ConvNorm;
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

/// Where a network's buffers lie in a device's memory, for batches of given sizes.
#[derive(Clone, Debug)]
pub struct DeviceConvPlan {
    network: ConvNetwork,
    training: Plan,
    evaluation: Plan,
}

/// A network's buffers on one device.
#[derive(Debug)]
pub struct DeviceConv {
    plan: DeviceConvPlan,
    /// Logits, and the auxiliary head's.
    outputs: [View; 2],
}

/// Batches that passes of one kind are planned for, and where their buffers lie.
#[derive(Clone, Debug)]
struct Plan {
    batches: Vec<usize>,
    places: Places,
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Any pass, with any gradients.
    Training,
    /// Running statistics, no gradients.
    Evaluation,
}

impl DeviceConvPlan {
    /// Plans for any passes over batches of the sizes `training`, and for passes by running statistics and without gradients over
    /// those of `evaluation` as well: they take far less memory for an image, and the same memory. A size of 0 is no batch.
    pub fn new(network: ConvNetwork, training: &[usize], evaluation: &[usize]) -> Self {
        let [training, evaluation] = [(Purpose::Training, training), (Purpose::Evaluation, evaluation)]
            .map(|(purpose, batches)| network.plan(purpose, batches));
        Self { network, training, evaluation }
    }

    /// The same plan, with batches of other sizes for evaluation.
    #[must_use]
    pub fn with_evaluation(self, evaluation: &[usize]) -> Self {
        Self { evaluation: self.network.plan(Purpose::Evaluation, evaluation), ..self }
    }

    /// The network.
    pub fn network(&self) -> &ConvNetwork {
        &self.network
    }

    /// Bytes of device memory that [`DeviceConv::new`] asks for.
    pub fn bytes(&self) -> u64 {
        let outputs: usize = self.network.outputs(self.capacity()).iter().sum();
        self.bytes_of_buffers() + 4 * outputs as u64
    }

    fn bytes_of_buffers(&self) -> u64 {
        self.training.places.bytes().max(self.evaluation.places.bytes())
    }

    /// Images of the largest batch.
    fn capacity(&self) -> usize {
        self.training.batches.iter().chain(&self.evaluation.batches).copied().max().unwrap_or(0)
    }
}

impl DeviceConv {
    /// Allocates the buffers of a plan.
    ///
    /// # Errors
    /// [`Error::Argument`] for a plan without a batch, [`Error::Device`] without memory.
    pub fn new(device: &(impl Memory + ?Sized), mut plan: DeviceConvPlan) -> Result<Self, Error> {
        if plan.capacity() == 0 {
            return Err(argument("the batches", "none".into(), "one or more, of 1 image or more"));
        }
        // The two kinds of passes share their memory.
        let start = device.allocate::<u8>(plan.bytes_of_buffers() as usize)?.address;
        (plan.training.places.start, plan.evaluation.places.start) = (start, start);
        let [logits, auxiliary] = plan.network.outputs(plan.capacity());
        let outputs = [device.allocate(logits)?, device.allocate(auxiliary)?];
        Ok(Self { plan, outputs })
    }

    /// The network.
    pub fn network(&self) -> &ConvNetwork {
        &self.plan.network
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
        let places = self.check(batch, pass)?;
        length("results", results.len, 2)?;
        let network = self.network();
        let mut lower = Lower::new(places, batch, *pass, network.elsewhere(pass, self.outputs, batch), program);
        network.lay_down(&mut lower, results);
        Ok(())
    }

    /// Logits `[N, classes]` of the last pass, which was over `batch` images.
    pub fn logits(&self, batch: usize) -> View {
        self.outputs[0].slice(0..batch * self.network().config().classes)
    }

    /// The auxiliary head's logits, where there is one.
    pub fn auxiliary_logits(&self, batch: usize) -> Option<View> {
        self.network().auxiliary.as_ref()?;
        Some(self.outputs[1].slice(0..batch * self.network().config().classes))
    }

    /// The plan for the pass, if it fits the network and a batch that was planned for.
    fn check(&self, batch: usize, pass: &DeviceConvPass) -> Result<&Places, Error> {
        let evaluates = matches!(pass.statistics, DeviceStatistics::Running(_)) && !pass.gradients.any();
        let DeviceConvPlan { network, training, evaluation } = &self.plan;
        let plans = if evaluates { vec![evaluation, training] } else { vec![training] };
        let Some(plan) = plans.iter().find(|plan| plan.batches.contains(&batch)) else {
            let planned: Vec<usize> = plans.iter().flat_map(|plan| plan.batches.iter().copied()).collect();
            return Err(argument("the batch", batch.to_string(), format!("one of {planned:?}, as planned")));
        };
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
        Ok(&plan.places)
    }
}

impl ConvNetwork {
    /// Floats of the logits, and of the auxiliary head's, of `batch` images.
    fn outputs(&self, batch: usize) -> [usize; 2] {
        let logits = self.config().classes * batch;
        [logits, if self.auxiliary.is_some() { logits } else { 0 }]
    }

    /// Images and their gradient lie where the caller says, and logits where they are found after a pass of any kind.
    fn elsewhere(&self, pass: &DeviceConvPass, outputs: [View; 2], batch: usize) -> Vec<(usize, View)> {
        let d_images = pass.gradients.images.unwrap_or(View::none());
        let auxiliary = self.auxiliary.as_ref().map(|(_, auxiliary)| &auxiliary.linear.logits);
        let logits = [Some(&self.classifier.linear.logits), auxiliary].into_iter().zip(outputs);
        let logits = logits.filter_map(|(buffer, view)| {
            let buffer = buffer?;
            Some((buffer.id, view.slice(0..buffer.shape.len() * batch)))
        });
        [(self.images.id, pass.images), (self.d_images.id, d_images)].into_iter().chain(logits).collect()
    }

    fn apart(&self, capacity: usize) -> Places {
        Places::apart(&self.buffers, self.channels.len(), capacity)
    }

    /// A plan for passes over `batches`. They are laid down to see which buffers are in use together, and how much their kernels
    /// need between their launches, which depends on how work is cut. A pass with fewer gradients does some of what the one with
    /// all of them does, in the same order.
    fn plan(&self, purpose: Purpose, batches: &[usize]) -> Plan {
        let batches: Vec<usize> = batches.iter().copied().filter(|&batch| batch > 0).collect();
        let apart = self.apart(batches.iter().copied().max().unwrap_or(0));
        let (mut uses, mut between) = (Uses::default(), Between::default());
        for (batch, precision) in batches.iter().flat_map(|&batch| Precision::ALL.map(|precision| (batch, precision))) {
            let pass = self.imagined(batch, purpose, precision);
            between = between.max(self.look(&apart, batch, &pass, &mut uses));
        }
        Plan { batches, places: apart.together(&uses, between) }
    }

    /// The pass of its purpose that does most, over memory that is nowhere.
    fn imagined(&self, batch: usize, purpose: Purpose, precision: Precision) -> DeviceConvPass {
        let anywhere = |len: usize| View::at(1 << 20, len);
        let images = anywhere(self.images.shape.len() * batch);
        let (statistics, gradients) = match purpose {
            Purpose::Training => (
                DeviceStatistics::Batch { update: None },
                DeviceConvGradients {
                    theta: Some(anywhere(self.parameters.len())),
                    weights: (self.weights > 0).then(|| anywhere(self.weights)),
                    images: Some(images),
                },
            ),
            Purpose::Evaluation => {
                (DeviceStatistics::Running(anywhere(self.statistics.len())), DeviceConvGradients::default())
            }
        };
        DeviceConvPass {
            images,
            labels: View::at(1 << 20, batch),
            theta: anywhere(self.parameters.len()),
            weights: anywhere(self.weights),
            masks: None,
            statistics,
            loss: LossConfig::default(),
            gradients,
            precision,
        }
    }

    /// Takes in what the launches of a pass use that is laid down at places apart; returns what it takes between launches.
    fn look(&self, apart: &Places, batch: usize, pass: &DeviceConvPass, uses: &mut Uses) -> Between {
        let mut program = Program::default();
        let outputs = self.outputs(batch).map(|len| View::at(1 << 20, len));
        let mut lower = Lower::new(apart, batch, *pass, self.elsewhere(pass, outputs, batch), &mut program);
        self.lay_down(&mut lower, View::at(1 << 20, 2));
        let needed = lower.needed();
        uses.add(apart, &program);
        needed
    }

    fn lay_down(&self, lower: &mut Lower, results: View<f64>) {
        self.stem.lay_forward(lower, &self.images);
        for state in self.stem_outputs() {
            self.lay_preprocess(lower, &state);
        }
        for (layer, cell) in self.cells.iter().enumerate() {
            cell.graph.lay_forward(lower);
            self.lay_preprocess(lower, &cell.output);
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
            cell.graph.lay_backward(lower, Self::wanted_inputs(layer, everything));
            // All that read what this cell reads as its second input lie behind.
            if everything || layer > 0 {
                self.lay_preprocess_backward(lower, &cell.inputs[1]);
            }
            lower.fold_pending();
        }
        if everything {
            for state in self.stem_outputs().iter().filter(|state| !state.is(&self.cells[0].inputs[1])) {
                self.lay_preprocess_backward(lower, state);
            }
            let wanted: &[Buffer] = if images.is_some() { std::slice::from_ref(&self.d_images) } else { &[] };
            self.stem.lay_backward(lower, &self.images, wanted);
        }
        lower.fold_pending();
    }

    /// What cells read of the stem, each once.
    fn stem_outputs(&self) -> Vec<State> {
        let [s0, s1] = self.stem.outputs();
        if s0.is(&s1) { vec![s0] } else { vec![s0, s1] }
    }

    /// The layers that bring `state` to the channels of the cells that read it, with the node of the cell and its gradient.
    fn preprocess<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (&'a ConvNorm, &'a Buffer, &'a Buffer)> {
        let of_cell = move |cell: &'a Cell| {
            let nodes = cell.graph.nodes.iter().zip(&cell.graph.gradients);
            let inputs = cell.inputs.iter().zip(&cell.preprocess).zip(nodes);
            inputs
                .filter(move |((input, _), _)| input.is(state))
                .map(|((_, layer), (node, d_node))| (layer, node, d_node))
        };
        self.cells.iter().flat_map(of_cell)
    }

    fn lay_preprocess(&self, lower: &mut Lower, state: &State) {
        let layers: Vec<_> = self.preprocess(state).map(|(layer, node, _)| (layer, node)).collect();
        if !layers.is_empty() {
            ConvNorm::lay_forward_all(lower, &state.parts, Activate::Relu, &layers);
        }
    }

    fn lay_preprocess_backward(&self, lower: &mut Lower, state: &State) {
        let layers: Vec<_> = self.preprocess(state).map(|(layer, _, d_node)| (layer, d_node)).collect();
        ConvNorm::lay_backward_all(lower, &state.parts, Activate::Relu, &layers, &state.gradients, None);
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
            let logits = lower.view(&linear.logits);
            let d_logits = lower.pass.gradients.any().then(|| lower.view(&linear.d_logits));
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

//! Convolutional networks: the supernet of a search and the discrete network of a genotype, from images to the loss and back.
//!
//! Both are the same stages; they differ in what stands on the edges. A network holds no numbers: θ, running statistics and
//! operation weights are flat vectors that the caller owns, activations lie in a [`Workspace`].

use darts_ops::{Plan, Slot, head};

use super::build::{Buffer, Builder, Geometry};
use super::cell::{Cell, CellPlan, State};
use super::graph::Entry;
use super::head::{Auxiliary, Classifier};
use super::pass::{Backward, Forward, ForwardInput, Gradients, Statistics, Workspace};
use super::stem::StemLayers;
use crate::error::Error;
use crate::genotype::ConvGenotype;
use crate::parameters::Table;
use crate::primitive::Primitive;
use crate::space::{ConvSpace, Edge};

/// How images become the inputs of the first cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 3×3 convolution to `multiplier`·C channels, BN (CIFAR-10; the paper's multiplier is 3).
    Cifar {
        /// Channels of the stem over those of the first cell.
        multiplier: usize,
    },
    /// Three 3×3 convolutions of stride 2; the first cell counts as following a reduction.
    ImageNet,
}

/// The sizes of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// C, channels of the first cells.
    pub init_channels: usize,
    /// Cells; those at layers/3 and 2·layers/3 reduce.
    pub layers: usize,
    /// Classes.
    pub classes: usize,
    /// Height and width of the images.
    pub image: (usize, usize),
    /// The stem, which also decides the form of the auxiliary head.
    pub stem: Stem,
    /// Whether there is an auxiliary head after layer 2·layers/3 (discrete networks).
    pub auxiliary: bool,
}

impl NetworkConfig {
    /// The paper's search network on CIFAR-10: C = 16, 8 layers (section 3.1).
    pub const fn cifar_search(classes: usize) -> Self {
        Self {
            init_channels: 16,
            layers: 8,
            classes,
            image: (32, 32),
            stem: Stem::Cifar { multiplier: 3 },
            auxiliary: false,
        }
    }

    /// The paper's evaluation network on CIFAR-10: C = 36, 20 layers, auxiliary head (section 3.1).
    pub const fn cifar_evaluation(classes: usize) -> Self {
        Self { init_channels: 36, layers: 20, auxiliary: true, ..Self::cifar_search(classes) }
    }

    /// The paper's ImageNet network in the mobile setting: C = 48, 14 layers, 224×224 (section 3.4).
    pub const fn imagenet(classes: usize) -> Self {
        Self { init_channels: 48, layers: 14, classes, image: (224, 224), stem: Stem::ImageNet, auxiliary: true }
    }

    fn check(&self) -> Result<(), Error> {
        let bad = |what, value: usize, expected: &str| {
            Err(Error::Argument { operation: "network", what, value: value.to_string(), expected: expected.to_owned() })
        };
        if self.layers == 0 {
            return bad("layers", 0, "at least 1");
        }
        if self.classes == 0 {
            return bad("classes", 0, "at least 1");
        }
        let least = if self.stem == Stem::ImageNet { 2 } else { 1 };
        if self.init_channels < least {
            return bad("init_channels", self.init_channels, "at least 1 (2 with the ImageNet stem)");
        }
        for (what, size) in [("image height", self.image.0), ("image width", self.image.1)] {
            let nearest = self.nearest_size(size);
            if nearest != size {
                let rule = match self.stem {
                    Stem::Cifar { .. } => "a multiple of 4",
                    Stem::ImageNet => "a size S whose quarter, rounded up, is a multiple of 8",
                };
                return bad(what, size, &format!("{rule}; the nearest that works is {nearest}"));
            }
        }
        Ok(())
    }

    /// The image size nearest to `size` that every reduction of the network can halve.
    pub fn nearest_size(&self, size: usize) -> usize {
        let fits = |s: usize| match self.stem {
            Stem::Cifar { .. } => s > 0 && s.is_multiple_of(4),
            Stem::ImageNet => s > 0 && s.div_ceil(4).is_multiple_of(8),
        };
        (0..)
            .find_map(|d| [size.checked_sub(d), Some(size + d)].into_iter().flatten().find(|&s| fits(s)))
            .unwrap_or(size)
    }
}

/// The loss of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossConfig {
    /// ε of the targets (1 − ε)·onehot + ε/K.
    pub label_smoothing: f64,
    /// Factor of the auxiliary head's loss.
    pub auxiliary_weight: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { label_smoothing: 0.0, auxiliary_weight: 0.4 }
    }
}

/// What a batch's loss came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossOutput {
    /// Mean cross-entropy, plus the auxiliary head's times its weight.
    pub loss: f64,
    /// Samples whose largest logit is their label's.
    pub correct: usize,
}

/// A supernet or a discrete network.
#[derive(Clone, Debug)]
pub struct ConvNetwork {
    config: NetworkConfig,
    pub(super) parameters: Table,
    pub(super) statistics: Table,
    activations: Plan,
    pub(super) channels: Plan,
    pub(super) images: Buffer,
    pub(super) d_images: Buffer,
    pub(super) stem: StemLayers,
    pub(super) cells: Vec<Cell>,
    pub(super) auxiliary: Option<(usize, Auxiliary)>,
    pub(super) classifier: Classifier,
    temporaries: Vec<Slot>,
    /// Floats of each buffer per sample, by `Buffer::id`.
    pub(super) buffers: Vec<usize>,
    pub(super) weights: usize,
    pub(super) droppable: Vec<(usize, usize)>,
    multiply_adds: u64,
}

impl ConvNetwork {
    /// The search network: every candidate on every edge, BN without affine inside the cells.
    ///
    /// # Errors
    /// [`Error::Argument`] for sizes that no network has, naming the nearest image size that works.
    pub fn supernet(space: &ConvSpace, config: &NetworkConfig) -> Result<Self, Error> {
        space.validate()?;
        let edges: Vec<Edge> = space.rows().collect();
        let columns = space.operations();
        let per_cell = edges.len() * columns;
        let concat: Vec<usize> = (ConvSpace::INPUTS..ConvSpace::INPUTS + space.nodes).collect();
        let config = NetworkConfig { auxiliary: false, ..*config };
        Self::build(config, false, 2 * per_cell, |cell, reduction| {
            let offset = if reduction { per_cell } else { 0 };
            let entry = |row: usize, column: usize| Entry {
                name: format!("{cell}._ops.{row}._ops.{column}"),
                primitive: space.primitives[column],
                source: edges[row].source,
                target: edges[row].target,
                weight: Some(offset + row * columns + column),
            };
            let rows = 0..edges.len();
            let entries = rows.flat_map(|row| (0..columns).map(move |column| (row, column)));
            (entries.map(|(row, column)| entry(row, column)).collect(), concat.clone())
        })
    }

    /// The network of a genotype: two operations per node, BN with affine.
    ///
    /// # Errors
    /// [`Error::Argument`] for sizes that no network has; the genotype's own errors where it is not valid.
    pub fn discrete(genotype: &ConvGenotype, config: &NetworkConfig) -> Result<Self, Error> {
        genotype.validate()?;
        Self::build(*config, true, 0, |cell, reduction| {
            let (operations, concat) = if reduction {
                (&genotype.reduce, &genotype.reduce_concat)
            } else {
                (&genotype.normal, &genotype.normal_concat)
            };
            let entries = operations.iter().enumerate().map(|(position, &(primitive, source))| Entry {
                name: format!("{cell}._ops.{position}"),
                primitive,
                source,
                target: 2 + position / 2,
                weight: None,
            });
            (entries.collect(), concat.clone())
        })
    }

    fn build(
        config: NetworkConfig,
        affine: bool,
        weights: usize,
        entries: impl Fn(&str, bool) -> (Vec<Entry>, Vec<usize>),
    ) -> Result<Self, Error> {
        config.check()?;
        let mut builder = Builder::default();
        let image = Geometry { h: config.image.0, w: config.image.1, c: 3 };
        let images = builder.buffer(image);
        let d_images = builder.buffer(image);
        let stem = match config.stem {
            Stem::Cifar { multiplier } => StemLayers::cifar(&mut builder, image, multiplier * config.init_channels),
            Stem::ImageNet => StemLayers::imagenet(&mut builder, image, config.init_channels),
        };
        let mut states = stem.outputs();
        let mut after_reduction = config.stem == Stem::ImageNet;
        let mut channels = config.init_channels;
        let mut cells: Vec<Cell> = Vec::with_capacity(config.layers);
        let mut droppable = Vec::new();
        for layer in 0..config.layers {
            let reduction = [config.layers / 3, 2 * config.layers / 3].contains(&layer);
            if reduction {
                channels *= 2;
            }
            let name = format!("cells.{layer}");
            let (entries, concat) = entries(&name, reduction);
            let plan =
                CellPlan { name, channels, reduction, after_reduction, affine, entries: &entries, concat: &concat };
            let mut masks = droppable.len();
            let cell = Cell::new(&mut builder, &plan, states.clone(), affine.then_some(&mut masks))?;
            if affine {
                let strided = |e: &Entry| reduction && e.source < 2;
                let kept = |e: &Entry| e.primitive == Primitive::SkipConnect && !strided(e);
                let positions = entries.iter().enumerate().filter(|(_, e)| !kept(e));
                droppable.extend(positions.map(|(position, _)| (layer, position)));
                debug_assert_eq!(masks, droppable.len());
            }
            let [_, s1] = states;
            states = [s1, cell.output.clone()];
            after_reduction = reduction;
            cells.push(cell);
        }
        let output = &states[1];
        let classifier = Classifier::new(&mut builder, output.channels(), config.classes);
        let multiply_adds = builder.multiply_adds;
        let auxiliary = config.auxiliary.then(|| Self::auxiliary_head(&mut builder, &config, &cells)).transpose()?;
        let temporaries = builder.reserve_temporaries();
        let Builder { parameters, statistics, activations, channels, buffers, .. } = builder;
        Ok(Self {
            config,
            parameters,
            statistics,
            activations,
            channels,
            images,
            d_images,
            stem,
            cells,
            auxiliary,
            classifier,
            temporaries,
            buffers,
            weights,
            droppable,
            multiply_adds,
        })
    }

    fn auxiliary_head(
        builder: &mut Builder,
        config: &NetworkConfig,
        cells: &[Cell],
    ) -> Result<(usize, Auxiliary), Error> {
        let layer = 2 * config.layers / 3;
        let parts = &cells[layer].output.parts;
        let (stride, sizes, last_norm) = match config.stem {
            Stem::Cifar { .. } => (3, 8..=10, true),
            Stem::ImageNet => (2, 7..=8, false),
        };
        let shape = parts[0].shape;
        if !sizes.contains(&shape.h) || !sizes.contains(&shape.w) {
            return Err(Error::Argument {
                operation: "auxiliary head",
                what: "the size of its input, in pixels,",
                value: format!("{}x{}", shape.h, shape.w),
                expected: format!(
                    "{} to {}: choose another image size or no auxiliary head",
                    sizes.start(),
                    sizes.end()
                ),
            });
        }
        Ok((layer, Auxiliary::new(builder, parts, config.classes, stride, last_norm)))
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Names, shapes and places of the parameters in θ.
    pub fn parameters(&self) -> &Table {
        &self.parameters
    }

    /// Names, shapes and places of the running statistics in their vector.
    pub fn statistics(&self) -> &Table {
        &self.statistics
    }

    /// θ and running statistics at the start, from `seed`.
    pub fn initialize(&self, seed: u64) -> (Vec<f32>, Vec<f32>) {
        (self.parameters.initialize(seed), self.statistics.initialize(seed))
    }

    /// Length of the operation weights: two cells × edges × operations; 0 for a discrete network.
    pub fn operation_weights(&self) -> usize {
        self.weights
    }

    /// (cell, position in its genotype's list) of every operation that path dropout can drop, in the order of the masks.
    pub fn droppable(&self) -> &[(usize, usize)] {
        &self.droppable
    }

    /// Multiply-adds of one image through convolutions and linear layers, the auxiliary head's left out.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    /// Parameters without and with the auxiliary head.
    pub fn parameter_count(&self) -> (usize, usize) {
        let auxiliary = self.parameters.entries().iter().filter(|e| e.name.starts_with("auxiliary_head."));
        let auxiliary: usize = auxiliary.map(|e| e.len()).sum();
        (self.parameters.len() - auxiliary, self.parameters.len())
    }

    /// Bytes of a training step at `batch`: the workspace, and six vectors of the parameters' length (θ, its gradient, momentum, and
    /// the copies of a second-order step).
    pub fn training_bytes(&self, batch: usize) -> u64 {
        4 * (self.activations.len() as u64 * batch as u64
            + self.channels.len() as u64
            + 6 * self.parameters.len() as u64)
    }

    /// Memory for passes over up to `batch` images.
    pub fn workspace(&self, batch: usize) -> Workspace {
        Workspace::new(&self.activations, &self.channels, batch)
    }

    fn check(&self, ws: &Workspace, input: &ForwardInput) -> Result<(), Error> {
        let masks = self.droppable.len() * input.batch;
        let image = self.images.shape.len();
        let lengths = [
            ("images", input.images.len(), image * input.batch),
            ("theta", input.theta.len(), self.parameters.len()),
            ("operation weights", input.weights.len(), self.weights),
            ("active operations", input.active.map_or(self.weights, <[bool]>::len), self.weights),
            ("path-dropout masks", input.masks.map_or(masks, <[f32]>::len), masks),
        ];
        if input.batch == 0 || input.batch > ws.capacity {
            return Err(Error::Argument {
                operation: "forward",
                what: "the batch",
                value: input.batch.to_string(),
                expected: format!("1 to {}, which the workspace was made for", ws.capacity),
            });
        }
        match lengths.into_iter().find(|(_, actual, expected)| actual != expected) {
            Some((what, actual, expected)) => Err(Error::Length { operation: "forward", what, actual, expected }),
            None => Ok(()),
        }
    }

    /// Logits of a batch, left in the workspace with all activations.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Argument`] for vectors or a batch that do not fit the network or the workspace.
    pub fn forward(&self, ws: &mut Workspace, input: &ForwardInput, statistics: Statistics) -> Result<(), Error> {
        self.check(ws, input)?;
        let flat = match &statistics {
            Statistics::Batch { update: None } => None,
            Statistics::Batch { update: Some(flat) } => Some(flat.len()),
            Statistics::Running(flat) => Some(flat.len()),
        };
        if let Some(actual) = flat.filter(|&len| len != self.statistics.len()) {
            let expected = self.statistics.len();
            return Err(Error::Length { operation: "forward", what: "running statistics", actual, expected });
        }
        ws.begin(input.batch, &statistics);
        let images = ws.slot(&self.images);
        ws.activations.write(images).copy_from_slice(input.images);
        let mut pass = Forward { ws, input: *input, statistics };
        in_pool(|| {
            self.stem.forward(&mut pass, &self.images);
            for (layer, cell) in self.cells.iter().enumerate() {
                cell.forward(&mut pass);
                if let Some((_, auxiliary)) = self.auxiliary.as_ref().filter(|(at, _)| *at == layer) {
                    auxiliary.forward(&mut pass, &cell.output.parts);
                }
            }
            self.classifier.forward(&mut pass, &self.output().parts);
        });
        Ok(())
    }

    /// Which inputs of cell `layer` a backward pass needs the gradients of: all of them for `everything`, which is for gradients of θ
    /// or of the images; only those that are outputs of cells where operation weights alone want gradients, as no operation weight has
    /// a part in the stem.
    pub(super) fn wanted_inputs(layer: usize, everything: bool) -> [bool; 2] {
        [0, 1].map(|input| everything || layer + input >= 2)
    }

    fn output(&self) -> &State {
        &self.cells[self.cells.len() - 1].output
    }

    /// Logits `[N, classes]` of the last forward pass.
    pub fn logits<'w>(&self, ws: &'w Workspace) -> &'w [f32] {
        ws.activations.read(ws.slot(&self.classifier.linear.logits))
    }

    /// The auxiliary head's logits `[N, classes]`, where there is one.
    pub fn auxiliary_logits<'w>(&self, ws: &'w Workspace) -> Option<&'w [f32]> {
        let (_, auxiliary) = self.auxiliary.as_ref()?;
        Some(ws.activations.read(ws.slot(&auxiliary.linear.logits)))
    }

    /// The loss of the last forward pass, and, for `backward`, its gradient at the logits.
    ///
    /// # Errors
    /// [`Error::Length`] where `labels` are not as many as the batch, [`Error::Argument`] for a label that is no class.
    pub fn loss(&self, ws: &mut Workspace, labels: &[u32], config: LossConfig) -> Result<LossOutput, Error> {
        if labels.len() != ws.batch {
            return Err(Error::Length { operation: "loss", what: "labels", actual: labels.len(), expected: ws.batch });
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= self.config.classes) {
            return Err(Error::Argument {
                operation: "loss",
                what: "a label",
                value: label.to_string(),
                expected: format!("less than {} classes", self.config.classes),
            });
        }
        let main = (&self.classifier.linear, 1.0);
        let auxiliary = self.auxiliary.as_ref().map(|(_, a)| (&a.linear, config.auxiliary_weight));
        let mut output = LossOutput { loss: 0.0, correct: 0 };
        for (index, (linear, weight)) in std::iter::once(main).chain(auxiliary).enumerate() {
            let slots = [ws.slot(&linear.logits), ws.slot(&linear.d_logits)];
            let (read, mut write) = ws.activations.split(&slots[..1], &slots[1..]);
            let result = head::cross_entropy(read[0], labels, config.label_smoothing, weight, Some(write[0]));
            output.loss += weight * result.loss;
            if index == 0 {
                output.correct = result.correct;
            }
        }
        Ok(output)
    }

    /// Sets the gradient of the logits (and of the auxiliary head's) that `backward` starts from, in place of `loss`.
    ///
    /// # Errors
    /// [`Error::Length`] where it is not `[N, classes]`.
    pub fn set_logits_gradient(
        &self,
        ws: &mut Workspace,
        gradient: &[f32],
        auxiliary: Option<&[f32]>,
    ) -> Result<(), Error> {
        let auxiliary_head = self.auxiliary.as_ref().map(|(_, a)| &a.linear);
        for (linear, gradient) in [(Some(&self.classifier.linear), Some(gradient)), (auxiliary_head, auxiliary)] {
            let Some(linear) = linear else { continue };
            let slot = ws.slot(&linear.d_logits);
            let target = ws.activations.write(slot);
            match gradient {
                Some(gradient) if gradient.len() == target.len() => target.copy_from_slice(gradient),
                Some(gradient) => {
                    return Err(Error::Length {
                        operation: "backward",
                        what: "the gradient of the logits",
                        actual: gradient.len(),
                        expected: target.len(),
                    });
                }
                None => target.fill(0.0),
            }
        }
        Ok(())
    }

    /// Gradients of the loss of the last forward pass, which had the same `input`; each vector that is given is overwritten.
    /// In a pass that was normalized by running statistics these are constants.
    ///
    /// # Errors
    /// As `forward`.
    pub fn backward(&self, ws: &mut Workspace, input: &ForwardInput, gradients: Gradients) -> Result<(), Error> {
        self.check(ws, input)?;
        let Gradients { theta, weights, images } = gradients;
        let wanted = [
            ("the gradient of theta", theta.as_deref().map(<[f32]>::len), self.parameters.len()),
            ("the gradient of the operation weights", weights.as_deref().map(<[f32]>::len), self.weights),
            ("the gradient of the images", images.as_deref().map(<[f32]>::len), input.images.len()),
        ];
        if let Some((what, Some(actual), expected)) =
            wanted.into_iter().find(|(_, actual, expected)| actual.is_some_and(|a| a != *expected))
        {
            return Err(Error::Length { operation: "backward", what, actual, expected });
        }
        let everything = theta.is_some() || images.is_some();
        let mut pass = Backward::new(ws, *input, theta, weights, self.buffers.len(), &self.temporaries);
        let wanted: &[Buffer] = if images.is_some() { std::slice::from_ref(&self.d_images) } else { &[] };
        in_pool(|| {
            self.classifier.backward(&mut pass, &self.output().gradients);
            for (layer, cell) in self.cells.iter().enumerate().rev() {
                if let Some((_, auxiliary)) = self.auxiliary.as_ref().filter(|(at, _)| *at == layer) {
                    auxiliary.backward(&mut pass, &cell.output.parts, &cell.output.gradients);
                }
                cell.backward(&mut pass, Self::wanted_inputs(layer, everything));
            }
            if everything {
                self.stem.backward(&mut pass, &self.images, wanted);
            }
        });
        if let Some(images) = images {
            images.copy_from_slice(ws.activations.read(ws.slot(&self.d_images)));
        }
        Ok(())
    }
}

/// Runs `pass` on a thread of the rayon pool: a pass is a thousand short parallel loops, and a thread outside of the pool would
/// have to be woken after each.
fn in_pool(pass: impl FnOnce() + Send) {
    rayon::scope(|_| pass());
}

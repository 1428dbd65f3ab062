//! Whole steps of the paper's networks: the search's weight step and its two α steps (C 16, 8 layers, batch 64), and the
//! evaluation network's training step (DARTS_V2, C 36, 20 layers, batch 96).

use anyhow::Result;
use candle_core::Device;
use darts_bilevel::optimizer::{Sgd, SgdConfig};
use darts_bilevel::{Search, SearchConfig, SecondOrder, Strategy, clip};
use darts_cells::conv::{ConvNetwork, ForwardInput, Gradients, LossConfig, NetworkConfig, Statistics};
use darts_cells::genotype::named;
use darts_cells::space::ConvSpace;
use darts_ops::vector::Vector;
use darts_runs::supernet::{LabelledImages, SupernetProblem};

use super::cases::Work;
use super::measure::Sizes;

const LEARNING_RATE: f64 = 0.025;

/// Bytes that a weight step of the search has to move at least, by estimate.
const SEARCH_STEP_BYTES: f64 = 9e9;

/// Random images of ten classes.
struct Images {
    pixels: Vec<f32>,
    labels: Vec<u32>,
}

impl Images {
    fn new(batch: usize, seed: usize) -> Self {
        let labels = (0..batch).map(|i| ((i * 7 + seed) % 10) as u32).collect();
        Self { pixels: numbers(batch * 32 * 32 * 3, seed), labels }
    }
}

impl LabelledImages for Images {
    fn images(&self) -> &[f32] {
        &self.pixels
    }

    fn labels(&self) -> &[u32] {
        &self.labels
    }
}

/// Forward and backward cost three forwards; one forward is two operations per multiply-add.
fn training_flops(network: &ConvNetwork, batch: usize) -> f64 {
    6.0 * network.multiply_adds() as f64 * batch as f64
}

/// What of a search step is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// The weight step.
    Weights,
    /// The α step, first order.
    AlphaFirst,
    /// The α step, second order.
    AlphaSecond,
}

impl Half {
    fn strategy(self) -> Strategy {
        match self {
            Self::Weights | Self::AlphaFirst => Strategy::FirstOrder,
            Self::AlphaSecond => Strategy::SecondOrder(SecondOrder::default()),
        }
    }

    /// Forward and backward passes: second order takes w's gradient once and α's three times.
    fn passes(self) -> f64 {
        if self == Self::AlphaSecond { 4.0 } else { 1.0 }
    }
}

/// Half a step of the search.
///
/// # Errors
/// The network cannot be built.
pub(super) fn search(half: Half, sizes: Sizes) -> Result<Work> {
    let paper = (ConvSpace::darts(), NetworkConfig::cifar_search(10));
    let (space, device) = (ConvSpace { nodes: sizes.nodes.unwrap_or(paper.0.nodes), ..paper.0 }, Device::Cpu);
    let init_channels = sizes.channels.unwrap_or(paper.1.init_channels);
    let config = NetworkConfig { init_channels, layers: sizes.layers.unwrap_or(paper.1.layers), ..paper.1 };
    let batch = sizes.batch.unwrap_or(64);
    let (train, valid) = (Images::new(batch, 1), Images::new(batch, 2));
    let network = ConvNetwork::supernet(&space, &config)?;
    let flops = half.passes() * training_flops(&network, batch);
    let (theta, statistics) = network.initialize(0);
    let mut problem = SupernetProblem::new(network, space.operations(), batch, statistics);
    let (theta, alphas) = (Vector::from_vec(theta, &device)?, Vector::from_vec(space.initial_alphas(0), &device)?);
    let mut search = Search::new(theta, alphas, SearchConfig { strategy: half.strategy(), ..SearchConfig::cifar10() })?;
    let step = move || {
        match half {
            Half::Weights => drop(search.weight_step(&mut problem, &train, LEARNING_RATE)?),
            _ => drop(search.alpha_step(&mut problem, &train, &valid, LEARNING_RATE)?),
        }
        Ok(())
    };
    let bytes = if sizes == Sizes::default() { half.passes() * SEARCH_STEP_BYTES } else { 0.0 };
    Ok(Work { step: Box::new(step), flops, bytes })
}

/// The evaluation network's training step, with auxiliary head and path dropout.
///
/// # Errors
/// The network cannot be built.
pub(super) fn evaluation() -> Result<Work> {
    // One path in five dropped, as in a training's last epoch.
    let mask = |i: usize| if i.is_multiple_of(5) { 0.0 } else { 1.25 };
    training(&NetworkConfig::cifar_evaluation(10), 96, Some(&mask), LossConfig::default())
}

/// A training step of the network that the paper transfers to ImageNet (14 cells, C = 48, 224 × 224 pixels), batch 32: a
/// quarter of the paper's batch, as `--accumulate 4` does it.
///
/// # Errors
/// The network cannot be built.
pub(super) fn imagenet() -> Result<Work> {
    let loss = LossConfig { label_smoothing: 0.1, ..LossConfig::default() };
    training(&NetworkConfig::imagenet(1000), 32, None, loss)
}

/// A training step of DARTS_V2's network on random images; `mask`: of the i-th operation and sample, where paths are dropped.
fn training(
    config: &NetworkConfig,
    batch: usize,
    mask: Option<&dyn Fn(usize) -> f32>,
    loss: LossConfig,
) -> Result<Work> {
    let network = ConvNetwork::discrete(&named::conv("DARTS_V2")?, config)?;
    let flops = training_flops(&network, batch);
    let pixels = numbers(batch * config.image.0 * config.image.1 * 3, 1);
    let labels: Vec<u32> = (0..batch).map(|i| ((i * 7 + 1) % config.classes) as u32).collect();
    let (theta, mut statistics) = network.initialize(0);
    let masks: Option<Vec<f32>> = mask.map(|mask| (0..network.droppable().len() * batch).map(mask).collect());
    let mut workspace = network.workspace(batch);
    let mut gradient = Vector::zeros(theta.len(), &Device::Cpu)?;
    let mut theta = Vector::from_vec(theta, &Device::Cpu)?;
    let mut sgd = Sgd::new(SgdConfig { momentum: 0.9, weight_decay: 3e-4 }, theta.len(), &Device::Cpu)?;
    let step = move || -> Result<()> {
        theta.read(|weights| -> Result<()> {
            let masks = masks.as_deref();
            let input = ForwardInput { images: &pixels, batch, theta: weights, weights: &[], active: None, masks };
            network.forward(&mut workspace, &input, Statistics::Batch { update: Some(&mut statistics) })?;
            network.loss(&mut workspace, &labels, loss)?;
            gradient.write(|theta| {
                let wanted = Gradients { theta: Some(theta), weights: None, images: None };
                network.backward(&mut workspace, &input, wanted)
            })??;
            Ok(())
        })??;
        let coefficient = clip::coefficient(gradient.norm2()?, Some(5.0));
        Ok(sgd.step(&mut theta, &gradient, coefficient, LEARNING_RATE)?)
    };
    Ok(Work { step: Box::new(step), flops, bytes: 0.0 })
}

/// Numbers from −1 to 1 that are the same in every run: a golden-ratio sequence, shifted by `seed`.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| (((i + 1) as f64 * 0.618_033_988_749_895 + seed as f64 * 0.37).fract() * 2.0 - 1.0) as f32;
    (0..len).map(number).collect()
}

//! Whole steps of the paper's networks: the search's weight step and its two α steps (C 16, 8 layers, batch 64), and the
//! evaluation network's training step (DARTS_V2, C 36, 20 layers, batch 96).

use std::fs;

use anyhow::{Context as _, Result};
use candle_core::Device;
use darts_bilevel::optimizer::{Sgd, SgdConfig};
use darts_bilevel::{Search, SearchConfig, Strategy, clip};
use darts_cells::conv::{ConvNetwork, ForwardInput, Gradients, LossConfig, NetworkConfig, Statistics};
use darts_cells::genotype::named;
use darts_cells::space::ConvSpace;
use darts_ops::vector::Vector;
use darts_runs::supernet::{LabelledImages, SupernetProblem};

use super::measure::{Row, Times, numbers, time};

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

/// The search's steps.
///
/// # Errors
/// The network cannot be built, or a step fails.
pub(super) fn search(runs: usize) -> Result<Vec<Row>> {
    const BATCH: usize = 64;
    let (space, device) = (ConvSpace::darts(), Device::Cpu);
    let (train, valid) = (Images::new(BATCH, 1), Images::new(BATCH, 2));
    let mut rows = Vec::new();
    for (order, strategy) in [("first", Strategy::FirstOrder), ("second", SearchConfig::cifar10().strategy)] {
        forget_peak_memory();
        let network = ConvNetwork::supernet(&space, &NetworkConfig::cifar_search(10))?;
        let flops = training_flops(&network, BATCH);
        let (theta, statistics) = network.initialize(0);
        let mut problem = SupernetProblem::new(network, space.operations(), BATCH, statistics);
        let alphas = Vector::from_vec(space.initial_alphas(0), &device)?;
        let theta = Vector::from_vec(theta, &device)?;
        let mut search = Search::new(theta, alphas, SearchConfig { strategy, ..SearchConfig::cifar10() })?;
        let mut failed = None;
        if order == "first" {
            let times = time(runs, || {
                failed = search.weight_step(&mut problem, &train, LEARNING_RATE).err().or(failed.take());
            });
            rows.push(row("search: weight step", times, flops, SEARCH_STEP_BYTES, None));
        }
        // First order takes the α gradient once, second order w's twice more and α's twice more.
        let factor = if order == "first" { 1.0 } else { 4.0 };
        let times = time(runs, || {
            failed = search.alpha_step(&mut problem, &train, &valid, LEARNING_RATE).err().or(failed.take());
        });
        let name = format!("search: {order}-order α step");
        let (flops, bytes) = (factor * flops, factor * SEARCH_STEP_BYTES);
        rows.push(row(&name, times, flops, bytes, peak_memory()));
        if let Some(error) = failed {
            return Err(error).with_context(|| format!("{name} failed"));
        }
    }
    Ok(rows)
}

/// The evaluation network's training step.
///
/// # Errors
/// The network cannot be built, or a step fails.
pub(super) fn evaluation(runs: usize) -> Result<Vec<Row>> {
    const BATCH: usize = 96;
    forget_peak_memory();
    let network = ConvNetwork::discrete(&named::conv("DARTS_V2")?, &NetworkConfig::cifar_evaluation(10))?;
    let images = Images::new(BATCH, 1);
    let (theta, mut statistics) = network.initialize(0);
    let masks = vec![1.0; network.droppable().len() * BATCH];
    let mut workspace = network.workspace(BATCH);
    let mut gradient = Vector::zeros(theta.len(), &Device::Cpu)?;
    let mut theta = Vector::from_vec(theta, &Device::Cpu)?;
    let mut sgd = Sgd::new(SgdConfig { momentum: 0.9, weight_decay: 3e-4 }, theta.len(), &Device::Cpu)?;
    let mut step = || -> Result<()> {
        theta.read(|weights| -> Result<()> {
            let input = ForwardInput {
                images: &images.pixels,
                batch: BATCH,
                theta: weights,
                weights: &[],
                active: None,
                masks: Some(&masks),
            };
            network.forward(&mut workspace, &input, Statistics::Batch { update: Some(&mut statistics) })?;
            network.loss(&mut workspace, &images.labels, LossConfig::default())?;
            gradient.write(|theta| {
                let wanted = Gradients { theta: Some(theta), weights: None, images: None };
                network.backward(&mut workspace, &input, wanted)
            })??;
            Ok(())
        })??;
        let coefficient = clip::coefficient(gradient.norm2()?, Some(5.0));
        Ok(sgd.step(&mut theta, &gradient, coefficient, LEARNING_RATE)?)
    };
    let mut failed = None;
    let times = time(runs, || failed = step().err().or(failed.take()));
    if let Some(error) = failed {
        return Err(error).context("the evaluation network's step failed");
    }
    let flops = training_flops(&network, BATCH);
    Ok(vec![row("evaluation: training step", times, flops, 0.0, peak_memory())])
}

fn row(name: &str, times: Times, flops: f64, bytes: f64, peak_memory: Option<u64>) -> Row {
    let Times { median: seconds, fastest, runs } = times;
    Row { name: name.into(), runs, seconds, fastest, flops, bytes, peak_memory }
}

/// Makes the operating system forget the largest memory so far, where it can (Linux).
fn forget_peak_memory() {
    // Elsewhere the peak is that of the whole process, and larger.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The largest resident memory since [`forget_peak_memory`], where the operating system tells (Linux).
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

//! Whole steps of the paper's recurrent networks on Penn Treebank: the search's weight step and its two α steps (300 units, batch
//! 256, 35 time steps), and the evaluation network's training step (DARTS_V2, 850 units, batch 64, 35 time steps).

use anyhow::Result;
use candle_core::Device;
use darts_bilevel::optimizer::{Sgd, SgdConfig};
use darts_bilevel::{Pass, Search, SearchConfig, SecondOrder, Strategy, clip};
use darts_cells::genotype::named;
use darts_cells::recurrent::{
    Gradients, Input, LossConfig, Masks, Mode, RecurrentConfig, RecurrentNetwork, Statistics,
};
use darts_cells::space::RecurrentSpace;
use darts_data::random::{Key, Purpose};
use darts_ops::vector::Vector;
use darts_runs::language::{LanguageConfig, LanguageProblem, Sequence};

use super::cases::Work;
pub(super) use super::conv::Half;

const WORDS: usize = 10_000;
const STEPS: usize = 35;
const CLIP: f64 = 0.25;
const TEMPORAL: f64 = 1e-3;
const LEARNING_RATE: f64 = 20.0;

/// Operations of a pass per multiply-add and token: forward, gradient of what goes in, gradient of the weights.
const ALL_GRADIENTS: f64 = 6.0;
/// Without the gradient of the weights.
const ALPHA_GRADIENT: f64 = 4.0;

/// Words and masks that are the same in every run.
struct Text {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    /// Of the output and the input: one in four is kept.
    strong: Vec<f32>,
    /// Of hidden states and the embedding: three in four are kept.
    weak: Vec<f32>,
}

impl Text {
    fn new(batch: usize, units: usize, seed: u64) -> Self {
        let mut random = Key::new(seed, Purpose::new("bench")).generator();
        let words: Vec<u32> = (0..(STEPS + 1) * batch).map(|_| random.below(WORDS) as u32).collect();
        let mut mask = |keep: f64| -> Vec<f32> {
            let value = |_| if random.chance(keep) { (1.0 / keep) as f32 } else { 0.0 };
            (0..batch * units).map(value).collect()
        };
        let (strong, weak) = (mask(0.25), mask(0.75));
        Self { tokens: words[..STEPS * batch].to_vec(), targets: words[batch..].to_vec(), strong, weak }
    }

    fn dropout(&self) -> Masks<'_> {
        let (strong, weak) = (Some(&self.strong[..]), Some(&self.weak[..]));
        Masks { x: strong, h: weak, embedding_locked: weak, output_locked: strong, embedding_rows: None }
    }
}

impl Sequence for Text {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn targets(&self) -> &[u32] {
        &self.targets
    }

    fn masks(&self, _pass: Pass) -> Masks<'_> {
        self.dropout()
    }
}

/// Operations per multiply-add and token: second order takes w's gradient twice, of which once with α's, and α's alone twice.
fn operations(half: Half) -> f64 {
    match half {
        Half::Weights => ALL_GRADIENTS,
        Half::AlphaFirst => ALPHA_GRADIENT,
        Half::AlphaSecond => 2.0 * ALL_GRADIENTS + 2.0 * ALPHA_GRADIENT,
    }
}

/// Half a step of the search.
///
/// # Errors
/// The network cannot be built.
pub(super) fn search(half: Half) -> Result<Work> {
    const BATCH: usize = 256;
    let (space, device, sizes) = (RecurrentSpace::darts(), Device::Cpu, RecurrentConfig::search(WORDS));
    let (train, valid) = (Text::new(BATCH, sizes.hidden, 1), Text::new(BATCH, sizes.hidden, 2));
    let network = RecurrentNetwork::supernet(&space, &sizes)?;
    let flops = operations(half) * network.multiply_adds() as f64 * (STEPS * BATCH) as f64;
    let (theta, statistics) = network.initialize(0);
    let config = LanguageConfig { batch: BATCH, steps: STEPS, temporal: TEMPORAL };
    let mut problem = LanguageProblem::new(network, space.operations(), config, statistics);
    let (theta, alphas) = (Vector::from_vec(theta, &device)?, Vector::from_vec(space.initial_alphas(0), &device)?);
    let strategy = match half {
        Half::Weights | Half::AlphaFirst => Strategy::FirstOrder,
        Half::AlphaSecond => Strategy::SecondOrder(SecondOrder::clipped(CLIP)),
    };
    let mut search = Search::new(theta, alphas, SearchConfig { strategy, ..SearchConfig::penn_treebank() })?;
    let step = move || {
        let (train, valid): (&dyn Sequence, &dyn Sequence) = (&train, &valid);
        match half {
            Half::Weights => drop(search.weight_step(&mut problem, train, LEARNING_RATE)?),
            _ => drop(search.alpha_step(&mut problem, train, valid, LEARNING_RATE)?),
        }
        Ok(())
    };
    Ok(Work { step: Box::new(step), flops, bytes: 0.0 })
}

/// The evaluation network's training step.
///
/// # Errors
/// The network cannot be built.
pub(super) fn training() -> Result<Work> {
    const BATCH: usize = 64;
    let sizes = RecurrentConfig::penn_treebank(WORDS);
    let network = RecurrentNetwork::discrete(&named::recurrent("DARTS_V2")?, &sizes)?;
    let flops = ALL_GRADIENTS * network.multiply_adds() as f64 * (STEPS * BATCH) as f64;
    let text = Text::new(BATCH, sizes.hidden, 1);
    let mut workspace = network.workspace(BATCH, STEPS, Mode::Training);
    let mut hidden = vec![0.0; BATCH * sizes.hidden];
    let mut theta = Vector::from_vec(network.initialize(0).0, &Device::Cpu)?;
    let mut gradient = Vector::zeros(theta.len(), &Device::Cpu)?;
    let mut sgd = Sgd::new(SgdConfig { momentum: 0.0, weight_decay: 8e-7 }, theta.len(), &Device::Cpu)?;
    let loss = LossConfig { activation: 0.0, temporal: TEMPORAL };
    let step = move || -> Result<()> {
        theta.read(|theta| {
            let (tokens, masks) = (&text.tokens[..], text.dropout());
            let input = Input { tokens, batch: BATCH, hidden: &hidden, theta, weights: &[], masks };
            gradient.write(|theta| {
                let wanted = Gradients { theta: Some(theta), ..Gradients::default() };
                let mut statistics = Statistics::Batch { update: None };
                network.evaluate(&mut workspace, &input, &text.targets, &loss, &mut statistics, wanted)
            })
        })???;
        hidden.copy_from_slice(network.hidden(&workspace));
        let coefficient = clip::coefficient(gradient.norm2()?, Some(CLIP));
        Ok(sgd.step(&mut theta, &gradient, coefficient, LEARNING_RATE)?)
    };
    Ok(Work { step: Box::new(step), flops, bytes: 0.0 })
}

//! Evaluating and using a finished training on text: its perplexity on a split, and text that it writes. The tokenizer is the
//! one in the run's folder, so what its vocabulary lacks is `<unk>` and counted, or an error that names the word.

use std::path::Path;

use darts_cells::parameters::{self, Extra};
#[cfg(feature = "cuda")]
use darts_cells::recurrent::{DeviceGradients, DevicePass, DeviceRecurrent, DeviceStatistics, LossConfig};
use darts_cells::recurrent::{Input, Masks, Mode, RecurrentNetwork, Statistics};
#[cfg(feature = "cuda")]
use darts_cuda::{Memory as _, View};
use darts_data::random::{Key, Purpose};
use darts_data::text::Tokenizer;

use crate::config::{TextTrainConfig, real, whole};
#[cfg(feature = "cuda")]
use crate::device::memory::{of_a_model, refuse_beyond_free};
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::evaluate::{Split, finished_training, interrupted};
use crate::folder::WEIGHTS;
use crate::options::{Computer, RunOptions};
use crate::progress::Progress;
use crate::task::text::data::{TOKENIZER, Text};
#[cfg(feature = "cuda")]
use crate::task::text::device::score as device;
use crate::task::text::score::{Model, TEST_COLUMNS, VALID_COLUMNS};
use crate::task::text::train::network;

/// Words that are written, a function of the seed and their place.
const SAMPLE: Purpose = Purpose::new("sample");

/// What an evaluation on text found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextEvaluation {
    /// Mean cross-entropy in nats per token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// The loss in bits.
    pub bits_per_token: f64,
    /// How many tokens were scored.
    pub tokens: usize,
    /// How many tokens of the text are `<unk>` because the vocabulary lacks what is there.
    pub unknown: usize,
}

/// How text is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Writing {
    /// What it begins with; nothing: with a new line.
    pub prompt: String,
    /// Tokens to write.
    pub length: usize,
    /// Logarithms of probabilities are divided by it: below 1 the likely becomes likelier; 0 takes the likeliest.
    pub temperature: f64,
    /// Only the so many likeliest tokens are drawn from; none: all.
    pub top_k: Option<usize>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Writing {
    fn default() -> Self {
        Self { prompt: String::new(), length: 50, temperature: 1.0, top_k: None, seed: 0 }
    }
}

/// A finished training on text, read back.
struct Trained {
    config: TextTrainConfig,
    tokenizer: Tokenizer,
    network: RecurrentNetwork,
    theta: Vec<f32>,
}

impl Trained {
    fn read(dir: &Path) -> Result<Self> {
        let (record, bytes) = finished_training(dir)?;
        if !record.is_text() {
            return Err(Error::NotReady { dir: dir.into(), reason: "was trained on images, not on text".into() });
        }
        let config: TextTrainConfig = record.config(dir)?;
        config.validate()?;
        let tokenizer = Tokenizer::load(dir.join(TOKENIZER))?;
        let network = network(&config, tokenizer.vocabulary_size())?;
        let path = dir.join(WEIGHTS);
        let vectors =
            parameters::load(&bytes, &[network.parameters()], Extra::Refuse).map_err(|e| Error::bad_file(&path, e))?;
        let theta = vectors.into_iter().next().unwrap_or_default();
        Ok(Self { config, tokenizer, network, theta })
    }
}

/// Evaluates the run on text in `dir` on a split of its text, or of another text in the same files.
///
/// # Errors
/// [`Error::NotReady`] when the folder is no finished training on text, and what the text refuses.
pub fn evaluate_text(
    dir: &Path,
    split: Split,
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<TextEvaluation> {
    options.validate()?;
    let computer = options.computer()?;
    let Trained { config, tokenizer, network, theta } = Trained::read(dir)?;
    options.on_threads(|| {
        let corpus = Text::open(&config.data, options.data_dir.as_deref(), Some(tokenizer))?.corpus;
        let (text, unknown, columns, name) = match split {
            Split::Valid => (&corpus.valid, corpus.unknown.valid, VALID_COLUMNS, "validation"),
            Split::Test => (&corpus.test, corpus.unknown.test, TEST_COLUMNS, "test"),
        };
        let watch = &mut Watch::new(progress);
        let scores = match computer {
            Computer::Cpu(_) => {
                let model = Model { network: &network, theta: &theta, weights: &[], statistics: &[] };
                model.scores(text, columns, config.bptt, name, watch)?
            }
            #[cfg(feature = "cuda")]
            Computer::Gpu(device) => {
                let of_scorer = device::Scorer::bytes(&network, text.len(), columns, config.bptt);
                refuse_beyond_free(&device, of_scorer + 4 * theta.len() as u64, of_a_model)?;
                let (theta, precision) = (device.uploaded(&theta)?, options.precision);
                let model = device::Model { theta, weights: View::none(), statistics: View::none(), precision };
                let mut scorer = device::Scorer::new(&*device, &network, text, columns, config.bptt)?;
                scorer.scores(&*device, model, name, watch)?
            }
        };
        let scores = scores.ok_or_else(|| interrupted(dir))?;
        Ok(TextEvaluation {
            loss: scores.loss,
            perplexity: scores.loss.exp(),
            bits_per_token: scores.loss / std::f64::consts::LN_2,
            tokens: scores.examples,
            unknown,
        })
    })
}

/// Lets the run on text in `dir` write: the prompt and what follows. It needs no data, and the same seed writes the same.
///
/// # Errors
/// [`Error::Config`] for a setting out of range, [`Error::NotReady`] when the folder is no finished training on text,
/// [`Error::Data`] for a prompt with a word that the vocabulary lacks and has no `<unk>` for.
pub fn write_text(dir: &Path, writing: &Writing, options: &RunOptions) -> Result<String> {
    options.validate()?;
    let computer = options.computer()?;
    whole("length", writing.length, 1, 1_000_000)?;
    real("temperature", writing.temperature, 0.0, 1e6)?;
    if let Some(top_k) = writing.top_k {
        whole("top_k", top_k, 1, usize::MAX)?;
    }
    let Trained { tokenizer, network, theta, .. } = Trained::read(dir)?;
    let prompt = tokenizer.encode_prompt(&writing.prompt)?;
    let first = match (prompt.is_empty(), tokenizer.end_of_line()) {
        (false, _) => prompt.clone(),
        (true, Some(end)) => vec![end],
        (true, None) => {
            return Err(Error::Config {
                field: "prompt",
                value: format!("{:?}", writing.prompt),
                expected: "some words: this vocabulary has no <eos> to begin after".into(),
            });
        }
    };
    options.on_threads(|| {
        let mut reader = reader(&computer, &network, &theta, options)?;
        let mut next = Vec::new();
        for &token in &first {
            next = reader(token)?;
        }
        let mut written = prompt;
        for place in 0..writing.length {
            let uniform = Key::new(writing.seed, SAMPLE).step(place as u64).generator().uniform();
            let token = draw(&next, writing.temperature, writing.top_k, uniform);
            written.push(token);
            if place + 1 < writing.length {
                next = reader(token)?;
            }
        }
        Ok(tokenizer.decode(&written)?)
    })
}

/// What reads one token after the other; it gives the logarithms of the probabilities of what follows.
type Reader<'a> = Box<dyn FnMut(u32) -> Result<Vec<f32>> + 'a>;

#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "options of a GPU"))]
fn reader<'a>(
    computer: &'a Computer,
    network: &'a RecurrentNetwork,
    theta: &'a [f32],
    options: &RunOptions,
) -> Result<Reader<'a>> {
    let config = *network.config();
    match computer {
        Computer::Cpu(_) => {
            let mut workspace = network.workspace(1, 1, Mode::Inference);
            let mut hidden = vec![0.0; config.hidden];
            Ok(Box::new(move |token| {
                let tokens = &[token];
                let input = Input { tokens, batch: 1, hidden: &hidden, theta, weights: &[], masks: Masks::default() };
                network.forward(&mut workspace, &input, &mut Statistics::Running(&[]))?;
                hidden.copy_from_slice(network.hidden(&workspace));
                let mut log_probabilities = vec![0.0; config.vocabulary];
                network.log_probabilities(&workspace, theta, &mut log_probabilities)?;
                Ok(log_probabilities)
            }))
        }
        #[cfg(feature = "cuda")]
        Computer::Gpu(gpu) => {
            let mut on_device = DeviceRecurrent::new(&**gpu, network.clone(), 1, 1, Mode::Inference)?;
            let mut sequence = on_device.sequence(&**gpu)?;
            let (theta, hidden) = (gpu.uploaded(theta)?, gpu.uploaded(&vec![0.0; config.hidden])?);
            let log_probabilities = gpu.allocate(config.vocabulary)?;
            let pass = DevicePass {
                theta,
                weights: View::none(),
                hidden,
                next_hidden: Some(hidden),
                statistics: DeviceStatistics::Running(View::none()),
                loss: LossConfig::default(),
                gradients: DeviceGradients::default(),
                precision: options.precision,
            };
            Ok(Box::new(move |token| {
                // No word is known to follow: the loss of this one is not looked at.
                on_device.upload(&**gpu, &mut sequence, &[token], &[token], &Masks::default())?;
                on_device.evaluate(&**gpu, &sequence, &pass)?;
                on_device.log_probabilities(&**gpu, theta, log_probabilities)?;
                Ok(gpu.downloaded(log_probabilities)?)
            }))
        }
    }
}

/// The token that `uniform` from [0, 1) falls on, among the `top_k` likeliest, with probabilities ∝ p^(1/temperature).
fn draw(log_probabilities: &[f32], temperature: f64, top_k: Option<usize>, uniform: f64) -> u32 {
    let mut order: Vec<u32> = (0..log_probabilities.len() as u32).collect();
    let log = |token: u32| log_probabilities[token as usize];
    order.sort_by(|&a, &b| log(b).total_cmp(&log(a)).then(a.cmp(&b)));
    if temperature == 0.0 {
        return order[0];
    }
    order.truncate(top_k.unwrap_or(order.len()));
    let most = f64::from(log(order[0]));
    let weight = |token: u32| ((f64::from(log(token)) - most) / temperature).exp();
    let mut rest = uniform * order.iter().map(|&token| weight(token)).sum::<f64>();
    for &token in &order {
        rest -= weight(token);
        if rest < 0.0 {
            return token;
        }
    }
    order[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_probabilities_that_temperature_and_top_k_give() {
        let log: Vec<f32> = [0.1f32, 0.6, 0.3].iter().map(|p| p.ln()).collect();
        let share = |temperature, top_k, token| {
            let draws = (0..1000).map(|i| draw(&log, temperature, top_k, (f64::from(i) + 0.5) / 1000.0));
            draws.filter(|&drawn| drawn == token).count() as f64 / 1000.0
        };
        for (temperature, top_k, expected) in [
            (1.0, None, [0.1, 0.6, 0.3]),
            (1.0, Some(2), [0.0, 2.0 / 3.0, 1.0 / 3.0]),
            (0.5, None, [0.01 / 0.46, 0.36 / 0.46, 0.09 / 0.46]),
            (0.0, None, [0.0, 1.0, 0.0]),
            (1.0, Some(100), [0.1, 0.6, 0.3]),
        ] {
            for (token, expected) in (0..3).zip(expected) {
                let found = share(temperature, top_k, token);
                assert!((found - expected).abs() < 0.0021, "{temperature} {top_k:?}: {found}, expected {expected}");
            }
        }
    }
}

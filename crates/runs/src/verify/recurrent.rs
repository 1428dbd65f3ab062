//! The recurrent golden files against this machine: discrete and search networks, with and without dropout, and search steps of
//! first and second order. The problem and the search are those that a run uses.

use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
use darts_bilevel::{SearchConfig, SecondOrder, Strategy};
use darts_cells::genotype::RecurrentGenotype;
use darts_cells::primitive::Activation;
use darts_cells::recurrent::{Input, LossConfig, Masks, RecurrentConfig, RecurrentNetwork};
use darts_cells::relaxation::Relaxation;
use darts_cells::space::RecurrentSpace;

use super::VerifyError;
use super::compare::{FileReport, Tolerance};
use super::conv::{compare_table, load};
use super::file::Golden;
use super::place::{LanguageResults, LanguageStart, Place, SearchResults, Words};
use crate::language::LanguageConfig;

/// Everything of a discrete network: float32 reaches 9e-7.
const DISCRETE: Tolerance = Tolerance { group: "discrete recurrent networks", relative: 5e-6 };
/// Everything of a search network and of its steps: float32 reaches 1.8e-6.
const SEARCH: Tolerance = Tolerance { group: "recurrent search", relative: 1e-5 };
/// The finite difference of the second order magnifies rounding: float32 reaches 2.8e-5.
const SECOND_ORDER: Tolerance = Tolerance { group: "second-order α gradients", relative: 2e-4 };

/// Checks an `rnn_*.safetensors`: one training pass with all gradients, one evaluation pass from the same state.
///
/// # Errors
/// A file that does not hold what its metadata says.
pub fn network(mut golden: Golden, place: &dyn Place) -> Result<FileReport, VerifyError> {
    let file = &mut golden;
    let config = RecurrentConfig { vocabulary: file.meta("ntoken")?, hidden: file.meta("nhid")? };
    let (network, columns) = match file.optional_meta::<RecurrentGenotype>("genotype")? {
        Some(genotype) => (RecurrentNetwork::discrete(&genotype, &config)?, 1),
        None => {
            let activations: Vec<Activation> = file.meta("primitives")?;
            let space = RecurrentSpace { nodes: file.meta("steps")?, activations };
            (RecurrentNetwork::supernet(&space, &config)?, space.operations())
        }
    };
    let search = network.operation_weights() > 0;
    let tolerance = if search { SEARCH } else { DISCRETE };
    let theta = load(file, "state", network.parameters())?;
    let before = load(file, "state", network.statistics())?;
    compare_decoder(file, &network, &theta)?;
    let alphas = if search { file.tensor("alphas")?.data } else { Vec::new() };
    let mut weights = vec![0.0; alphas.len()];
    Relaxation::Softmax.forward(&alphas, columns, &mut weights)?;

    let (tokens, targets) = (file.labels("input")?, file.labels("target")?);
    let (_, batch) = steps_and_batch(file, "input")?;
    let hidden = file.tensor("hidden")?.data;
    let mut mask = |name: &str| -> Result<Option<Vec<f32>>, VerifyError> {
        let name = format!("mask/{name}");
        if file.has(&name) { Ok(Some(file.tensor(&name)?.data)) } else { Ok(None) }
    };
    let (x, h) = (mask("x")?, mask("h")?);
    let (embedding, output, rows) = (mask("embedding_locked")?, mask("output_locked")?, mask("embedding_rows")?);
    let masks = Masks {
        x: x.as_deref(),
        h: h.as_deref(),
        embedding_locked: embedding.as_deref(),
        output_locked: output.as_deref(),
        embedding_rows: rows.as_deref(),
    };
    let evaluation =
        Input { tokens: &tokens, batch, hidden: &hidden, theta: &theta, weights: &weights, masks: Masks::default() };
    let training = Input { masks, ..evaluation };
    let loss_config = LossConfig {
        activation: file.meta("activation_regularization")?,
        temporal: file.meta("temporal_activation_regularization")?,
    };

    let (log_prob, hidden_next) = place.recurrent_evaluation(&network, &evaluation, &targets, &before)?;
    file.compare("log_prob_eval", &log_prob, tolerance)?;
    file.compare("hidden_next_eval", &hidden_next, tolerance)?;

    let found = place.recurrent_training(&network, &training, &targets, &loss_config, &before)?;
    file.compare("log_prob", &found.log_probabilities, tolerance)?;
    file.compare("hidden_next", &found.hidden, tolerance)?;
    file.compare("nll", &[found.loss.nll as f32], tolerance)?;
    file.compare("loss", &[found.loss.loss as f32], tolerance)?;
    compare_table(file, "grad", network.parameters(), &found.d_theta, tolerance, |_| true)?;
    file.compare("grad/hidden", &found.d_hidden, tolerance)?;
    compare_table(file, "state_after", network.statistics(), &found.statistics, tolerance, |_| true)?;
    if search {
        let mut d_alphas = vec![f32::NAN; alphas.len()];
        Relaxation::Softmax.backward(&weights, &found.d_weights, columns, &mut d_alphas)?;
        file.compare("grad/alphas", &d_alphas, tolerance)?;
    }
    Ok(golden.finish())
}

/// The stored decoder is the embedding's own matrix.
fn compare_decoder(golden: &mut Golden, network: &RecurrentNetwork, theta: &[f32]) -> Result<(), VerifyError> {
    let encoder = network.parameters().get("encoder.weight").map_or(0..0, |entry| entry.range());
    golden.compare("state/decoder.weight", &theta[encoder], Tolerance { group: "tied weights", relative: 0.0 })
}

/// T and B of a tensor of words.
fn steps_and_batch(golden: &mut Golden, name: &str) -> Result<(usize, usize), VerifyError> {
    match golden.tensor(name)?.shape[..] {
        [steps, batch] => Ok((steps, batch)),
        ref other => Err(golden.invalid(format!("tensor '{name}' is {other:?}, expected two dimensions"))),
    }
}

fn words(golden: &mut Golden, step: usize, split: &str) -> Result<Words, VerifyError> {
    Ok(Words {
        tokens: golden.labels(&format!("step{step}/input_{split}"))?,
        targets: golden.labels(&format!("step{step}/target_{split}"))?,
    })
}

/// For which steps a norm was above its limit.
#[derive(serde::Deserialize)]
struct Clipped {
    weight: Vec<bool>,
    #[serde(default, rename = "virtual")]
    virtual_step: Vec<bool>,
    #[serde(default)]
    direction: Vec<bool>,
}

/// Checks a `bilevel_rnn_*.safetensors`: several consecutive search steps.
///
/// # Errors
/// A file that does not hold what its metadata says.
pub fn bilevel(mut golden: Golden, place: &dyn Place) -> Result<FileReport, VerifyError> {
    let file = &mut golden;
    let alphas = file.tensor("alphas")?;
    let activations = Activation::SEARCH.to_vec();
    let space = (1..=64)
        .map(|nodes| RecurrentSpace { nodes, activations: activations.clone() })
        .find(|space| alphas.shape == [space.edges(), space.operations()])
        .ok_or_else(|| {
            file.invalid(format!("alphas are {:?}, expected a row for each edge of a cell", alphas.shape))
        })?;
    let config = RecurrentConfig { vocabulary: file.meta("ntoken")?, hidden: file.meta("nhid")? };
    let network = RecurrentNetwork::supernet(&space, &config)?;
    let theta = load(file, "state", network.parameters())?;
    let statistics = load(file, "state", network.statistics())?;
    compare_decoder(file, &network, &theta)?;

    let count: usize = file.meta("search_steps")?;
    let (mut steps, mut batch) = (1, 1);
    for name in (0..count).flat_map(|step| ["train", "valid"].map(|split| format!("step{step}/input_{split}"))) {
        let shape = steps_and_batch(file, &name)?;
        (steps, batch) = (steps.max(shape.0), shape.1);
    }
    let temporal = file.meta("temporal_activation_regularization")?;
    let config = search_config(file)?;
    let limit = config.clip;
    let start = LanguageStart {
        columns: space.operations(),
        sizes: LanguageConfig { batch, steps, temporal },
        theta,
        alphas: alphas.data,
        statistics,
        config,
        network: network.clone(),
    };
    let mut search = place.language_search(start).map_err(|reason| file.invalid(reason))?;
    let clipped: Clipped = file.meta("clipped")?;
    let rate: f64 = file.meta("lr")?;

    for step in 0..count {
        let (train, valid) = (words(file, step, "train")?, words(file, step, "valid")?);
        let before = search.state().map_err(|reason| file.invalid(reason))?;
        file.compare(&format!("step{step}/hidden_train_before"), &before.train, SEARCH)?;
        file.compare(&format!("step{step}/hidden_valid_before"), &before.valid, SEARCH)?;
        let found = search
            .step(&train, &valid, rate)
            .map_err(|reason| file.invalid(format!("step {step} cannot be computed: {reason}")))?;
        compare_step(file, step, &found, &network)?;
        let report = found.search.report;
        let above = |norm: f64| limit.is_some_and(|limit| norm > limit);
        let mut found = vec![("weight", report.clip < 1.0, clipped.weight.get(step))];
        if let Some(second) = &report.second_order {
            found.push(("virtual", above(second.virtual_grad_norm), clipped.virtual_step.get(step)));
            found.push(("direction", above(second.valid_grad_norm), clipped.direction.get(step)));
        }
        for (what, found, expected) in found {
            if expected != Some(&found) {
                return Err(file.invalid(format!("step {step}, {what}: clipped is {found}, expected {expected:?}")));
            }
        }
    }
    Ok(golden.finish())
}

fn compare_step(
    golden: &mut Golden,
    step: usize,
    found: &LanguageResults,
    network: &RecurrentNetwork,
) -> Result<(), VerifyError> {
    let key = |name: &str| format!("step{step}/{name}");
    let SearchResults { report, alpha_gradient, alphas, theta, .. } = &found.search;
    if let Some(second) = &report.second_order {
        golden.compare(&key("grad/alphas"), alpha_gradient, SECOND_ORDER)?;
        golden.compare(&key("grad/alphas_direct"), &found.direct_alpha_gradient, SEARCH)?;
        golden.compare(&key("virtual_grad_norm"), &[second.virtual_grad_norm as f32], SEARCH)?;
        golden.compare(&key("valid_grad_norm"), &[second.valid_grad_norm as f32], SEARCH)?;
    } else {
        golden.compare(&key("grad/alphas"), alpha_gradient, SEARCH)?;
    }
    golden.compare(&key("valid_nll"), &[report.valid_loss as f32], SEARCH)?;
    golden.compare(&key("alphas_after"), alphas, SEARCH)?;
    golden.compare(&key("train_nll"), &[found.nll as f32], SEARCH)?;
    golden.compare(&key("train_loss"), &[report.train_loss as f32], SEARCH)?;
    golden.compare(&key("grad_norm"), &[report.grad_norm as f32], SEARCH)?;
    golden.compare(&key("hidden_train_after"), &found.state.train, SEARCH)?;
    golden.compare(&key("hidden_valid_after"), &found.state.valid, SEARCH)?;
    let after = key("state_after");
    compare_table(golden, &after, network.parameters(), theta, SEARCH, |_| true)?;
    compare_table(golden, &after, network.statistics(), &found.state.statistics, SEARCH, |_| true)
}

/// The search that the file describes.
fn search_config(golden: &Golden) -> Result<SearchConfig, VerifyError> {
    let clip: f64 = golden.meta("grad_clip")?;
    let strategy = match golden.meta("order")? {
        1 => Strategy::FirstOrder,
        2 => Strategy::SecondOrder(SecondOrder { radius: golden.meta("hvp_r")?, ..SecondOrder::clipped(clip) }),
        other => return Err(golden.invalid(format!("order is {other}, expected 1 or 2"))),
    };
    Ok(SearchConfig {
        strategy,
        sgd: SgdConfig { momentum: 0.0, weight_decay: golden.meta("weight_decay")? },
        clip: Some(clip),
        adam: AdamConfig {
            learning_rate: golden.meta("arch_lr")?,
            betas: golden.meta("arch_betas")?,
            epsilon: golden.meta("arch_eps")?,
            weight_decay: golden.meta("arch_weight_decay")?,
        },
    })
}

//! Recurrent networks, discrete and searched, with and without dropout, against every value of the golden files `rnn_*`.

mod common;

use std::collections::BTreeSet;

use common::Golden;
use darts_cells::{
    genotype::Genotype,
    parameters::Table,
    recurrent::{Gradients, Input, LossConfig, Masks, Mode, RecurrentConfig, RecurrentNetwork, Statistics},
    space::RecurrentSpace,
};

/// Golden values that have been compared, so that none is forgotten.
struct Checked<'a> {
    golden: &'a Golden,
    tolerance: f64,
    keys: BTreeSet<String>,
}

impl Checked<'_> {
    #[track_caller]
    fn compare(&mut self, key: &str, actual: &[f32]) {
        self.golden.compare(key, actual, self.tolerance);
        self.keys.insert(key.to_owned());
    }

    #[track_caller]
    fn compare_all(&mut self, prefix: &str, table: &Table, vector: &[f32]) {
        for entry in table.entries() {
            self.compare(&format!("{prefix}{}", entry.name), &vector[entry.range()]);
        }
    }
}

fn network(golden: &Golden) -> RecurrentNetwork {
    let config = RecurrentConfig { vocabulary: golden.size("ntoken"), hidden: golden.size("nhid") };
    if golden.has_setting("genotype") {
        let Genotype::Recurrent(genotype) = serde_json::from_value(golden.setting("genotype")).unwrap() else {
            panic!("{}: no recurrent genotype", golden.name())
        };
        return RecurrentNetwork::discrete(&genotype, &config).unwrap();
    }
    let activations = serde_json::from_value(golden.setting("primitives")).unwrap();
    let space = RecurrentSpace { nodes: golden.size("steps"), activations };
    RecurrentNetwork::supernet(&space, &config).unwrap()
}

/// Operation weights of α and, by way of the same relaxation, α's gradient.
fn relax(alphas: &[f32], columns: usize) -> Vec<f32> {
    let mut weights = vec![0.0; alphas.len()];
    darts_cells::relaxation::Relaxation::Softmax.forward(alphas, columns, &mut weights).unwrap();
    weights
}

fn check(golden: &Golden) -> usize {
    let network = network(golden);
    let search = network.operation_weights() > 0;
    let mut checked = Checked { golden, tolerance: if search { 1e-5 } else { 5e-6 }, keys: BTreeSet::new() };
    let theta = golden.vector("state/", network.parameters());
    let running = golden.vector("state/", network.statistics());
    let alphas = if search { golden.floats("alphas") } else { vec![] };
    let columns = golden.shape(if search { "alphas" } else { "input" })[1];
    let weights = relax(&alphas, columns);
    let mask = |name: &str| golden.floats_if_present(&format!("mask/{name}"));
    let (x, h, rows) = (mask("x"), mask("h"), mask("embedding_rows"));
    let (embedding, output) = (mask("embedding_locked"), mask("output_locked"));
    let tokens = golden.words("input");
    let (steps, batch) = (golden.shape("input")[0], golden.shape("input")[1]);
    let hidden = golden.floats("hidden");
    let input = Input {
        tokens: &tokens,
        batch,
        hidden: &hidden,
        theta: &theta,
        weights: &weights,
        masks: Masks {
            x: x.as_deref(),
            h: h.as_deref(),
            embedding_locked: embedding.as_deref(),
            output_locked: output.as_deref(),
            embedding_rows: rows.as_deref(),
        },
    };
    let config = LossConfig {
        activation: golden.number("activation_regularization"),
        temporal: golden.number("temporal_activation_regularization"),
    };

    // A workspace for longer sequences and larger batches, so that nothing relies on their being equal.
    let mut workspace = network.workspace(batch + 3, steps + 2, Mode::Training);
    let mut after = running.clone();
    let (mut d_theta, mut d_weights) = (vec![f32::NAN; theta.len()], vec![f32::NAN; weights.len()]);
    let mut d_hidden = vec![f32::NAN; hidden.len()];
    let gradients = Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), hidden: Some(&mut d_hidden) };
    let mut statistics = Statistics::Batch { update: Some(&mut after) };
    let targets = golden.words("target");
    let loss = network.evaluate(&mut workspace, &input, &targets, &config, &mut statistics, gradients).unwrap();

    checked.compare("nll", &[loss.nll as f32]);
    checked.compare("loss", &[loss.loss as f32]);
    checked.compare("hidden_next", network.hidden(&workspace));
    let mut log_prob = vec![f32::NAN; tokens.len() * network.config().vocabulary];
    network.log_probabilities(&workspace, &theta, &mut log_prob).unwrap();
    checked.compare("log_prob", &log_prob);
    checked.compare_all("grad/", network.parameters(), &d_theta);
    checked.compare("grad/hidden", &d_hidden);
    checked.compare_all("state_after/", network.statistics(), &after);
    if search {
        let mut d_alphas = vec![f32::NAN; alphas.len()];
        let softmax = darts_cells::relaxation::Relaxation::Softmax;
        softmax.backward(&weights, &d_weights, columns, &mut d_alphas).unwrap();
        checked.compare("grad/alphas", &d_alphas);
    }

    // Evaluation: no masks, the statistics from before the pass; with buffers for one time step and with buffers for all.
    for mode in [Mode::Inference, Mode::Training] {
        let mut workspace = network.workspace(batch, steps, mode);
        let input = Input { masks: Masks::default(), ..input };
        network.forward(&mut workspace, &input, &mut Statistics::Running(&running)).unwrap();
        network.log_probabilities(&workspace, &theta, &mut log_prob).unwrap();
        checked.compare("log_prob_eval", &log_prob);
        checked.compare("hidden_next_eval", network.hidden(&workspace));
    }

    let inputs = ["input", "target", "hidden", "alphas"];
    for key in golden.keys() {
        let given = inputs.contains(&key.as_str()) || key.starts_with("state/") || key.starts_with("mask/");
        assert!(given || checked.keys.contains(&key), "{}: {key} was not compared", golden.name());
    }
    checked.keys.len()
}

#[test]
fn networks_match_golden() {
    for path in common::golden_files("rnn_", "safetensors") {
        let golden = Golden::open(&path);
        let values = check(&golden);
        println!("{}: {values} tensors", golden.name());
    }
}

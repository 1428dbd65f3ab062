//! Recurrent networks beyond the golden files: the paper's sizes, sequences of every length, gradients through running
//! statistics, threads, and arguments that do not fit.

use darts_cells::{
    Error,
    genotype::named,
    primitive::Activation,
    recurrent::{Gradients, Input, LossConfig, Masks, Mode, RecurrentConfig, RecurrentNetwork, Statistics},
    space::RecurrentSpace,
};

fn supernet(vocabulary: usize, hidden: usize) -> RecurrentNetwork {
    RecurrentNetwork::supernet(&RecurrentSpace::darts(), &RecurrentConfig { vocabulary, hidden }).unwrap()
}

fn discrete(name: &str, vocabulary: usize, hidden: usize) -> RecurrentNetwork {
    RecurrentNetwork::discrete(&named::recurrent(name).unwrap(), &RecurrentConfig { vocabulary, hidden }).unwrap()
}

fn words(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 7 + i * i % 5) % vocabulary) as u32).collect()
}

/// Numbers in (−0.5, 0.5).
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 101) % 257) as f32 / 257.0 - 0.5).collect()
}

#[test]
fn parameter_counts_match_the_paper() {
    let count = |network: RecurrentNetwork| network.parameter_count();
    let search = RecurrentConfig::search(10_000);
    assert_eq!(count(RecurrentNetwork::supernet(&RecurrentSpace::darts(), &search).unwrap()), 4_810_000);
    let v2 = named::recurrent("DARTS_V2").unwrap();
    let discrete = |config| count(RecurrentNetwork::discrete(&v2, &config).unwrap());
    assert_eq!(discrete(RecurrentConfig::penn_treebank(10_000)), 22_960_000);
    assert_eq!(discrete(RecurrentConfig::wikitext2(33_278)), 33_127_878);
}

#[test]
fn multiply_adds_count_every_edge_of_a_search_and_every_node_of_a_discrete_cell() {
    let (v, h) = (50, 12);
    assert_eq!(supernet(v, h).multiply_adds(), (24 * 24 + 36 * 12 * 24 + 12 * 50) as u64);
    assert_eq!(discrete("ENAS", v, h).multiply_adds(), (24 * 24 + 11 * 12 * 24 + 12 * 50) as u64);
}

#[test]
fn the_second_order_search_of_the_paper_fits_its_memory() {
    let network = RecurrentNetwork::supernet(&RecurrentSpace::darts(), &RecurrentConfig::search(10_000)).unwrap();
    let bytes = network.training_bytes(256, 35);
    assert!((1_000_000_000..1_300_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn a_sequence_cut_in_two_gives_the_states_of_the_whole() {
    let network = discrete("DARTS_V1", 9, 6);
    let (theta, _) = network.initialize(3);
    let (batch, steps) = (1, 7);
    let tokens = words(steps * batch, 9);
    let mut workspace = network.workspace(batch, steps, Mode::Inference);
    let mut run = |tokens: &[u32], hidden: &[f32]| {
        let input = Input { tokens, batch, hidden, theta: &theta, weights: &[], masks: Masks::default() };
        network.forward(&mut workspace, &input, &mut Statistics::Batch { update: None }).unwrap();
        let mut log_probabilities = vec![0.0; tokens.len() * 9];
        network.log_probabilities(&workspace, &theta, &mut log_probabilities).unwrap();
        (network.hidden(&workspace).to_vec(), log_probabilities)
    };
    let start = values(6, 1);
    let (whole, log_probabilities) = run(&tokens, &start);
    // A sequence of one word, then the rest.
    let (first, head) = run(&tokens[..1], &start);
    let (second, tail) = run(&tokens[1..], &first);
    let close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(&whole, &second));
    assert!(close(&log_probabilities, &[head, tail].concat()));
}

#[test]
fn gradients_through_running_statistics_match_finite_differences() {
    // Without relu, whose kinks a finite difference steps over; the columns are another order than the paper's.
    let activations = vec![Activation::Identity, Activation::None, Activation::Sigmoid, Activation::Tanh];
    let space = RecurrentSpace { nodes: 3, activations };
    let network = RecurrentNetwork::supernet(&space, &RecurrentConfig { vocabulary: 5, hidden: 3 }).unwrap();
    let (batch, steps) = (2, 3);
    let theta: Vec<f32> = values(network.parameter_count(), 2).iter().map(|value| 0.6 * value).collect();
    let running: Vec<f32> = [values(3, 3), vec![0.5, 0.8, 1.2]].concat();
    let weights: Vec<f32> = values(network.operation_weights(), 4).iter().map(|value| value.abs()).collect();
    let tokens = words(steps * batch, 5);
    let targets = words(steps * batch, 4);
    let hidden = values(batch * 3, 5);
    let mut workspace = network.workspace(batch, steps, Mode::Training);
    let mut loss = |theta: &[f32], weights: &[f32], gradients: Gradients| {
        let input = Input { tokens: &tokens, batch, hidden: &hidden, theta, weights, masks: Masks::default() };
        let config = LossConfig { activation: 0.3, temporal: 0.2 };
        let mut statistics = Statistics::Running(&running);
        network.evaluate(&mut workspace, &input, &targets, &config, &mut statistics, gradients).unwrap().loss
    };
    let (mut d_theta, mut d_weights) = (vec![0.0; theta.len()], vec![0.0; weights.len()]);
    let both = Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), hidden: None };
    loss(&theta, &weights, both);
    // A power of two large enough that the rounding of an f32 loss does not count.
    let step = 1.0 / 64.0;
    let check = |analytic: f32, what: String, moved: &mut dyn FnMut(f32) -> f64| {
        let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        assert!((numeric - f64::from(analytic)).abs() < 5e-3 * numeric.abs().max(0.3), "{what}: {analytic}, {numeric}");
    };
    for i in (0..theta.len()).step_by(17) {
        check(d_theta[i], format!("theta[{i}]"), &mut |by| {
            let mut theta = theta.clone();
            theta[i] += by;
            loss(&theta, &weights, Gradients::default())
        });
    }
    for i in 0..weights.len() {
        check(d_weights[i], format!("weights[{i}]"), &mut |by| {
            let mut weights = weights.clone();
            weights[i] += by;
            loss(&theta, &weights, Gradients::default())
        });
    }
}

#[test]
fn gradients_are_the_same_bits_for_any_number_of_threads() {
    let network = supernet(37, 45);
    let (theta, running) = network.initialize(1);
    let (batch, steps) = (9, 4);
    let weights = vec![0.2; network.operation_weights()];
    let (tokens, targets) = (words(batch * steps, 37), words(batch * steps, 31));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut workspace = network.workspace(batch, steps, Mode::Training);
        let (mut d_theta, mut d_weights) = (vec![0.0; theta.len()], vec![0.0; weights.len()]);
        let mut after = running.clone();
        let hidden = vec![0.1; batch * 45];
        let masks = Masks::default();
        let input = Input { tokens: &tokens, batch, hidden: &hidden, theta: &theta, weights: &weights, masks };
        let gradients = Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), hidden: None };
        let mut statistics = Statistics::Batch { update: Some(&mut after) };
        let config = LossConfig { activation: 0.0, temporal: 1e-3 };
        let loss = pool.install(|| {
            network.evaluate(&mut workspace, &input, &targets, &config, &mut statistics, gradients).unwrap()
        });
        (loss, d_theta, d_weights, after)
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn arguments_that_do_not_fit_are_refused_by_name() {
    let network = supernet(5, 3);
    let (theta, running) = network.initialize(0);
    let weights = vec![0.2; network.operation_weights()];
    let hidden = [0.0; 6];
    let good = Input {
        tokens: &[0, 1, 2, 3],
        batch: 2,
        hidden: &hidden,
        theta: &theta,
        weights: &weights,
        masks: Masks::default(),
    };
    let refused = |input: &Input, mode, statistics: &mut Statistics, gradients: Gradients, targets: &[u32]| {
        let mut workspace = network.workspace(2, 2, mode);
        let config = LossConfig::default();
        let error = network.evaluate(&mut workspace, input, targets, &config, statistics, gradients).unwrap_err();
        assert!(matches!(error, Error::Argument { .. } | Error::Length { .. }), "{error}");
        error.to_string()
    };
    let plain = |input: &Input| {
        let mut statistics = Statistics::Batch { update: None };
        refused(input, Mode::Training, &mut statistics, Gradients::default(), &[0; 4])
    };
    assert_eq!(
        plain(&Input { tokens: &[0, 1, 5, 3], ..good }),
        "recurrent network: token is 5 at position 2, expected a word below 5"
    );
    assert!(plain(&Input { tokens: &[0, 1, 2], ..good }).contains("number of tokens is 3"));
    assert!(plain(&Input { tokens: &[], ..good }).contains("number of tokens is 0"));
    assert!(plain(&Input { tokens: &[0; 6], ..good }).contains("1 to 2 time steps of 2"));
    assert!(plain(&Input { batch: 0, ..good }).contains("batch is 0"));
    assert!(plain(&Input { batch: 3, ..good }).contains("batch is 3"));
    assert!(plain(&Input { batch: 1, tokens: &[0], hidden: &[0.0; 3], ..good }).contains("2 or more"));
    assert!(plain(&Input { hidden: &[0.0; 3], ..good }).contains("hidden state has 3 numbers, expected 6"));
    assert!(plain(&Input { theta: &[], ..good }).contains("theta has 0 numbers"));
    assert!(plain(&Input { weights: &[], ..good }).contains("operation weights has 0 numbers, expected 180"));
    let masks = Masks { embedding_rows: Some(&[1.0; 4]), ..Masks::default() };
    assert!(plain(&Input { masks, ..good }).contains("rows has 4 numbers, expected 5"));
    let running = &mut Statistics::Running(&running[1..]);
    let message = refused(&good, Mode::Training, running, Gradients::default(), &[0; 4]);
    assert!(message.contains("running statistics has 5 numbers, expected 6"), "{message}");
    let batch = || Statistics::Batch { update: None };
    let message = refused(&good, Mode::Training, &mut batch(), Gradients::default(), &[0, 1, 2, 9]);
    assert!(message.contains("target is 9 at position 3"), "{message}");
    let message = refused(&good, Mode::Training, &mut batch(), Gradients::default(), &[0]);
    assert!(message.contains("targets has 1 numbers, expected 4"), "{message}");
    let mut d_hidden = [0.0; 6];
    let gradients = Gradients { hidden: Some(&mut d_hidden), ..Gradients::default() };
    let message = refused(&good, Mode::Inference, &mut batch(), gradients, &[0; 4]);
    assert!(message.contains("planned for inference"), "{message}");
    let none = RecurrentNetwork::supernet(&RecurrentSpace::darts(), &RecurrentConfig { vocabulary: 0, hidden: 3 });
    assert!(none.unwrap_err().to_string().contains("vocabulary is 0"));
}

#[test]
fn a_batch_that_is_used_after_a_larger_one_gives_the_same_numbers() {
    let network = discrete("ENAS", 7, 4);
    let (theta, _) = network.initialize(5);
    let run = |workspace: &mut _, batch: usize, steps: usize| {
        let (tokens, hidden) = (words(batch * steps, 7), vec![0.2; batch * 4]);
        let input =
            Input { tokens: &tokens, batch, hidden: &hidden, theta: &theta, weights: &[], masks: Masks::default() };
        let mut d_theta = vec![f32::NAN; theta.len()];
        let gradients = Gradients { theta: Some(&mut d_theta), ..Gradients::default() };
        let config = LossConfig { activation: 0.1, temporal: 0.1 };
        let mut statistics = Statistics::Batch { update: None };
        let loss = network.evaluate(workspace, &input, &tokens, &config, &mut statistics, gradients).unwrap();
        (loss, d_theta)
    };
    let mut used = network.workspace(5, 6, Mode::Training);
    run(&mut used, 5, 6);
    let small = run(&mut used, 2, 3);
    assert!(small == run(&mut network.workspace(2, 3, Mode::Training), 2, 3));
}

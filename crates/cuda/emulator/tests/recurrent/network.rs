//! Whole networks on the emulator against the CPU's: gradients, statistics, masks, hidden states that are carried, lengths that
//! vary, and arguments that do not fit.

use darts_cells::Error;
use darts_cells::genotype::named;
use darts_cells::primitive::Activation;
use darts_cells::recurrent::{
    DeviceGradients, DevicePass, DeviceRecurrent, DeviceStatistics, Gradients, Input, LossConfig, LossOutput, Masks,
    Mode, OwnedMasks, RecurrentConfig, RecurrentNetwork, Statistics,
};
use darts_cells::space::RecurrentSpace;
use darts_cuda::{Memory, Precision, View};
use darts_cuda_emulator::{Order, TestDevice, in_all_orders};

use crate::{close, values};

/// A network with the numbers of its passes, but for the words.
struct Model {
    network: RecurrentNetwork,
    theta: Vec<f32>,
    weights: Vec<f32>,
    statistics: Vec<f32>,
    hidden: Vec<f32>,
    batch: usize,
    loss: LossConfig,
}

/// Words of one sequence with the masks of its dropout.
struct Text {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    masks: OwnedMasks,
}

/// Everything that a pass gives.
#[derive(Clone, Debug)]
struct Output {
    loss: LossOutput,
    hidden: Vec<f32>,
    statistics: Vec<f32>,
    d_theta: Vec<f32>,
    d_weights: Vec<f32>,
    d_hidden: Vec<f32>,
}

/// Which statistics a pass uses.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Use {
    Batch,
    Update,
    Running,
}

impl Model {
    fn new(network: RecurrentNetwork, batch: usize) -> Self {
        let hidden = network.config().hidden;
        let positive = |v: &f32| v.abs() + 0.3;
        let mut statistics = values(network.statistics().len(), 2);
        let half = statistics.len() / 2;
        statistics[half..].iter_mut().for_each(|variance| *variance = positive(variance));
        Self {
            theta: values(network.parameter_count(), 1).iter().map(|w| 0.4 * w).collect(),
            weights: values(network.operation_weights(), 3).iter().map(positive).collect(),
            statistics,
            hidden: values(batch * hidden, 4),
            batch,
            loss: LossConfig { activation: 0.4, temporal: 0.7 },
            network,
        }
    }

    fn supernet(vocabulary: usize, hidden: usize, batch: usize) -> Self {
        // Fewer nodes than the paper's and the columns in another order.
        let activations =
            [Activation::Sigmoid, Activation::None, Activation::Tanh, Activation::Identity, Activation::Relu];
        let space = RecurrentSpace { nodes: 3, activations: activations.to_vec() };
        Self::new(RecurrentNetwork::supernet(&space, &RecurrentConfig { vocabulary, hidden }).unwrap(), batch)
    }

    fn discrete(name: &str, vocabulary: usize, hidden: usize, batch: usize) -> Self {
        let config = RecurrentConfig { vocabulary, hidden };
        Self::new(RecurrentNetwork::discrete(&named::recurrent(name).unwrap(), &config).unwrap(), batch)
    }

    fn text(&self, steps: usize, seed: u64, dropout: bool) -> Text {
        let RecurrentConfig { vocabulary, hidden } = *self.network.config();
        let words =
            |seed| values(steps * self.batch, seed).iter().map(|v| (v.abs() * vocabulary as f32) as u32).collect();
        let mask = |seed: u64, len: usize| {
            let keep = |v: f32| if v < 0.3 { 1.25 } else { 0.0 };
            dropout.then(|| values(len, seed).into_iter().map(keep).collect())
        };
        let state = self.batch * hidden;
        let masks = OwnedMasks {
            x: mask(seed + 2, state),
            h: mask(seed + 3, state),
            embedding_locked: mask(seed + 4, state),
            output_locked: mask(seed + 5, state),
            embedding_rows: mask(seed + 6, vocabulary),
        };
        Text { tokens: words(seed), targets: words(seed + 1), masks }
    }

    /// The pass on the CPU.
    fn expected(&self, text: &Text, which: Use) -> Output {
        let steps = text.tokens.len() / self.batch;
        let mut workspace = self.network.workspace(self.batch, steps, Mode::Training);
        let mut statistics = self.statistics.clone();
        let (mut d_theta, mut d_weights) = (vec![0.0; self.theta.len()], vec![0.0; self.weights.len()]);
        let mut d_hidden = vec![0.0; self.hidden.len()];
        let input = Input {
            tokens: &text.tokens,
            batch: self.batch,
            hidden: &self.hidden,
            theta: &self.theta,
            weights: &self.weights,
            masks: masks(&text.masks),
        };
        let mut used = match which {
            Use::Batch => Statistics::Batch { update: None },
            Use::Update => Statistics::Batch { update: Some(&mut statistics) },
            Use::Running => Statistics::Running(&self.statistics),
        };
        let gradients =
            Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), hidden: Some(&mut d_hidden) };
        let loss =
            self.network.evaluate(&mut workspace, &input, &text.targets, &self.loss, &mut used, gradients).unwrap();
        let hidden = self.network.hidden(&workspace).to_vec();
        Output { loss, hidden, statistics, d_theta, d_weights, d_hidden }
    }

    fn on<'a>(&'a self, device: &'a TestDevice, steps: usize) -> OnDevice<'a> {
        let network = DeviceRecurrent::new(device, self.network.clone(), self.batch, steps, Mode::Training).unwrap();
        let up = |values: &[f32]| device.uploaded(values).unwrap();
        let room = |len| device.allocate(len).unwrap();
        OnDevice {
            device,
            model: self,
            theta: up(&self.theta),
            weights: up(&self.weights),
            d_theta: room(self.theta.len()),
            d_weights: room(self.weights.len()),
            d_hidden: room(self.hidden.len()),
            network,
            precision: Precision::F32,
        }
    }

    #[track_caller]
    fn check(&self, text: &Text, which: Use) {
        let steps = text.tokens.len() / self.batch;
        let mut loss = None;
        let found = in_all_orders(|device| {
            let output = self.on(device, steps).run(text, which);
            loss = Some(output.loss);
            output.parts()
        });
        let expected = self.expected(text, which);
        compare(&format!("{which:?} statistics"), loss.unwrap(), &found, &expected);
    }
}

/// The same, lent.
pub(crate) fn masks(masks: &OwnedMasks) -> Masks<'_> {
    Masks {
        x: masks.x.as_deref(),
        h: masks.h.as_deref(),
        embedding_locked: masks.embedding_locked.as_deref(),
        output_locked: masks.output_locked.as_deref(),
        embedding_rows: masks.embedding_rows.as_deref(),
    }
}

impl Output {
    fn parts(&self) -> Vec<Vec<f32>> {
        let Self { hidden, statistics, d_theta, d_weights, d_hidden, .. } = self;
        [hidden, statistics, d_theta, d_weights, d_hidden].map(Clone::clone).into()
    }
}

#[track_caller]
fn compare(name: &str, loss: LossOutput, found: &[Vec<f32>], expected: &Output) {
    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-6;
    assert!(near(loss.nll, expected.loss.nll) && near(loss.loss, expected.loss.loss), "{name}: {loss:?}, {expected:?}");
    let names = ["hidden state", "statistics", "d_theta", "d_weights", "d_hidden"];
    for (what, (found, expected)) in names.iter().zip(found.iter().zip(expected.parts())) {
        close(&format!("{what}, {name}"), found, &expected, 1e-5);
    }
}

/// A model in device memory.
struct OnDevice<'a> {
    device: &'a TestDevice,
    model: &'a Model,
    network: DeviceRecurrent,
    theta: View,
    weights: View,
    d_theta: View,
    d_weights: View,
    d_hidden: View,
    precision: Precision,
}

impl OnDevice<'_> {
    fn run(&mut self, text: &Text, which: Use) -> Output {
        let (device, model) = (self.device, self.model);
        let mut sequence = self.network.sequence(device).unwrap();
        self.network.upload(device, &mut sequence, &text.tokens, &text.targets, &masks(&text.masks)).unwrap();
        let (hidden, statistics) =
            (device.uploaded(&model.hidden).unwrap(), device.uploaded(&model.statistics).unwrap());
        let pass = DevicePass {
            theta: self.theta,
            weights: self.weights,
            hidden,
            // The next state replaces the one it was made of.
            next_hidden: Some(hidden),
            statistics: match which {
                Use::Batch => DeviceStatistics::Batch { update: None },
                Use::Update => DeviceStatistics::Batch { update: Some(statistics) },
                Use::Running => DeviceStatistics::Running(statistics),
            },
            loss: model.loss,
            gradients: DeviceGradients {
                theta: Some(self.d_theta),
                weights: Some(self.d_weights),
                hidden: Some(self.d_hidden),
            },
            precision: self.precision,
        };
        self.network.evaluate(device, &sequence, &pass).unwrap();
        let down = |view: View| device.downloaded(view).unwrap();
        Output {
            loss: self.network.loss(device).unwrap(),
            hidden: down(hidden),
            statistics: down(statistics),
            d_theta: down(self.d_theta),
            d_weights: down(self.d_weights),
            d_hidden: down(self.d_hidden),
        }
    }
}

#[test]
fn emulator_search_networks_match_the_cpu() {
    let model = Model::supernet(13, 17, 3);
    model.check(&model.text(3, 10, true), Use::Update);
    model.check(&model.text(2, 20, false), Use::Batch);
    let model = Model::supernet(5, 1, 2);
    model.check(&model.text(2, 30, true), Use::Running);
}

#[test]
fn emulator_discrete_networks_match_the_cpu() {
    for (name, hidden, batch, steps, dropout) in
        [("DARTS_V2", 36, 1, 2, true), ("DARTS_V1", 5, 3, 1, false), ("ENAS", 1, 2, 3, true)]
    {
        let model = Model::discrete(name, 7, hidden, batch);
        model.check(&model.text(steps, 40, dropout), Use::Batch);
    }
}

#[test]
fn emulator_rounded_factors_change_gradients_by_their_rounding() {
    let model = Model::discrete("DARTS_V1", 11, 17, 3);
    let text = model.text(2, 110, true);
    let device = TestDevice::new(Order::Forward);
    let mut on_device = model.on(&device, 2);
    let exact = on_device.run(&text, Use::Batch);
    // Units in the last place of a factor: 2⁻¹¹ and 2⁻⁸, through several layers.
    for (precision, least, most) in [(Precision::Tf32, 1e-6, 4e-3), (Precision::Bf16, 1e-4, 4e-2)] {
        on_device.precision = precision;
        let rounded = on_device.run(&text, Use::Batch);
        let difference = |a: f64, b: f64| (a / b - 1.0).abs();
        let loss = difference(rounded.loss.nll, exact.loss.nll);
        assert!(loss < most, "nll differs by {loss} in {precision:?}");
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let change = norm(&mut rounded.d_theta.iter().zip(&exact.d_theta).map(|(a, b)| a - b));
        let relative = change / norm(&mut exact.d_theta.iter().copied());
        assert!((least..most).contains(&relative), "gradient differs by {relative} in {precision:?}");
    }
}

#[test]
fn emulator_sequences_of_any_length_share_the_buffers() {
    // A batch norm of two rows makes ±1 of anything, and gradients of rounding errors.
    let model = Model::supernet(9, 6, 4);
    let device = TestDevice::new(Order::Forward);
    let mut on_device = model.on(&device, 4);
    // Longer, shorter, longer again: a program for each, and nothing left of the one before.
    for (steps, seed, dropout) in [(4, 50, true), (1, 60, false), (3, 70, true), (4, 80, false), (4, 50, true)] {
        let text = model.text(steps, seed, dropout);
        let output = on_device.run(&text, Use::Update);
        let expected = model.expected(&text, Use::Update);
        compare(&format!("{steps} steps"), output.loss, &output.parts(), &expected);
    }
}

#[test]
fn emulator_gradients_that_are_not_asked_for_are_not_written() {
    let model = Model::supernet(7, 4, 2);
    let text = model.text(2, 90, true);
    let expected = model.expected(&text, Use::Batch);
    let device = TestDevice::new(Order::Reverse);
    let mut on_device = model.on(&device, 2);
    let mut sequence = on_device.network.sequence(&device).unwrap();
    on_device.network.upload(&device, &mut sequence, &text.tokens, &text.targets, &masks(&text.masks)).unwrap();
    let hidden = device.uploaded(&model.hidden).unwrap();
    let mut pass = DevicePass {
        theta: on_device.theta,
        weights: on_device.weights,
        hidden,
        next_hidden: None,
        statistics: DeviceStatistics::Batch { update: None },
        loss: model.loss,
        gradients: DeviceGradients { weights: Some(on_device.d_weights), ..DeviceGradients::default() },
        precision: Precision::F32,
    };
    let with = on_device.network.program(&sequence, &pass).unwrap().launches.len();
    on_device.network.evaluate(&device, &sequence, &pass).unwrap();
    close("d_weights", &device.downloaded(on_device.d_weights).unwrap(), &expected.d_weights, 1e-5);
    pass.gradients = DeviceGradients::default();
    let without = on_device.network.program(&sequence, &pass).unwrap().launches.len();
    assert!(without < with, "{without} launches without gradients, {with} with");
    on_device.network.evaluate(&device, &sequence, &pass).unwrap();
    let loss = on_device.network.loss(&device).unwrap();
    assert!((loss.loss / expected.loss.loss - 1.0).abs() < 1e-6, "{loss:?}");
    assert_eq!(device.downloaded(hidden).unwrap(), model.hidden, "a state that is not carried");
}

#[test]
fn emulator_a_text_is_scored_in_pieces_with_the_state_carried_on_the_device() {
    let model = Model::supernet(11, 8, 2);
    let text = model.text(5, 100, false);
    let expected = model.expected(&text, Use::Running);
    let device = TestDevice::new(Order::Forward);
    let mut network = DeviceRecurrent::new(&device, model.network.clone(), 2, 3, Mode::Inference).unwrap();
    let mut sequence = network.sequence(&device).unwrap();
    let hidden = device.uploaded(&model.hidden).unwrap();
    let pass = DevicePass {
        theta: device.uploaded(&model.theta).unwrap(),
        weights: device.uploaded(&model.weights).unwrap(),
        hidden,
        next_hidden: Some(hidden),
        statistics: DeviceStatistics::Running(device.uploaded(&model.statistics).unwrap()),
        loss: LossConfig::default(),
        gradients: DeviceGradients::default(),
        precision: Precision::F32,
    };
    let mut sum = 0.0;
    for piece in [0..6, 6..10] {
        let (tokens, targets) = (&text.tokens[piece.clone()], &text.targets[piece.clone()]);
        network.upload(&device, &mut sequence, tokens, targets, &Masks::default()).unwrap();
        network.evaluate(&device, &sequence, &pass).unwrap();
        let loss = network.loss(&device).unwrap();
        assert_eq!(loss.nll, loss.loss);
        sum += loss.nll * piece.len() as f64;
    }
    assert!((sum / 10.0 / expected.loss.nll - 1.0).abs() < 1e-6, "{}, expected {}", sum / 10.0, expected.loss.nll);
    close("hidden state", &device.downloaded(hidden).unwrap(), &expected.hidden, 1e-5);
}

#[test]
fn emulator_arguments_that_do_not_fit_are_refused_by_name() {
    let model = Model::supernet(5, 3, 2);
    let device = TestDevice::new(Order::Forward);
    let mut on_device = model.on(&device, 2);
    let network = &mut on_device.network;
    let mut sequence = network.sequence(&device).unwrap();
    let upload = |network: &DeviceRecurrent, sequence: &mut _, tokens: &[u32], targets: &[u32], masks: &Masks| {
        network.upload(&device, sequence, tokens, targets, masks).unwrap_err().to_string()
    };
    let none = Masks::default();
    assert!(upload(network, &mut sequence, &[0; 3], &[0; 3], &none).contains("number of tokens is 3"));
    assert!(upload(network, &mut sequence, &[0; 6], &[0; 6], &none).contains("1 to 2 time steps of 2"));
    assert!(upload(network, &mut sequence, &[0, 5], &[0; 2], &none).contains("token is 5 at position 1"));
    assert!(upload(network, &mut sequence, &[0; 2], &[0, 9], &none).contains("target is 9 at position 1"));
    let masks = Masks { embedding_rows: Some(&[1.0; 4]), ..none };
    assert!(upload(network, &mut sequence, &[0; 2], &[0; 2], &masks).contains("rows has 4 numbers, expected 5"));

    let pass = DevicePass {
        theta: on_device.theta,
        weights: on_device.weights,
        hidden: on_device.d_hidden,
        next_hidden: None,
        statistics: DeviceStatistics::Batch { update: None },
        loss: model.loss,
        gradients: DeviceGradients::default(),
        precision: Precision::F32,
    };
    let refused = |network: &mut DeviceRecurrent, sequence: &_, pass: &DevicePass| {
        let error = network.evaluate(&device, sequence, pass).unwrap_err();
        assert!(matches!(error, Error::Argument { .. } | Error::Length { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(network, &sequence, &pass).contains("sequence is empty"));
    network.upload(&device, &mut sequence, &[0; 2], &[1; 2], &none).unwrap();
    let short = pass.theta.slice(1..pass.theta.len);
    assert!(refused(network, &sequence, &DevicePass { theta: short, ..pass }).contains("theta has"));
    let statistics = DeviceStatistics::Running(pass.hidden.slice(0..5));
    let message = refused(network, &sequence, &DevicePass { statistics, ..pass });
    assert!(message.contains("running statistics has 5 numbers, expected 6"), "{message}");

    let mut inference = DeviceRecurrent::new(&device, model.network.clone(), 2, 2, Mode::Inference).unwrap();
    let gradients = DeviceGradients { theta: Some(on_device.d_theta), ..DeviceGradients::default() };
    let message = refused(&mut inference, &sequence, &DevicePass { gradients, ..pass });
    assert!(message.contains("planned for inference"), "{message}");
    let one = DeviceRecurrent::new(&device, model.network.clone(), 0, 2, Mode::Inference);
    assert!(one.unwrap_err().to_string().contains("batch is 0"));
}

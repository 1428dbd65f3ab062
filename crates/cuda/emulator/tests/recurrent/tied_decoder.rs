//! Loss, gradients and probabilities against `darts_ops::tied_decoder`.

use darts_cuda::tied_decoder::{Decoder, DecoderGradients, Scratch, chunk_len, log_probabilities, loss, scratch_len};
use darts_cuda::{Backend, Memory, Precision, Program, View};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::tied_decoder as reference;

use crate::{close, values};

/// Which gradients are wanted.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Wanted {
    Nothing,
    Output,
    All,
}

struct Case {
    rows: usize,
    vocabulary: usize,
    hidden: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    output: Vec<f32>,
    targets: Vec<u32>,
}

impl Case {
    fn new(rows: usize, vocabulary: usize, hidden: usize) -> Self {
        Self {
            rows,
            vocabulary,
            hidden,
            weight: values(vocabulary * hidden, 1),
            bias: values(vocabulary, 2),
            output: values(rows * hidden, 3).iter().map(|value| 4.0 * value).collect(),
            targets: (0..rows).map(|r| (r * 5 % vocabulary) as u32).collect(),
        }
    }

    fn scale(&self) -> f64 {
        1.0 / self.rows as f64
    }

    /// nll, gradients of output, weight and bias, logarithms of probabilities.
    fn run(&self, device: &TestDevice, wanted: Wanted) -> (Vec<f64>, Vec<Vec<f32>>) {
        let Self { rows, vocabulary, hidden, .. } = *self;
        let up = |values: &[f32]| device.uploaded(values).unwrap();
        let room = |len| -> View { device.allocate(len).unwrap() };
        let decoder = Decoder { weight: up(&self.weight), bias: up(&self.bias) };
        let output = up(&self.output);
        let targets = device.uploaded(&self.targets).unwrap();
        let (d_output, d_weight, d_bias) = (room(rows * hidden), room(vocabulary * hidden), room(vocabulary));
        let parameters = (wanted == Wanted::All).then_some((d_weight, d_bias));
        let gradients = DecoderGradients { scale: self.scale(), d_output, parameters };
        let nll = device.allocate(1).unwrap();
        let products = room(scratch_len(vocabulary, hidden, rows));
        let losses = device.allocate(rows).unwrap();
        let scratch = Scratch { chunk: room(chunk_len(vocabulary, rows)), products, losses };
        let mut program = Program::default();
        let gradients = (wanted != Wanted::Nothing).then_some(gradients);
        loss(&mut program, Precision::F32, decoder, output, targets, gradients, nll, scratch);
        let probabilities = room(rows * vocabulary);
        log_probabilities(&mut program, Precision::F32, decoder, output, probabilities, products);
        device.run(&program).unwrap();
        let mut views = vec![probabilities];
        if wanted != Wanted::Nothing {
            views.push(d_output);
        }
        if wanted == Wanted::All {
            views.extend([d_weight, d_bias]);
        }
        let down = views.into_iter().map(|view| device.downloaded(view).unwrap()).collect();
        (device.downloaded(nll).unwrap(), down)
    }

    #[track_caller]
    fn check(&self, wanted: Wanted) {
        let Self { rows, vocabulary, .. } = *self;
        let (nll, found) = in_all_orders(|device| self.run(device, wanted));
        let decoder = reference::Decoder { weight: &self.weight, bias: &self.bias };
        let mut chunk = vec![0.0; reference::chunk_len(vocabulary, rows)];
        let mut d_output = vec![0.0; self.output.len()];
        let (mut d_weight, mut d_bias) = (vec![0.0; self.weight.len()], vec![0.0; vocabulary]);
        let gradients = reference::DecoderGradients {
            scale: self.scale(),
            d_output: &mut d_output,
            parameters: Some((&mut d_weight, &mut d_bias)),
        };
        let expected = reference::loss(decoder, &self.output, &self.targets, Some(gradients), &mut chunk);
        assert!((nll[0] / expected - 1.0).abs() < 1e-6, "nll {}, expected {expected}", nll[0]);
        let mut probabilities = vec![0.0; rows * vocabulary];
        reference::log_probabilities(decoder, &self.output, &mut probabilities);
        let expected = [probabilities, d_output, d_weight, d_bias];
        for (name, (found, expected)) in
            ["probabilities", "d_output", "d_weight", "d_bias"].iter().zip(found.iter().zip(&expected))
        {
            close(&format!("{name} of {rows} rows, V = {vocabulary}"), found, expected, 5e-6);
        }
    }
}

#[test]
fn emulator_loss_and_gradients_match_reference() {
    Case::new(1, 2, 1).check(Wanted::All);
    Case::new(7, 33, 17).check(Wanted::All);
    Case::new(3, 36, 5).check(Wanted::Output);
    Case::new(3, 36, 5).check(Wanted::Nothing);
    // More words than four passes of a block's threads.
    Case::new(2, 2100, 3).check(Wanted::All);
}

#[test]
fn emulator_gradients_of_several_chunks_add_up() {
    // 1024 rows is the most that a chunk has.
    let case = Case::new(1030, 18, 3);
    assert_eq!(chunk_len(case.vocabulary, case.rows), 1024 * case.vocabulary);
    let (_, found) = case.run(&TestDevice::new(darts_cuda_emulator::Order::Forward), Wanted::All);
    let decoder = reference::Decoder { weight: &case.weight, bias: &case.bias };
    let mut chunk = vec![0.0; reference::chunk_len(case.vocabulary, case.rows)];
    let (mut d_output, mut d_weight, mut d_bias) = (vec![0.0; 3090], vec![0.0; 54], vec![0.0; 18]);
    let parameters = Some((&mut d_weight[..], &mut d_bias[..]));
    let gradients = reference::DecoderGradients { scale: case.scale(), d_output: &mut d_output, parameters };
    reference::loss(decoder, &case.output, &case.targets, Some(gradients), &mut chunk);
    close("d_output", &found[1], &d_output, 5e-6);
    close("d_weight", &found[2], &d_weight, 5e-6);
    close("d_bias", &found[3], &d_bias, 5e-6);
}

#[test]
fn emulator_a_diverged_network_has_a_loss_that_is_not_a_number() {
    for broken in [f32::NAN, f32::INFINITY] {
        let mut case = Case::new(1, 600, 1);
        case.weight[571] = broken;
        case.output[0] = 1.0;
        let (nll, _) = in_all_orders(|device| case.run(device, Wanted::Nothing));
        assert!(nll[0].is_nan(), "{} with a weight of {broken}", nll[0]);
    }
}

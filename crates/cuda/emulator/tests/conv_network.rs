//! Convolutional networks on a device against the CPU's passes over the same numbers: the supernet and discrete networks with
//! path dropout, auxiliary head and both stems; batch and running statistics.

mod common;

use common::{assert_close, numbers};
use darts_cells::conv::{
    ConvNetwork, DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceConvPlan, DeviceStatistics, ForwardInput,
    Gradients, LossConfig, NetworkConfig, Statistics, Stem,
};
use darts_cells::genotype::{ConvGenotype, named};
use darts_cells::primitive::Primitive;
use darts_cells::relaxation::Relaxation;
use darts_cells::space::ConvSpace;
use darts_cuda::{Backend, Memory, Precision, Program, View};
use darts_cuda_emulator::{Order, TestDevice};

struct Case {
    network: ConvNetwork,
    theta: Vec<f32>,
    statistics: Vec<f32>,
    weights: Vec<f32>,
    masks: Option<Vec<f32>>,
    loss: LossConfig,
    /// How far a gradient may be off, in parts of the largest.
    tolerance: f32,
}

impl Case {
    fn supernet(space: &ConvSpace, config: &NetworkConfig) -> Self {
        let network = ConvNetwork::supernet(space, config).unwrap();
        let mut weights = vec![0.0; network.operation_weights()];
        Relaxation::Softmax.forward(&numbers(weights.len(), 2), space.operations(), &mut weights).unwrap();
        Self::new(network, weights, 1)
    }

    fn named(name: &str, config: &NetworkConfig, batch: usize) -> Self {
        Self::discrete(&named::conv(name).unwrap(), config, batch)
    }

    fn discrete(genotype: &ConvGenotype, config: &NetworkConfig, batch: usize) -> Self {
        Self::new(ConvNetwork::discrete(genotype, config).unwrap(), Vec::new(), batch)
    }

    fn new(network: ConvNetwork, weights: Vec<f32>, batch: usize) -> Self {
        let (mut theta, mut statistics) = network.initialize(1);
        // Norms that differ from the identity, variances that are positive.
        theta.iter_mut().zip(numbers(1 << 20, 5)).for_each(|(x, noise)| *x += 0.1 * noise);
        statistics.iter_mut().zip(numbers(1 << 20, 6)).for_each(|(x, noise)| *x += 0.3 * noise);
        let droppable = network.droppable().len();
        let dropped = |n: &f32| if *n < -0.4 { 0.0 } else { 1.0 / 0.7 };
        let masks = (droppable > 0).then(|| numbers(droppable * batch, 7).iter().map(dropped).collect());
        Self {
            network,
            theta,
            statistics,
            weights,
            masks,
            loss: LossConfig { label_smoothing: 0.1, auxiliary_weight: 0.4 },
            tolerance: 2e-4,
        }
    }

    /// Logits, loss and gradients of both, over `batch` images by the statistics of the batch, then logits by running ones.
    fn compare(&self, batch: usize) {
        let network = &self.network;
        let (h, w) = network.config().image;
        let images = numbers(batch * h * w * 3, 3);
        let labels: Vec<u32> = (0..batch as u32).map(|i| (i * 7 + 2) % network.config().classes as u32).collect();
        let masks = self.masks.as_deref();
        let input =
            ForwardInput { images: &images, batch, theta: &self.theta, weights: &self.weights, active: None, masks };
        let mut ws = network.workspace(batch);
        let mut running = self.statistics.clone();
        let update = Statistics::Batch { update: Some(&mut running) };
        network.forward(&mut ws, &input, update).unwrap();
        let logits = network.logits(&ws).to_vec();
        let auxiliary = network.auxiliary_logits(&ws).map(<[f32]>::to_vec);
        let output = network.loss(&mut ws, &labels, self.loss).unwrap();
        let mut d_theta = vec![0.0; self.theta.len()];
        let mut d_weights = vec![0.0; self.weights.len()];
        let mut d_images = vec![0.0; images.len()];
        let gradients =
            Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), images: Some(&mut d_images) };
        network.backward(&mut ws, &input, gradients).unwrap();
        network.forward(&mut ws, &input, Statistics::Running(&self.statistics)).unwrap();
        let evaluated = network.logits(&ws).to_vec();

        let device = TestDevice::new(Order::Forward);
        let up = |values: &[f32]| -> View { device.uploaded(values).unwrap() };
        // A buffer for a larger batch as well: what is not used must not be touched.
        let on_device =
            DeviceConv::new(&device, DeviceConvPlan::new(network.clone(), &[batch, batch + 1], &[batch + 2])).unwrap();
        let room = |len: usize| -> View { device.allocate(len).unwrap() };
        let (on_theta, on_weights, on_images) = (room(d_theta.len()), room(d_weights.len()), room(d_images.len()));
        let statistics = up(&self.statistics);
        let results: View<f64> = device.allocate(2).unwrap();
        let pass = DeviceConvPass {
            images: up(&images),
            labels: device.uploaded(&labels).unwrap(),
            theta: up(&self.theta),
            weights: up(&self.weights),
            masks: masks.map(up),
            statistics: DeviceStatistics::Batch { update: Some(statistics) },
            loss: self.loss,
            gradients: DeviceConvGradients {
                theta: Some(on_theta),
                weights: (!d_weights.is_empty()).then_some(on_weights),
                images: Some(on_images),
            },
            precision: Precision::F32,
        };
        let mut program = Program::default();
        on_device.lay_down(&mut program, batch, &pass, results).unwrap();
        device.run(&program).unwrap();
        let down = |view: View| device.downloaded(view).unwrap();
        assert_close(&down(on_device.logits(batch)), &logits, 1e-4, "logits");
        if let (Some(view), Some(auxiliary)) = (on_device.auxiliary_logits(batch), auxiliary) {
            assert_close(&down(view), &auxiliary, 1e-4, "auxiliary logits");
        }
        let found = device.downloaded(results).unwrap();
        assert!((found[0] - output.loss).abs() < 1e-5 * (1.0 + output.loss), "loss {} {}", found[0], output.loss);
        assert_eq!(found[1], output.correct as f64, "right answers");
        assert_close(&down(statistics), &running, 1e-5, "running statistics");
        self.assert_relative(&down(on_theta), &d_theta, "gradient of theta");
        if !d_weights.is_empty() {
            self.assert_relative(&down(on_weights), &d_weights, "gradient of the operation weights");
            // Asked for alone, they come without what nothing else wants; launches that hold less are cut otherwise.
            let alone = room(d_weights.len());
            let gradients = DeviceConvGradients { weights: Some(alone), ..DeviceConvGradients::default() };
            let statistics = DeviceStatistics::Batch { update: None };
            let mut program = Program::default();
            let pass = DeviceConvPass { statistics, gradients, ..pass };
            on_device.lay_down(&mut program, batch, &pass, results).unwrap();
            device.run(&program).unwrap();
            assert_close(&down(alone), &down(on_weights), 1e-5, "gradient of the operation weights alone");
        }
        self.assert_relative(&down(on_images), &d_images, "gradient of the images");

        let statistics = DeviceStatistics::Running(up(&self.statistics));
        let pass = DeviceConvPass { statistics, gradients: DeviceConvGradients::default(), ..pass };
        let mut program = Program::default();
        on_device.lay_down(&mut program, batch, &pass, results).unwrap();
        device.run(&program).unwrap();
        assert_close(&down(on_device.logits(batch)), &evaluated, 1e-4, "logits by running statistics");
        // In the memory of an evaluation alone.
        let evaluating =
            DeviceConv::new(&device, DeviceConvPlan::new(network.clone(), &[], &[batch + 1, batch])).unwrap();
        let mut program = Program::default();
        evaluating.lay_down(&mut program, batch, &pass, results).unwrap();
        device.run(&program).unwrap();
        assert_eq!(down(evaluating.logits(batch)), down(on_device.logits(batch)), "logits in less memory");
    }

    /// |got − want| in parts of the largest |want|, as gradients are sums of terms that cancel.
    #[track_caller]
    fn assert_relative(&self, got: &[f32], want: &[f32], what: &str) {
        let largest = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(largest > 0.0, "{what} is 0");
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let close = (got - want).abs() <= self.tolerance * largest;
            assert!(close, "{what}[{i}]: got {got}, want {want}, the largest is {largest}");
        }
    }
}

fn tiny() -> NetworkConfig {
    NetworkConfig { init_channels: 4, layers: 3, image: (8, 12), ..NetworkConfig::cifar_search(5) }
}

#[test]
fn emulator_supernet_is_the_cpus() {
    Case::supernet(&ConvSpace::darts(), &tiny()).compare(3);
}

#[test]
fn emulator_supernet_with_odd_channels_is_the_cpus() {
    Case::supernet(&ConvSpace::darts(), &NetworkConfig { init_channels: 3, image: (8, 12), ..tiny() }).compare(4);
}

#[test]
fn emulator_discrete_network_with_auxiliary_head_is_the_cpus() {
    let config = NetworkConfig { image: (32, 36), auxiliary: true, ..tiny() };
    Case::named("DARTS_V2", &config, 6).compare(6);
}

#[test]
fn emulator_discrete_networks_of_other_spaces_are_the_cpus() {
    for name in ["AmoebaNet", "NASNet", "DARTS_V1"] {
        Case::named(name, &tiny(), 2).compare(2);
    }
}

#[test]
fn emulator_network_with_the_stem_of_imagenet_is_the_cpus() {
    let config = NetworkConfig { image: (32, 64), stem: Stem::ImageNet, ..tiny() };
    Case::named("DARTS_V2", &config, 2).compare(2);
}

/// Cells that nobody would draw: nodes that nothing reads, one input twice, inputs left out, concatenations in any order.
#[test]
fn emulator_networks_of_arbitrary_cells_are_the_cpus() {
    let searched = Primitive::CONV_SEARCH.into_iter().filter(|&primitive| primitive != Primitive::None);
    let operations: Vec<_> = searched.chain([Primitive::SepConv7x7, Primitive::Conv7x1_1x7]).collect();
    for seed in 0..8 {
        let mut draws = numbers(1 << 10, 100 + seed).into_iter();
        let mut below = |n: usize| (((draws.next().unwrap() + 1.0) / 2.0 * n as f32) as usize).min(n - 1);
        let config = NetworkConfig {
            init_channels: 1 + below(6),
            layers: 1 + below(5),
            image: (4 + 4 * below(3), 4 + 4 * below(3)),
            stem: Stem::Cifar { multiplier: 1 + below(4) },
            ..tiny()
        };
        let batch = 2 + below(3);
        let case = if seed % 4 == 0 {
            let nodes = 1 + below(4);
            let start = below(operations.len() - 4);
            let primitives = [&[Primitive::None][..], &operations[start..start + 4]].concat();
            Case::supernet(&ConvSpace { nodes, primitives }, &config)
        } else {
            let mut cell = || {
                let nodes = 1 + below(5);
                let pairs = (0..2 * nodes).map(|i| (operations[below(operations.len())], below(2 + i / 2))).collect();
                let mut concat: Vec<usize> = (2..2 + nodes).filter(|_| below(3) > 0).collect();
                if concat.is_empty() {
                    concat.push(2 + below(nodes));
                }
                concat.reverse();
                (pairs, concat)
            };
            let ((normal, normal_concat), (reduce, reduce_concat)) = (cell(), cell());
            Case::discrete(&ConvGenotype { normal, normal_concat, reduce, reduce_concat }, &config, batch)
        };
        // A ReLU within rounding of 0 may be on here and off there.
        Case { tolerance: 1e-2, ..case }.compare(batch);
    }
}

#[test]
fn emulator_rounded_factors_change_gradients_by_their_rounding() {
    let imagenet = NetworkConfig { image: (64, 96), stem: Stem::ImageNet, ..tiny() };
    let batch = 4;
    for case in [Case::supernet(&ConvSpace::darts(), &tiny()), Case::named("DARTS_V1", &imagenet, batch)] {
        let device = TestDevice::new(Order::Forward);
        let (h, w) = case.network.config().image;
        // Buffers are the same for all precisions.
        let on_device = DeviceConv::new(&device, DeviceConvPlan::new(case.network.clone(), &[batch], &[])).unwrap();
        let images = device.uploaded(&numbers(batch * h * w * 3, 3)).unwrap();
        let labels = device.uploaded(&[2, 0, 1, 4]).unwrap();
        let theta = device.uploaded(&case.theta).unwrap();
        let masks = case.masks.as_ref().map(|masks| device.uploaded(masks).unwrap());
        let results: View<f64> = device.allocate(2).unwrap();
        let run = |precision| {
            let gradient: View = device.allocate(case.theta.len()).unwrap();
            let pass = DeviceConvPass {
                images,
                labels,
                theta,
                weights: device.uploaded(&case.weights).unwrap(),
                masks,
                statistics: DeviceStatistics::Batch { update: None },
                loss: case.loss,
                gradients: DeviceConvGradients { theta: Some(gradient), ..DeviceConvGradients::default() },
                precision,
            };
            let mut program = Program::default();
            on_device.lay_down(&mut program, batch, &pass, results).unwrap();
            device.run(&program).unwrap();
            (device.downloaded(results).unwrap()[0], device.downloaded(gradient).unwrap())
        };
        let (exact_loss, exact) = run(Precision::F32);
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        // Units in the last place of a factor are 2⁻¹¹ and 2⁻⁸. They also turn the relu of as small a share of the numbers on or off,
        // which changes the gradient by the share's root.
        for (precision, least, most) in [(Precision::Tf32, 1e-4, 6e-2), (Precision::Bf16, 1e-3, 2e-1)] {
            let (loss, gradient) = run(precision);
            let change = (loss / exact_loss - 1.0).abs();
            assert!(change < most, "loss differs by {change} in {precision:?}");
            let difference = norm(&mut gradient.iter().zip(&exact).map(|(a, b)| a - b));
            let relative = difference / norm(&mut exact.iter().copied());
            assert!((least..most).contains(&relative), "gradient differs by {relative} in {precision:?}");
        }
    }
}

#[test]
fn emulator_passes_refuse_what_was_not_planned() {
    let case = Case::supernet(&ConvSpace::darts(), &tiny());
    let device = TestDevice::new(Order::Forward);
    let error = DeviceConv::new(&device, DeviceConvPlan::new(case.network.clone(), &[], &[0])).unwrap_err().to_string();
    assert!(error.contains("the batches"), "{error}");
    let on_device = DeviceConv::new(&device, DeviceConvPlan::new(case.network.clone(), &[2], &[])).unwrap();
    let view = |len: usize| View::at(1 << 20, len);
    let pass = DeviceConvPass {
        images: view(3 * 8 * 12 * 3),
        labels: View::at(1 << 20, 3),
        theta: view(case.theta.len()),
        weights: view(case.weights.len()),
        masks: None,
        statistics: DeviceStatistics::Batch { update: None },
        loss: LossConfig::default(),
        gradients: DeviceConvGradients::default(),
        precision: Precision::F32,
    };
    let results = View::at(1 << 20, 2);
    let mut program = Program::default();
    let error = on_device.lay_down(&mut program, 3, &pass, results).unwrap_err().to_string();
    assert!(error.contains("the batch") && error.contains("[2]"), "{error}");
    let error = on_device.lay_down(&mut program, 2, &pass, results).unwrap_err().to_string();
    assert!(error.contains("images"), "{error}");
    let evaluating = DeviceConv::new(&device, DeviceConvPlan::new(case.network.clone(), &[], &[3])).unwrap();
    let error = evaluating.lay_down(&mut program, 3, &pass, results).unwrap_err().to_string();
    assert!(error.contains("the batch") && error.contains("[]"), "{error}");
    assert!(program.launches.is_empty());
}

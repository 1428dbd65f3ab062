//! Whole networks against what the paper counts and what algebra demands; their numbers are checked against golden files by
//! the verification of `darts-runs`.

use super::*;
use crate::genotype::named;
use crate::relaxation::Relaxation;
use crate::space::ConvSpace;

fn tiny() -> NetworkConfig {
    NetworkConfig { init_channels: 3, layers: 3, image: (8, 12), ..NetworkConfig::cifar_search(5) }
}

/// Numbers in (−1, 1) that depend on `salt` alone.
fn numbers(len: usize, salt: u32) -> Vec<f32> {
    let mut state = salt.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

struct Case {
    network: ConvNetwork,
    theta: Vec<f32>,
    statistics: Vec<f32>,
    weights: Vec<f32>,
    images: Vec<f32>,
    batch: usize,
}

impl Case {
    fn supernet(batch: usize) -> Self {
        let network = ConvNetwork::supernet(&ConvSpace::darts(), &tiny()).unwrap();
        let (theta, statistics) = network.initialize(1);
        let mut weights = vec![0.0; network.operation_weights()];
        Relaxation::Softmax.forward(&numbers(weights.len(), 2), 8, &mut weights).unwrap();
        let images = numbers(batch * 8 * 12 * 3, 3);
        Self { network, theta, statistics, weights, images, batch }
    }

    fn input(&self) -> ForwardInput<'_> {
        ForwardInput {
            images: &self.images,
            batch: self.batch,
            theta: &self.theta,
            weights: &self.weights,
            active: None,
            masks: None,
        }
    }

    /// Logits, loss, gradients of θ and of the operation weights in training mode.
    fn train(&self, input: &ForwardInput, capacity: usize) -> (Vec<f32>, f64, Vec<f32>, Vec<f32>) {
        let mut ws = self.network.workspace(capacity);
        let labels: Vec<u32> = (0..self.batch as u32).map(|i| i % 5).collect();
        self.network.forward(&mut ws, input, Statistics::Batch { update: None }).unwrap();
        let logits = self.network.logits(&ws).to_vec();
        let loss = self.network.loss(&mut ws, &labels, LossConfig::default()).unwrap().loss;
        let mut theta = vec![f32::NAN; self.theta.len()];
        let mut weights = vec![f32::NAN; self.weights.len()];
        let gradients = Gradients { theta: Some(&mut theta), weights: Some(&mut weights), images: None };
        self.network.backward(&mut ws, input, gradients).unwrap();
        (logits, loss, theta, weights)
    }
}

#[test]
fn counts_match_the_published_architectures() {
    let supernet = ConvNetwork::supernet(&ConvSpace::darts(), &NetworkConfig::cifar_search(10)).unwrap();
    assert_eq!((supernet.parameter_count(), supernet.multiply_adds()), ((1_930_618, 1_930_618), 300_255_744));
    let cifar = NetworkConfig::cifar_evaluation(10);
    let imagenet = NetworkConfig::imagenet(1000);
    let rows = [
        (named::conv("DARTS_V1").unwrap(), cifar, (3_169_414, 3_645_840), 500_987_520),
        (named::conv("DARTS_V2").unwrap(), cifar, (3_349_342, 3_825_768), 528_359_040),
        (named::conv("NASNet").unwrap(), cifar, (3_830_950, 4_288_944), 603_452_448),
        (named::conv("AmoebaNet").unwrap(), cifar, (3_145_078, 3_603_072), 488_931_552),
        (named::conv("DARTS_V1").unwrap(), imagenet, (4_510_432, 5_771_208), 505_864_704),
        (named::conv("DARTS_V2").unwrap(), imagenet, (4_718_752, 5_979_528), 529_911_552),
        (named::conv("NASNet").unwrap(), imagenet, (5_564_320, 6_800_520), 604_031_616),
        (named::conv("AmoebaNet").unwrap(), imagenet, (4_627_360, 5_863_560), 526_746_624),
    ];
    for (genotype, config, parameters, multiply_adds) in rows {
        let network = ConvNetwork::discrete(&genotype, &config).unwrap();
        assert_eq!((network.parameter_count(), network.multiply_adds()), (parameters, multiply_adds), "{genotype:?}");
    }
}

#[test]
fn results_do_not_depend_on_the_workspace_capacity_or_its_history() {
    let case = Case::supernet(2);
    let exact = case.train(&case.input(), 2);
    assert_eq!(exact, case.train(&case.input(), 5));
    let mut ws = case.network.workspace(5);
    let larger = Case { images: numbers(5 * 8 * 12 * 3, 9), batch: 5, ..Case::supernet(5) };
    case.network.forward(&mut ws, &larger.input(), Statistics::Batch { update: None }).unwrap();
    case.network.forward(&mut ws, &case.input(), Statistics::Batch { update: None }).unwrap();
    assert_eq!(case.network.logits(&ws), exact.0);
}

#[test]
fn results_have_the_same_bits_for_any_number_of_threads() {
    let case = Case::supernet(5);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.train(&case.input(), 5))
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(3));
}

#[test]
fn inactive_operations_are_as_if_their_weight_were_zero_and_get_no_gradient() {
    let mut case = Case::supernet(2);
    let active: Vec<bool> = (0..case.weights.len()).map(|i| i % 3 != 1).collect();
    let masked = case.train(&ForwardInput { active: Some(&active), ..case.input() }, 2);
    for (weight, _) in case.weights.iter_mut().zip(&active).filter(|(_, active)| !**active) {
        *weight = 0.0;
    }
    let zeroed = case.train(&case.input(), 2);
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1e-2));
    assert!(close(&masked.0, &zeroed.0), "{:?} {:?}", masked.0, zeroed.0);
    for (i, active) in active.iter().enumerate() {
        match active {
            true => assert!(close(&masked.3[i..=i], &zeroed.3[i..=i]), "weight {i}: {} {}", masked.3[i], zeroed.3[i]),
            false => assert_eq!(masked.3[i], 0.0),
        }
    }
}

#[test]
fn image_gradient_matches_finite_differences_in_evaluation_mode() {
    let genotype = named::conv("DARTS_V2").unwrap();
    let config = NetworkConfig { auxiliary: false, ..tiny() };
    let network = ConvNetwork::discrete(&genotype, &config).unwrap();
    let (theta, statistics) = network.initialize(4);
    let mut images = numbers(2 * 8 * 12 * 3, 5);
    let labels = [1, 4];
    let mut ws = network.workspace(2);
    let mut loss = |images: &[f32], gradient: Option<&mut [f32]>| {
        let input = ForwardInput { images, batch: 2, theta: &theta, weights: &[], active: None, masks: None };
        network.forward(&mut ws, &input, Statistics::Running(&statistics)).unwrap();
        let loss = network.loss(&mut ws, &labels, LossConfig::default()).unwrap().loss;
        if let Some(gradient) = gradient {
            network.backward(&mut ws, &input, Gradients { images: Some(gradient), ..Gradients::default() }).unwrap();
        }
        loss
    };
    let mut gradient = vec![f32::NAN; images.len()];
    loss(&images, Some(&mut gradient));
    let largest = gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    for index in [0, 17, 100, 287, 300, 575] {
        let value = images[index];
        let mut at = |delta: f32| {
            images[index] = value + delta;
            loss(&images, None)
        };
        let difference = (at(3e-2) - at(-3e-2)) / 6e-2;
        images[index] = value;
        let error = (difference - f64::from(gradient[index])).abs();
        assert!(error < 0.05 * f64::from(largest), "image {index}: {} and {difference}", gradient[index]);
    }
}

#[test]
fn sizes_that_cannot_work_name_the_nearest_that_does() {
    let error = |config: NetworkConfig| {
        ConvNetwork::discrete(&named::conv("DARTS_V2").unwrap(), &config).unwrap_err().to_string()
    };
    let cifar = NetworkConfig::cifar_evaluation(10);
    assert!(error(NetworkConfig { image: (32, 30), ..cifar }).contains("image width is 30"));
    assert!(error(NetworkConfig { image: (33, 32), ..cifar }).contains("nearest that works is 32"));
    assert!(error(NetworkConfig { image: (16, 16), ..cifar }).contains("auxiliary head"));
    let imagenet = NetworkConfig::imagenet(10);
    assert!(error(NetworkConfig { image: (200, 224), ..imagenet }).contains("nearest that works is 192"));
    assert!(error(NetworkConfig { layers: 0, ..cifar }).contains("layers is 0"));
}

#[test]
fn every_image_size_works_or_is_refused_with_the_nearest_that_does() {
    let genotype = named::conv("DARTS_V2").unwrap();
    let cifar = NetworkConfig { init_channels: 2, layers: 3, auxiliary: false, ..NetworkConfig::cifar_evaluation(10) };
    let imagenet = NetworkConfig { init_channels: 2, layers: 3, auxiliary: false, ..NetworkConfig::imagenet(10) };
    for config in [cifar, imagenet] {
        let fits = |size: usize| match config.stem {
            Stem::Cifar { .. } => size.is_multiple_of(4),
            Stem::ImageNet => size.div_ceil(4).is_multiple_of(8),
        };
        let build = |size| ConvNetwork::discrete(&genotype, &NetworkConfig { image: (size, size), ..config });
        let good: Vec<usize> = (1..=300).filter(|&size| fits(size)).collect();
        for size in 1..=260 {
            let nearest = *good.iter().min_by_key(|good| good.abs_diff(size)).unwrap();
            match build(size) {
                Ok(_) => assert!(fits(size), "{size} was accepted"),
                Err(error) => {
                    let wanted = format!("image height is {size}, expected");
                    let error = error.to_string();
                    assert!(!fits(size) && error.contains(&wanted), "{size}: {error}");
                    assert!(error.ends_with(&format!("the nearest that works is {nearest}")), "{size}: {error}");
                }
            }
        }
    }
}

#[test]
fn gradients_of_the_operation_weights_do_not_depend_on_what_else_is_wanted() {
    let case = Case::supernet(3);
    let (_, _, _, expected) = case.train(&case.input(), 3);
    let mut ws = case.network.workspace(3);
    case.network.forward(&mut ws, &case.input(), Statistics::Batch { update: None }).unwrap();
    case.network.loss(&mut ws, &[0, 1, 2], LossConfig::default()).unwrap();
    // With them alone, what reads the stem's value is passed over.
    let mut weights = vec![f32::NAN; case.weights.len()];
    let gradients = Gradients { weights: Some(&mut weights), ..Gradients::default() };
    case.network.backward(&mut ws, &case.input(), gradients).unwrap();
    assert_eq!(weights, expected);
}

#[test]
fn networks_of_the_smallest_and_of_odd_sizes_train() {
    let genotype = named::conv("DARTS_V2").unwrap();
    // ⌈S/4⌉ = 8 for 29 to 32 and 16 for 61 to 64: odd sizes lose their last row or column at some stride.
    for (height, width) in [(29, 29), (32, 31), (30, 61), (64, 63)] {
        let config = NetworkConfig {
            init_channels: 4,
            layers: 3,
            image: (height, width),
            auxiliary: false,
            ..NetworkConfig::imagenet(5)
        };
        let network = ConvNetwork::discrete(&genotype, &config).unwrap();
        let (theta, _) = network.initialize(1);
        let images = numbers(2 * height * width * 3, 2);
        let input = ForwardInput { images: &images, batch: 2, theta: &theta, weights: &[], active: None, masks: None };
        let mut ws = network.workspace(2);
        network.forward(&mut ws, &input, Statistics::Batch { update: None }).unwrap();
        let loss = network.loss(&mut ws, &[1, 4], LossConfig::default()).unwrap().loss;
        let mut gradient = vec![f32::NAN; theta.len()];
        network.backward(&mut ws, &input, Gradients { theta: Some(&mut gradient), ..Gradients::default() }).unwrap();
        assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{height}x{width}: loss {loss}");
        // A step down the gradient lowers the loss: the gradient belongs to the loss at this size too.
        let square: f32 = gradient.iter().map(|g| g * g).sum();
        let theta: Vec<f32> = theta.iter().zip(&gradient).map(|(w, g)| w - 1e-2 / square * g).collect();
        network.forward(&mut ws, &ForwardInput { theta: &theta, ..input }, Statistics::Batch { update: None }).unwrap();
        let lower = network.loss(&mut ws, &[1, 4], LossConfig::default()).unwrap().loss;
        assert!((loss - lower - 1e-2).abs() < 5e-3, "{height}x{width}: from {loss} to {lower}, expected 0.01 less");
    }
}

#[test]
fn the_auxiliary_head_fits_7_or_8_pixels_and_on_cifar_8_to_10() {
    let genotype = named::conv("DARTS_V2").unwrap();
    let fits = |config: NetworkConfig, size: usize| {
        let config = NetworkConfig { init_channels: 2, layers: 3, auxiliary: true, image: (size, size), ..config };
        match ConvNetwork::discrete(&genotype, &config) {
            Ok(_) => true,
            Err(error) => {
                assert!(
                    error.to_string().contains("choose another image size or no auxiliary head"),
                    "{size}: {error}"
                );
                false
            }
        }
    };
    let imagenet: Vec<usize> = (1..=10).filter(|quarters| fits(NetworkConfig::imagenet(10), 32 * quarters)).collect();
    assert_eq!(imagenet, [7, 8]);
    let cifar: Vec<usize> =
        (1..=14).filter(|quarters| fits(NetworkConfig::cifar_evaluation(10), 4 * quarters)).collect();
    assert_eq!(cifar, [8, 9, 10]);
}

#[test]
fn wrong_lengths_are_errors_that_name_the_vector() {
    let case = Case::supernet(2);
    let mut ws = case.network.workspace(1);
    let mut error = |input: ForwardInput| {
        case.network.forward(&mut ws, &input, Statistics::Running(&case.statistics)).unwrap_err().to_string()
    };
    assert!(error(case.input()).contains("1 to 1"));
    let one = ForwardInput { batch: 1, images: &case.images[..288], ..case.input() };
    assert!(error(ForwardInput { theta: &case.theta[1..], ..one }).contains("theta"));
    assert!(error(ForwardInput { images: &case.images, ..one }).contains("images"));
    assert!(error(ForwardInput { weights: &[], ..one }).contains("operation weights"));
}

#[test]
fn module_matches_the_network_it_wraps_in_value_and_gradient() {
    use candle_core::{Device, Tensor, Var};

    let case = Case::supernet(2);
    let (logits, _, theta_gradient, _) = case.train(&case.input(), 2);
    let network = ConvNetwork::supernet(&ConvSpace::darts(), &tiny()).unwrap();
    let (module, theta) = ConvModule::new(network, 1);
    let theta = Var::from_vec(theta, case.theta.len(), &Device::Cpu).unwrap();
    let weights = Var::from_vec(case.weights.clone(), (28, 8), &Device::Cpu).unwrap();
    let images = Tensor::from_vec(case.images.clone(), (2, 8, 12, 3), &Device::Cpu).unwrap();
    let images = images.permute((0, 3, 1, 2)).unwrap();
    let labels = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let before = module.statistics();
    for update in [false, true] {
        let tensor = module.apply(&images, theta.as_tensor(), weights.as_tensor(), Mode::Train { update }).unwrap();
        assert_eq!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), logits);
        let loss = candle_nn::loss::cross_entropy(&tensor, &labels).unwrap();
        let gradients = loss.backward().unwrap();
        let gradient: Vec<f32> = gradients.get(&theta).unwrap().to_vec1().unwrap();
        let largest = theta_gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        let close = gradient.iter().zip(&theta_gradient).all(|(a, b)| (a - b).abs() <= 1e-4 * largest);
        assert!(close, "gradients of theta differ");
        assert_eq!(gradients.get(&weights).unwrap().dims(), [28, 8]);
        assert_eq!(module.statistics() != before, update);
    }
    let wrong =
        module.apply(&images.narrow(2, 0, 4).unwrap(), theta.as_tensor(), weights.as_tensor(), Mode::Evaluation);
    assert!(wrong.unwrap_err().to_string().contains("image size"));
}

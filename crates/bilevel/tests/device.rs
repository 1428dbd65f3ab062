//! The search on a device, on the emulator, against the search on the CPU: the same problem, laid down as vector kernels.
//!
//! With targets t of a batch, `L_train = ‖w − α + t‖²` and `L_val = ‖w + α/2 − t‖²`.

#![cfg(unix)]

use candle_core::Device;
use darts_bilevel::device::{DeviceProblem, DeviceReport, DeviceSearch, Evaluation};
use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
use darts_bilevel::{
    BilevelProblem, Gradients, Pass, Search, SearchConfig, SecondOrder, Stateful, StepError, Strategy,
};
use darts_cuda::{Backend, Memory, Precision, Program, View, vector};
use darts_cuda_emulator::{Emulator, Order, in_all_orders};
use darts_ops::vector::Vector;

const N: usize = 1500;

/// The face of the problem on the CPU.
struct OnCpu;

impl BilevelProblem for OnCpu {
    type Batch = Vec<f32>;
    type Error = darts_ops::vector::Error;

    fn evaluate(
        &mut self,
        pass: Pass,
        w: &Vector,
        alpha: &Vector,
        batch: &Vec<f32>,
        gradients: Gradients<'_>,
    ) -> Result<f64, Self::Error> {
        let (w, alpha) = (w.to_vec()?, alpha.to_vec()?);
        let (of_alpha, of_target) = if pass == Pass::Validation { (0.5, -1.0) } else { (-1.0, 1.0) };
        let residual: Vec<f32> = (0..N).map(|i| (w[i] + of_alpha * alpha[i]) + of_target * batch[i]).collect();
        for (gradient, factor) in [(gradients.w, 2.0), (gradients.alpha, 2.0 * of_alpha)] {
            if let Some(gradient) = gradient {
                gradient.copy_from_slice(&residual.iter().map(|r| factor * r).collect::<Vec<_>>())?;
            }
        }
        Ok(residual.iter().map(|&r| f64::from(r) * f64::from(r)).sum())
    }
}

/// And on the device. Where it is poisoned, the loss of that pass is NaN and its gradients are what they were.
struct OnDevice {
    residual: View,
    sums: View<f64>,
    poisoned: Option<Pass>,
}

impl OnDevice {
    fn new(device: &dyn Backend) -> Self {
        let (residual, sums) = (device.allocate(N).unwrap(), device.allocate(vector::scratch_len(N)).unwrap());
        Self { residual, sums, poisoned: None }
    }
}

impl DeviceProblem for OnDevice {
    type Batch = View;
    type Error = darts_cuda::Error;

    fn lay_down(&self, program: &mut Program, at: &Evaluation, batch: &View) -> Result<(), Self::Error> {
        let (of_alpha, of_target) = if at.pass == Pass::Validation { (0.5, -1.0) } else { (-1.0, 1.0) };
        assert_eq!(at.precision, if at.pass == Pass::Perturbed { Precision::F32 } else { Precision::Bf16 });
        vector::perturb_from(program, self.residual, at.w, of_alpha, at.alpha);
        vector::axpy(program, self.residual, of_target, *batch);
        let [loss, measure] = [0, 1].map(|i| at.results.slice(i..i + 1));
        vector::dot(program, loss, self.residual, self.residual, self.sums);
        vector::dot(program, measure, *batch, *batch, self.sums);
        if self.poisoned == Some(at.pass) {
            vector::gate(program, loss, f64::NAN, &[]);
        }
        for (gradient, factor) in [(at.gradients.w, 2.0), (at.gradients.alpha, 2.0 * of_alpha)] {
            if let Some(gradient) = gradient {
                vector::copy(program, gradient, self.residual);
                vector::scale(program, gradient, factor);
            }
        }
        Ok(())
    }
}

fn numbers(seed: usize) -> Vec<f32> {
    (0..N).map(|i| ((i * 37 + seed * 101) % 201) as f32 / 100.0 - 1.0).collect()
}

fn config(strategy: Strategy, momentum: f64) -> SearchConfig {
    SearchConfig {
        strategy,
        sgd: SgdConfig { momentum, weight_decay: 0.1 },
        clip: Some(30.0),
        adam: AdamConfig { learning_rate: 0.01, betas: (0.5, 0.999), epsilon: 1e-8, weight_decay: 0.1 },
    }
}

/// First order, second order, and second order with everything clipped and a ξ of its own, without momentum.
fn configs() -> [SearchConfig; 3] {
    let clipped = SecondOrder { xi: Some(0.02), ..SecondOrder::clipped(25.0) };
    [
        config(Strategy::FirstOrder, 0.9),
        config(Strategy::SecondOrder(SecondOrder::default()), 0.9),
        config(Strategy::SecondOrder(clipped), 0.0),
    ]
}

fn learning_rate(step: usize) -> f64 {
    0.05 / (1.0 + step as f64)
}

fn on_device(device: &dyn Backend, config: SearchConfig) -> DeviceSearch<View> {
    DeviceSearch::new(device, &numbers(1), &numbers(2), config, Precision::Bf16).unwrap()
}

fn on_cpu(config: SearchConfig) -> Search {
    let vector = |seed| Vector::from_vec(numbers(seed), &Device::Cpu).unwrap();
    Search::new(vector(1), vector(2), config).unwrap()
}

/// The steps `from..to`, with batches that differ from step to step and change places now and then.
fn device_steps(
    device: &dyn Backend,
    problem: &OnDevice,
    search: &mut DeviceSearch<View>,
    (from, to): (usize, usize),
) -> Vec<DeviceReport> {
    let batches = [device.allocate(N).unwrap(), device.allocate(N).unwrap()];
    let mut steps = Vec::new();
    for step in from..to {
        let (train, valid) = (batches[usize::from(step > 3)], batches[usize::from(step <= 3)]);
        device.upload(train, &numbers(10 + step)).unwrap();
        device.upload(valid, &numbers(20 + step)).unwrap();
        steps.push(search.step(device, problem, &train, &valid, learning_rate(step)).unwrap());
    }
    steps
}

#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        // Elementwise the two round alike, but the clip coefficients and ε come from sums in another order.
        assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{what}[{i}]: {found}, expected {expected}");
    }
}

#[test]
fn emulator_search_matches_the_cpu() {
    for config in configs() {
        let all = in_all_orders(|device| {
            let (problem, mut search) = (OnDevice::new(device), on_device(device, config));
            let reports = device_steps(device, &problem, &mut search, (0, 6));
            let mut cpu = on_cpu(config);
            for (step, report) in reports.iter().enumerate() {
                let (train, valid) = (numbers(10 + step), numbers(20 + step));
                let expected = cpu.step(&mut OnCpu, &train, &valid, learning_rate(step)).unwrap();
                let of = |r: darts_bilevel::StepReport| {
                    let second = r.second_order;
                    let [a, b, c, d] = second
                        .map_or([0.0; 4], |s| [s.virtual_loss, s.virtual_grad_norm, s.valid_grad_norm, s.epsilon]);
                    [r.valid_loss, r.train_loss, r.grad_norm, r.clip, a, b, c, d]
                };
                for (found, expected) in of(report.step).into_iter().zip(of(expected)) {
                    assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{found}, expected {expected}");
                }
                let squares: f64 = train.iter().map(|&t| f64::from(t) * f64::from(t)).sum();
                assert!((report.measure - squares).abs() < 1e-9 * squares);
            }
            let vectors = search.vectors(device).unwrap();
            for ((name, found), (expected_name, expected)) in vectors.iter().zip(cpu.vectors()) {
                assert_eq!(*name, expected_name);
                assert_close(name, found, &expected.to_vec().unwrap());
            }
            assert_eq!(vectors.len(), cpu.vectors().len());
            assert_eq!(search.counters(device).unwrap(), cpu.counters());
            vectors.into_iter().map(|(_, values)| values).collect::<Vec<_>>()
        });
        assert!(all.iter().flatten().all(|x| x.is_finite()));
    }
}

/// Runs what was recorded launch by launch, and not as the device would replay it.
#[test]
fn emulator_recorded_steps_have_the_bits_of_programs_that_are_run() {
    for config in configs() {
        let device = Emulator::new(Order::Forward);
        let (problem, mut replayed, run) =
            (OnDevice::new(&device), on_device(&device, config), on_device(&device, config));
        let batches = [device.uploaded(&numbers(7)).unwrap(), device.uploaded(&numbers(8)).unwrap()];
        let program = run.program(&problem, &batches[0], &batches[1]).unwrap();
        replayed.step(&device, &problem, &batches[0], &batches[1], 0.0).unwrap();
        device.run(&program).unwrap();
        assert_eq!(replayed.vectors(&device).unwrap(), run.vectors(&device).unwrap());
    }
}

#[test]
fn emulator_search_goes_on_from_a_state_of_the_cpu_and_back() {
    for config in configs() {
        let device = Emulator::new(Order::Forward);
        let problem = OnDevice::new(&device);
        let mut cpu = on_cpu(config);
        for step in 0..2 {
            cpu.step(&mut OnCpu, &numbers(10 + step), &numbers(20 + step), learning_rate(step)).unwrap();
        }
        let saved: Vec<_> = cpu.vectors().into_iter().map(|(name, v)| (name, v.to_vec().unwrap())).collect();
        let borrowed: Vec<(&str, &[f32])> = saved.iter().map(|(name, v)| (*name, &v[..])).collect();
        let mut search = DeviceSearch::new(&device, &[0.0; N], &[0.0; N], config, Precision::Bf16).unwrap();
        assert!(search.restore(&device, &borrowed[1..], &cpu.counters()).is_err());
        search.restore(&device, &borrowed, &cpu.counters()).unwrap();
        assert_eq!(search.vectors(&device).unwrap(), saved);
        device_steps(&device, &problem, &mut search, (2, 4));

        let saved = search.vectors(&device).unwrap();
        let borrowed: Vec<(&str, &[f32])> = saved.iter().map(|(name, v)| (*name, &v[..])).collect();
        let mut back = on_cpu(config);
        back.restore(&borrowed, &search.counters(&device).unwrap()).unwrap();
        assert_eq!(back.steps(), 4);
        device_steps(&device, &problem, &mut search, (4, 5));
        back.step(&mut OnCpu, &numbers(14), &numbers(24), learning_rate(4)).unwrap();
        for ((name, found), (_, expected)) in search.vectors(&device).unwrap().iter().zip(back.vectors()) {
            assert_close(name, found, &expected.to_vec().unwrap());
        }
    }
}

#[test]
fn emulator_what_is_not_finite_is_said_as_on_the_cpu_and_not_applied() {
    let [first, second, _] = configs();
    let cases = [
        (first, Pass::Validation),
        (first, Pass::Weight),
        (second, Pass::Virtual),
        (second, Pass::Validation),
        (second, Pass::Perturbed),
        (second, Pass::Weight),
    ];
    for (config, pass) in cases {
        let device = Emulator::new(Order::Forward);
        let (mut problem, mut search) = (OnDevice::new(&device), on_device(&device, config));
        device_steps(&device, &problem, &mut search, (0, 1));
        let before = search.vectors(&device).unwrap();
        problem.poisoned = Some(pass);
        let batch = device.uploaded(&numbers(3)).unwrap();
        let error = search.step(&device, &problem, &batch, &batch, 0.0125).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("search step 1, {pass} pass, learning rate 0.0125: the loss is NaN, expected a finite number")
        );
        let after = search.vectors(&device).unwrap();
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            // The α half was complete before the weights' failed.
            let stays = pass != Pass::Weight || ["weights", "sgd.momentum"].contains(name);
            assert_eq!(before == after, stays, "{name} after a {pass} pass that failed");
        }
        let adam = if pass == Pass::Weight { 2 } else { 1 };
        assert_eq!(search.counters(&device).unwrap(), [("search.steps", 1), ("adam.steps", adam)]);
    }
}

#[test]
fn emulator_gradients_and_learning_rates_that_are_not_finite_are_refused() {
    for config in configs() {
        let device = Emulator::new(Order::Forward);
        let (problem, mut search) = (OnDevice::new(&device), on_device(&device, config));
        let before = search.vectors(&device).unwrap();
        let (good, bad) = (device.uploaded(&numbers(3)).unwrap(), device.uploaded(&[f32::INFINITY; N]).unwrap());
        let error = search.step(&device, &problem, &good, &bad, 0.01).unwrap_err();
        assert!(matches!(error, StepError::NonFinite { pass: Pass::Validation, .. }), "{error}");
        assert!(search.step(&device, &problem, &good, &good, f64::NAN).is_err());
        assert_eq!(search.vectors(&device).unwrap(), before);
        search.step(&device, &problem, &good, &good, 0.01).unwrap();
    }
}

//! Kernels on flat vectors against `darts_ops::vector`. Elementwise kernels round as those do: the same bits. Sums are
//! added up in another order: a few ulp of f64.

#![cfg(unix)]

use candle_core::Device;
use darts_cuda::vector::{self as device_vector, AdamState, AveragedState, FiniteDifference, Scalar};
use darts_cuda::{Backend, Memory, Program, View};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::vector::{AdamStep, SgdStep, Vector};

/// Empty, single, odd, and around one and several blocks of threads.
const LENGTHS: [usize; 7] = [0, 1, 17, 1023, 1024, 1025, 3 * 1024 + 5];

/// Numbers in [−1, 1) that depend on the seed alone.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32) / ((1u64 << 23) as f32) - 1.0
        })
        .collect()
}

fn host(values: &[f32]) -> Vector {
    Vector::from_slice(values, &Device::Cpu).unwrap()
}

/// A program of a device, with a short way to its memory.
struct Run<'a> {
    device: &'a TestDevice,
    program: Program,
}

impl<'a> Run<'a> {
    fn on(device: &'a TestDevice) -> Self {
        Self { device, program: Program::default() }
    }

    fn up(&self, values: &[f32]) -> View {
        self.device.uploaded(values).unwrap()
    }

    fn scalar(&self, value: f64) -> View<f64> {
        self.device.uploaded(&[value]).unwrap()
    }

    fn go(&mut self) {
        self.device.run(&std::mem::take(&mut self.program)).unwrap();
    }

    fn down(&self, view: View) -> Vec<f32> {
        self.device.downloaded(view).unwrap()
    }
}

#[track_caller]
fn assert_same(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{what}[{i}]: {found} instead of {expected}");
    }
}

#[test]
fn emulator_linear_vector_kernels_match_the_cpu() {
    for len in LENGTHS {
        let (a, b, c) = (values(len, 1), values(len, 2), values(len, 3));
        let found = in_all_orders(|device| {
            let mut run = Run::on(device);
            let (x, y) = (run.up(&b), run.up(&c));
            let outs: Vec<View> = (0..8).map(|_| run.up(&a)).collect();
            let (quarter, one) = (run.scalar(0.25), run.scalar(1.0));
            let program = &mut run.program;
            device_vector::axpy(program, outs[0], quarter, x);
            device_vector::scale(program, outs[1], -1.5);
            device_vector::add_scaled_difference(program, outs[2], 1.0 / 3.0, x, y);
            device_vector::perturb_from(program, outs[3], x, -0.1, y);
            device_vector::average_towards(program, outs[4], quarter, x);
            device_vector::average_towards(program, outs[5], one, x);
            device_vector::fill(program, outs[6], 3.5);
            device_vector::copy(program, outs[7], x);
            run.go();
            outs.iter().map(|&out| run.down(out)).collect::<Vec<_>>()
        });
        let (x, y) = (host(&b), host(&c));
        let expected = |f: &dyn Fn(&mut Vector)| {
            let mut out = host(&a);
            f(&mut out);
            out.to_vec().unwrap()
        };
        assert_same("axpy", &found[0], &expected(&|out| out.axpy(0.25, &x).unwrap()));
        assert_same("scale", &found[1], &expected(&|out| out.scale(-1.5).unwrap()));
        let difference = expected(&|out| out.add_scaled_difference(1.0 / 3.0, &x, &y).unwrap());
        assert_same("add_scaled_difference", &found[2], &difference);
        assert_same("perturb_from", &found[3], &expected(&|out| out.perturb_from(&x, -0.1, &y).unwrap()));
        assert_same("average_towards", &found[4], &expected(&|out| out.average_towards(0.25, &x).unwrap()));
        assert_same("average_towards 1", &found[5], &b);
        assert_same("fill", &found[6], &vec![3.5; len]);
        assert_same("copy", &found[7], &b);
    }
}

#[test]
fn emulator_vector_sums_match_the_cpu() {
    for len in [0, 1, 17, 300, device_vector::BLOCK, 2 * device_vector::BLOCK + 5] {
        let (a, b) = (values(len, 1), values(len, 2));
        let found = in_all_orders(|device| {
            let mut run = Run::on(device);
            let (x, y) = (run.up(&a), run.up(&b));
            let scratch = device.allocate(device_vector::scratch_len(len)).unwrap();
            let results: View<f64> = device.allocate(2).unwrap();
            device_vector::dot(&mut run.program, results.slice(0..1), x, y, scratch);
            device_vector::norm2(&mut run.program, results.slice(1..2), x, scratch);
            run.go();
            device.downloaded(results).unwrap()
        });
        let expected = [host(&a).dot(&host(&b)).unwrap(), host(&a).norm2().unwrap()];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-13 * (1.0 + len as f64), "{found} instead of {expected}, {len}");
        }
    }
}

#[test]
fn emulator_norm_of_large_elements_does_not_overflow_and_nan_stays() {
    let found = in_all_orders(|device| {
        let mut run = Run::on(device);
        let (large, nan) = (run.up(&[3e38, -3e38]), run.up(&[1.0, f32::NAN]));
        let (scratch, results): (View<f64>, View<f64>) = (device.allocate(1).unwrap(), device.allocate(2).unwrap());
        device_vector::norm2(&mut run.program, results.slice(0..1), large, scratch);
        device_vector::norm2(&mut run.program, results.slice(1..2), nan, scratch);
        run.go();
        device.downloaded(results).unwrap()
    });
    assert!((found[0] / (f64::from(3e38f32) * 2f64.sqrt()) - 1.0).abs() < 1e-15);
    assert!(found[1].is_nan());
}

#[test]
fn emulator_gates_close_and_numbers_are_combined() {
    let found = in_all_orders(|device| {
        let mut run = Run::on(device);
        let [one, two, nan, infinite] = [1.0, 2.0, f64::NAN, f64::INFINITY].map(|value| run.scalar(value));
        let outs: Vec<View<f64>> = (0..5).map(|_| run.scalar(7.0)).collect();
        device_vector::gate(&mut run.program, outs[0], two, &[one, two]);
        device_vector::gate(&mut run.program, outs[1], two, &[one, nan]);
        device_vector::gate(&mut run.program, outs[2], 3.0, &[infinite, one]);
        device_vector::combine(&mut run.program, outs[3], &[(0.5, one), (-3.0, two)]);
        device_vector::combine(&mut run.program, outs[4], &[(1.0, outs[4]), (2.0, one)]);
        run.go();
        outs.into_iter().map(|out| device.downloaded(out).unwrap()[0]).collect::<Vec<_>>()
    });
    assert!(found[0] == 2.0 && found[1].is_nan() && found[2].is_nan(), "{found:?}");
    assert_eq!(found[3..], [-5.5, 9.0]);
}

#[test]
fn emulator_clip_coefficient_and_finite_difference_match_their_formulas() {
    let run = |norm: f64, limit: Option<f64>| {
        in_all_orders(|device| {
            let mut run = Run::on(device);
            let (norm, coefficient) = (run.scalar(norm), run.scalar(0.0));
            let out: View<f64> = device.allocate(4).unwrap();
            device_vector::clip_coefficient(&mut run.program, coefficient, norm, limit);
            let difference = FiniteDifference::at(out);
            device_vector::finite_difference(&mut run.program, difference, 0.01, norm, coefficient, 0.75, 0.025);
            run.go();
            (device.downloaded(coefficient).unwrap()[0], device.downloaded(out).unwrap())
        })
    };
    for (norm, limit, clip) in [(2.0, Some(5.0), 1.0), (10.0, Some(5.0), 5.0 / (10.0 + 1e-6)), (10.0, None, 1.0)] {
        let epsilon = 0.01 / (clip * norm);
        let expected = [epsilon, epsilon * clip, -(epsilon * clip), -0.025 * 0.75 / (2.0 * epsilon)];
        assert_eq!(run(norm, limit), (clip, expected.to_vec()));
    }
    assert_eq!(run(0.0, Some(5.0)), (1.0, vec![f64::INFINITY, 0.0, 0.0, 0.0]), "no direction, no difference");
    for norm in [f64::NAN, f64::INFINITY] {
        let (clip, difference) = run(norm, Some(5.0));
        assert!(clip.is_nan() && difference.iter().all(|x| x.is_nan()), "{norm}: {clip}, {difference:?}");
    }
}

const SGD: SgdStep = SgdStep { momentum: 0.9, coefficient: 0.7, weight_decay: 0.05, learning_rate: 0.3 };

/// [`SGD`] with its coefficient in device memory.
fn sgd_step(run: &Run<'_>, coefficient: f64) -> device_vector::SgdStep {
    device_vector::SgdStep {
        momentum: SGD.momentum,
        coefficient: run.scalar(coefficient).into(),
        weight_decay: SGD.weight_decay,
        learning_rate: run.scalar(SGD.learning_rate).into(),
    }
}

#[test]
fn emulator_sgd_matches_the_cpu_with_and_without_momentum() {
    for len in LENGTHS {
        let (w, b, g) = (values(len, 1), values(len, 2), values(len, 3));
        for momentum in [true, false] {
            let found = in_all_orders(|device| {
                let mut run = Run::on(device);
                let (dw, db, dg, point) = (run.up(&w), run.up(&b), run.up(&g), run.up(&vec![0.0; len]));
                let (step, buffer) = (sgd_step(&run, SGD.coefficient), momentum.then_some(db));
                device_vector::virtual_step(&mut run.program, point, dw, buffer, dg, step);
                run.go();
                assert_same("weights after a virtual step", &run.down(dw), &w);
                assert_same("buffer after a virtual step", &run.down(db), &b);
                device_vector::sgd(&mut run.program, dw, buffer, dg, step);
                run.go();
                [point, dw, db].map(|view| run.down(view))
            });
            let (mut hw, mut hb, hg) = (host(&w), host(&b), host(&g));
            let mut point = host(&w);
            point.virtual_step_from(&hw, momentum.then_some(&hb), &hg, SGD).unwrap();
            hw.sgd_step(momentum.then_some(&mut hb), &hg, SGD).unwrap();
            assert_same("virtual step", &found[0], &point.to_vec().unwrap());
            assert_same("weights", &found[1], &hw.to_vec().unwrap());
            assert_same("buffer", &found[2], &hb.to_vec().unwrap());
        }
    }
}

#[test]
fn emulator_adam_matches_the_cpu_over_several_steps() {
    for len in LENGTHS {
        let w = values(len, 1);
        let step =
            |t| AdamStep { learning_rate: 0.1, beta1: 0.5, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.1, step: t };
        let found = in_all_orders(|device| {
            let mut run = Run::on(device);
            let (dw, first_moment, second_moment) = (run.up(&w), run.up(&vec![0.0; len]), run.up(&vec![0.0; len]));
            let (steps, scratch) = (device.uploaded(&[0u64]).unwrap(), device.allocate(2).unwrap());
            let state = AdamState { first_moment, second_moment, steps, scratch };
            for t in 1..=3 {
                let AdamStep { beta1, beta2, epsilon, weight_decay, learning_rate, .. } = step(t);
                let gradient = run.up(&values(len, 10 + t));
                let learning_rate = run.scalar(learning_rate).into();
                let gate = Scalar::Constant(1.0);
                let step = device_vector::AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, gate };
                device_vector::adam(&mut run.program, dw, state, gradient, step);
            }
            run.go();
            assert_eq!(device.downloaded(steps).unwrap(), [3]);
            [dw, first_moment, second_moment].map(|view| run.down(view))
        });
        let (mut hw, mut m, mut v) = (host(&w), host(&vec![0.0; len]), host(&vec![0.0; len]));
        for t in 1..=3 {
            hw.adam_step(&mut m, &mut v, &host(&values(len, 10 + t)), step(t)).unwrap();
        }
        for (what, found, expected) in [("w", &found[0], hw), ("m", &found[1], m), ("v", &found[2], v)] {
            assert_same(what, found, &expected.to_vec().unwrap());
        }
    }
}

#[test]
fn emulator_averaged_sgd_matches_the_cpu_over_several_steps() {
    let (len, start) = (1030, 1);
    let w = values(len, 1);
    let found = in_all_orders(|device| {
        let mut run = Run::on(device);
        let (dw, average) = (run.up(&w), run.up(&vec![0.0; len]));
        let state =
            AveragedState { average, steps: device.uploaded(&[0u64]).unwrap(), scratch: device.allocate(1).unwrap() };
        for t in 1..=5 {
            let (gradient, step) = (run.up(&values(len, 10 + t)), sgd_step(&run, SGD.coefficient));
            device_vector::averaged_sgd(&mut run.program, dw, state, gradient, step, start);
        }
        run.go();
        assert_eq!(device.downloaded(state.steps).unwrap(), [5]);
        [dw, average].map(|view| run.down(view))
    });
    let (mut hw, mut average) = (host(&w), host(&vec![0.0; len]));
    for t in 1..=5u64 {
        hw.sgd_step(None, &host(&values(len, 10 + t)), SGD).unwrap();
        average.average_towards(1.0 / (t - 1).saturating_sub(start).max(1) as f64, &hw).unwrap();
    }
    assert_same("weights", &found[0], &hw.to_vec().unwrap());
    assert_same("average", &found[1], &average.to_vec().unwrap());
}

#[test]
fn emulator_steps_with_a_gradient_that_is_not_finite_change_nothing() {
    let (len, w) = (20, values(20, 1));
    in_all_orders(|device| {
        let mut run = Run::on(device);
        let (dw, buffer, average) = (run.up(&w), run.up(&values(len, 2)), run.up(&values(len, 3)));
        let gradient = run.up(&[f32::NAN; 20]);
        let (norm, coefficient) = (run.scalar(0.0), run.scalar(0.0));
        let scratch: View<f64> = device.allocate(4).unwrap();
        let steps = device.uploaded(&[7u64, 8]).unwrap();
        let program = &mut run.program;
        device_vector::norm2(program, norm, gradient, scratch.slice(0..1));
        device_vector::clip_coefficient(program, coefficient, norm, Some(5.0));
        let (coefficient, learning_rate) = (Scalar::At(coefficient), Scalar::Constant(0.1));
        let sgd = device_vector::SgdStep { momentum: 0.9, coefficient, weight_decay: 0.1, learning_rate };
        device_vector::sgd(program, dw, Some(buffer), gradient, sgd);
        let averaged = AveragedState { average, steps: steps.slice(0..1), scratch: scratch.slice(1..2) };
        device_vector::averaged_sgd(program, dw, averaged, gradient, sgd, 0);
        let state = AdamState {
            first_moment: buffer,
            second_moment: average,
            steps: steps.slice(1..2),
            scratch: scratch.slice(2..4),
        };
        let adam = device_vector::AdamStep {
            learning_rate,
            beta1: 0.5,
            beta2: 0.9,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gate: norm.into(),
        };
        device_vector::adam(program, dw, state, gradient, adam);
        run.go();
        assert_same("weights", &run.down(dw), &w);
        assert_same("buffer", &run.down(buffer), &values(len, 2));
        assert_same("average", &run.down(average), &values(len, 3));
        assert_eq!(device.downloaded(steps).unwrap(), [7, 8]);
        0u32
    });
}

//! Coefficients of batch normalizations against `darts_ops::batch_norm`, and the gradients of operation weights.

#![cfg(unix)]

mod common;

use common::{assert_close, numbers, upload};
use darts_cuda::{Backend, Memory, Program, View, batch_norm, fold};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::batch_norm as reference;

const COUNT: usize = 12;

struct Norm {
    c: usize,
    sums: Vec<f64>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    running: [Vec<f32>; 2],
}

impl Norm {
    /// Sums of real numbers, so that variances are not negative but by rounding.
    fn new(c: usize, seed: u64) -> Self {
        let z = numbers(c * COUNT, seed);
        let mut sums = vec![0.0; 2 * c];
        for (i, &z) in z.iter().enumerate() {
            sums[i % c] += f64::from(z);
            sums[c + i % c] += f64::from(z) * f64::from(z);
        }
        let positive = |values: Vec<f32>| values.into_iter().map(|v| v.abs() + 0.1).collect();
        Self {
            c,
            sums,
            gamma: numbers(c, seed + 1),
            beta: numbers(c, seed + 2),
            running: [numbers(c, seed + 3), positive(numbers(c, seed + 4))],
        }
    }

    /// Coefficients and running statistics after; `affine`: with γ and β, `update`: with running statistics.
    fn statistics(&self, affine: bool, update: bool) -> (Vec<f32>, [Vec<f32>; 2]) {
        let [mut mean, mut var] = self.running.clone();
        let coefficients = coefficients(self.c, |out| {
            let [gamma, beta] = [&self.gamma, &self.beta].map(|v| affine.then_some(&v[..]));
            reference::statistics(&self.sums, COUNT, gamma, beta, update.then_some((&mut mean, &mut var)), out);
        });
        (coefficients, [mean, var])
    }

    fn running_coefficients(&self, affine: bool) -> Vec<f32> {
        coefficients(self.c, |out| {
            let [gamma, beta] = [&self.gamma, &self.beta].map(|v| affine.then_some(&v[..]));
            reference::from_running(&self.running[0], &self.running[1], gamma, beta, out);
        })
    }
}

/// mean | rstd | scale | shift as the reference leaves them.
fn coefficients(c: usize, action: impl FnOnce(reference::Coefficients)) -> Vec<f32> {
    let mut all = vec![f32::NAN; 4 * c];
    let mut parts = all.chunks_exact_mut(c);
    let mut next = || parts.next().unwrap();
    action(reference::Coefficients { mean: next(), rstd: next(), scale: next(), shift: next() });
    all
}

fn on_device(device: &TestDevice, norm: &Norm, affine: bool) -> (Option<View>, Option<View>, [View; 2], View) {
    let [gamma, beta] = [&norm.gamma, &norm.beta].map(|v| affine.then(|| upload(device, v)));
    let running = norm.running.each_ref().map(|v| upload(device, v));
    (gamma, beta, running, device.allocate(4 * norm.c).unwrap())
}

/// More normalizations than a launch has room for, of several widths, with and without γ and running statistics.
fn norms() -> Vec<(Norm, bool, bool)> {
    let norm =
        |i: usize| (Norm::new([1, 16, 17, 200][i % 4], 10 * i as u64), i.is_multiple_of(2), !i.is_multiple_of(3));
    (0..43).map(norm).collect()
}

#[test]
fn emulator_batch_norm_statistics_match_reference() {
    let norms = norms();
    let results = in_all_orders(|device| {
        let mut views = Vec::new();
        for (norm, affine, update) in &norms {
            let (gamma, beta, running, coefficients) = on_device(device, norm, *affine);
            let sums = device.uploaded(&norm.sums).unwrap();
            let given = update.then_some(running);
            let entry = batch_norm::Statistics { sums, count: COUNT, gamma, beta, running: given, coefficients };
            views.push((entry, running));
        }
        let entries: Vec<_> = views.iter().map(|(entry, _)| *entry).collect();
        let mut program = Program::default();
        batch_norm::statistics(&mut program, &entries);
        assert_eq!(program.launches.len(), 2);
        device.run(&program).unwrap();
        let read = |view| device.downloaded(view).unwrap();
        views.iter().map(|(entry, running)| (read(entry.coefficients), running.map(read))).collect::<Vec<_>>()
    });
    for ((coefficients, running), (norm, affine, update)) in results.iter().zip(&norms) {
        let (want, want_running) = norm.statistics(*affine, *update);
        assert_close(coefficients, &want, 1e-6, "coefficients");
        for (got, want) in running.iter().zip(&want_running) {
            assert_close(got, want, 1e-7, "running statistics");
        }
    }
}

/// Partial sums whose fold comes right before a norm, or is run before; entry 0 of the fold delivers to two norms.
#[test]
fn emulator_batch_norm_takes_over_the_fold_right_before_it() {
    let (blocks, widths) = (150, [16, 17, 50]);
    let partials = |c: usize| numbers(blocks * 2 * c, c as u64).into_iter().map(|x| x * x);
    // Where a weight's gradient is wanted, one block goes over all channels.
    for (backward, weighs) in [(false, false), (true, false), (true, true)] {
        let [together, apart] = [1, 2].map(|launches| {
            in_all_orders(|device| {
                let (mut fold, mut norm) = (Program::default(), Program::default());
                let folds = widths.map(|c| fold::Fold {
                    partials: upload(device, &partials(c).collect::<Vec<_>>()),
                    sums: device.allocate(2 * c).unwrap(),
                });
                fold::partials(&mut fold, &folds);
                let rest = if launches == 1 { &mut fold } else { &mut norm };
                let entries = [0, 0, 1, 2].map(|index| {
                    let c = widths[index];
                    let coefficients = upload(device, &numbers(4 * c, 77));
                    (folds[index].sums, coefficients, device.allocate(3 * c).unwrap())
                });
                if backward {
                    let norms = entries.map(|(sums, coefficients, upstream)| batch_norm::Backward {
                        sums,
                        count: COUNT,
                        norm: Some(batch_norm::NormBackward { coefficients, upstream, d_gamma: None, d_beta: None }),
                        weight: None,
                        training: true,
                        d_weight: weighs.then(|| upload(device, &[0.0])),
                    });
                    batch_norm::backward(rest, &norms);
                } else {
                    batch_norm::statistics(
                        rest,
                        &entries.map(|(sums, coefficients, _)| batch_norm::Statistics {
                            sums,
                            count: COUNT,
                            gamma: None,
                            beta: None,
                            running: None,
                            coefficients,
                        }),
                    );
                }
                assert_eq!(fold.launches.len() + norm.launches.len(), launches);
                device.run(&fold).unwrap();
                device.run(&norm).unwrap();
                let read = |view| device.downloaded(view).unwrap();
                let sums = folds.map(|fold| device.downloaded(fold.sums).unwrap());
                (sums, entries.map(|(_, coefficients, upstream)| read(if backward { upstream } else { coefficients })))
            })
        });
        for (got, want) in together.0.iter().zip(&apart.0) {
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() <= 1e-12 * want, "a sum: got {got}, want {want}");
            }
        }
        for (got, want) in together.1.iter().zip(&apart.1) {
            assert_close(got, want, 1e-6, "a norm");
        }
    }
}

#[test]
fn emulator_batch_norm_from_running_matches_reference() {
    let norms = norms();
    let results = in_all_orders(|device| {
        let entry = |(norm, affine, _): &(Norm, bool, bool)| {
            let (gamma, beta, running, coefficients) = on_device(device, norm, *affine);
            batch_norm::Running { running, gamma, beta, coefficients }
        };
        let entries: Vec<_> = norms.iter().map(entry).collect();
        let mut program = Program::default();
        batch_norm::from_running(&mut program, &entries);
        device.run(&program).unwrap();
        entries.iter().map(|entry| device.downloaded(entry.coefficients).unwrap()).collect::<Vec<_>>()
    });
    for (coefficients, (norm, affine, _)) in results.iter().zip(&norms) {
        assert_close(coefficients, &norm.running_coefficients(*affine), 1e-6, "coefficients");
    }
}

#[test]
fn emulator_batch_norm_of_one_element_and_of_equal_elements_is_finite() {
    let sums = [vec![3.0, 9.0], vec![0.1 + 0.2, 0.045]];
    let results = in_all_orders(|device| {
        let entry = |(sums, count): (&Vec<f64>, usize)| batch_norm::Statistics {
            sums: device.uploaded(sums).unwrap(),
            count,
            gamma: None,
            beta: None,
            running: Some([upload(device, &[0.0]), upload(device, &[1.0])]),
            coefficients: device.allocate(4).unwrap(),
        };
        let entries = [entry((&sums[0], 1)), entry((&sums[1], 2))];
        let mut program = Program::default();
        batch_norm::statistics(&mut program, &entries);
        device.run(&program).unwrap();
        entries.map(|entry| device.downloaded(entry.running.unwrap()[1]).unwrap()).to_vec()
    });
    // The biased variance of one element is 0, and so is, clamped, that of equal ones.
    assert_close(&results[0], &[0.9], 1e-6, "one element");
    assert_close(&results[1], &[0.9], 1e-6, "equal elements");
}

/// Entry `i` has a normalization unless i % 4 = 3, γ if i is even, a weight unless i % 3 = 0.
#[test]
fn emulator_batch_norm_backward_matches_reference_and_adds_weight_gradients() {
    let count = 45;
    let norms: Vec<Norm> = (0..count).map(|i| Norm::new([1, 16, 17, 200][i % 4], 1000 + 10 * i as u64)).collect();
    let weights = numbers(count, 5);
    let before = numbers(count, 6);
    let gradients: Vec<Vec<f64>> = norms
        .iter()
        .enumerate()
        .map(|(i, norm)| numbers(2 * norm.c, 2000 + i as u64).into_iter().map(f64::from).collect())
        .collect();
    for training in [true, false] {
        let (results, d_weights) = in_all_orders(|device| {
            let (weight, d_weight) = (upload(device, &weights), upload(device, &before));
            let entry = |i: usize| {
                let norm = &norms[i];
                let c = norm.c;
                let gradient = || (i.is_multiple_of(2)).then(|| device.allocate(c).unwrap());
                let of_norm = || batch_norm::NormBackward {
                    coefficients: upload(device, &norm.statistics(i.is_multiple_of(2), false).0),
                    upstream: device.allocate(3 * c).unwrap(),
                    d_gamma: gradient(),
                    d_beta: gradient(),
                };
                batch_norm::Backward {
                    sums: device.uploaded(&gradients[i]).unwrap(),
                    count: COUNT,
                    norm: (i % 4 != 3).then(of_norm),
                    weight: (!i.is_multiple_of(3)).then(|| weight.slice(i..i + 1)),
                    training,
                    d_weight: Some(d_weight.slice(i..i + 1)),
                }
            };
            let entries: Vec<_> = (0..count).map(entry).collect();
            let mut program = Program::default();
            batch_norm::backward(&mut program, &entries);
            device.run(&program).unwrap();
            let read = |view: Option<View>| view.map_or(Vec::new(), |view| device.downloaded(view).unwrap());
            let result = |entry: &batch_norm::Backward| {
                entry.norm.map_or([(); 3].map(|()| Vec::new()), |norm| {
                    [read(Some(norm.upstream)), read(norm.d_gamma), read(norm.d_beta)]
                })
            };
            (entries.iter().map(result).collect::<Vec<_>>(), device.downloaded(d_weight).unwrap())
        });
        for (i, norm) in norms.iter().enumerate() {
            let c = norm.c;
            let (s0, s1) = gradients[i].split_at(c);
            let forward = norm.statistics(i.is_multiple_of(2), false).0;
            let mut d_weight: f64 = s1.iter().sum();
            if i % 4 != 3 {
                let [mean, rstd, scale] = [0, 1, 2].map(|k| &forward[k * c..(k + 1) * c]);
                let (mut upstream, mut parameters) = (vec![f32::NAN; 3 * c], vec![f32::NAN; 2 * c]);
                let mut parts = upstream.chunks_exact_mut(c);
                let mut next = || parts.next().unwrap();
                let (d_gamma, d_beta) = parameters.split_at_mut(c);
                let out = reference::Gradient {
                    scale: next(),
                    b: next(),
                    d: next(),
                    d_gamma: Some(d_gamma),
                    d_beta: Some(d_beta),
                };
                let weight = if i.is_multiple_of(3) { 1.0 } else { weights[i] };
                let normalized = reference::Normalized { mean, rstd, scale };
                reference::backward(&gradients[i], COUNT, normalized, weight, training, out);
                let what = format!("entry {i}, training {training}");
                assert_close(&results[i][0], &upstream, 1e-6, &what);
                if i.is_multiple_of(2) {
                    assert_close(&results[i][1], &parameters[..c], 1e-6, &what);
                    assert_close(&results[i][2], &parameters[c..], 1e-6, &what);
                }
                let shift = &forward[3 * c..];
                let terms = (0..c).map(|k| f64::from(scale[k]) * s1[k] + f64::from(shift[k]) * s0[k]);
                d_weight = terms.sum();
            }
            assert_close(&d_weights[i..=i], &[before[i] + d_weight as f32], 1e-6, &format!("weight {i}"));
        }
    }
}

#[test]
#[should_panic(expected = "a weight that stands for two operations")]
fn emulator_batch_norm_backward_refuses_two_sums_into_one_weight() {
    let entry = batch_norm::Backward {
        sums: View::at(0x100, 2),
        count: 1,
        norm: None,
        weight: None,
        training: true,
        d_weight: Some(View::at(0x200, 1)),
    };
    batch_norm::backward(&mut Program::default(), &[entry, entry]);
}

//! The unit on every instruction set of this machine against its reference, the reference against finite differences,
//! and what callers rely on: the same bits for any number of threads, a halo of zeros, no gradient at 0.

use darts_ops::images::{Affine, BnTerm, Images, Upstream, UpstreamTerm, Write};
use darts_ops::sep_unit::{
    Gradient, UnitBackward, UnitForward, UnitShape, backward_on, forward, forward_on, reference,
};
use darts_ops::simd::InstructionSet;

/// Multiples of 1/16 in [−1, 1]: affines of them are exact in f32, so the reference and every instruction set agree on which
/// pre-activations are positive, and some are exactly 0.
fn sixteenths(len: usize, seed: usize) -> Vec<f32> {
    let mut state = seed as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) % 33) as f32 / 16.0 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Compares within `tolerance` of the largest expected magnitude; prints the first element that fails.
#[track_caller]
fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3_f32, |scale, value| scale.max(value.abs()));
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(error <= tolerance * scale, "{what}: element {i} is {actual}, expected {expected} (scale {scale})");
    }
}

#[track_caller]
fn assert_sums_close(what: &str, actual: &[f64], expected: &[f64], count: usize) {
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let allowed = 1e-5 * (count as f64 + expected.abs());
        assert!((actual - expected).abs() <= allowed, "{what}: sum {i} is {actual}, expected {expected}");
    }
}

/// Everything that a call reads.
struct Problem {
    images: Images,
    x: Vec<f32>,
    affine: Option<(Vec<f32>, Vec<f32>)>,
    units: Vec<Unit>,
}

struct Unit {
    shape: UnitShape,
    depthwise: Vec<f32>,
    pointwise: Vec<f32>,
    grads: [Vec<f32>; 2],
    scale: Vec<f32>,
    sample_scale: Vec<f32>,
    z: Vec<f32>,
    b: Vec<f32>,
    d: Vec<f32>,
}

/// What a call writes.
#[derive(Debug, Clone, PartialEq)]
struct Results {
    z: Vec<Vec<f32>>,
    sums: Vec<Vec<f64>>,
    du: Vec<f32>,
    du_sums: Vec<f64>,
    weights: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Problem {
    fn new(images: Images, with_affine: bool, shapes: &[UnitShape]) -> Self {
        let c = images.c;
        let unit = |(index, &shape): (usize, &UnitShape)| {
            let z = shape.output(images);
            let seed = 10 * (index + 1);
            Unit {
                shape,
                depthwise: sixteenths(shape.depthwise_len(), seed),
                pointwise: sixteenths(shape.pointwise_len(), seed + 1),
                grads: [sixteenths(z.len(), seed + 2), sixteenths(z.len(), seed + 3)],
                scale: sixteenths(z.c, seed + 4),
                sample_scale: sixteenths(z.n, seed + 5),
                z: sixteenths(z.len(), seed + 6),
                b: sixteenths(z.c, seed + 7),
                d: sixteenths(z.c, seed + 8),
            }
        };
        Self {
            images,
            x: sixteenths(images.len(), 1),
            affine: with_affine.then(|| (sixteenths(c, 2), sixteenths(c, 3))),
            units: shapes.iter().enumerate().map(unit).collect(),
        }
    }

    fn affine(&self) -> Option<Affine<'_>> {
        self.affine.as_ref().map(|(scale, shift)| Affine { scale, shift })
    }

    /// Forward and backward by `set`, by the reference if there is none.
    fn run(&self, set: Option<InstructionSet>, write: Write) -> Results {
        let images = self.images;
        let mut results = Results {
            z: self.units.iter().map(|unit| vec![f32::NAN; unit.shape.output(images).len()]).collect(),
            sums: self.units.iter().map(|unit| vec![f64::NAN; 2 * unit.shape.c_out]).collect(),
            du: sixteenths(images.len(), 4),
            du_sums: vec![f64::NAN; 2 * images.c],
            weights: self
                .units
                .iter()
                .map(|unit| (vec![f32::NAN; unit.depthwise.len()], vec![f32::NAN; unit.pointwise.len()]))
                .collect(),
        };
        let mut forward_units: Vec<_> = self
            .units
            .iter()
            .zip(results.z.iter_mut().zip(&mut results.sums))
            .map(|(unit, (z, sums))| UnitForward {
                shape: unit.shape,
                depthwise: &unit.depthwise,
                pointwise: &unit.pointwise,
                z,
                sums: Some(sums),
            })
            .collect();
        let terms: Vec<_> = self.units.iter().map(Unit::terms).collect();
        let mut backward_units: Vec<_> = self
            .units
            .iter()
            .zip(&terms)
            .zip(&mut results.weights)
            .map(|((unit, terms), (depthwise, pointwise))| UnitBackward {
                shape: unit.shape,
                depthwise: &unit.depthwise,
                pointwise: &unit.pointwise,
                upstream: unit.upstream(terms),
                weights: Some((depthwise, pointwise)),
            })
            .collect();
        let (x, du, sums) = (&self.x, &mut results.du, Some(&mut results.du_sums[..]));
        match set {
            Some(set) => {
                forward_on(set, images, x, self.affine(), &mut forward_units);
                backward_on(set, images, x, self.affine(), &mut backward_units, Gradient { du, write, sums });
            }
            None => {
                reference::forward(images, x, self.affine(), &mut forward_units);
                reference::backward(images, x, self.affine(), &mut backward_units, du, write, sums);
            }
        }
        results
    }

    /// Every instruction set against the reference.
    fn check(&self, write: Write) {
        let expected = self.run(None, write);
        for set in InstructionSet::available() {
            let actual = self.run(Some(set), write);
            let shapes: Vec<_> = self.units.iter().map(|unit| unit.shape).collect();
            let name = |what| format!("{what}, {}, {:?}, {write:?}, {shapes:?}", set.name(), self.images);
            for (unit, shape) in shapes.iter().enumerate() {
                // Rounding grows with the square root of the terms: up to C·k² + C products in z, N·H·W in a weight's gradient.
                assert_close(&name("z"), &actual.z[unit], &expected.z[unit], 4e-6);
                let count = shape.output(self.images).pixels();
                assert_sums_close(&name("sums"), &actual.sums[unit], &expected.sums[unit], count);
                assert_close(&name("d_depthwise"), &actual.weights[unit].0, &expected.weights[unit].0, 4e-6);
                assert_close(&name("d_pointwise"), &actual.weights[unit].1, &expected.weights[unit].1, 4e-6);
            }
            assert_close(&name("du"), &actual.du, &expected.du, 4e-6);
            assert_sums_close(&name("sums of du"), &actual.du_sums, &expected.du_sums, self.images.pixels());
        }
    }
}

impl Unit {
    fn terms(&self) -> [UpstreamTerm<'_>; 2] {
        let [first, second] = &self.grads;
        [
            UpstreamTerm { grad: first, scale: Some(&self.scale), sample_scale: None },
            UpstreamTerm { grad: second, scale: None, sample_scale: Some(&self.sample_scale) },
        ]
    }

    fn upstream<'a>(&'a self, terms: &'a [UpstreamTerm]) -> Upstream<'a> {
        Upstream { terms, bn: Some(BnTerm { z: &self.z, b: &self.b, d: &self.d }) }
    }
}

fn shape(kernel: usize, stride: usize, dilation: usize, c_in: usize, c_out: usize) -> UnitShape {
    UnitShape { kernel, stride, dilation, c_in, c_out }
}

#[test]
fn every_instruction_set_matches_reference_for_one_unit() {
    for (n, h, w) in [(1, 7, 5), (3, 4, 9), (1, 1, 1), (2, 8, 8)] {
        for (c_in, c_out) in [(1, 1), (17, 17), (36, 36), (16, 16), (5, 24)] {
            for kernel in [1, 3, 5, 7, 9] {
                for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1)] {
                    let images = Images { n, h, w, c: c_in };
                    let with_affine = (kernel + stride) % 3 != 0;
                    let write = if stride == 2 { Write::Accumulate } else { Write::Overwrite };
                    Problem::new(images, with_affine, &[shape(kernel, stride, dilation, c_in, c_out)]).check(write);
                }
            }
        }
    }
}

#[test]
fn every_instruction_set_matches_reference_for_units_that_share_an_input() {
    for (h, w) in [(8, 8), (13, 6)] {
        for c in [3, 16, 40] {
            let shapes = [shape(3, 2, 1, c, c), shape(5, 2, 1, c, 8), shape(3, 2, 2, c, c), shape(7, 1, 1, c, c)];
            Problem::new(Images { n: 3, h, w, c }, true, &shapes).check(Write::Accumulate);
        }
    }
}

#[test]
fn every_instruction_set_matches_reference_at_sizes_of_the_search() {
    for (side, c) in [(32, 16), (16, 32), (8, 64)] {
        let images = Images { n: 2, h: side, w: side, c };
        Problem::new(images, true, &[shape(3, 1, 1, c, c), shape(5, 1, 2, c, c)]).check(Write::Overwrite);
    }
}

#[test]
fn no_units_give_no_gradient() {
    let problem = Problem::new(Images { n: 2, h: 3, w: 3, c: 5 }, false, &[]);
    problem.check(Write::Accumulate);
    assert_eq!(problem.run(Some(InstructionSet::selected()), Write::Overwrite).du, vec![0.0; 90]);
}

#[test]
fn results_without_weight_gradients_match_those_with_to_the_bit() {
    let problem =
        Problem::new(Images { n: 3, h: 6, w: 7, c: 17 }, true, &[shape(3, 1, 1, 17, 16), shape(5, 2, 1, 17, 17)]);
    let expected = problem.run(Some(InstructionSet::selected()), Write::Overwrite);
    let terms: Vec<_> = problem.units.iter().map(Unit::terms).collect();
    let mut units: Vec<_> = problem
        .units
        .iter()
        .zip(&terms)
        .map(|(unit, terms)| UnitBackward {
            shape: unit.shape,
            depthwise: &unit.depthwise,
            pointwise: &unit.pointwise,
            upstream: unit.upstream(terms),
            weights: None,
        })
        .collect();
    let mut du = vec![f32::NAN; problem.images.len()];
    let gradient = Gradient { du: &mut du, write: Write::Overwrite, sums: None };
    backward_on(InstructionSet::selected(), problem.images, &problem.x, problem.affine(), &mut units, gradient);
    assert_eq!(du, expected.du);
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let shapes = [shape(3, 1, 1, 20, 20), shape(5, 2, 1, 20, 12)];
    let problem = Problem::new(Images { n: 37, h: 6, w: 5, c: 20 }, true, &shapes);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| problem.run(Some(InstructionSet::selected()), Write::Overwrite))
    };
    let expected = run(1);
    for threads in [2, 3] {
        assert_eq!(run(threads), expected, "{threads} threads");
    }
}

#[test]
fn the_halo_is_zero_and_not_the_activated_shift() {
    let images = Images { n: 1, h: 3, w: 3, c: 1 };
    let (scale, shift) = ([1.0], [2.0]);
    let mut z = [f32::NAN; 9];
    let mut units =
        [UnitForward { shape: shape(3, 1, 1, 1, 1), depthwise: &[1.0; 9], pointwise: &[1.0], z: &mut z, sums: None }];
    forward(images, &[0.0; 9], Some(Affine { scale: &scale, shift: &shift }), &mut units);
    assert_eq!(z, [8.0, 12.0, 8.0, 12.0, 18.0, 12.0, 8.0, 12.0, 8.0]);
}

#[test]
fn the_gradient_at_zero_is_zero() {
    let images = Images { n: 1, h: 1, w: 3, c: 1 };
    let grad = [1.0; 3];
    for set in InstructionSet::available() {
        let mut du = [f32::NAN; 3];
        let terms = [UpstreamTerm { grad: &grad, scale: None, sample_scale: None }];
        let upstream = Upstream { terms: &terms, bn: None };
        let mut units = [UnitBackward {
            shape: shape(1, 1, 1, 1, 1),
            depthwise: &[1.0],
            pointwise: &[1.0],
            upstream,
            weights: None,
        }];
        let gradient = Gradient { du: &mut du, write: Write::Overwrite, sums: None };
        backward_on(set, images, &[-1.0, 0.0, 1.0], None, &mut units, gradient);
        assert_eq!(du, [0.0, 0.0, 1.0], "{}", set.name());
    }
}

#[test]
fn nan_stays_nan() {
    for set in InstructionSet::available() {
        let mut z = [0.0; 2];
        let mut units =
            [UnitForward { shape: shape(1, 1, 1, 1, 1), depthwise: &[1.0], pointwise: &[1.0], z: &mut z, sums: None }];
        forward_on(set, Images { n: 2, h: 1, w: 1, c: 1 }, &[f32::NAN, 1.0], None, &mut units);
        assert!(z[0].is_nan() && z[1] == 1.0, "{}: {z:?}", set.name());
    }
}

/// The loss whose gradient at z is the upstream: Σ_t s·scale·grad·z + b·z²/2 + d·z with the z that forward gives.
fn loss(problem: &Problem) -> f64 {
    let images = problem.images;
    let mut total = 0.0;
    for unit in &problem.units {
        let shape = unit.shape.output(images);
        let mut z = vec![0.0; shape.len()];
        let mut units = [UnitForward {
            shape: unit.shape,
            depthwise: &unit.depthwise,
            pointwise: &unit.pointwise,
            z: &mut z,
            sums: None,
        }];
        reference::forward(images, &problem.x, problem.affine(), &mut units);
        for (i, &z) in z.iter().enumerate() {
            let (n, c) = (i / shape.image_len(), i % shape.c);
            let linear = unit.scale[c] * unit.grads[0][i] + unit.sample_scale[n] * unit.grads[1][i] + unit.d[c];
            total += f64::from(z) * f64::from(linear) + f64::from(unit.b[c]) * f64::from(z).powi(2) / 2.0;
        }
    }
    total
}

#[test]
fn reference_matches_finite_differences() {
    for (stride, dilation, kernel) in [(1, 1, 3), (2, 1, 3), (1, 2, 3), (2, 2, 5), (1, 1, 1)] {
        let images = Images { n: 2, h: 5, w: 4, c: 3 };
        let mut problem =
            Problem::new(images, true, &[shape(kernel, stride, dilation, 3, 2), shape(3, stride, 1, 3, 1)]);
        // No kinks within a step of 1/32: odd multiples of 1/16 before the activation.
        problem.affine = Some((vec![1.0, -1.0, 1.0], vec![1.0 / 16.0, -3.0 / 16.0, 5.0 / 16.0]));
        problem.x.iter_mut().for_each(|x| *x = (*x * 8.0).round() / 8.0);
        // The upstream's z has to be the z of forward: its gradient is that of b·z²/2.
        let forward = problem.run(None, Write::Overwrite);
        problem.units.iter_mut().zip(forward.z).for_each(|(unit, z)| unit.z = z);
        let actual = problem.run(None, Write::Overwrite);

        // The loss is quadratic between kinks: a central difference is exact but for the rounding of z to f32.
        let difference = |problem: &mut Problem, value: fn(&mut Problem, usize) -> &mut f32, i: usize| {
            const STEP: f32 = 1.0 / 32.0;
            let original = *value(problem, i);
            *value(problem, i) = original + STEP;
            let above = loss(problem);
            *value(problem, i) = original - STEP;
            let below = loss(problem);
            *value(problem, i) = original;
            ((above - below) / f64::from(2.0 * STEP)) as f32
        };
        for (i, &du) in actual.du.iter().enumerate() {
            let expected = difference(&mut problem, |problem, i| &mut problem.x[i], i);
            let scale = problem.affine.as_ref().map_or(1.0, |(scale, _)| scale[i % 3]);
            assert!((scale * du - expected).abs() < 2e-3, "du {i}: {}, difference {expected}", scale * du);
        }
        for (i, &gradient) in actual.weights[0].0.iter().enumerate() {
            let expected = difference(&mut problem, |problem, i| &mut problem.units[0].depthwise[i], i);
            assert!((gradient - expected).abs() < 2e-3, "d_depthwise {i}: {gradient}, difference {expected}");
        }
        for (i, &gradient) in actual.weights[1].1.iter().enumerate() {
            let expected = difference(&mut problem, |problem, i| &mut problem.units[1].pointwise[i], i);
            assert!((gradient - expected).abs() < 2e-3, "d_pointwise {i}: {gradient}, difference {expected}");
        }
    }
}

//! Units against `darts_ops::sep_unit::reference`: every kernel shape that device code knows as constants and some that it
//! does not, units that share an input and units that do not, more of them than a launch has room for.

#![cfg(unix)]

mod common;

use common::{assert_close, assert_sums_close, device_images, upload};
use darts_cuda::fold::Pending;
use darts_cuda::{self as cuda, Backend, Memory, Precision, Program, View, sep_unit};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::sep_unit::{UnitBackward, UnitForward, UnitShape, reference};
use darts_ops::{Affine, BnTerm, Images, Upstream, UpstreamTerm, Write};

/// Multiples of 1/16 in [−1, 1]: affines of them are exact in f32, so kernel and reference agree on which pre-activations are
/// positive, and some are exactly 0.
fn sixteenths(len: usize, seed: usize) -> Vec<f32> {
    common::numbers(len, seed as u64).into_iter().map(|x| (x * 16.0).round() / 16.0).collect()
}

/// What a unit reads.
struct Unit {
    shape: UnitShape,
    depthwise: Vec<f32>,
    pointwise: Vec<f32>,
    grads: [Vec<f32>; 2],
    scale: Vec<f32>,
    sample_scale: Vec<f32>,
    bn: Option<[Vec<f32>; 3]>,
    wants_weights: bool,
}

impl Unit {
    fn new(images: Images, shape: UnitShape, seed: usize) -> Self {
        let z = shape.output(images);
        Self {
            shape,
            depthwise: sixteenths(shape.depthwise_len(), seed),
            pointwise: sixteenths(shape.pointwise_len(), seed + 1),
            grads: [sixteenths(z.len(), seed + 2), sixteenths(z.len(), seed + 3)],
            scale: sixteenths(z.c, seed + 4),
            sample_scale: sixteenths(z.n, seed + 5),
            bn: (!seed.is_multiple_of(20))
                .then(|| [sixteenths(z.len(), seed + 6), sixteenths(z.c, seed + 7), sixteenths(z.c, seed + 8)]),
            wants_weights: true,
        }
    }

    fn terms(&self) -> [UpstreamTerm<'_>; 2] {
        let [first, second] = &self.grads;
        [
            UpstreamTerm { grad: first, scale: Some(&self.scale), sample_scale: None },
            UpstreamTerm { grad: second, scale: None, sample_scale: Some(&self.sample_scale) },
        ]
    }
}

/// Units that read one x.
struct Input {
    x: Vec<f32>,
    affine: Option<[Vec<f32>; 2]>,
    units: Vec<Unit>,
    /// Gradients and weights of skip connections; no weight: 1.
    skips: Vec<(Vec<f32>, Option<f32>)>,
    write: Write,
}

impl Input {
    fn new(images: Images, with_affine: bool, shapes: &[UnitShape], write: Write, seed: usize) -> Self {
        let unit = |(index, &shape): (usize, &UnitShape)| Unit::new(images, shape, seed + 10 * (index + 1));
        let c = images.c;
        Self {
            x: sixteenths(images.len(), seed),
            affine: with_affine.then(|| [sixteenths(c, seed + 1), sixteenths(c, seed + 2)]),
            units: shapes.iter().enumerate().map(unit).collect(),
            skips: Vec::new(),
            write,
        }
    }

    fn with_skips(mut self, images: Images, count: usize) -> Self {
        let weight = |t: usize| (t % 3 != 1).then_some(0.25 * t as f32 - 0.5);
        self.skips = (0..count).map(|t| (sixteenths(images.len(), 500 + t), weight(t))).collect();
        self
    }

    fn affine(&self) -> Option<Affine<'_>> {
        self.affine.as_ref().map(|[scale, shift]| Affine { scale, shift })
    }
}

/// Of an input: du, its sums, and of every unit z, its sums and the gradients of the weights.
type Results = Vec<((Vec<f32>, Vec<f64>), Vec<((Vec<f32>, Vec<f64>), (Vec<f32>, Vec<f32>))>)>;

fn by_reference(images: Images, inputs: &[Input]) -> Results {
    let of = |input: &Input| {
        let mut units: Vec<_> = input
            .units
            .iter()
            .map(|unit| {
                let (z, c) = (unit.shape.output(images).len(), unit.shape.c_out);
                let weights = (vec![0.0; unit.depthwise.len()], vec![0.0; unit.pointwise.len()]);
                ((vec![0.0; z], vec![0.0; 2 * c]), weights)
            })
            .collect();
        let forward = input.units.iter().zip(&mut units).map(|(unit, ((z, sums), _))| UnitForward {
            shape: unit.shape,
            depthwise: &unit.depthwise,
            pointwise: &unit.pointwise,
            z,
            sums: Some(sums),
        });
        reference::forward(images, &input.x, input.affine(), &mut forward.collect::<Vec<_>>());
        let terms: Vec<_> = input.units.iter().map(Unit::terms).collect();
        let backward = input.units.iter().zip(&mut units).zip(&terms).map(|((unit, (_, weights)), terms)| {
            let bn = unit.bn.as_ref().map(|[z, b, d]| BnTerm { z, b, d });
            UnitBackward {
                shape: unit.shape,
                depthwise: &unit.depthwise,
                pointwise: &unit.pointwise,
                upstream: Upstream { terms, bn },
                weights: unit.wants_weights.then_some((&mut weights.0[..], &mut weights.1[..])),
            }
        });
        let (mut du, mut sums) = (former(images), vec![0.0; 2 * images.c]);
        let mut backward: Vec<_> = backward.collect();
        reference::backward(images, &input.x, input.affine(), &mut backward, &mut du, input.write, Some(&mut sums));
        for (grad, weight) in &input.skips {
            du.iter_mut().zip(grad).for_each(|(du, g)| *du += weight.unwrap_or(1.0) * g);
        }
        ((du, sums), units)
    };
    inputs.iter().map(of).collect()
}

fn former(images: Images) -> Vec<f32> {
    sixteenths(images.len(), 4)
}

fn shape_of(shape: UnitShape) -> sep_unit::UnitShape {
    let UnitShape { kernel, stride, dilation, c_in, c_out } = shape;
    sep_unit::UnitShape { kernel, stride, dilation, c_in, c_out }
}

fn on_device(device: &TestDevice, images: Images, inputs: &[Input], precision: Precision) -> Results {
    let up = |values: &[f32]| upload(device, values);
    let floats = |len: usize| -> View { device.allocate(len).unwrap() };
    let doubles = |len: usize| -> View<f64> { device.allocate(len).unwrap() };
    let shared: Vec<_> = inputs
        .iter()
        .map(|input| {
            let affine =
                input.affine.as_ref().map(|[scale, shift]| cuda::Affine { scale: up(scale), shift: up(shift) });
            (up(&input.x), affine)
        })
        .collect();
    let forward: Vec<Vec<sep_unit::UnitForward>> = inputs
        .iter()
        .map(|input| {
            let unit = |unit: &Unit| sep_unit::UnitForward {
                shape: shape_of(unit.shape),
                depthwise: up(&unit.depthwise),
                pointwise: up(&unit.pointwise),
                z: floats(unit.shape.output(images).len()),
                sums: Some(doubles(2 * unit.shape.c_out)),
            };
            input.units.iter().map(unit).collect()
        })
        .collect();
    let shapes: Vec<Vec<_>> =
        inputs.iter().map(|input| input.units.iter().map(|unit| shape_of(unit.shape)).collect()).collect();
    let mut program = Program::default();
    let calls: Vec<_> =
        shared.iter().zip(&forward).map(|(&(x, affine), units)| sep_unit::Forward { x, affine, units }).collect();
    let scratch = sep_unit::forward_scratch_len(device_images(images), shapes.iter().flatten().copied());
    sep_unit::forward_all(&mut program, precision, device_images(images), &calls, floats(scratch));

    let terms: Vec<Vec<_>> = inputs
        .iter()
        .map(|input| {
            let term = |t: &UpstreamTerm| cuda::UpstreamTerm {
                grad: up(t.grad),
                scale: t.scale.map(up),
                sample_scale: t.sample_scale.map(up),
            };
            input.units.iter().map(|unit| unit.terms().each_ref().map(term)).collect()
        })
        .collect();
    let backward: Vec<Vec<_>> = inputs
        .iter()
        .zip(&forward)
        .zip(&terms)
        .map(|((input, forward), terms)| {
            let mut units = Vec::new();
            for ((unit, forward), terms) in input.units.iter().zip(forward).zip(terms) {
                let bn = unit.bn.as_ref().map(|[z, b, d]| cuda::BnTerm { z: up(z), b: up(b), d: up(d) });
                units.push(sep_unit::UnitBackward {
                    shape: forward.shape,
                    depthwise: forward.depthwise,
                    pointwise: forward.pointwise,
                    upstream: cuda::Upstream { terms, bn },
                    weights: unit.wants_weights.then(|| (floats(unit.depthwise.len()), floats(unit.pointwise.len()))),
                });
            }
            units
        })
        .collect();
    let skips: Vec<Vec<sep_unit::Skip>> = inputs
        .iter()
        .map(|input| {
            let skip = |(grad, weight): &(Vec<f32>, Option<f32>)| sep_unit::Skip {
                grad: up(grad),
                weight: weight.map(|weight| up(&[weight])),
            };
            input.skips.iter().map(skip).collect()
        })
        .collect();
    let calls: Vec<_> = inputs
        .iter()
        .zip(&shared)
        .zip(backward.iter().zip(&skips))
        .map(|((input, &(x, affine)), (units, skips))| {
            let (du, write) = match input.write {
                Write::Overwrite => (floats(images.len()), cuda::Write::Overwrite),
                Write::Accumulate => (up(&former(images)), cuda::Write::Accumulate),
            };
            sep_unit::Backward { x, affine, units, skips, du, write, sums: Some(doubles(2 * images.c)) }
        })
        .collect();
    let of_inputs: Vec<&[sep_unit::UnitShape]> = shapes.iter().map(Vec::as_slice).collect();
    let scratch = floats(sep_unit::backward_scratch_len(device_images(images), &of_inputs));
    let partials = sep_unit::backward_partials_len(device_images(images), of_inputs.iter().copied().flatten().copied());
    let mut pending = Pending::new(floats(partials));
    sep_unit::backward_all(&mut program, precision, device_images(images), &calls, scratch, &mut pending);
    pending.fold(&mut program);
    device.run(&program).unwrap();

    let down = |view: View| device.downloaded(view).unwrap();
    calls
        .iter()
        .zip(&forward)
        .map(|(call, forward)| {
            let units = call.units.iter().zip(forward).map(|(backward, forward)| {
                let z = (down(forward.z), device.downloaded(forward.sums.unwrap()).unwrap());
                let zeros = || (vec![0.0; forward.depthwise.len], vec![0.0; forward.pointwise.len]);
                (z, backward.weights.map_or_else(zeros, |(depthwise, pointwise)| (down(depthwise), down(pointwise))))
            });
            ((down(call.du), device.downloaded(call.sums.unwrap()).unwrap()), units.collect())
        })
        .collect()
}

fn check(images: Images, inputs: &[Input]) {
    check_at(images, inputs, Precision::F32, 1e-5);
}

/// Compares with the reference; where factors of products are rounded, to a tolerance of the largest value.
fn check_at(images: Images, inputs: &[Input], precision: Precision, tolerance: f64) {
    let assert_close = |got: &[f32], want: &[f32], what: &str| {
        let largest = want.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        match precision {
            Precision::F32 => assert_close(got, want, tolerance, what),
            _ => got.iter().zip(want).for_each(|(got, want)| {
                assert!(f64::from((got - want).abs()) <= tolerance * f64::from(largest), "{what}: {got}, not {want}");
            }),
        }
    };
    let want = by_reference(images, inputs);
    let got = in_all_orders(|device| on_device(device, images, inputs, precision));
    for (input, (got, want)) in inputs.iter().zip(got.iter().zip(&want)) {
        let what = |what: &str, shape: Option<UnitShape>| format!("{what}, {images:?}, {shape:?}");
        for (unit, (got, want)) in input.units.iter().zip(got.1.iter().zip(&want.1)) {
            // Rounding grows with the square root of the terms: up to C·k² + C products in z, N·H·W in a weight's gradient.
            let pixels = unit.shape.output(images).pixels();
            assert_close(&got.0.0, &want.0.0, &what("z", Some(unit.shape)));
            // Sums are those of the z that there is.
            let sums = sums(&got.0.0, None, unit.shape.c_out);
            assert_sums_close(&got.0.1, &sums, pixels, &what("sums", Some(unit.shape)));
            assert_close(&got.1.0, &want.1.0, &what("d_depthwise", Some(unit.shape)));
            assert_close(&got.1.1, &want.1.1, &what("d_pointwise", Some(unit.shape)));
        }
        assert_close(&got.0.0, &want.0.0, &what("du", None));
        let sums = sums(&got.0.0, Some(&input.x), images.c);
        assert_sums_close(&got.0.1, &sums, images.pixels(), &what("sums of du", None));
    }
}

/// `[Σv | Σv·w]` per channel; w is v if there is none.
fn sums(v: &[f32], w: Option<&[f32]>, channels: usize) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * channels];
    for (index, (&v, &w)) in v.iter().zip(w.unwrap_or(v)).enumerate() {
        sums[index % channels] += f64::from(v);
        sums[channels + index % channels] += f64::from(v) * f64::from(w);
    }
    sums
}

fn shape(kernel: usize, stride: usize, dilation: usize, c_in: usize, c_out: usize) -> UnitShape {
    UnitShape { kernel, stride, dilation, c_in, c_out }
}

/// Kernel, stride, dilation.
const GEOMETRIES: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (3, 1, 1),
    (3, 2, 1),
    (3, 1, 2),
    (3, 2, 2),
    (3, 3, 1),
    (5, 1, 1),
    (5, 2, 1),
    (5, 1, 2),
    (5, 2, 2),
    (7, 1, 1),
    (7, 2, 1),
    (7, 1, 2),
    (9, 1, 1),
    (3, 2, 3),
];

#[test]
fn emulator_sep_unit_matches_reference_for_one_unit() {
    for (index, (n, h, w)) in [(1, 7, 5), (3, 4, 9), (1, 1, 1), (2, 8, 8)].into_iter().enumerate() {
        for (c_in, c_out) in [(1, 1), (17, 17), (36, 36), (16, 16), (5, 24)] {
            for (kernel, stride, dilation) in GEOMETRIES {
                // Every combination of sizes and channels, and of geometry with one of the two.
                if (kernel + stride + dilation + c_in) % 4 != index {
                    continue;
                }
                let images = Images { n, h, w, c: c_in };
                let with_affine = (kernel + stride) % 3 != 0;
                let write = if stride == 2 { Write::Accumulate } else { Write::Overwrite };
                let shapes = [shape(kernel, stride, dilation, c_in, c_out)];
                check(images, &[Input::new(images, with_affine, &shapes, write, 10 * kernel)]);
            }
        }
    }
}

#[test]
fn emulator_sep_unit_adds_what_skip_connections_bring_back() {
    for (h, w, c) in [(8, 8, 16), (5, 7, 6), (4, 3, 9)] {
        let images = Images { n: 3, h, w, c };
        // More units than a launch has room for: skip connections come with the last of them.
        let many = vec![shape(3, 1, 1, c, c); 18];
        let few = [shape(3, 1, 1, c, c), shape(5, 1, 2, c, c)];
        check(images, &[Input::new(images, false, &many, Write::Overwrite, 30).with_skips(images, 4)]);
        // And more skip connections.
        let inputs = [(3, Write::Accumulate), (sep_unit::SKIPS, Write::Overwrite), (0, Write::Accumulate)];
        let input = |(skips, write)| Input::new(images, true, &few, write, 50).with_skips(images, skips);
        check(images, &inputs.map(input));
    }
}

#[test]
fn emulator_sep_unit_matches_reference_for_units_that_share_an_input() {
    for (h, w) in [(8, 8), (13, 6)] {
        for c in [3, 40] {
            let images = Images { n: 3, h, w, c };
            let shapes = [shape(3, 2, 1, c, c), shape(5, 2, 1, c, 8), shape(3, 2, 2, c, c), shape(7, 1, 1, c, c)];
            let mut input = Input::new(images, true, &shapes, Write::Accumulate, 30);
            // Alternating search steps want no gradient of the weights.
            input.units[1].wants_weights = false;
            input.units[1].depthwise.iter_mut().for_each(|x| *x = -*x);
            check(images, &[input]);
        }
    }
}

#[test]
fn emulator_sep_unit_matches_reference_for_inputs_with_units_of_their_own() {
    let images = Images { n: 2, h: 6, w: 9, c: 12 };
    let inputs = [
        Input::new(images, true, &[shape(3, 1, 1, 12, 12)], Write::Overwrite, 100),
        Input::new(images, false, &[shape(5, 1, 1, 12, 12), shape(3, 1, 1, 12, 12)], Write::Accumulate, 200),
        Input::new(images, true, &[], Write::Overwrite, 300),
        Input::new(images, true, &[shape(5, 1, 1, 12, 12)], Write::Overwrite, 400),
    ];
    check(images, &inputs);
}

#[test]
fn emulator_sep_unit_matches_reference_for_more_units_than_a_launch_has_room_for() {
    let images = Images { n: 1, h: 4, w: 5, c: 4 };
    let shapes: Vec<UnitShape> = (0..19).map(|i| shape(1 + 2 * (i % 6), 1, 1, 4, 4)).collect();
    let inputs = [
        Input::new(images, true, &shapes, Write::Overwrite, 100),
        Input::new(images, true, &shapes[..2], Write::Accumulate, 500),
    ];
    check(images, &inputs);
}

#[test]
fn emulator_sep_unit_matches_reference_where_channels_and_images_take_several_blocks() {
    for (h, w, c_in, c_out) in [(7, 7, 150, 131), (2, 70, 8, 8), (70, 3, 4, 260)] {
        let images = Images { n: 1, h, w, c: c_in };
        let shapes = [shape(3, 1, 1, c_in, c_out), shape(5, 1, 2, c_in, c_out)];
        check(images, &[Input::new(images, true, &shapes, Write::Overwrite, 40)]);
    }
}

#[test]
fn emulator_sep_unit_matches_reference_at_sizes_of_the_search() {
    for (side, c) in [(32, 16), (16, 32), (8, 64)] {
        let images = Images { n: 2, h: side, w: side, c };
        let shapes = [shape(3, 1, 1, c, c), shape(5, 1, 2, c, c)];
        check(images, &[Input::new(images, true, &shapes, Write::Overwrite, 60)]);
    }
}

#[test]
fn emulator_sep_unit_rounds_factors_of_its_products() {
    for (precision, tolerance) in [(Precision::Tf32, 1e-3), (Precision::Bf16, 1e-2)] {
        for (n, h, w, c_in, c_out) in [
            (1, 32, 32, 16, 16),
            (1, 16, 16, 32, 32),
            (3, 8, 8, 64, 64),
            (1, 9, 14, 16, 48),
            (2, 7, 5, 64, 16),
            (1, 4, 4, 17, 32),
        ] {
            let images = Images { n, h, w, c: c_in };
            let shapes = [shape(3, 1, 1, c_in, c_out), shape(5, 2, 1, c_in, c_out), shape(7, 1, 1, c_in, c_out)];
            let mut input = Input::new(images, true, &shapes, Write::Overwrite, 60);
            input.units[1].wants_weights = false;
            check_at(images, &[input], precision, tolerance);
        }
    }
}

/// Search steps of α want no gradient of weights; then there is a kernel for g alone.
#[test]
fn emulator_sep_unit_matches_reference_without_gradients_of_weights() {
    // Of the last, blocks take several tiles.
    let sizes = [(2, 32, 32, 16, 16), (3, 8, 8, 64, 64), (2, 7, 5, 17, 20), (1, 70, 3, 4, 260), (3200, 4, 4, 4, 4)];
    for (n, h, w, c_in, c_out) in sizes {
        let images = Images { n, h, w, c: c_in };
        let shapes = [shape(3, 1, 1, c_in, c_out), shape(5, 2, 2, c_in, c_out), shape(7, 1, 1, c_in, c_out)];
        let mut input = Input::new(images, true, &shapes, Write::Accumulate, 70);
        input.units.iter_mut().for_each(|unit| unit.wants_weights = false);
        let inputs = [input];
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Tf32, 1e-3), (Precision::Bf16, 1e-2)] {
            check_at(images, &inputs, precision, tolerance);
        }
    }
}

#[test]
fn emulator_sep_unit_has_a_halo_of_zeros_and_keeps_nan() {
    let images = cuda::Images { n: 1, h: 3, w: 3, c: 1 };
    for (x, want) in [([0.0; 9], [8.0, 12.0, 8.0, 12.0, 18.0, 12.0, 8.0, 12.0, 8.0]), ([f32::NAN; 9], [f32::NAN; 9])] {
        let z = in_all_orders(|device| {
            let z = device.allocate(9).unwrap();
            let unit = sep_unit::UnitForward {
                shape: sep_unit::UnitShape { kernel: 3, stride: 1, dilation: 1, c_in: 1, c_out: 1 },
                depthwise: upload(device, &[1.0; 9]),
                pointwise: upload(device, &[1.0]),
                z,
                sums: None,
            };
            let affine = cuda::Affine { scale: upload(device, &[1.0]), shift: upload(device, &[2.0]) };
            let mut program = Program::default();
            sep_unit::forward(&mut program, images, upload(device, &x), Some(affine), &[unit], View::none());
            assert_eq!(program.launches.len(), 1);
            device.run(&program).unwrap();
            device.downloaded(z).unwrap()
        });
        assert!(z.iter().zip(want).all(|(z, want)| *z == want || z.is_nan() && want.is_nan()), "{z:?}");
    }
}

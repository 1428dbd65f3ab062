//! Pools against `darts_ops::pool::reference`: forward with its sums, backward where windows tie, several pools in a launch.

#![cfg(unix)]

mod common;

use common::{assert_close, assert_sums_close, device_images, numbers, shapes, upload};
use darts_cuda::{Backend, Memory, Program, View, Write, pool};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::pool::{PoolKind, PoolShape, reference};
use darts_ops::{BnTerm, Images, Upstream, UpstreamTerm};

fn pools() -> Vec<PoolShape> {
    let geometries = [(3, 1, 1), (3, 2, 1), (2, 2, 0), (5, 3, 2), (7, 1, 3), (1, 2, 0)];
    let of = |(kernel, stride, padding)| {
        [(PoolKind::Max, false), (PoolKind::Average, false), (PoolKind::Max, true), (PoolKind::Average, true)]
            .map(|(kind, relu)| PoolShape { kind, kernel, stride, padding, relu })
    };
    geometries.into_iter().flat_map(of).collect()
}

/// The pools of [`pools`] that fit: all but the largest windows.
fn fitting(images: Images) -> Vec<PoolShape> {
    pools().into_iter().filter(|shape| images.h.min(images.w) + 2 * shape.padding >= shape.kernel).collect()
}

fn device_shape(shape: PoolShape) -> pool::PoolShape {
    let kind = match shape.kind {
        PoolKind::Max => pool::PoolKind::Max,
        PoolKind::Average => pool::PoolKind::Average,
    };
    let PoolShape { kernel, stride, padding, relu, .. } = shape;
    pool::PoolShape { kind, kernel, stride, padding, relu }
}

/// Multiples of 0.5, so that windows tie.
fn coarse(len: usize, seed: u64) -> Vec<f32> {
    numbers(len, seed).into_iter().map(|x| (x * 4.0).round() / 2.0).collect()
}

fn forward(device: &TestDevice, images: Images, x: &[f32], shapes: &[PoolShape]) -> Vec<(Vec<f32>, Vec<f64>)> {
    let (x, on_device) = (upload(device, x), device_images(images));
    let mut scratch = 0;
    let units: Vec<pool::Forward> = shapes
        .iter()
        .map(|&shape| {
            scratch += pool::forward_scratch_len(on_device, device_shape(shape));
            let z = device.allocate(shape.output(images).len()).unwrap();
            pool::Forward { x, shape: device_shape(shape), z, sums: Some(device.allocate(2 * images.c).unwrap()) }
        })
        .collect();
    let mut program = Program::default();
    pool::forward(&mut program, on_device, &units, device.allocate(scratch).unwrap());
    device.run(&program).unwrap();
    let results =
        units.iter().map(|unit| (device.downloaded(unit.z).unwrap(), device.downloaded(unit.sums.unwrap()).unwrap()));
    results.collect()
}

#[test]
fn emulator_pool_forward_matches_reference() {
    for images in shapes() {
        let x = numbers(images.len(), 1);
        let shapes = fitting(images);
        // All geometries in one call: more than a launch has room for.
        let results = in_all_orders(|device| forward(device, images, &x, &shapes));
        for ((z, sums), &shape) in results.iter().zip(&shapes) {
            let (mut want, mut want_sums) = (vec![0.0; z.len()], vec![0.0; sums.len()]);
            reference::forward(images, &x, shape, &mut want, Some(&mut want_sums));
            let what = format!("{images:?} {shape:?}");
            assert_close(z, &want, 1e-6, &what);
            assert_sums_close(sums, &want_sums, shape.output(images).image_pixels(), &what);
        }
    }
}

#[test]
fn emulator_pool_forward_without_sums_writes_the_same_z() {
    let images = Images { n: 1, h: 4, w: 5, c: 6 };
    let shape = PoolShape::three_by_three(PoolKind::Max, 2);
    let x = numbers(images.len(), 1);
    let z = in_all_orders(|device| {
        let z = device.allocate(shape.output(images).len()).unwrap();
        let unit = pool::Forward { x: upload(device, &x), shape: device_shape(shape), z, sums: None };
        let mut program = Program::default();
        pool::forward(&mut program, device_images(images), &[unit], View::none());
        assert_eq!(program.launches.len(), 1);
        device.run(&program).unwrap();
        device.downloaded(z).unwrap()
    });
    let mut want = vec![0.0; z.len()];
    reference::forward(images, &x, shape, &mut want, None);
    assert_eq!(z, want);
}

#[test]
fn emulator_pool_forward_after_another_folds_the_sums_of_both_unless_they_share_scratch_memory() {
    let images = Images { n: 2, h: 4, w: 5, c: 6 };
    let shape = PoolShape::three_by_three(PoolKind::Average, 1);
    let x = numbers(images.len(), 1);
    for (scratches, launches) in [(2, 3), (1, 4)] {
        let sums = in_all_orders(|device| {
            let (x, on_device, shape) = (upload(device, &x), device_images(images), device_shape(shape));
            let len = pool::forward_scratch_len(on_device, shape);
            let scratch: View = device.allocate(scratches * len).unwrap();
            let mut program = Program::default();
            let sums = [0, scratches - 1].map(|index| {
                let sums = device.allocate(2 * images.c).unwrap();
                let unit = pool::Forward { x, shape, z: device.allocate(images.len()).unwrap(), sums: Some(sums) };
                pool::forward(&mut program, on_device, &[unit], scratch.slice(index * len..(index + 1) * len));
                sums
            });
            assert_eq!(program.launches.len(), launches);
            device.run(&program).unwrap();
            sums.map(|sums| device.downloaded(sums).unwrap())
        });
        let (mut z, mut want) = (vec![0.0; images.len()], vec![0.0; 2 * images.c]);
        reference::forward(images, &x, shape, &mut z, Some(&mut want));
        for got in &sums {
            assert_sums_close(got, &want, images.image_pixels(), "sums");
        }
    }
}

/// Two gradients with coefficients of a batch norm each, as two edges out of a node leave them.
struct Gradients {
    grads: [Vec<f32>; 2],
    z: Vec<f32>,
    scale: Vec<f32>,
    bn: [Vec<f32>; 4],
    sample_scale: Vec<f32>,
}

impl Gradients {
    fn new(out: Images, seed: u64) -> Self {
        Self {
            grads: [2, 3].map(|i| numbers(out.len(), seed + i)),
            z: numbers(out.len(), seed + 4),
            scale: numbers(out.c, seed + 5),
            bn: [6, 7, 8, 9].map(|i| numbers(out.c, seed + i)),
            sample_scale: numbers(out.n, seed + 10),
        }
    }

    fn reference(&self, images: Images, x: &[f32], shape: PoolShape, dx: &mut [f32], write: darts_ops::Write) {
        let sum = |i: usize| -> Vec<f32> { self.bn[i].iter().zip(&self.bn[i + 2]).map(|(a, b)| a + b).collect() };
        let terms = [
            UpstreamTerm { grad: &self.grads[0], scale: Some(&self.scale), sample_scale: Some(&self.sample_scale) },
            UpstreamTerm { grad: &self.grads[1], scale: None, sample_scale: None },
        ];
        let upstream = Upstream { terms: &terms, bn: Some(BnTerm { z: &self.z, b: &sum(0), d: &sum(1) }) };
        reference::backward(images, x, shape, upstream, dx, write);
    }

    fn terms(&self, device: &TestDevice) -> [pool::Term; 2] {
        let [b0, d0, b1, d1] = self.bn.each_ref().map(|values| upload(device, values));
        let [first, second] = self.grads.each_ref().map(|values| upload(device, values));
        let sample_scale = Some(upload(device, &self.sample_scale));
        let scale = Some(upload(device, &self.scale));
        [
            pool::Term { grad: first, scale, sample_scale, bn: Some([b0, d0]) },
            pool::Term { grad: second, scale: None, sample_scale: None, bn: Some([b1, d1]) },
        ]
    }
}

#[test]
fn emulator_pool_backward_matches_reference_where_windows_tie() {
    // One whose channels the kernel for windows of 3 × 3 takes in two runs.
    let wide = Images { n: 1, h: 6, w: 33, c: 20 };
    for images in shapes().into_iter().chain([wide]) {
        let x = coarse(images.len(), 1);
        let start = numbers(images.len(), 9);
        // Two pools after each other into one gradient, as a node has them; geometries may differ.
        for pair in fitting(images).chunks(2) {
            let gradients: Vec<Gradients> =
                pair.iter().zip([100, 200]).map(|(shape, seed)| Gradients::new(shape.output(images), seed)).collect();
            for write in [Write::Overwrite, Write::Accumulate] {
                let mut want = if write == Write::Overwrite { vec![0.0; start.len()] } else { start.clone() };
                for (shape, gradients) in pair.iter().zip(&gradients) {
                    gradients.reference(images, &x, *shape, &mut want, darts_ops::Write::Accumulate);
                }
                let dx = in_all_orders(|device| {
                    let overwritten = vec![f32::NAN; start.len()];
                    let dx = upload(device, if write == Write::Overwrite { &overwritten } else { &start });
                    let x = upload(device, &x);
                    let terms: Vec<_> = gradients.iter().map(|gradients| gradients.terms(device)).collect();
                    let unit = |(index, (shape, gradients)): (usize, (&PoolShape, &Gradients))| pool::Backward {
                        x,
                        shape: device_shape(*shape),
                        z: upload(device, &gradients.z),
                        terms: &terms[index],
                        dx,
                        write: if index == 0 { write } else { Write::Accumulate },
                    };
                    let units: Vec<_> = pair.iter().zip(&gradients).enumerate().map(unit).collect();
                    let mut program = Program::default();
                    pool::backward(&mut program, device_images(images), &units);
                    assert_eq!(program.launches.len(), 1);
                    device.run(&program).unwrap();
                    device.downloaded(dx).unwrap()
                });
                assert_close(&dx, &want, 4e-6, &format!("{images:?} {pair:?} {write:?}"));
            }
        }
    }
}

#[test]
fn emulator_pool_backward_of_more_gradients_than_a_launch_has_adds_them_all() {
    let images = Images { n: 1, h: 3, w: 4, c: 4 };
    let shape = PoolShape::three_by_three(PoolKind::Average, 1);
    let x = numbers(images.len(), 1);
    let grads: Vec<Vec<f32>> = (0..70).map(|seed| numbers(images.len(), 10 + seed)).collect();
    let terms: Vec<_> = grads.iter().map(|grad| UpstreamTerm { grad, scale: None, sample_scale: None }).collect();
    let mut want = vec![0.0; images.len()];
    let upstream = Upstream { terms: &terms, bn: None };
    reference::backward(images, &x, shape, upstream, &mut want, darts_ops::Write::Overwrite);
    let dx = in_all_orders(|device| {
        let term =
            |grad: &Vec<f32>| pool::Term { grad: upload(device, grad), scale: None, sample_scale: None, bn: None };
        let terms: Vec<_> = grads.iter().map(term).collect();
        let (x, dx) = (upload(device, &x), device.allocate(images.len()).unwrap());
        let shape = device_shape(shape);
        let unit = pool::Backward { x, shape, z: View::none(), terms: &terms, dx, write: Write::Overwrite };
        let mut program = Program::default();
        pool::backward(&mut program, device_images(images), &[unit]);
        device.run(&program).unwrap();
        device.downloaded(dx).unwrap()
    });
    assert_close(&dx, &want, 1e-5, "70 gradients");
}

/// The auxiliary head pools the parts of a cell's output, each into a gradient of its own.
#[test]
fn emulator_pool_backward_of_pools_with_gradients_of_their_own_matches_reference() {
    let images = Images { n: 2, h: 8, w: 9, c: 3 };
    let shape = PoolShape { kind: PoolKind::Average, kernel: 5, stride: 3, padding: 0, relu: true };
    let inputs = [1, 2, 3].map(|seed| numbers(images.len(), seed));
    let gradients = [100, 200, 300].map(|seed| Gradients::new(shape.output(images), seed));
    let results = in_all_orders(|device| {
        let terms: Vec<_> = gradients.iter().map(|gradients| gradients.terms(device)).collect();
        let unit = |index: usize| pool::Backward {
            x: upload(device, &inputs[index]),
            shape: device_shape(shape),
            z: upload(device, &gradients[index].z),
            terms: &terms[index],
            dx: device.allocate(images.len()).unwrap(),
            write: Write::Overwrite,
        };
        let units: Vec<_> = (0..3).map(unit).collect();
        let mut program = Program::default();
        pool::backward(&mut program, device_images(images), &units);
        assert_eq!(program.launches.len(), 1);
        device.run(&program).unwrap();
        units.iter().map(|unit| device.downloaded(unit.dx).unwrap()).collect::<Vec<_>>()
    });
    for ((dx, x), gradients) in results.iter().zip(&inputs).zip(&gradients) {
        let mut want = vec![0.0; images.len()];
        gradients.reference(images, x, shape, &mut want, darts_ops::Write::Overwrite);
        assert_close(dx, &want, 4e-6, "a part's gradient");
    }
}

#[test]
fn emulator_pool_takes_the_first_maximum_and_a_nan_is_the_maximum() {
    let shape = PoolShape::three_by_three(PoolKind::Max, 1);
    for (x, want) in [
        ([0.0; 4], [15.0, 0.0, 0.0, 0.0]),
        ([-4.0, -1.0, -1.0, -5.0], [0.0, 15.0, 0.0, 0.0]),
        ([f32::NEG_INFINITY; 4], [15.0, 0.0, 0.0, 0.0]),
        ([1.0, f32::NAN, 3.0, f32::NAN], [0.0, 15.0, 0.0, 0.0]),
    ] {
        // One channel and four have kernels of their own.
        for c in [1, 4] {
            let images = Images { n: 1, h: 2, w: 2, c };
            let all = |values: [f32; 4]| values.into_iter().flat_map(|value| vec![value; c]).collect::<Vec<_>>();
            let (x, want) = (all(x), all(want));
            let (z, dx) = in_all_orders(|device| {
                let (z, _) = forward(device, images, &x, &[shape]).remove(0);
                let (x, grad) = (upload(device, &x), upload(device, &all([1.0, 2.0, 4.0, 8.0])));
                let dx = device.allocate(images.len()).unwrap();
                let terms = [pool::Term { grad, scale: None, sample_scale: None, bn: None }];
                let shape = device_shape(shape);
                let unit = pool::Backward { x, shape, z: View::none(), terms: &terms, dx, write: Write::Overwrite };
                let mut program = Program::default();
                pool::backward(&mut program, device_images(images), &[unit]);
                let kernel = if c == 4 { "pool_backward_3x3" } else { "pool_backward" };
                assert_eq!(program.launches[0].kernel.name, kernel);
                device.run(&program).unwrap();
                (z, device.downloaded(dx).unwrap())
            });
            assert_eq!(dx, want, "{x:?}");
            let largest = if x.iter().any(|x| x.is_nan()) { f32::NAN } else { x.iter().copied().fold(x[0], f32::max) };
            assert!(z.iter().all(|z| z.to_bits() == largest.to_bits() || (z.is_nan() && largest.is_nan())), "{z:?}");
        }
    }
}

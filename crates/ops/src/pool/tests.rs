//! Kernels against the reference on every instruction set, the reference against finite differences, ties and padding.

use super::*;
use crate::images::{BnTerm, UpstreamTerm};
use crate::testing::{assert_close, assert_same_for_any_threads, assert_sums_close, numbers, shapes};

fn pools() -> Vec<PoolShape> {
    let mut pools = Vec::new();
    for kind in [PoolKind::Max, PoolKind::Average] {
        for relu in [false, true] {
            for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (2, 2, 0), (5, 3, 2), (7, 1, 3), (1, 2, 0)] {
                pools.push(PoolShape { kind, kernel, stride, padding, relu });
            }
        }
    }
    pools
}

/// Multiples of 0.5, so that windows tie.
fn coarse(len: usize, seed: u64) -> Vec<f32> {
    numbers(len, seed).into_iter().map(|x| (x * 4.0).round() / 2.0).collect()
}

fn fits(images: Images, shape: PoolShape) -> bool {
    images.h.min(images.w) + 2 * shape.padding >= shape.kernel
}

#[test]
fn forward_matches_reference() {
    for images in shapes() {
        for shape in pools().into_iter().filter(|&shape| fits(images, shape)) {
            let x = numbers(images.len(), 1);
            let (mut want, mut want_sums) = (vec![0.0; shape.output(images).len()], vec![0.0; 2 * images.c]);
            reference::forward(images, &x, shape, &mut want, Some(&mut want_sums));
            for set in InstructionSet::available() {
                let what = format!("{images:?} {shape:?} {}", set.name());
                let (mut z, mut sums) = (vec![f32::NAN; want.len()], vec![f64::NAN; 2 * images.c]);
                forward_on(set, images, &x, shape, &mut z, Some(&mut sums));
                assert_close(&z, &want, 1e-6, &what);
                assert_sums_close(&sums, &want_sums, shape.output(images).image_pixels(), &what);
                forward_on(set, images, &x, shape, &mut z, None);
                assert_close(&z, &want, 1e-6, &what);
            }
        }
    }
}

#[test]
fn backward_matches_reference_where_windows_tie() {
    for images in shapes() {
        for shape in pools().into_iter().filter(|&shape| fits(images, shape)) {
            let x = coarse(images.len(), 1);
            let out = shape.output(images);
            let [grad, other, z] = [2, 3, 4].map(|seed| numbers(out.len(), seed));
            let [scale, b, d] = [5, 6, 7].map(|seed| numbers(images.c, seed));
            let sample_scale = numbers(images.n, 8);
            let terms = [
                UpstreamTerm { grad: &grad, scale: Some(&scale), sample_scale: Some(&sample_scale) },
                UpstreamTerm { grad: &other, scale: None, sample_scale: None },
            ];
            let upstream = Upstream { terms: &terms, bn: Some(BnTerm { z: &z, b: &b, d: &d }) };
            for write in [Write::Overwrite, Write::Accumulate] {
                let start = numbers(images.len(), 9);
                let mut want = start.clone();
                reference::backward(images, &x, shape, upstream, &mut want, write);
                for set in InstructionSet::available() {
                    let mut dx = start.clone();
                    backward_on(set, images, &x, shape, upstream, &mut dx, write);
                    assert_close(&dx, &want, 3e-6, &format!("{images:?} {shape:?} {write:?} {}", set.name()));
                }
            }
        }
    }
}

#[test]
fn reference_backward_matches_finite_differences() {
    let images = Images { n: 2, h: 4, w: 5, c: 2 };
    // All distances of two cells are far above the step, and so are those from 0.
    let mut x: Vec<f32> = (0..images.len()).map(|i| ((i * 37) % images.len()) as f32 - 30.5).collect();
    for shape in pools().into_iter().filter(|&shape| fits(images, shape)) {
        let g = numbers(shape.output(images).len(), 3);
        let loss = |x: &[f32]| {
            let mut z = vec![0.0; g.len()];
            reference::forward(images, x, shape, &mut z, None);
            z.iter().zip(&g).map(|(&z, &g)| f64::from(z) * f64::from(g)).sum::<f64>()
        };
        let terms = [UpstreamTerm { grad: &g, scale: None, sample_scale: None }];
        let mut dx = vec![0.0; x.len()];
        let upstream = Upstream { terms: &terms, bn: None };
        reference::backward(images, &x, shape, upstream, &mut dx, Write::Overwrite);
        for i in 0..x.len() {
            let middle = x[i];
            x[i] = middle + 0.25;
            let plus = loss(&x);
            x[i] = middle - 0.25;
            let difference = (plus - loss(&x)) / 0.5;
            x[i] = middle;
            assert!((difference - f64::from(dx[i])).abs() < 2e-5, "{shape:?} dx[{i}]: {} {difference}", dx[i]);
        }
    }
}

#[test]
fn first_maximum_in_scan_order_gets_the_gradient_and_padding_never_wins() {
    let images = Images { n: 1, h: 3, w: 3, c: 1 };
    let shape = PoolShape::three_by_three(PoolKind::Max, 2);
    let x = [-4.0, -1.0, -5.0, -1.0, -2.0, -1.0, -3.0, -7.0, -6.0];
    let (mut z, mut dx) = ([0.0; 4], [0.0; 9]);
    forward(images, &x, shape, &mut z, None);
    assert_eq!(z, [-1.0, -1.0, -1.0, -1.0]);
    let terms = [UpstreamTerm { grad: &[1.0, 2.0, 4.0, 8.0], scale: None, sample_scale: None }];
    backward(images, &x, shape, Upstream { terms: &terms, bn: None }, &mut dx, Write::Overwrite);
    // The window of z[1] has -1 at (0,1) and (1,2); that of z[2] only at (1,0), that of z[3] only at (1,2).
    assert_eq!(dx, [0.0, 3.0, 0.0, 4.0, 0.0, 8.0, 0.0, 0.0, 0.0]);
}

#[test]
fn zeros_tie_and_the_first_cell_wins() {
    let images = Images { n: 1, h: 2, w: 2, c: 1 };
    let shape = PoolShape::three_by_three(PoolKind::Max, 1);
    let terms = [UpstreamTerm { grad: &[1.0, 2.0, 4.0, 8.0], scale: None, sample_scale: None }];
    let mut dx = [f32::NAN; 4];
    backward(images, &[0.0; 4], shape, Upstream { terms: &terms, bn: None }, &mut dx, Write::Overwrite);
    assert_eq!(dx, [15.0, 0.0, 0.0, 0.0]);
    let relu = PoolShape { relu: true, ..shape };
    backward(images, &[0.0; 4], relu, Upstream { terms: &terms, bn: None }, &mut dx, Write::Overwrite);
    assert_eq!(dx, [0.0; 4], "the ReLU's derivative at 0 is 0");
}

#[test]
fn a_nan_is_the_maximum_of_its_windows() {
    let images = Images { n: 1, h: 1, w: 4, c: 1 };
    let mut z = [0.0; 4];
    let shape = PoolShape::three_by_three(PoolKind::Max, 1);
    forward(images, &[f32::NAN, 1.0, 2.0, 3.0], shape, &mut z, None);
    assert!(z[0].is_nan() && z[1].is_nan());
    assert_eq!(z[2..], [3.0, 3.0]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let images = Images { n: 5, h: 6, w: 7, c: 17 };
    let x = numbers(images.len(), 1);
    for shape in pools() {
        assert_same_for_any_threads("pool", || {
            let (mut z, mut sums) = (vec![0.0; shape.output(images).len()], vec![0.0; 2 * images.c]);
            forward(images, &x, shape, &mut z, Some(&mut sums));
            let terms = [UpstreamTerm { grad: &z, scale: None, sample_scale: None }];
            let mut dx = vec![0.0; x.len()];
            backward(images, &x, shape, Upstream { terms: &terms, bn: None }, &mut dx, Write::Overwrite);
            (z, sums, dx)
        });
    }
}

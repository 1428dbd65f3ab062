//! The softmax of rows of α: against its formula in f64, its bits between equal rows, and its transpose.

#![cfg(unix)]

mod common;

use common::{numbers, upload};
use darts_cuda::{Backend, Memory, Program, relaxation};
use darts_cuda_emulator::{TestDevice, in_all_orders};

fn softmax(device: &TestDevice, alphas: &[f32], columns: usize) -> Vec<f32> {
    let (alphas, weights) = (upload(device, alphas), device.allocate(alphas.len()).unwrap());
    let mut program = Program::default();
    relaxation::softmax(&mut program, alphas, columns, weights);
    device.run(&program).unwrap();
    device.downloaded(weights).unwrap()
}

#[test]
fn emulator_softmax_matches_its_formula() {
    for columns in [1, 5, 8, 40] {
        let alphas: Vec<f32> = numbers(3 * columns, 1).iter().map(|a| 6.0 * a).collect();
        let weights = in_all_orders(|device| softmax(device, &alphas, columns));
        for (row, weights) in alphas.chunks_exact(columns).zip(weights.chunks_exact(columns)) {
            let total: f64 = row.iter().map(|&a| f64::from(a).exp()).sum();
            for (a, w) in row.iter().zip(weights) {
                let want = f64::from(*a).exp() / total;
                assert!((f64::from(*w) - want).abs() <= 6e-8 * want, "{w} {want}");
            }
        }
    }
}

#[test]
fn emulator_softmax_of_rows_with_the_same_numbers_has_the_same_bits() {
    let row = numbers(8, 3);
    let reversed: Vec<f32> = row.iter().rev().copied().collect();
    let alphas = [row.clone(), reversed, vec![0.37; 8]].concat();
    let weights = in_all_orders(|device| softmax(device, &alphas, 8));
    let mirrored: Vec<f32> = weights[8..16].iter().rev().copied().collect();
    assert_eq!(weights[..8], mirrored);
    assert_eq!(weights[16..], [0.125; 8]);
}

#[test]
fn emulator_softmax_backward_matches_its_formula() {
    for columns in [1, 5, 40] {
        let (weights, grad) = (numbers(3 * columns, 1), numbers(3 * columns, 2));
        let found = in_all_orders(|device| {
            let out = device.allocate(weights.len()).unwrap();
            let mut program = Program::default();
            let (weights, grad) = (upload(device, &weights), upload(device, &grad));
            relaxation::softmax_backward(&mut program, weights, grad, columns, out);
            device.run(&program).unwrap();
            device.downloaded(out).unwrap()
        });
        for (i, found) in found.iter().enumerate() {
            let row = i / columns * columns..(i / columns + 1) * columns;
            let mean: f64 = row.map(|k| f64::from(weights[k]) * f64::from(grad[k])).sum();
            let want = f64::from(weights[i]) * (f64::from(grad[i]) - mean);
            assert!((f64::from(*found) - want).abs() < 1e-6, "{i}: {found} {want}");
        }
    }
}

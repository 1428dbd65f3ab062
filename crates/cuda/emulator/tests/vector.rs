//! Kernels on flat vectors against `darts_ops::vector`.

#![cfg(unix)]

use darts_cuda::{Backend, Memory, Program, vector};
use darts_cuda_emulator::in_all_orders;

/// Empty, single, odd, and around one and several blocks.
const LENGTHS: [usize; 6] = [0, 1, 17, 255, 256, 1000];

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 101) % 201) as f32 / 100.0 - 1.0).collect()
}

#[test]
fn emulator_axpy_matches_reference() {
    for len in LENGTHS {
        let (x, y) = (values(len, 1), values(len, 2));
        let found = in_all_orders(|device| {
            let (x, out) = (device.uploaded(&x).unwrap(), device.uploaded(&y).unwrap());
            let factor = device.uploaded(&[0.25]).unwrap();
            let mut program = Program::default();
            vector::axpy(&mut program, out, factor, x);
            device.run(&program).unwrap();
            device.downloaded(out).unwrap()
        });
        let expected: Vec<f32> = y.iter().zip(&x).map(|(y, x)| y + 0.25 * x).collect();
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() <= 2e-7, "element {i} of {len}: {found} instead of {expected}");
        }
    }
}

//! The global average pool against its reference and as a transpose, the loss against `darts_ops::head`.

#![cfg(unix)]

mod common;

use common::{assert_close, device_images, numbers, shapes, upload};
use darts_cuda::{Backend, Memory, Program, View, Write, fill, head};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::Images;
use darts_ops::head as reference;

/// Parts of different numbers of channels, around and beyond what a block takes.
fn parts(images: Images) -> Vec<Vec<f32>> {
    [0, 1, 32].map(|more| numbers(images.pixels() * (images.c + more), 1 + more as u64)).into()
}

#[test]
fn emulator_global_average_pool_matches_reference() {
    for images in shapes() {
        let parts = parts(images);
        let slices: Vec<&[f32]> = parts.iter().map(|part| &part[..]).collect();
        let features = images.n * (3 * images.c + 33);
        let mut want = vec![0.0; features];
        reference::reference::global_average_pool(images, &slices, &mut want);
        let got = in_all_orders(|device| {
            let parts: Vec<View> = parts.iter().map(|part| upload(device, part)).collect();
            let out = device.allocate(features).unwrap();
            let mut program = Program::default();
            head::global_average_pool(&mut program, device_images(images), &parts, out);
            assert_eq!(program.launches.len(), 1);
            device.run(&program).unwrap();
            device.downloaded(out).unwrap()
        });
        assert_close(&got, &want, 1e-6, &format!("{images:?}"));
    }
}

#[test]
fn emulator_global_average_pool_backward_matches_darts_ops() {
    for images in shapes() {
        let parts = parts(images);
        let d_out = numbers(images.n * (3 * images.c + 33), 9);
        for (write, of_reference) in
            [(Write::Overwrite, darts_ops::Write::Overwrite), (Write::Accumulate, darts_ops::Write::Accumulate)]
        {
            let mut want = parts.clone();
            let mut slices: Vec<&mut [f32]> = want.iter_mut().map(|part| &mut part[..]).collect();
            reference::global_average_pool_backward(images, &d_out, &mut slices, of_reference);
            let got = in_all_orders(|device| {
                let start = |part: &Vec<f32>| match write {
                    Write::Overwrite => device.allocate(part.len()).unwrap(),
                    Write::Accumulate => upload(device, part),
                };
                let parts: Vec<View> = parts.iter().map(start).collect();
                let mut program = Program::default();
                let d_out = upload(device, &d_out);
                head::global_average_pool_backward(&mut program, device_images(images), d_out, &parts, write);
                device.run(&program).unwrap();
                parts.iter().map(|&part| device.downloaded(part).unwrap()).collect::<Vec<_>>()
            });
            for (got, want) in got.iter().zip(&want) {
                assert_close(got, want, 1e-6, &format!("{images:?} {write:?}"));
            }
        }
    }
}

/// d_logits and [loss | right answers] after a main head and an auxiliary head of weight 0.4 with the same logits.
fn losses(device: &TestDevice, logits: &[f32], labels: &[u32], label_smoothing: f64) -> (Vec<f32>, Vec<f64>) {
    let (d_logits, result) = (device.allocate(logits.len()).unwrap(), device.allocate(2).unwrap());
    let samples = device.allocate(2 * labels.len()).unwrap();
    let (logits, labels) = (upload(device, logits), device.uploaded(labels).unwrap());
    let mut program = Program::default();
    let config = head::CrossEntropy { label_smoothing, weight: 1.0, counts: true, write: Write::Overwrite };
    head::cross_entropy(&mut program, logits, labels, config, None, samples, result);
    let config = head::CrossEntropy { weight: 0.4, counts: false, write: Write::Accumulate, ..config };
    head::cross_entropy(&mut program, logits, labels, config, Some(d_logits), samples, result);
    device.run(&program).unwrap();
    (device.downloaded(d_logits).unwrap(), device.downloaded(result).unwrap())
}

#[test]
fn emulator_cross_entropy_matches_darts_ops() {
    for (n, k) in [(5, 7), (1, 1), (3, 200), (130, 3)] {
        let logits: Vec<f32> = numbers(n * k, 1).iter().map(|l| 4.0 * l).collect();
        let labels: Vec<u32> = (0..n as u32).map(|i| (7 * i + 3) % k as u32).collect();
        for smoothing in [0.0, 0.1] {
            let mut want = vec![f32::NAN; n * k];
            let output = reference::cross_entropy(&logits, &labels, smoothing, 0.4, Some(&mut want));
            let (gradient, result) = in_all_orders(|device| losses(device, &logits, &labels, smoothing));
            assert_close(&gradient, &want, 1e-7, &format!("gradient of {n} samples of {k} classes"));
            assert!((result[0] - 1.4 * output.loss).abs() < 1e-12 * (1.0 + output.loss), "{result:?} {output:?}");
            assert_eq!(result[1], output.correct as f64);
        }
    }
}

#[test]
fn emulator_cross_entropy_of_huge_logits_is_exact_and_the_first_of_equal_logits_counts() {
    let logits = [1e30, 1e30, -1e30, 3e4, 3e4, 3e4];
    let (_, result) = in_all_orders(|device| losses(device, &logits, &[0, 1], 0.0));
    assert_eq!(result[1], 1.0);
    assert!((result[0] - 0.7 * (2.0_f64.ln() + 3.0_f64.ln())).abs() < 1e-12, "{result:?}");
}

#[test]
fn emulator_fill_sets_every_float_and_no_other() {
    for len in [1, 255, 1024, 1025, 3000] {
        let values = in_all_orders(|device| {
            let all = upload(device, &numbers(len + 2, 1));
            let mut program = Program::default();
            fill::fill(&mut program, all.slice(1..len + 1), 0.5);
            device.run(&program).unwrap();
            device.downloaded(all).unwrap()
        });
        let mut want = numbers(len + 2, 1);
        want[1..=len].fill(0.5);
        assert_eq!(values, want);
    }
}

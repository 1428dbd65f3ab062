//! The pool against the reference and its transpose, the cross-entropy against the reference and finite differences.

use super::*;
use crate::testing::{assert_close, assert_same_for_any_threads, numbers, shapes};

#[test]
fn global_average_pool_matches_reference() {
    for images in shapes() {
        let parts = [1, 2, 3].map(|seed| numbers(images.pixels() * (images.c + seed as usize - 1), seed));
        let parts = parts.each_ref().map(|part| &part[..]);
        let features = images.n * (3 * images.c + 3);
        let (mut want, mut out) = (vec![0.0; features], vec![f32::NAN; features]);
        reference::global_average_pool(images, &parts, &mut want);
        for set in InstructionSet::available() {
            global_average_pool_on(set, images, &parts, &mut out);
            assert_close(&out, &want, 1e-6, &format!("{images:?} {}", set.name()));
        }
    }
}

#[test]
fn global_average_pool_backward_is_the_transpose() {
    for images in shapes() {
        let parts = [1, 2].map(|seed| numbers(images.len(), seed));
        let d_out = numbers(images.n * 2 * images.c, 3);
        let mut out = vec![0.0; d_out.len()];
        reference::global_average_pool(images, &parts.each_ref().map(|part| &part[..]), &mut out);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        for (write, start) in [(Write::Overwrite, f32::NAN), (Write::Accumulate, 0.0)] {
            let mut d_parts = [(); 2].map(|()| vec![start; images.len()]);
            let [a, b] = &mut d_parts;
            global_average_pool_backward(images, &d_out, &mut [a, b], write);
            let got = dot(&parts[0], &d_parts[0]) + dot(&parts[1], &d_parts[1]);
            assert!((got - dot(&out, &d_out)).abs() < 1e-5, "{images:?}: {got}, {}", dot(&out, &d_out));
        }
    }
}

#[test]
fn cross_entropy_matches_reference_and_finite_differences() {
    let (n, k, weight) = (5, 7, 0.4);
    let logits: Vec<f32> = numbers(n * k, 1).iter().map(|l| 4.0 * l).collect();
    let labels = [0, 6, 3, 3, 1];
    let wide: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    for smoothing in [0.0, 0.1] {
        let mut gradient = vec![f32::NAN; n * k];
        let result = cross_entropy(&logits, &labels, smoothing, weight, Some(&mut gradient));
        assert!((result.loss - reference::cross_entropy(&wide, &labels, smoothing)).abs() < 1e-12);
        assert_eq!(cross_entropy(&logits, &labels, smoothing, 1.0, None), result);
        for i in 0..n * k {
            let at = |by: f64| {
                let mut moved = wide.clone();
                moved[i] += by;
                reference::cross_entropy(&moved, &labels, smoothing)
            };
            let difference = weight * (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((f64::from(gradient[i]) - difference).abs() < 1e-7, "[{i}]: {} {difference}", gradient[i]);
        }
    }
}

#[test]
fn cross_entropy_of_huge_logits_is_exact_and_the_first_of_equal_logits_counts() {
    let result = cross_entropy(&[1e30, 1e30, -1e30, 3e4, 3e4, 3e4], &[0, 1], 0.0, 1.0, None);
    assert_eq!(result.correct, 1);
    assert!((result.loss - (2.0_f64.ln() + 3.0_f64.ln()) / 2.0).abs() < 1e-12);
    assert_eq!(cross_entropy(&[], &[], 0.1, 1.0, None), CrossEntropy { loss: 0.0, correct: 0 });
}

#[test]
#[should_panic(expected = "label 3 of 3 classes")]
fn cross_entropy_refuses_a_label_that_is_no_class() {
    cross_entropy(&[0.0; 3], &[3], 0.0, 1.0, None);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let images = Images { n: 7, h: 5, w: 6, c: 17 };
    let part = numbers(images.len(), 1);
    assert_same_for_any_threads("global average pool", || {
        let (mut out, mut d) = (vec![0.0; images.n * 34], vec![0.0; images.len()]);
        global_average_pool(images, &[&part, &part], &mut out);
        global_average_pool_backward(images, &out[..images.n * 17], &mut [&mut d], Write::Overwrite);
        (out, d)
    });
}

//! Kernels against the reference on every instruction set, and for any number of threads.

use super::*;
use crate::testing::{assert_close, assert_same_for_any_threads, assert_sums_close, numbers, shapes};

struct Case {
    z: Vec<Vec<f32>>,
    scale: Vec<Vec<f32>>,
    sample_scale: Vec<f32>,
}

impl Case {
    fn new(images: Images, count: usize) -> Self {
        let many = |len, seed: u64| (0..count as u64).map(|t| numbers(len, seed + t)).collect();
        Self { z: many(images.len(), 10), scale: many(images.c, 100), sample_scale: numbers(images.n, 7) }
    }

    /// Terms with and without shift and sample scale.
    fn terms(&self) -> Vec<Term<'_>> {
        let term = |t: usize| Term {
            z: &self.z[t],
            scale: &self.scale[t],
            shift: t.is_multiple_of(2).then(|| &*self.scale[(t + 1) % self.scale.len()]),
            sample_scale: self.sample_scale(t),
        };
        (0..self.z.len()).map(term).collect()
    }

    fn reduce(&self, images: Images, action: impl FnOnce(&mut [ReduceTerm])) -> Vec<Vec<f64>> {
        let mut sums = vec![vec![f64::NAN; 2 * images.c]; self.z.len()];
        let mut terms: Vec<_> = sums
            .iter_mut()
            .enumerate()
            .map(|(t, sums)| ReduceTerm { z: &self.z[t], sample_scale: self.sample_scale(t), sums })
            .collect();
        action(&mut terms);
        drop(terms);
        sums
    }

    fn sample_scale(&self, t: usize) -> Option<&[f32]> {
        (t % 3 == 1).then_some(&*self.sample_scale)
    }
}

#[test]
fn forward_matches_reference() {
    for images in shapes() {
        for count in [0, 1, 2, 3, 4, 9] {
            let case = Case::new(images, count);
            for write in [Write::Overwrite, Write::Accumulate] {
                let mut want = numbers(images.len(), 5);
                let start = want.clone();
                reference::forward(images, &case.terms(), &mut want, write);
                for set in InstructionSet::available() {
                    let mut node = start.clone();
                    forward_on(set, images, &case.terms(), &mut node, write);
                    assert_close(&node, &want, 2e-6, &format!("node {images:?} {count} {write:?} {}", set.name()));
                }
            }
        }
    }
}

#[test]
fn reduce_matches_reference() {
    for images in shapes() {
        for count in [1, 2, 3, 4, 9] {
            let case = Case::new(images, count);
            let dnode = numbers(images.len(), 3);
            let want = case.reduce(images, |terms| reference::reduce(images, &dnode, terms));
            for set in InstructionSet::available() {
                let got = case.reduce(images, |terms| reduce_on(set, images, &dnode, terms));
                for (got, want) in got.iter().zip(&want) {
                    let what = format!("sums {images:?} {count} {}", set.name());
                    assert_sums_close(got, want, images.image_pixels(), &what);
                }
            }
        }
    }
}

/// The gradients that the reduction is for: of a term's scale and shift, in loss = Σ g·node.
#[test]
fn reference_reduce_matches_finite_differences_of_reference_forward() {
    let images = Images { n: 2, h: 2, w: 3, c: 3 };
    let case = Case::new(images, 4);
    let g = numbers(images.len(), 3);
    let loss = |terms: &[Term]| {
        let mut node = vec![0.0; images.len()];
        reference::forward(images, terms, &mut node, Write::Overwrite);
        node.iter().zip(&g).map(|(&node, &g)| f64::from(node) * f64::from(g)).sum::<f64>()
    };
    let sums = case.reduce(images, |terms| reference::reduce(images, &g, terms));
    for t in 0..4 {
        for c in 0..images.c {
            let change = |by: f32, shift: bool| {
                let mut terms = case.terms();
                let mut values = if shift { terms[t].shift.unwrap_or(&[0.0; 3]) } else { terms[t].scale }.to_vec();
                values[c] += by;
                if shift {
                    terms[t].shift = Some(&values)
                } else {
                    terms[t].scale = &values
                }
                loss(&terms)
            };
            // Linear in both, so a wide difference is exact but for rounding.
            for (shift, want) in [(true, sums[t][c]), (false, sums[t][images.c + c])] {
                let got = change(0.5, shift) - change(-0.5, shift);
                assert!((got - want).abs() < 1e-5, "term {t}, channel {c}: {got}, sums say {want}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let images = Images { n: 7, h: 9, w: 5, c: 17 };
    let case = Case::new(images, 6);
    let dnode = numbers(images.len(), 3);
    assert_same_for_any_threads("mix", || {
        let mut node = vec![0.0; images.len()];
        forward(images, &case.terms(), &mut node, Write::Overwrite);
        (node, case.reduce(images, |terms| reduce(images, &dnode, terms)))
    });
}

//! The weighted sum and its reduction as plain loops with f64 sums: the oracle of the tests. Never optimized.

use super::{ReduceTerm, Term};
use crate::images::{Images, Write};

/// As [`super::forward`].
pub fn forward(images: Images, terms: &[Term], node: &mut [f32], write: Write) {
    for n in 0..images.n {
        for p in 0..images.image_pixels() {
            for c in 0..images.c {
                let at = (n * images.image_pixels() + p) * images.c + c;
                let mut sum = if write == Write::Accumulate { f64::from(node[at]) } else { 0.0 };
                for term in terms {
                    let s = term.sample_scale.map_or(1.0, |s| f64::from(s[n]));
                    let shift = term.shift.map_or(0.0, |shift| f64::from(shift[c]));
                    sum += s * (f64::from(term.scale[c]) * f64::from(term.z[at]) + shift);
                }
                node[at] = sum as f32;
            }
        }
    }
}

/// As [`super::reduce`].
pub fn reduce(images: Images, dnode: &[f32], terms: &mut [ReduceTerm]) {
    for term in terms {
        term.sums.fill(0.0);
        for n in 0..images.n {
            let s = term.sample_scale.map_or(1.0, |s| f64::from(s[n]));
            for p in 0..images.image_pixels() {
                for c in 0..images.c {
                    let at = (n * images.image_pixels() + p) * images.c + c;
                    term.sums[c] += s * f64::from(dnode[at]);
                    term.sums[images.c + c] += s * f64::from(dnode[at]) * f64::from(term.z[at]);
                }
            }
        }
    }
}

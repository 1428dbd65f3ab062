//! The head as plain loops in f64, by the definitions: the oracle of the tests. Never optimized.

use crate::images::Images;

/// As [`super::global_average_pool`].
pub fn global_average_pool(images: Images, parts: &[&[f32]], out: &mut [f32]) {
    let features = out.len() / images.n;
    let mut first = 0;
    for part in parts {
        let c = part.len() / images.pixels();
        for n in 0..images.n {
            for k in 0..c {
                let pixels =
                    (0..images.image_pixels()).map(|p| f64::from(part[(n * images.image_pixels() + p) * c + k]));
                out[n * features + first + k] = (pixels.sum::<f64>() / images.image_pixels() as f64) as f32;
            }
        }
        first += c;
    }
}

/// The loss of [`super::cross_entropy`], from the probabilities themselves.
pub fn cross_entropy(logits: &[f64], labels: &[u32], label_smoothing: f64) -> f64 {
    let classes = logits.len() / labels.len();
    let mut loss = 0.0;
    for (row, &label) in labels.iter().enumerate() {
        let logits = &logits[row * classes..][..classes];
        let total: f64 = logits.iter().map(|l| l.exp()).sum();
        for (k, l) in logits.iter().enumerate() {
            let hot = if k == label as usize { 1.0 - label_smoothing } else { 0.0 };
            loss -= (hot + label_smoothing / classes as f64) * (l.exp() / total).ln();
        }
    }
    loss / labels.len() as f64
}

//! Evaluation of a convolutional network on a set of images: running statistics, no augmentation, every image once.

use std::sync::Arc;

use darts_cells::conv::{ConvNetwork, ForwardInput, Statistics, Workspace};
use darts_data::dataset::Dataset;
use darts_data::{Augment, BadImages, Loader};

use crate::engine::Watch;
use crate::error::Result;
use crate::task::Scores;

/// A network with all of its numbers.
pub(crate) struct Trained<'a> {
    pub(crate) network: &'a ConvNetwork,
    pub(crate) theta: &'a [f32],
    pub(crate) statistics: &'a [f32],
    /// Operation weights of a supernet; empty for a discrete network.
    pub(crate) weights: &'a [f32],
}

impl Trained<'_> {
    /// Logits `[N, classes]` of normalized images `[N, H, W, 3]`.
    pub(crate) fn logits<'w>(&self, workspace: &'w mut Workspace, images: &[f32], batch: usize) -> Result<&'w [f32]> {
        let input = ForwardInput { images, batch, theta: self.theta, weights: self.weights, active: None, masks: None };
        self.network.forward(workspace, &input, Statistics::Running(self.statistics))?;
        Ok(self.network.logits(workspace))
    }

    /// Scores on all of `images` that can be read, which `watch` is told of as `what`; None when it asked to stop.
    pub(crate) fn scores(
        &self,
        workspace: &mut Workspace,
        images: &Arc<dyn Dataset>,
        bad_images: &Arc<BadImages>,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        let classes = self.network.config().classes;
        let loader = Loader::new(images.clone(), Augment::none(), workspace.capacity());
        let batches = loader.tolerating(bad_images.clone()).in_order()?;
        let mut sum = Sum::default();
        for batch in batches {
            let batch = batch?;
            let logits = self.logits(workspace, batch.images(), batch.len())?;
            sum.add_all(logits, classes, batch.labels());
            if watch.evaluating(what, sum.examples, images.len()) {
                return Ok(None);
            }
        }
        Ok(Some(sum.scores(classes)))
    }
}

/// Sums over examples.
#[derive(Default)]
pub(crate) struct Sum {
    loss: f64,
    correct: usize,
    top5: usize,
    pub(crate) examples: usize,
}

impl Sum {
    /// Adds examples with their logits `[N, classes]`.
    pub(crate) fn add_all(&mut self, logits: &[f32], classes: usize, labels: &[u32]) {
        logits.chunks_exact(classes).zip(labels).for_each(|(row, &label)| self.add(row, label as usize));
    }

    fn add(&mut self, logits: &[f32], label: usize) {
        let own = logits[label];
        // Of equal logits the lower class counts as the likelier, as in training.
        let likelier = |(class, &logit): (usize, &f32)| logit > own || (logit == own && class < label);
        let rank = logits.iter().enumerate().filter(|entry| likelier(*entry)).count();
        self.correct += usize::from(rank == 0);
        self.top5 += usize::from(rank < 5);
        self.loss -= log_softmax(logits, label);
        self.examples += 1;
    }

    pub(crate) fn scores(&self, classes: usize) -> Scores {
        let share = |count: usize| count as f64 / self.examples as f64;
        Scores {
            loss: self.loss / self.examples as f64,
            accuracy: Some(share(self.correct)),
            top5_error: (classes > 5).then(|| share(self.examples - self.top5)),
            perplexity: None,
            examples: self.examples,
        }
    }
}

/// ln(exp(z_k) / Σ_j exp(z_j)) for logits z, in f64.
pub(crate) fn log_softmax(logits: &[f32], class: usize) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
    f64::from(logits[class]) - most - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_match_a_hand_computed_example() {
        let mut sum = Sum::default();
        sum.add(&[0.0, 0.0], 0); // a tie: the lower class wins
        sum.add(&[0.0, 0.0], 1);
        sum.add(&[3.0f32.ln(), 0.0], 0);
        let scores = sum.scores(2);
        let expected = (2.0f64.ln() + 2.0f64.ln() + (4.0f64 / 3.0).ln()) / 3.0;
        assert!((scores.loss - expected).abs() < 1e-6, "{} {expected}", scores.loss);
        assert_eq!(scores.accuracy, Some(2.0 / 3.0));
        assert_eq!((scores.top5_error, scores.examples), (None, 3));
    }

    #[test]
    fn the_fifth_likeliest_class_is_right_among_five_and_the_sixth_is_not() {
        let logits = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        let mut sum = Sum::default();
        sum.add(&logits, 4);
        sum.add(&logits, 5);
        assert_eq!(sum.scores(6).top5_error, Some(0.5));
    }

    #[test]
    fn a_network_that_computes_nonsense_has_no_finite_loss() {
        let mut sum = Sum::default();
        sum.add(&[f32::NAN, 1.0], 1);
        assert!(!sum.scores(2).loss.is_finite());
    }
}

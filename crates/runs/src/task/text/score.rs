//! Evaluation of a language model on a text: no dropout, running statistics, every token once from the second of each column on,
//! hidden states carried through.

use darts_cells::recurrent::{Gradients, Input, LossConfig, Masks, Mode, RecurrentNetwork, Statistics};
use darts_data::text::Columns;

use crate::engine::Watch;
use crate::error::Result;
use crate::task::Scores;

/// Columns that a validation text is read in, as in the released code: nobody's perplexity depends on it by much.
pub(crate) const VALID_COLUMNS: usize = 10;
/// Columns that a test text is read in: every token but the first is scored, each knowing all before it.
pub(crate) const TEST_COLUMNS: usize = 1;

/// A network with all of its numbers.
pub(crate) struct Model<'a> {
    pub(crate) network: &'a RecurrentNetwork,
    pub(crate) theta: &'a [f32],
    /// Operation weights of a supernet; empty for a discrete network.
    pub(crate) weights: &'a [f32],
    /// Running statistics of a supernet; empty for a discrete network.
    pub(crate) statistics: &'a [f32],
}

impl Model<'_> {
    /// Scores on all of `text`, in at most so many columns and in sequences of `steps`, which `watch` is told of as `what`; None
    /// when it asked to stop.
    pub(crate) fn scores(
        &self,
        text: &[u32],
        columns: usize,
        steps: usize,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        let columns = Columns::new(text, columns.min(text.len() / 2).max(1))?;
        let batch = columns.columns();
        let steps = steps.min(columns.rows() - 1);
        let mut workspace = self.network.workspace(batch, steps, Mode::Inference);
        let mut hidden = vec![0.0; batch * self.network.config().hidden];
        let (mut sum, mut tokens) = (0.0, 0);
        let of = (columns.rows() - 1) * batch;
        for stretch in columns.evaluation(steps) {
            let input = Input {
                tokens: stretch.inputs,
                batch,
                hidden: &hidden,
                theta: self.theta,
                weights: self.weights,
                masks: Masks::default(),
            };
            let output = self.network.evaluate(
                &mut workspace,
                &input,
                stretch.targets,
                &LossConfig::default(),
                &mut Statistics::Running(self.statistics),
                Gradients::default(),
            )?;
            hidden.copy_from_slice(self.network.hidden(&workspace));
            sum += output.nll * stretch.targets.len() as f64;
            tokens += stretch.targets.len();
            if watch.evaluating(what, tokens, of) {
                return Ok(None);
            }
        }
        let loss = sum / tokens as f64;
        Ok(Some(Scores { loss, perplexity: Some(loss.exp()), examples: tokens, ..Scores::default() }))
    }
}

#[cfg(test)]
mod tests {
    use darts_cells::genotype::named;
    use darts_cells::recurrent::RecurrentConfig;

    use super::*;

    fn scores(text: &[u32], columns: usize, steps: usize) -> Scores {
        let config = RecurrentConfig { vocabulary: 7, hidden: 5 };
        let network = RecurrentNetwork::discrete(&named::recurrent("DARTS_V1").unwrap(), &config).unwrap();
        let theta: Vec<f32> = network.initialize(4).0.iter().map(|w| 60.0 * w).collect();
        let model = Model { network: &network, theta: &theta, weights: &[], statistics: &[] };
        model.scores(text, columns, steps, "test", &mut Watch::new(&mut ())).unwrap().unwrap()
    }

    #[test]
    fn perplexity_does_not_depend_on_how_the_text_is_cut_into_sequences() {
        let text: Vec<u32> = (0..60).map(|i| (i * i + i / 3) % 7).collect();
        let whole = scores(&text, 1, 59);
        assert_eq!(whole.examples, 59);
        assert!((whole.loss - 7f64.ln()).abs() > 0.01, "the network says something: {}", whole.loss);
        for steps in [1, 2, 35, 1000] {
            let cut = scores(&text, 1, steps);
            assert!((cut.loss - whole.loss).abs() < 1e-6, "{steps} steps: {} and {}", cut.loss, whole.loss);
            assert_eq!(cut.examples, 59);
        }
        assert_eq!(whole.perplexity, Some(whole.loss.exp()));
    }

    #[test]
    fn a_text_shorter_than_its_columns_is_read_in_fewer() {
        assert_eq!(scores(&[1, 2, 3, 4, 5], 10, 35).examples, 2);
        assert_eq!(scores(&[1, 2], 10, 35).examples, 1);
    }
}

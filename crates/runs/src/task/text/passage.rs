//! A sequence of a run with the dropout that belongs to it. Its masks are drawn once and serve every pass over it: a second-order
//! step takes a difference of two passes, which must differ in the weights alone.

use darts_bilevel::Pass;
use darts_cells::recurrent::Masks;
use darts_data::random::{Key, Purpose};
use darts_data::text::Stretch;

use crate::config::Dropout;
use crate::language::Sequence;

const OUTPUT: Purpose = Purpose::new("dropout output");
const HIDDEN: Purpose = Purpose::new("dropout hidden");
const X: Purpose = Purpose::new("dropout x");
const EMBEDDING: Purpose = Purpose::new("dropout embedding");
const WORDS: Purpose = Purpose::new("dropout words");

/// Where in a run a sequence is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) seed: u64,
    pub(crate) epoch: u64,
    pub(crate) step: u64,
    /// 0 for the text that trains w, 1 for the one that trains α.
    pub(crate) text: u64,
}

/// What the masks are as long as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) units: usize,
    pub(crate) vocabulary: usize,
}

/// A sequence of a run.
#[derive(Clone, Debug)]
pub(crate) struct Passage {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    /// The length that learning rates are in proportion to.
    pub(crate) drawn: usize,
    output: Option<Vec<f32>>,
    hidden: Option<Vec<f32>>,
    x: Option<Vec<f32>>,
    embedding: Option<Vec<f32>>,
    words: Option<Vec<f32>>,
}

impl Passage {
    /// The sequence at a place of a run.
    pub(crate) fn new(stretch: Stretch<'_>, drawn: usize, dropout: &Dropout, sizes: Sizes, place: Place) -> Self {
        let state = sizes.batch * sizes.units;
        let mask = |purpose: Purpose, probability: f64, len: usize| {
            let Place { seed, epoch, step, text } = place;
            (probability > 0.0)
                .then(|| mask(Key::new(seed, purpose).epoch(epoch).step(step).sample(text), probability, len))
        };
        Self {
            tokens: stretch.inputs.to_vec(),
            targets: stretch.targets.to_vec(),
            drawn,
            output: mask(OUTPUT, dropout.output, state),
            hidden: mask(HIDDEN, dropout.hidden, state),
            x: mask(X, dropout.x, state),
            embedding: mask(EMBEDDING, dropout.embedding, state),
            words: mask(WORDS, dropout.words, sizes.vocabulary),
        }
    }

    /// The masks of every pass.
    pub(crate) fn dropout(&self) -> Masks<'_> {
        Masks {
            x: self.x.as_deref(),
            h: self.hidden.as_deref(),
            embedding_locked: self.embedding.as_deref(),
            output_locked: self.output.as_deref(),
            embedding_rows: self.words.as_deref(),
        }
    }
}

impl Sequence for Passage {
    fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    fn targets(&self) -> &[u32] {
        &self.targets
    }

    fn masks(&self, _pass: Pass) -> Masks<'_> {
        self.dropout()
    }
}

/// 0 with this probability, else 1/keep.
fn mask(key: Key, probability: f64, len: usize) -> Vec<f32> {
    let keep = 1.0 - probability;
    let mut random = key.generator();
    std::iter::repeat_with(|| if random.chance(keep) { (1.0 / keep) as f32 } else { 0.0 }).take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { batch: 40, units: 50, vocabulary: 3000 };
    const PLACE: Place = Place { seed: 1, epoch: 2, step: 3, text: 0 };

    fn passage(dropout: Dropout, place: Place) -> Passage {
        let stretch = Stretch { inputs: &[1, 2], targets: &[2, 3], length: 2 };
        Passage::new(stretch, 2, &dropout, SIZES, place)
    }

    #[test]
    fn masks_have_their_probability_and_keep_the_mean() {
        let passage = passage(Dropout::TRAINING, PLACE);
        let masks = passage.dropout();
        for (mask, probability, len) in [
            (masks.output_locked, 0.75, 2000),
            (masks.h, 0.25, 2000),
            (masks.x, 0.75, 2000),
            (masks.embedding_locked, 0.2, 2000),
            (masks.embedding_rows, 0.1, 3000),
        ] {
            let mask = mask.unwrap();
            assert_eq!(mask.len(), len);
            let dropped = mask.iter().filter(|&&m| m == 0.0).count() as f64 / len as f64;
            assert!((dropped - probability).abs() < 0.04, "{dropped} dropped, expected {probability}");
            assert!(mask.iter().all(|&m| m == 0.0 || m == (1.0 / (1.0 - probability)) as f32));
        }
        assert_ne!(masks.output_locked, masks.x);
    }

    #[test]
    fn masks_are_a_function_of_the_place_and_the_same_in_every_pass() {
        let drawn = |place| passage(Dropout::SEARCH, place).x;
        assert_eq!(drawn(PLACE), drawn(PLACE));
        for other in [
            Place { seed: 2, ..PLACE },
            Place { epoch: 3, ..PLACE },
            Place { step: 4, ..PLACE },
            Place { text: 1, ..PLACE },
        ] {
            assert_ne!(drawn(PLACE), drawn(other));
        }
        let passage = passage(Dropout::SEARCH, PLACE);
        assert_eq!(passage.masks(Pass::Perturbed).h, passage.masks(Pass::Weight).h);
        assert!(passage.masks(Pass::Weight).embedding_rows.is_none());
    }
}

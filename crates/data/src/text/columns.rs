//! Tokens cut into columns that are read side by side, and stretches of them for backpropagation through time (BPTT).
//! A stretch is a view: nothing is copied. Axes: T time steps, B columns. It refuses to wrap around the text's end.

use crate::Error;
use crate::random::{Key, Purpose};

/// A text as `[rows, B]` tokens: column b is the b-th of B equal parts of the text, and what does not fill a row is left
/// out.
#[derive(Clone, Debug)]
pub struct Columns {
    tokens: Vec<u32>,
    columns: usize,
}

/// Inputs and targets of one pass: `[length, B]` each, row-major; the targets are the tokens one row later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch<'a> {
    /// The tokens that are read.
    pub inputs: &'a [u32],
    /// The tokens that follow them.
    pub targets: &'a [u32],
    /// Time steps.
    pub length: usize,
}

/// One step of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number of the step in the epoch.
    pub step: u64,
    /// First row.
    pub start: usize,
    /// Rows: the drawn length, or what is left at the end of the text.
    pub length: usize,
    /// The length that was drawn, with which learning rates are scaled.
    pub drawn: usize,
}

/// How long the stretches of an epoch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Bptt {
    /// All the same, as in evaluation.
    Fixed {
        /// Time steps.
        length: usize,
    },
    /// The search's: `length`, or ⌊length/2⌋ with probability 5 %.
    Search {
        /// Time steps (35 in the paper).
        length: usize,
    },
    /// The training of discrete cells: N(m, 5) cut to whole steps, clamped to [5, length + 20], where m is `length`, or
    /// length/2 with probability 5 % (Merity et al., arXiv 1708.02182, section 5).
    Training {
        /// Time steps (35 in the paper).
        length: usize,
    },
}

const HALF_PROBABILITY: f64 = 0.05;
const DEVIATION: f64 = 5.0;
const SHORTEST: f64 = 5.0;
const LONGEST_BEYOND: f64 = 20.0;
const LENGTHS: Purpose = Purpose::new("bptt length");

impl Bptt {
    /// The largest length that is ever drawn.
    pub fn longest(&self) -> usize {
        match *self {
            Self::Fixed { length } | Self::Search { length } => length.max(1),
            Self::Training { length } => (length as f64 + LONGEST_BEYOND).max(SHORTEST) as usize,
        }
    }

    /// The length of a step's stretch, at least 1.
    pub fn draw(&self, key: Key) -> usize {
        let mut random = key.generator();
        let length = match *self {
            Self::Fixed { length } => length,
            Self::Search { length } if random.chance(HALF_PROBABILITY) => length / 2,
            Self::Search { length } => length,
            Self::Training { length } => {
                let whole = length as f64;
                let mean = if random.chance(HALF_PROBABILITY) { whole / 2.0 } else { whole };
                let drawn = (mean + DEVIATION * random.normal()).trunc();
                drawn.clamp(SHORTEST, whole + LONGEST_BEYOND) as usize
            }
        };
        length.max(1)
    }
}

impl Columns {
    /// Cuts a text into `columns` columns.
    ///
    /// # Errors
    /// [`Error::TextTooShort`] when it does not fill two rows, or `columns` is 0.
    pub fn new(text: &[u32], columns: usize) -> Result<Self, Error> {
        let rows = text.len().checked_div(columns).unwrap_or(0);
        if rows < 2 {
            return Err(Error::TextTooShort { tokens: text.len(), columns });
        }
        let mut tokens = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            tokens.extend((0..columns).map(|column| text[column * rows + row]));
        }
        Ok(Self { tokens, columns })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len() / self.columns
    }

    /// Number of columns B.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The stretch that starts at a row, of `length` rows or as many as have targets.
    ///
    /// # Panics
    /// If `start` is the last row or beyond: it has no target.
    pub fn stretch(&self, start: usize, length: usize) -> Stretch<'_> {
        let rows = self.rows();
        assert!(start + 1 < rows, "stretch from row {start} of {rows}");
        let (from, length) = (start * self.columns, length.min(rows - 1 - start));
        let tokens = &self.tokens[from..][..(length + 1) * self.columns];
        Stretch { inputs: &tokens[..length * self.columns], targets: &tokens[self.columns..], length }
    }

    /// The stretch for a validation pass of a search at row `position` of the *training* text: it starts at that
    /// position modulo this text's rows that have targets.
    pub fn stretch_at(&self, position: usize, length: usize) -> Stretch<'_> {
        self.stretch(position % (self.rows() - 1), length)
    }

    /// The steps of a training epoch: lengths are drawn by (seed, epoch, step), each step starts where the one before
    /// would have ended, and a rest of a single target is left out, as in the released code.
    pub fn epoch(&self, bptt: Bptt, seed: u64, epoch: u64) -> impl Iterator<Item = Segment> + use<> {
        let (rows, mut start, mut step) = (self.rows(), 0, 0);
        std::iter::from_fn(move || {
            let drawn = bptt.draw(Key::new(seed, LENGTHS).epoch(epoch).step(step));
            let segment = Segment { step, start, length: drawn.min(rows - 1 - start.min(rows - 1)), drawn };
            (start, step) = (start + drawn, step + 1);
            (segment.start + 2 < rows).then_some(segment)
        })
    }

    /// Stretches of `length` rows through the whole text, every target once: for evaluation.
    pub fn evaluation(&self, length: usize) -> impl Iterator<Item = Stretch<'_>> {
        (0..self.rows() - 1).step_by(length.max(1)).map(move |start| self.stretch(start, length.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(tokens: u32, columns: usize) -> Columns {
        Columns::new(&(0..tokens).collect::<Vec<u32>>(), columns).unwrap()
    }

    #[test]
    fn columns_are_consecutive_parts_and_targets_come_one_row_later() {
        let columns = columns(14, 3);
        assert_eq!((columns.rows(), columns.columns()), (4, 3));
        let stretch = columns.stretch(1, 2);
        assert_eq!((stretch.inputs, stretch.targets), (&[1, 5, 9, 2, 6, 10][..], &[2, 6, 10, 3, 7, 11][..]));
        assert_eq!(columns.stretch(2, 35).length, 1);
        assert_eq!(columns.stretch_at(4, 1), columns.stretch(1, 1));
        assert_eq!(columns.stretch_at(3, 1), columns.stretch(0, 1));
    }

    #[test]
    fn a_text_that_fills_no_two_rows_is_refused() {
        let error = Columns::new(&[1, 2, 3], 2).unwrap_err().to_string();
        assert_eq!(error, "3 tokens do not fill 2 columns of at least 2: use a smaller batch or more text");
        assert!(Columns::new(&[1, 2, 3], 0).is_err());
        assert!(Columns::new(&[1, 2, 3, 4], 2).is_ok());
    }

    #[test]
    fn evaluation_scores_every_target_once() {
        let columns = columns(100, 1);
        let targets: Vec<u32> = columns.evaluation(7).flat_map(|stretch| stretch.targets.to_vec()).collect();
        assert_eq!(targets, (1..100).collect::<Vec<u32>>());
    }

    #[test]
    fn stretches_of_one_row_read_every_target_once() {
        let columns = columns(20, 2);
        for bptt in [Bptt::Fixed { length: 1 }, Bptt::Search { length: 1 }, Bptt::Fixed { length: 0 }] {
            let segments: Vec<Segment> = columns.epoch(bptt, 1, 0).collect();
            assert!(segments.iter().all(|segment| (segment.length, segment.drawn) == (1, 1)), "{bptt:?}");
            assert_eq!(segments.len(), columns.rows() - 2, "{bptt:?}: a rest of one target is left out");
        }
        assert_eq!(columns.evaluation(1).count(), columns.rows() - 1);
        assert_eq!(columns.evaluation(0).count(), columns.rows() - 1);
        assert!((0..100).all(|step| Bptt::Training { length: 1 }.draw(Key::new(1, LENGTHS).step(step)) >= 5));
    }

    #[test]
    fn an_epoch_follows_the_released_loop() {
        for rows in [2, 3, 36, 37, 38, 1000] {
            let columns = columns(rows, 1);
            let rows = columns.rows();
            // while i < rows - 2: length = min(drawn, rows - 1 - i); i += drawn
            let (mut start, mut step, mut expected) = (0, 0, Vec::new());
            while (start as isize) < rows as isize - 2 {
                let drawn = Bptt::Search { length: 35 }.draw(Key::new(3, LENGTHS).epoch(1).step(step));
                expected.push(Segment { step, start, length: drawn.min(rows - 1 - start), drawn });
                (start, step) = (start + drawn, step + 1);
            }
            assert_eq!(columns.epoch(Bptt::Search { length: 35 }, 3, 1).collect::<Vec<_>>(), expected, "{rows} rows");
        }
    }

    #[test]
    fn lengths_have_the_papers_distribution() {
        let draws =
            |bptt: Bptt| -> Vec<usize> { (0..20_000).map(|step| bptt.draw(Key::new(1, LENGTHS).step(step))).collect() };
        assert!(draws(Bptt::Fixed { length: 35 }).iter().all(|&length| length == 35));
        let search = draws(Bptt::Search { length: 35 });
        let halves = search.iter().filter(|&&length| length == 17).count();
        assert!(search.iter().all(|&length| length == 17 || length == 35));
        assert!((880..1120).contains(&halves), "{halves} halves, 1000 expected");
        let training = draws(Bptt::Training { length: 35 });
        let mean = training.iter().sum::<usize>() as f64 / 20_000.0;
        // 0.95·35 + 0.05·17.5 − ½ for the cut to whole steps.
        assert!((mean - 33.625).abs() < 0.2, "{mean}");
        assert!(training.iter().all(|length| (5..=55).contains(length)));
        assert_eq!([Bptt::Search { length: 35 }, Bptt::Training { length: 35 }].map(|bptt| bptt.longest()), [35, 55]);
        let near = training.iter().filter(|&&length| (30..40).contains(&length)).count() as f64 / 20_000.0;
        assert!((near - 0.95 * 0.6827).abs() < 0.02, "{near} within a deviation of the mean");
    }

    #[test]
    fn lengths_are_a_function_of_seed_epoch_and_step() {
        let columns = columns(5000, 1);
        let lengths = |seed, epoch| -> Vec<usize> {
            columns.epoch(Bptt::Training { length: 35 }, seed, epoch).map(|segment| segment.drawn).collect()
        };
        assert_eq!(lengths(1, 2), lengths(1, 2));
        assert_ne!(lengths(1, 2), lengths(1, 3));
        assert_ne!(lengths(1, 2), lengths(2, 2));
    }
}

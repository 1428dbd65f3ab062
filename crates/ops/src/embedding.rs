//! Rows of a table looked up by token, with dropout of whole rows and of positions of the batch, and the gradient that goes
//! back to the rows. Refuses to draw masks: they come as data, already divided by the probability of keeping.
//!
//! ```text
//! x[t,b,i] = E[token[t,b], i] · r[token[t,b]] · Π_m m[b,i]
//! ```
//! Axes: t a time step of T, b a row of the batch B, i a unit of H, V rows of E. The masks m are the same at every time step
//! (locked dropout).

use rayon::prelude::*;

/// What is looked up, and through which masks.
#[derive(Copy, Clone, Debug)]
pub struct Lookup<'a> {
    /// Tokens `[T, B]`, each below V.
    pub tokens: &'a [u32],
    /// B.
    pub batch: usize,
    /// H.
    pub hidden: usize,
    /// r `[V]`: dropout of rows; none: 1.
    pub rows: Option<&'a [f32]>,
    /// Each `[B, H]`.
    pub locked: &'a [&'a [f32]],
}

impl Lookup<'_> {
    /// Panics unless the masks and `x` fit.
    fn check(&self, table: usize, x: usize) {
        let Self { tokens, batch, hidden, rows, locked } = *self;
        assert!(hidden > 0 && table.is_multiple_of(hidden), "embedding: table of {table} floats, H = {hidden}");
        let vocabulary = table / hidden;
        assert_eq!(x, tokens.len() * hidden, "embedding: x for {} tokens, H = {hidden}", tokens.len());
        assert!(batch > 0 && tokens.len().is_multiple_of(batch), "embedding: {} tokens, B = {batch}", tokens.len());
        assert!(rows.is_none_or(|rows| rows.len() == vocabulary), "embedding: mask of rows, V = {vocabulary}");
        assert!(locked.iter().all(|mask| mask.len() == batch * hidden), "embedding: locked mask");
        let largest = tokens.iter().copied().max().unwrap_or(0) as usize;
        assert!(tokens.is_empty() || largest < vocabulary, "embedding: token {largest}, V = {vocabulary}");
    }

    /// Multiplies what stands at `position` with its masks.
    fn mask(&self, position: usize, x: &mut [f32]) {
        let row = self.rows.map_or(1.0, |rows| rows[self.tokens[position] as usize]);
        if row != 1.0 {
            x.iter_mut().for_each(|x| *x *= row);
        }
        let start = position % self.batch * self.hidden;
        for mask in self.locked {
            let mask = &mask[start..start + self.hidden];
            x.iter_mut().zip(mask).for_each(|(x, mask)| *x *= mask);
        }
    }
}

/// Looks up `table` \[V, H\]; `x` \[T, B, H\] is overwritten.
///
/// # Panics
/// If a slice does not fit or a token is V or more.
pub fn forward(table: &[f32], lookup: &Lookup, x: &mut [f32]) {
    lookup.check(table.len(), x.len());
    let hidden = lookup.hidden;
    x.par_chunks_mut(hidden).with_min_len(64).enumerate().for_each(|(position, x)| {
        let start = lookup.tokens[position] as usize * hidden;
        x.copy_from_slice(&table[start..start + hidden]);
        lookup.mask(position, x);
    });
}

/// Adds the gradient of the lookup to `d_table` \[V, H\]. `d_x` \[T, B, H\] is overwritten with its product with the masks.
/// Positions of one token are added in their order, whatever the number of threads.
///
/// # Panics
/// If a slice does not fit or a token is V or more.
pub fn backward(d_table: &mut [f32], lookup: &Lookup, d_x: &mut [f32]) {
    lookup.check(d_table.len(), d_x.len());
    let hidden = lookup.hidden;
    d_x.par_chunks_mut(hidden).with_min_len(64).enumerate().for_each(|(position, d_x)| lookup.mask(position, d_x));
    for (&token, d_x) in lookup.tokens.iter().zip(d_x.chunks_exact(hidden)) {
        let row = &mut d_table[token as usize * hidden..][..hidden];
        row.iter_mut().zip(d_x).for_each(|(sum, term)| *sum += term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 101) % 257) as f32 / 64.0 - 2.0).collect()
    }

    /// x\[t,b,i\] and the gradient of Σ x·g by the formula.
    fn plain(table: &[f32], lookup: &Lookup, g: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (mut x, mut d_table) = (vec![0.0; g.len()], vec![0.0; table.len()]);
        for (position, &token) in lookup.tokens.iter().enumerate() {
            for i in 0..lookup.hidden {
                let at = position % lookup.batch * lookup.hidden + i;
                let row = lookup.rows.map_or(1.0, |rows| rows[token as usize]);
                let factor = lookup.locked.iter().fold(row, |factor, mask| factor * mask[at]);
                let entry = token as usize * lookup.hidden + i;
                x[position * lookup.hidden + i] = table[entry] * factor;
                d_table[entry] += g[position * lookup.hidden + i] * factor;
            }
        }
        (x, d_table)
    }

    #[test]
    fn lookup_and_gradient_match_the_formula() {
        let (vocabulary, hidden, batch) = (5, 7, 3);
        let tokens = [0, 4, 2, 4, 4, 1, 0, 4, 2, 2, 1, 4];
        let table = values(vocabulary * hidden, 1);
        let g = values(tokens.len() * hidden, 2);
        let masks = [values(batch * hidden, 3), values(batch * hidden, 4)];
        let rows = [1.0, 0.0, 1.25, 0.5, 1.25];
        let both = [masks[0].as_slice(), masks[1].as_slice()];
        for (rows, locked) in [(None, &both[..0]), (Some(&rows[..]), &both[..1]), (Some(&rows[..]), &both[..])] {
            let lookup = Lookup { tokens: &tokens, batch, hidden, rows, locked };
            let (expected, expected_gradient) = plain(&table, &lookup, &g);
            let mut x = vec![f32::NAN; g.len()];
            forward(&table, &lookup, &mut x);
            let mut d_table = vec![0.5; table.len()];
            backward(&mut d_table, &lookup, &mut g.clone());
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
            assert!(x.iter().zip(&expected).all(|(&a, &b)| close(a, b)));
            assert!(d_table.iter().zip(&expected_gradient).all(|(&a, &b)| close(a - 0.5, b)));
        }
    }

    #[test]
    #[should_panic(expected = "token 5, V = 5")]
    fn a_token_outside_of_the_table_is_refused() {
        let lookup = Lookup { tokens: &[5], batch: 1, hidden: 2, rows: None, locked: &[] };
        forward(&[0.0; 10], &lookup, &mut [0.0; 2]);
    }
}

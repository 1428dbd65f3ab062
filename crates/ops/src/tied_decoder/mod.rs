//! The decoder of a language model, tied to its embedding, together with the cross-entropy: logits = o·Eᵀ + bias, their
//! log-softmax, the loss and all gradients, a chunk of rows at a time, so that the logits of a whole sequence never exist at once.
//! Refuses to apply dropout or to regularize.
//!
//! ```text
//! l[r,v] = Σ_i o[r,i]·E[v,i] + b[v]        nll = Σ_r (log Σ_v e^l[r,v] − l[r, target[r]])
//! dl[r,v] = scale·(e^l[r,v] / Σ_u e^l[r,u] − [v = target[r]])
//! do = dl·E        dE = dlᵀ·o        db[v] = Σ_r dl[r,v]
//! ```
//! Axes: r a row (a position of the text) of R, v a word of the vocabulary V, i a unit of H.

mod cpu;
#[cfg(test)]
mod tests;

use crate::{
    images::Write,
    matmul::{Matrix, MatrixMut, multiply},
    profile::{self, Work},
    simd::InstructionSet,
};

/// Floats that a chunk of logits is kept below, so that it stays in the last-level cache (16 MiB).
const CHUNK: usize = 1 << 22;

/// The decoder's weights.
#[derive(Copy, Clone, Debug)]
pub struct Decoder<'a> {
    /// E `[V, H]`.
    pub weight: &'a [f32],
    /// b `[V]`.
    pub bias: &'a [f32],
}

/// Where the gradients go.
#[derive(Debug)]
pub struct DecoderGradients<'a> {
    /// scale: what the loss is multiplied with, for example 1/R for a mean.
    pub scale: f64,
    /// do `[R, H]`, overwritten.
    pub d_output: &'a mut [f32],
    /// dE `[V, H]` and db `[V]`, both overwritten; none: not computed.
    pub parameters: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl Decoder<'_> {
    fn vocabulary(&self) -> usize {
        self.bias.len()
    }

    /// H.
    fn hidden(&self, output: &[f32], rows: usize) -> usize {
        let vocabulary = self.vocabulary();
        assert!(vocabulary > 0 && self.weight.len().is_multiple_of(vocabulary), "tied_decoder: E for V = {vocabulary}");
        let hidden = self.weight.len() / vocabulary;
        assert_eq!(output.len(), rows * hidden, "tied_decoder: outputs of {rows} rows, H = {hidden}");
        hidden
    }

    /// The logits without the bias, of some rows.
    fn products(&self, hidden: usize, output: &[f32], logits: &mut [f32]) {
        let (rows, vocabulary) = (output.len() / hidden, self.vocabulary());
        let weight = Matrix::new(self.weight, vocabulary, hidden).transposed();
        let logits = MatrixMut::new(logits, rows, vocabulary);
        multiply(Matrix::new(output, rows, hidden), weight, logits, Write::Overwrite);
    }
}

/// Rows of a chunk: a number that depends on the shape alone.
fn chunk_rows(vocabulary: usize, rows: usize) -> usize {
    (CHUNK / vocabulary.max(1)).clamp(16, 1024).min(rows)
}

/// Floats of working memory that [`loss`] needs for `rows` rows.
pub fn chunk_len(vocabulary: usize, rows: usize) -> usize {
    chunk_rows(vocabulary, rows) * vocabulary
}

/// The sum of the negative log-likelihoods of `targets`, and the gradients asked for.
///
/// # Shapes
/// `output` \[R, H\], `targets` \[R\], each below V; `chunk`: [`chunk_len`] floats or more, contents arbitrary before and after.
///
/// # Panics
/// If a slice does not fit or a target is V or more.
pub fn loss(
    decoder: Decoder,
    output: &[f32],
    targets: &[u32],
    gradients: Option<DecoderGradients>,
    chunk: &mut [f32],
) -> f64 {
    loss_with(InstructionSet::selected(), decoder, output, targets, gradients, chunk)
}

/// [`loss`] on a given instruction set.
///
/// # Panics
/// As [`loss`].
pub fn loss_with(
    set: InstructionSet,
    decoder: Decoder,
    output: &[f32],
    targets: &[u32],
    mut gradients: Option<DecoderGradients>,
    chunk: &mut [f32],
) -> f64 {
    let (rows, vocabulary) = (targets.len(), decoder.vocabulary());
    let hidden = decoder.hidden(output, rows);
    assert!(chunk.len() >= chunk_len(vocabulary, rows), "tied_decoder: chunk of {} floats", chunk.len());
    let largest = targets.iter().copied().max().unwrap_or(0) as usize;
    assert!(rows == 0 || largest < vocabulary, "tied_decoder: target {largest}, V = {vocabulary}");
    if let Some(gradients) = &mut gradients {
        assert_eq!(gradients.d_output.len(), output.len(), "tied_decoder: gradient of the output");
        if let Some((d_weight, d_bias)) = &mut gradients.parameters {
            assert_eq!(d_weight.len(), decoder.weight.len(), "tied_decoder: gradient of E");
            assert_eq!(d_bias.len(), vocabulary, "tied_decoder: gradient of the bias");
            d_weight.fill(0.0);
            d_bias.fill(0.0);
        }
    }
    let mut sum = 0.0;
    let step = chunk_rows(vocabulary, rows).max(1);
    for start in (0..rows).step_by(step) {
        let here = start..rows.min(start + step);
        let count = here.len();
        let output = &output[here.start * hidden..here.end * hidden];
        let logits = &mut chunk[..count * vocabulary];
        decoder.products(hidden, output, logits);
        let scale = gradients.as_ref().map(|gradients| gradients.scale);
        let span = profile::span("cross-entropy", || Work { flops: 4 * logits.len(), floats: 2 * logits.len() });
        sum += cpu::cross_entropy(set, decoder.bias, &targets[here.clone()], scale, logits);
        drop(span);
        if let Some(gradients) = &mut gradients {
            let d_output = &mut gradients.d_output[here.start * hidden..here.end * hidden];
            multiply(
                Matrix::new(logits, count, vocabulary),
                Matrix::new(decoder.weight, vocabulary, hidden),
                MatrixMut::new(d_output, count, hidden),
                Write::Overwrite,
            );
            if let Some((d_weight, d_bias)) = &mut gradients.parameters {
                multiply(
                    Matrix::new(logits, count, vocabulary).transposed(),
                    Matrix::new(output, count, hidden),
                    MatrixMut::new(d_weight, vocabulary, hidden),
                    Write::Accumulate,
                );
                cpu::add_column_sums(set, logits, d_bias);
            }
        }
    }
    sum
}

/// The logarithms of the probabilities of all words; `log_probabilities` \[R, V\] is overwritten.
///
/// # Shapes
/// `output` \[R, H\].
///
/// # Panics
/// If a slice does not fit.
pub fn log_probabilities(decoder: Decoder, output: &[f32], log_probabilities: &mut [f32]) {
    let rows = log_probabilities.len() / decoder.vocabulary().max(1);
    let hidden = decoder.hidden(output, rows);
    decoder.products(hidden, output, log_probabilities);
    cpu::log_softmax(InstructionSet::selected(), decoder.bias, log_probabilities);
}

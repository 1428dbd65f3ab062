//! The decoder of a language model, tied to its embedding, together with the cross-entropy: logits = o·Eᵀ + bias, their
//! log-softmax, the loss and all gradients, a chunk of rows at a time, so that the logits of a whole sequence never exist at once
//! and a chunk stays in the second-level cache. Refuses to apply dropout or to regularize.
//!
//! ```text
//! l[r,v] = Σ_i o[r,i]·E[v,i] + b[v]        nll = Σ_r (log Σ_v e^l[r,v] − l[r, target[r]])
//! dl[r,v] = scale·(e^l[r,v] / Σ_u e^l[r,u] − [v = target[r]])
//! do = dl·E        dE = dlᵀ·o        db[v] = Σ_r dl[r,v]
//! ```
//! Axes: r a row (a position of the text) of R, v a word of the vocabulary V, i a unit of H. Chunks are added in their order.

use crate::args;
use crate::elementwise;
use crate::images::Write;
use crate::matmul::{self, Matrix, multiply};
use crate::precision::Precision;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static CROSS_ENTROPY: Kernel = Kernel::new("tied_decoder_cross_entropy", 512);
static LOG_SOFTMAX: Kernel = Kernel::new("tied_decoder_log_softmax", 512);
static COLUMN_SUMS: Kernel = Kernel::new("tied_decoder_column_sums", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&CROSS_ENTROPY, &LOG_SOFTMAX, &COLUMN_SUMS];

/// Floats that a chunk of logits is kept below: 640 rows of Penn Treebank's vocabulary, 26 MB.
const CHUNK: usize = 6_400_000;

args! {
    struct CrossEntropyArgs: 48 {
        logits: u64,
        bias: u64,
        targets: u64,
        losses: u64,
        scale: f64,
        vocabulary: u32,
        gradient: u32,
    }

    struct ColumnSumsArgs: 32 {
        values: u64,
        sums: u64,
        rows: u32,
        columns: u32,
        accumulate: u32,
        pad: u32,
    }
}

/// The decoder's weights.
#[derive(Copy, Clone, Debug)]
pub struct Decoder {
    /// E `[V, H]`.
    pub weight: View,
    /// b `[V]`.
    pub bias: View,
}

/// Where the gradients go.
#[derive(Copy, Clone, Debug)]
pub struct DecoderGradients {
    /// scale: what the loss is multiplied with, for example 1/R for a mean.
    pub scale: f64,
    /// do `[R, H]`, overwritten.
    pub d_output: View,
    /// dE `[V, H]` and db `[V]`, both overwritten; none: not computed.
    pub parameters: Option<(View, View)>,
}

/// Working memory of [`loss`], contents arbitrary before and after.
#[derive(Copy, Clone, Debug)]
pub struct Scratch {
    /// [`chunk_len`] floats or more.
    pub chunk: View,
    /// [`scratch_len`] floats or more.
    pub products: View,
    /// R doubles or more.
    pub losses: View<f64>,
}

impl Decoder {
    fn vocabulary(self) -> usize {
        self.bias.len
    }

    /// H.
    #[track_caller]
    fn hidden(self, output: View, rows: usize) -> usize {
        let vocabulary = self.vocabulary();
        assert!(vocabulary > 0 && self.weight.len.is_multiple_of(vocabulary), "tied_decoder: E for V = {vocabulary}");
        let hidden = self.weight.len / vocabulary;
        assert_eq!(output.len, rows * hidden, "tied_decoder: outputs of {rows} rows, H = {hidden}");
        hidden
    }

    /// The logits without the bias, of some rows.
    #[track_caller]
    fn products(
        self,
        program: &mut Program,
        precision: Precision,
        hidden: usize,
        output: View,
        logits: View,
        scratch: View,
    ) {
        let (rows, vocabulary) = (output.len / hidden, self.vocabulary());
        let weight = Matrix::new(self.weight, vocabulary, hidden).transposed();
        let (output, logits) = (Matrix::new(output, rows, hidden), Matrix::new(logits, rows, vocabulary));
        multiply(program, precision, output, weight, logits, Write::Overwrite, None, scratch);
    }
}

/// Rows of a chunk: a number that depends on the shape alone.
fn chunk_rows(vocabulary: usize, rows: usize) -> usize {
    (CHUNK / vocabulary.max(1)).clamp(64, 1024).min(rows)
}

/// Floats of a chunk of logits of `rows` rows.
pub fn chunk_len(vocabulary: usize, rows: usize) -> usize {
    chunk_rows(vocabulary, rows) * vocabulary
}

/// Floats that the products of [`loss`] or [`log_probabilities`] need for `rows` rows.
pub fn scratch_len(vocabulary: usize, hidden: usize, rows: usize) -> usize {
    // Chunks are all of one size but the last; a smaller one may be divided into more parts.
    let sizes = [chunk_rows(vocabulary, rows), rows.checked_rem(chunk_rows(vocabulary, rows)).unwrap_or(0)];
    let of = |rows| {
        let products = [(rows, hidden, vocabulary), (rows, vocabulary, hidden), (vocabulary, rows, hidden)];
        products.map(|(m, k, n)| matmul::scratch_len(m, k, n)).into_iter().max().unwrap_or(0)
    };
    sizes.map(of).into_iter().max().unwrap_or(0).max(matmul::scratch_len(rows, hidden, vocabulary))
}

/// The sum of the negative log-likelihoods of `targets`, and the gradients asked for; `nll` \[1\] is overwritten.
///
/// # Shapes
/// `output` \[R, H\], `targets` \[R\], each below V: whoever sends them sees to that.
///
/// # Panics
/// If a view does not fit.
#[track_caller]
#[expect(clippy::too_many_arguments, reason = "those of the CPU kernel, and its working memory")]
pub fn loss(
    program: &mut Program,
    precision: Precision,
    decoder: Decoder,
    output: View,
    targets: View<u32>,
    gradients: Option<DecoderGradients>,
    nll: View<f64>,
    scratch: Scratch,
) {
    let (rows, vocabulary) = (targets.len, decoder.vocabulary());
    let hidden = decoder.hidden(output, rows);
    let (chunk, products) = (scratch.chunk, scratch.products);
    assert!(chunk.len >= chunk_len(vocabulary, rows), "tied_decoder: chunk of {} floats", chunk.len);
    let losses = scratch.losses.slice(0..rows);
    if let Some(DecoderGradients { d_output, parameters, .. }) = gradients {
        assert_eq!(d_output.len, output.len, "tied_decoder: gradient of the output");
        if let Some((d_weight, d_bias)) = parameters {
            assert_eq!(d_weight.len, decoder.weight.len, "tied_decoder: gradient of E");
            assert_eq!(d_bias.len, vocabulary, "tied_decoder: gradient of the bias");
        }
    }
    for start in (0..rows).step_by(chunk_rows(vocabulary, rows).max(1)) {
        let here = start..rows.min(start + chunk_rows(vocabulary, rows));
        let count = here.len();
        let units = here.start * hidden..here.end * hidden;
        let output = output.slice(units.clone());
        let logits = chunk.slice(0..count * vocabulary);
        decoder.products(program, precision, hidden, output, logits, products);
        let args = CrossEntropyArgs {
            logits: logits.address,
            bias: decoder.bias.address,
            targets: targets.slice(here.clone()).address,
            losses: losses.slice(here).address,
            scale: gradients.map_or(0.0, |gradients| gradients.scale),
            vocabulary: vocabulary as u32,
            gradient: gradients.is_some().into(),
        };
        program.push(&CROSS_ENTROPY, [count as u32, 1, 1], softmax_bytes(), &args);
        let Some(DecoderGradients { d_output, parameters, .. }) = gradients else { continue };
        let d_logits = Matrix::new(logits, count, vocabulary);
        let weight = Matrix::new(decoder.weight, vocabulary, hidden);
        let d_output = Matrix::new(d_output.slice(units), count, hidden);
        multiply(program, precision, d_logits, weight, d_output, Write::Overwrite, None, products);
        if let Some((d_weight, d_bias)) = parameters {
            let write = if start == 0 { Write::Overwrite } else { Write::Accumulate };
            let (output, d_weight) = (Matrix::new(output, count, hidden), Matrix::new(d_weight, vocabulary, hidden));
            multiply(program, precision, d_logits.transposed(), output, d_weight, write, None, products);
            let args = ColumnSumsArgs {
                values: logits.address,
                sums: d_bias.address,
                rows: count as u32,
                columns: vocabulary as u32,
                accumulate: write.flag(),
                pad: 0,
            };
            let shared = COLUMN_SUMS.threads * size_of::<f64>() as u32;
            program.push(&COLUMN_SUMS, [blocks(vocabulary, 32), 1, 1], shared, &args);
        }
    }
    elementwise::sum(program, losses, 1.0, nll);
}

/// Shared memory of a row's softmax: two numbers of each warp.
const fn softmax_bytes() -> u32 {
    2 * 512 / 32 * size_of::<f64>() as u32
}

/// The logarithms of the probabilities of all words; `log_probabilities` \[R, V\] is overwritten.
///
/// # Shapes
/// `output` \[R, H\]; `scratch`: [`scratch_len`] floats or more.
///
/// # Panics
/// If a view does not fit.
#[track_caller]
pub fn log_probabilities(
    program: &mut Program,
    precision: Precision,
    decoder: Decoder,
    output: View,
    log_probabilities: View,
    scratch: View,
) {
    let vocabulary = decoder.vocabulary();
    let rows = log_probabilities.len / vocabulary.max(1);
    let hidden = decoder.hidden(output, rows);
    decoder.products(program, precision, hidden, output, log_probabilities, scratch);
    let args = CrossEntropyArgs {
        logits: log_probabilities.address,
        bias: decoder.bias.address,
        targets: 0,
        losses: 0,
        scale: 0.0,
        vocabulary: vocabulary as u32,
        gradient: 0,
    };
    program.push(&LOG_SOFTMAX, [rows as u32, 1, 1], softmax_bytes(), &args);
}

#[cfg(test)]
mod tests {
    use super::chunk_len;

    #[test]
    fn chunks_of_logits_are_bounded_whatever_the_vocabulary() {
        assert_eq!(chunk_len(10_000, 8960), 640 * 10_000);
        assert_eq!(chunk_len(33_278, 4480), 192 * 33_278);
        assert_eq!(chunk_len(2, 10), 20);
    }
}

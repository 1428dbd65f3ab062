//! From α to the weights of the operations, and from the weights' gradient to α's. The networks take weights and know nothing
//! of α, so another relaxation is another variant here; one that draws random numbers will take them as data.

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Shape, Tensor};

use crate::error::{Error, Result};

/// How rows of α become rows of operation weights.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Relaxation {
    /// w_k = exp(α_k) / Σ_m exp(α_m) along each row (equation 2 of the paper).
    #[default]
    Softmax,
}

impl Relaxation {
    /// Operation weights of α; `weights` is overwritten. Rows are independent of each other: equal rows of α give equal
    /// rows of weights to the last bit.
    ///
    /// # Shapes
    /// `alphas`, `weights`: [rows, columns].
    ///
    /// # Errors
    /// [`Error::Length`] where the two differ in length or are no whole number of rows.
    pub fn forward(self, alphas: &[f32], columns: usize, weights: &mut [f32]) -> Result<()> {
        check_rows("relaxation forward", "α", alphas.len(), columns)?;
        check_length("relaxation forward", "weights", weights.len(), alphas.len())?;
        for (row, out) in alphas.chunks_exact(columns).zip(weights.chunks_exact_mut(columns)) {
            for (out, weight) in out.iter_mut().zip(softmax_row(row)) {
                *out = weight as f32;
            }
        }
        Ok(())
    }

    /// Gradient with respect to α from the gradient with respect to the weights; `grad_alphas` is overwritten.
    /// Softmax: dα_k = w_k·(dw_k − Σ_m w_m·dw_m), accumulated in f64.
    ///
    /// # Shapes
    /// `weights` (what [`forward`](Self::forward) gave), `grad_weights`, `grad_alphas`: [rows, columns].
    ///
    /// # Errors
    /// [`Error::Length`] where they differ in length or are no whole number of rows.
    pub fn backward(
        self,
        weights: &[f32],
        grad_weights: &[f32],
        columns: usize,
        grad_alphas: &mut [f32],
    ) -> Result<()> {
        check_rows("relaxation backward", "weights", weights.len(), columns)?;
        check_length("relaxation backward", "gradient of the weights", grad_weights.len(), weights.len())?;
        check_length("relaxation backward", "gradient of α", grad_alphas.len(), weights.len())?;
        let rows = weights.chunks_exact(columns).zip(grad_weights.chunks_exact(columns));
        for ((w, dw), da) in rows.zip(grad_alphas.chunks_exact_mut(columns)) {
            let mean: f64 = w.iter().zip(dw).map(|(&w, &dw)| f64::from(w) * f64::from(dw)).sum();
            for ((da, &w), &dw) in da.iter_mut().zip(w).zip(dw) {
                *da = (f64::from(w) * (f64::from(dw) - mean)) as f32;
            }
        }
        Ok(())
    }

    /// The same for candle: operation weights of `alphas` along its last dimension, with candle's autograd going through to α.
    /// The arithmetic is that of the slices, on the host, wherever `alphas` is.
    ///
    /// # Shapes
    /// `alphas`: […, columns], f32; the result has the same shape and device.
    ///
    /// # Errors
    /// [`Error::Candle`] where candle refuses, for example another element type.
    pub fn apply(self, alphas: &Tensor) -> Result<Tensor> {
        let host = alphas.to_device(&Device::Cpu)?.contiguous()?;
        Ok(host.apply_op1(Rows(self))?.to_device(alphas.device())?)
    }
}

/// The candle op around a relaxation.
struct Rows(Relaxation);

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "relaxation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let columns = layout.shape().dim(D::Minus1)?;
        let alphas = storage.as_slice::<f32>()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("relaxation: α is not contiguous")
        };
        let mut weights = vec![0.0; end - start];
        self.0.forward(&alphas[start..end], columns, &mut weights).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(weights), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, weights: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let columns = weights.dim(D::Minus1)?;
        let host = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let (values, grads) = (host(weights)?, host(grad)?);
        let mut grad_alphas = vec![0.0; values.len()];
        self.0.backward(&values, &grads, columns, &mut grad_alphas).map_err(candle_core::Error::wrap)?;
        Ok(Some(Tensor::from_vec(grad_alphas, weights.shape(), weights.device())?))
    }
}

/// Softmax of one row in f64. The sum runs over the terms in ascending order, so that rows with the same numbers in another
/// order have the same weights in that order.
pub(crate) fn softmax_row(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let terms: Vec<f64> = row.iter().map(|&alpha| (f64::from(alpha) - f64::from(largest)).exp()).collect();
    let mut ascending = terms.clone();
    ascending.sort_by(f64::total_cmp);
    let sum: f64 = ascending.iter().sum();
    terms.into_iter().map(|term| term / sum).collect()
}

fn check_rows(operation: &'static str, what: &'static str, actual: usize, columns: usize) -> Result<()> {
    let expected = actual.checked_div(columns).map_or(0, |rows| rows * columns);
    if columns > 0 && actual == expected {
        return Ok(());
    }
    Err(Error::Length { operation, what, actual, expected })
}

fn check_length(operation: &'static str, what: &'static str, actual: usize, expected: usize) -> Result<()> {
    if actual == expected { Ok(()) } else { Err(Error::Length { operation, what, actual, expected }) }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    #[test]
    fn equal_rows_have_equal_weights_to_the_bit() {
        for columns in 1..=19 {
            let row: Vec<f32> = (0..columns).map(|k| (k as f32 * 0.7).sin() * 3.0).collect();
            let alphas = row.repeat(29);
            let mut weights = vec![0.0; alphas.len()];
            Relaxation::Softmax.forward(&alphas, columns, &mut weights).unwrap();
            assert!(weights.chunks_exact(columns).all(|w| w == &weights[..columns]));
        }
        let constant = vec![0.37f32; 8 * 3];
        let mut weights = vec![0.0; 24];
        Relaxation::Softmax.forward(&constant, 8, &mut weights).unwrap();
        assert!(weights.iter().all(|&w| w == 0.125));
    }

    #[test]
    fn backward_matches_finite_differences() {
        let alphas = [0.3f32, -1.2, 0.8, 2.0, 0.1, -0.4];
        let grad = [0.5f32, -2.0, 1.5, 0.25, 3.0, -1.0];
        let objective = |alphas: &[f32]| -> f64 {
            let weights = alphas.chunks_exact(3).flat_map(softmax_row);
            weights.zip(grad).map(|(w, g)| w * f64::from(g)).sum()
        };
        let (mut weights, mut analytic) = ([0.0; 6], [0.0; 6]);
        Relaxation::Softmax.forward(&alphas, 3, &mut weights).unwrap();
        Relaxation::Softmax.backward(&weights, &grad, 3, &mut analytic).unwrap();
        for k in 0..6 {
            let step = |sign: f32| {
                let mut moved = alphas;
                moved[k] += sign / 1024.0;
                objective(&moved)
            };
            let numeric = (step(1.0) - step(-1.0)) * 512.0;
            assert!((numeric - f64::from(analytic[k])).abs() < 1e-5, "{k}: {numeric} {}", analytic[k]);
        }
    }

    #[test]
    fn candle_autograd_matches_the_slices() {
        let alphas = Var::from_slice(&[0.3f32, -1.2, 0.8, 2.0, 0.1, -0.4], (2, 3), &Device::Cpu).unwrap();
        let upstream = Tensor::from_slice(&[0.5f32, -2.0, 1.5, 0.25, 3.0, -1.0], (2, 3), &Device::Cpu).unwrap();
        let weights = Relaxation::Softmax.apply(&alphas).unwrap();
        let gradients = (&weights * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
        let actual = gradients.get(&alphas).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();

        let flat = weights.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let upstream = upstream.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut expected = [0.0; 6];
        Relaxation::Softmax.backward(&flat, &upstream, 3, &mut expected).unwrap();
        assert_eq!(actual, expected);

        let softmax = candle_nn::ops::softmax(&alphas, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(flat.iter().zip(softmax).all(|(a, b)| (a - b).abs() < 1e-7));
    }

    #[test]
    fn buffers_of_other_lengths_are_refused() {
        let refused = Relaxation::Softmax.forward(&[0.0; 7], 8, &mut [0.0; 7]);
        assert!(matches!(refused, Err(Error::Length { actual: 7, .. })));
        assert!(Relaxation::Softmax.forward(&[0.0; 8], 8, &mut [0.0; 7]).is_err());
        assert!(Relaxation::Softmax.backward(&[0.0; 8], &[0.0; 8], 0, &mut [0.0; 8]).is_err());
    }
}

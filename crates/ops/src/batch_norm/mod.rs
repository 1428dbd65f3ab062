//! Batch normalization as per-channel arithmetic: kernels deliver sums per channel, this file turns them into
//! coefficients, and kernels apply those coefficients while they read.
//!
//! For a kernel's output `z` with `count` elements per channel (N·H·W), mean μ and biased variance σ²:
//!
//! ```text
//! ẑ = (z − μ)·rstd,   rstd = 1/√(σ² + ε),   u = γ·ẑ + β = scale·z + shift
//! ```
//!
//! so the forward pass of the layer is one affine per channel, folded into whichever kernel reads `z` next, and the
//! backward pass is `dz = scale·du + b·z + d` per element, folded into the backward kernel of whatever made `z`
//! (see [`Upstream`](crate::Upstream)). No normalized tensor is ever stored.
//!
//! What this file refuses to do: touch an activation. It sees sums over N, H and W and arrays of C numbers, nothing else;
//! and it never decides by itself between batch and running statistics: [`statistics`] is training, [`from_running`] is
//! evaluation.
//!
//! Everything is computed in f64 and rounded once. The variance is `E[z²] − E[z]²`, which f64 sums carry well for
//! activations; it is clamped at 0.

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// ε added to the variance (Liu et al., and PyTorch's default).
pub const EPS: f64 = 1e-5;

/// Weight of the new batch in the running statistics: running ← 0.9·running + 0.1·batch.
pub const MOMENTUM: f64 = 0.1;

/// What the normalization of one tensor needs per channel; all four slices have length C and are overwritten.
#[derive(Debug)]
pub struct Coefficients<'a> {
    /// μ: the mean that the tensor is normalized with.
    pub mean: &'a mut [f32],
    /// 1/√(σ² + ε), with the biased variance.
    pub rstd: &'a mut [f32],
    /// γ·rstd.
    pub scale: &'a mut [f32],
    /// β − scale·μ.
    pub shift: &'a mut [f32],
}

/// Training: coefficients from the sums of the batch itself, and optionally the update of the running statistics.
///
/// `sums` = [Σz | Σz²] over the `count` elements of each channel. `running` = (mean, variance), where given, becomes
/// (1 − m)·running + m·batch with m = [`MOMENTUM`], where the batch's variance is the *unbiased* one (divided by
/// `count − 1`; with a single element the biased one, 0). A missing `gamma` is 1, a missing `beta` 0.
///
/// # Shapes
/// `sums` 2C; every other slice C. `out` is overwritten, `running` updated in place.
///
/// # Panics
/// If a slice does not have the length that `out.mean` asks for, or `count` is 0.
pub fn statistics(
    sums: &[f64],
    count: usize,
    gamma: Option<&[f32]>,
    beta: Option<&[f32]>,
    mut running: Option<(&mut [f32], &mut [f32])>,
    mut out: Coefficients<'_>,
) {
    let c = out.checked_len(gamma, beta);
    assert_eq!(sums.len(), 2 * c, "batch_norm::statistics: sums must hold [Σz | Σz²] of {c} channels");
    assert!(count > 0, "batch_norm::statistics: no elements to normalize over");
    if let Some((mean, var)) = &running {
        assert_eq!((mean.len(), var.len()), (c, c), "batch_norm::statistics: running statistics of {c} channels");
    }
    let n = count as f64;
    for i in 0..c {
        let mean = sums[i] / n;
        let var = (sums[c + i] / n - mean * mean).max(0.0);
        out.set(i, mean, var, gamma, beta);
        if let Some((running_mean, running_var)) = &mut running {
            let unbiased = if count > 1 { var * n / (n - 1.0) } else { var };
            running_mean[i] = ((1.0 - MOMENTUM) * f64::from(running_mean[i]) + MOMENTUM * mean) as f32;
            running_var[i] = ((1.0 - MOMENTUM) * f64::from(running_var[i]) + MOMENTUM * unbiased) as f32;
        }
    }
}

/// Evaluation: coefficients from the running statistics `mean` and `var`; nothing else is read or changed.
///
/// # Shapes
/// Every slice C. `out` is overwritten.
///
/// # Panics
/// If a slice does not have the length that `out.mean` asks for.
pub fn from_running(mean: &[f32], var: &[f32], gamma: Option<&[f32]>, beta: Option<&[f32]>, mut out: Coefficients<'_>) {
    let c = out.checked_len(gamma, beta);
    assert_eq!((mean.len(), var.len()), (c, c), "batch_norm::from_running: running statistics of {c} channels");
    for i in 0..c {
        out.set(i, f64::from(mean[i]), f64::from(var[i]), gamma, beta);
    }
}

impl Coefficients<'_> {
    fn checked_len(&self, gamma: Option<&[f32]>, beta: Option<&[f32]>) -> usize {
        let c = self.mean.len();
        let optional = |s: Option<&[f32]>| s.map_or(c, <[f32]>::len);
        assert_eq!(
            [self.rstd.len(), self.scale.len(), self.shift.len(), optional(gamma), optional(beta)],
            [c; 5],
            "batch_norm: [rstd, scale, shift, gamma, beta] must have the length of mean"
        );
        c
    }

    fn set(&mut self, i: usize, mean: f64, var: f64, gamma: Option<&[f32]>, beta: Option<&[f32]>) {
        let rstd = 1.0 / (var + EPS).sqrt();
        let scale = gamma.map_or(1.0, |g| f64::from(g[i])) * rstd;
        self.mean[i] = mean as f32;
        self.rstd[i] = rstd as f32;
        self.scale[i] = scale as f32;
        self.shift[i] = (beta.map_or(0.0, |b| f64::from(b[i])) - scale * mean) as f32;
    }
}

/// What the backward pass reads of the forward pass: the slices of [`Coefficients`], length C each.
#[derive(Debug, Clone, Copy)]
pub struct Normalized<'a> {
    /// μ.
    pub mean: &'a [f32],
    /// 1/√(σ² + ε).
    pub rstd: &'a [f32],
    /// γ·rstd.
    pub scale: &'a [f32],
}

/// What the backward pass writes; every slice has length C and is overwritten.
#[derive(Debug)]
pub struct Gradient<'a> {
    /// Factor of the arriving gradient: weight·γ·rstd.
    pub scale: &'a mut [f32],
    /// Factor of z.
    pub b: &'a mut [f32],
    /// Constant.
    pub d: &'a mut [f32],
    /// ∂loss/∂γ, where γ is a parameter.
    pub d_gamma: Option<&'a mut [f32]>,
    /// ∂loss/∂β, where β is a parameter.
    pub d_beta: Option<&'a mut [f32]>,
}

/// Coefficients of `dz = scale·g + b·z + d`, the gradient with respect to the normalization's input, and those of γ and β.
///
/// The gradient with respect to u = γ·ẑ + β is `weight·g`, where g is what the kernels read and what `sums` = [Σg | Σg·z]
/// were taken of: `weight` is 1 for a layer that stands alone, and the operation's weight when g is the gradient of a mixed
/// node. With m₀ = weight·Σg/count and m₁ = weight·rstd·(Σg·z − μΣg)/count,
///
/// ```text
/// dz = γ·rstd·(weight·g − m₀ − ẑ·m₁),   dγ = count·m₁,   dβ = count·m₀
/// ```
///
/// In evaluation (`training` false) the statistics are constants: b = d = 0, the rest is the same.
///
/// # Shapes
/// `sums` 2C; every other slice C.
///
/// # Panics
/// If a slice does not have the length that `out.scale` asks for, or `count` is 0.
pub fn backward(sums: &[f64], count: usize, forward: Normalized<'_>, weight: f32, training: bool, out: Gradient<'_>) {
    let c = out.scale.len();
    assert_eq!(sums.len(), 2 * c, "batch_norm::backward: sums must hold [Σg | Σg·z] of {c} channels");
    assert!(count > 0, "batch_norm::backward: no elements were normalized");
    assert_eq!(
        [forward.mean.len(), forward.rstd.len(), forward.scale.len(), out.b.len(), out.d.len()],
        [c; 5],
        "batch_norm::backward: [mean, rstd, scale, b, d] must have the length of the output's scale"
    );
    let weight = f64::from(weight);
    let Gradient { scale: out_scale, b, d, mut d_gamma, mut d_beta } = out;
    for i in 0..c {
        let (mean, rstd, scale) = (f64::from(forward.mean[i]), f64::from(forward.rstd[i]), f64::from(forward.scale[i]));
        let sum = weight * sums[i];
        let sum_normalized = weight * rstd * (sums[c + i] - mean * sums[i]);
        out_scale[i] = (weight * scale) as f32;
        if training {
            let of_z = -scale * rstd * sum_normalized / count as f64;
            b[i] = of_z as f32;
            d[i] = (-scale * sum / count as f64 - of_z * mean) as f32;
        } else {
            b[i] = 0.0;
            d[i] = 0.0;
        }
        if let Some(d_gamma) = &mut d_gamma {
            d_gamma[i] = sum_normalized as f32;
        }
        if let Some(d_beta) = &mut d_beta {
            d_beta[i] = sum as f32;
        }
    }
}

//! A batch normalization inside a network: which parameters and statistics are its own, and where its per-channel
//! coefficients lie. It never touches an activation: kernels deliver sums and apply coefficients.

use std::ops::Range;

use darts_ops::{Affine, Arena, Slot, batch_norm};

use super::build::Builder;
use super::pass::{Backward, Forward, Statistics, affine, coefficients, disjoint};
use crate::parameters::Init;

#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) channels: usize,
    pub(super) gamma_beta: Option<[Range<usize>; 2]>,
    pub(super) running: [Range<usize>; 2],
    /// mean | rstd | scale | shift, written by the forward pass.
    pub(super) coefficients: Slot,
    /// scale | b | d of the gradient that reaches the normalized tensor, written by the backward pass.
    pub(super) upstream: Slot,
}

impl Norm {
    pub(crate) fn new(builder: &mut Builder, name: &str, channels: usize, affine: bool) -> Self {
        let gamma_beta = affine.then(|| {
            [("weight", Init::Ones), ("bias", Init::Zeros)]
                .map(|(leaf, init)| builder.parameters.push(format!("{name}.{leaf}"), &[channels], init))
        });
        let running = [("running_mean", Init::Zeros), ("running_var", Init::Ones)]
            .map(|(leaf, init)| builder.statistics.push(format!("{name}.{leaf}"), &[channels], init));
        Self {
            channels,
            gamma_beta,
            running,
            coefficients: builder.channel_vector(4 * channels),
            upstream: builder.channel_vector(3 * channels),
        }
    }

    fn parameters<'a>(&self, theta: &'a [f32]) -> [Option<&'a [f32]>; 2] {
        match &self.gamma_beta {
            Some([gamma, beta]) => [Some(&theta[gamma.clone()]), Some(&theta[beta.clone()])],
            None => [None, None],
        }
    }

    /// Computes the coefficients, from `sums` over `count` elements in training, from the running statistics in evaluation.
    pub(crate) fn forward(&self, pass: &mut Forward, sums: Option<&[f64]>, count: usize) {
        let [gamma, beta] = self.parameters(pass.input.theta);
        let out = coefficients(pass.ws.channels.write(self.coefficients), self.channels);
        match (&mut pass.statistics, sums) {
            (Statistics::Batch { update }, Some(sums)) => {
                let mut running = update.as_deref_mut().map(|flat| disjoint(flat, &self.running).into_iter());
                let running = running.as_mut().and_then(|views| views.next().zip(views.next()));
                batch_norm::statistics(sums, count, gamma, beta, running, out);
            }
            (Statistics::Running(flat), _) => {
                let [mean, var] = self.running.clone().map(|range| &flat[range]);
                batch_norm::from_running(mean, var, gamma, beta, out);
            }
            (Statistics::Batch { .. }, None) => {
                unreachable!("a pass that normalizes by the batch asks kernels for sums")
            }
        }
    }

    /// Where mean | rstd | scale | shift lie.
    pub(crate) fn coefficient_slot(&self) -> Slot {
        self.coefficients
    }

    /// Scale and shift of the normalized value, after `forward`.
    pub(crate) fn affine<'a>(&self, channels: &'a Arena) -> Affine<'a> {
        affine(channels.read(self.coefficients), self.channels)
    }

    /// From `sums` = [Σg | Σg·z] of the gradient g at the normalized value's `weight`-fold, the coefficients of
    /// dz = scale·g + b·z + d, and the gradients of γ and β.
    pub(crate) fn backward(&self, pass: &mut Backward, sums: &[f64], weight: f32, count: usize) {
        let training = pass.ws.normalized_by_batch;
        let (read, mut write) = pass.ws.channels.split(&[self.coefficients], &[self.upstream]);
        let [mean, rstd, scale] = [0, 1, 2].map(|i| &read[0][i * self.channels..][..self.channels]);
        let (out_scale, rest) = write[0].split_at_mut(self.channels);
        let (b, d) = rest.split_at_mut(self.channels);
        let mut parameter_gradients = match (&self.gamma_beta, pass.theta.as_deref_mut()) {
            (Some(ranges), Some(flat)) => disjoint(flat, ranges),
            _ => Vec::new(),
        }
        .into_iter();
        let out = batch_norm::Gradient {
            scale: out_scale,
            b,
            d,
            d_gamma: parameter_gradients.next(),
            d_beta: parameter_gradients.next(),
        };
        batch_norm::backward(sums, count, batch_norm::Normalized { mean, rstd, scale }, weight, training, out);
    }

    /// scale | b | d, after `backward`.
    pub(crate) fn upstream<'a>(&self, channels: &'a Arena) -> [&'a [f32]; 3] {
        let vector = channels.read(self.upstream);
        [0, 1, 2].map(|i| &vector[i * self.channels..(i + 1) * self.channels])
    }
}

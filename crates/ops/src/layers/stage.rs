//! The separable unit with its batch norm as a [`Stage`] on channels-last images. Refuses operation weights.

use crate::Error;
use crate::batch_norm::{self, Coefficients, Gradient, Normalized};
use crate::images::{BnTerm, Images, Upstream, UpstreamTerm, Write};
use crate::mix::{self, ReduceTerm, Term};
use crate::sep_unit::{self, UnitBackward, UnitForward, UnitShape};
use crate::stage::{Arguments, Stage, StageGradients};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Running mean and variance.
pub(super) type Running = Arc<Mutex<[Vec<f32>; 2]>>;

/// What normalizes.
pub(super) enum Statistics {
    /// The batch; forward updates the running statistics.
    Batch(Running),
    /// The running statistics.
    Running(Running),
}

pub(super) fn lock(running: &Running) -> MutexGuard<'_, [Vec<f32>; 2]> {
    // Both vectors are replaced element by element: a panic cannot leave one of the wrong length.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call of the layer. θ = depthwise weights, pointwise weights and, with `affine`, the norm's weight and bias.
pub(super) struct SepUnitStage {
    pub(super) shape: UnitShape,
    pub(super) affine: bool,
    pub(super) statistics: Statistics,
}

/// What backward needs: z before the norm, and what it was normalized with.
pub(super) struct State {
    z: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    scale: Vec<f32>,
}

impl SepUnitStage {
    fn images(&self, arguments: &Arguments) -> Images {
        let shape = arguments.input_shape;
        Images { n: shape[0], h: shape[1], w: shape[2], c: shape[3] }
    }

    fn split<'a>(&self, theta: &'a [f32]) -> Parameters<'a> {
        let (depthwise, rest) = theta.split_at(self.shape.depthwise_len());
        let (pointwise, rest) = rest.split_at(self.shape.pointwise_len());
        let (gamma, beta) = self.affine.then(|| rest.split_at(self.shape.c_out)).unzip();
        Parameters { depthwise, pointwise, gamma, beta }
    }
}

/// θ taken apart.
struct Parameters<'a> {
    depthwise: &'a [f32],
    pointwise: &'a [f32],
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
}

impl Stage for SepUnitStage {
    type State = State;

    fn name(&self) -> &'static str {
        "sep-unit"
    }

    fn output_shape(&self, arguments: &Arguments) -> Result<Vec<usize>, Error> {
        let shape = arguments.input_shape;
        if shape.len() != 4 || shape[3] != self.shape.c_in || shape.contains(&0) {
            let expected = format!("[N, H, W, {}] with no size 0", self.shape.c_in);
            return Err(Error::Shape { operation: "sep-unit", what: "input", actual: shape.to_vec(), expected });
        }
        let out = self.shape.output(self.images(arguments));
        Ok(vec![out.n, out.h, out.w, out.c])
    }

    fn forward(&self, arguments: &Arguments, output: &mut [f32]) -> candle_core::Result<State> {
        let images = self.images(arguments);
        let out = self.shape.output(images);
        let Parameters { depthwise, pointwise, gamma, beta } = self.split(arguments.theta);
        let mut z = vec![0.0; out.len()];
        let mut sums = vec![0.0; 2 * out.c];
        let unit = UnitForward { shape: self.shape, depthwise, pointwise, z: &mut z, sums: Some(&mut sums) };
        sep_unit::forward(images, arguments.input, None, &mut [unit]);

        let [mut mean, mut rstd, mut scale, mut shift] = [(); 4].map(|()| vec![0.0; out.c]);
        let coefficients = Coefficients { mean: &mut mean, rstd: &mut rstd, scale: &mut scale, shift: &mut shift };
        match &self.statistics {
            Statistics::Batch(running) => {
                let [running_mean, running_var] = &mut *lock(running);
                let running = Some((&mut running_mean[..], &mut running_var[..]));
                batch_norm::statistics(&sums, out.pixels(), gamma, beta, running, coefficients);
            }
            Statistics::Running(running) => {
                let [running_mean, running_var] = &*lock(running);
                batch_norm::from_running(running_mean, running_var, gamma, beta, coefficients);
            }
        }
        let term = Term { z: &z, scale: &scale, shift: Some(&shift), sample_scale: None };
        mix::forward(out, &[term], output, Write::Overwrite);
        Ok(State { z, mean, rstd, scale })
    }

    fn backward(
        &self,
        arguments: &Arguments,
        state: &mut State,
        d_output: &[f32],
        gradients: StageGradients,
    ) -> candle_core::Result<()> {
        let images = self.images(arguments);
        let out = self.shape.output(images);
        let mut sums = vec![0.0; 2 * out.c];
        mix::reduce(out, d_output, &mut [ReduceTerm { z: &state.z, sample_scale: None, sums: &mut sums }]);

        let (weights, d_affine) = match gradients.theta {
            None => (None, None),
            Some(theta) => {
                let (depthwise, rest) = theta.split_at_mut(self.shape.depthwise_len());
                let (pointwise, rest) = rest.split_at_mut(self.shape.pointwise_len());
                (Some((depthwise, pointwise)), self.affine.then(|| rest.split_at_mut(out.c)))
            }
        };
        let (d_gamma, d_beta) = d_affine.unzip();
        let [mut scale, mut b, mut d] = [(); 3].map(|()| vec![0.0; out.c]);
        let coefficients = Gradient { scale: &mut scale, b: &mut b, d: &mut d, d_gamma, d_beta };
        let training = matches!(self.statistics, Statistics::Batch(_));
        let normalized = Normalized { mean: &state.mean, rstd: &state.rstd, scale: &state.scale };
        batch_norm::backward(&sums, out.pixels(), normalized, 1.0, training, coefficients);

        let Parameters { depthwise, pointwise, .. } = self.split(arguments.theta);
        let terms = [UpstreamTerm { grad: d_output, scale: Some(&scale), sample_scale: None }];
        let upstream = Upstream { terms: &terms, bn: Some(BnTerm { z: &state.z, b: &b, d: &d }) };
        let unit = UnitBackward { shape: self.shape, depthwise, pointwise, upstream, weights };
        let mut unwanted = Vec::new();
        let du = gradients.input.unwrap_or_else(|| {
            unwanted.resize(images.len(), 0.0);
            &mut unwanted
        });
        sep_unit::backward(images, arguments.input, None, &mut [unit], du, Write::Overwrite, None);
        Ok(())
    }
}

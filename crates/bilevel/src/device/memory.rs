//! What a search keeps in device memory.

use darts_cuda::vector::{self, AdamState};
use darts_cuda::{Backend, Memory as _, Result, View};

use super::report::Record;
use crate::search::{SearchConfig, Strategy};

/// All vectors and numbers of a search.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) w: View,
    pub(super) alpha: View,
    /// None without momentum.
    pub(super) momentum: Option<View>,
    pub(super) adam: AdamState,
    /// Scratch as long as `w`: the training gradient, and the direction of the finite difference.
    pub(super) gradient: View,
    pub(super) alpha_gradient: View,
    pub(super) second_order: Option<Workspace>,
    /// Scratch of sums.
    pub(super) sums: View<f64>,
    pub(super) record: Record,
    /// Not finite where α's step is not made, and where the weights' is not.
    pub(super) alpha_gate: View<f64>,
    pub(super) weight_gate: View<f64>,
}

/// What a second-order step needs beside it.
#[derive(Debug, Copy, Clone)]
pub(super) struct Workspace {
    /// `w'`, then `w⁺`, then `w⁻`.
    pub(super) point: View,
    /// `∇α L_train(w⁺, α)` and `∇α L_train(w⁻, α)`.
    pub(super) plus: View,
    pub(super) minus: View,
    /// `∇α L_val(w', α)` alone.
    pub(super) direct: View,
}

impl Memory {
    pub(super) fn new(device: &dyn Backend, w: &[f32], alpha: &[f32], config: &SearchConfig) -> Result<Self> {
        let zeros = |len| device.uploaded(&vec![0.0; len]);
        let second_order = match config.strategy {
            Strategy::FirstOrder => None,
            Strategy::SecondOrder(_) => Some(Workspace {
                point: device.allocate(w.len())?,
                plus: device.allocate(alpha.len())?,
                minus: device.allocate(alpha.len())?,
                direct: device.allocate(alpha.len())?,
            }),
        };
        let adam = AdamState {
            first_moment: zeros(alpha.len())?,
            second_moment: zeros(alpha.len())?,
            steps: device.uploaded(&[0])?,
            scratch: device.allocate(2)?,
        };
        Ok(Self {
            momentum: if config.sgd.momentum == 0.0 { None } else { Some(zeros(w.len())?) },
            adam,
            gradient: device.allocate(w.len())?,
            alpha_gradient: zeros(alpha.len())?,
            second_order,
            sums: device.allocate(vector::scratch_len(w.len().max(alpha.len())))?,
            // Numbers that a strategy does not write are read back with the others.
            record: Record { all: device.uploaded(&[0.0; Record::LEN])? },
            alpha_gate: device.allocate(1)?,
            weight_gate: device.allocate(1)?,
            w: device.uploaded(w)?,
            alpha: device.uploaded(alpha)?,
        })
    }

    /// The vectors of the state, under the names that they have on the CPU.
    pub(super) fn vectors(&self) -> Vec<(&'static str, View)> {
        let mut vectors = vec![("weights", self.w), ("alphas", self.alpha)];
        vectors.extend(self.momentum.map(|momentum| ("sgd.momentum", momentum)));
        let AdamState { first_moment, second_moment, .. } = self.adam;
        vectors.extend([("adam.first_moment", first_moment), ("adam.second_moment", second_moment)]);
        vectors
    }
}

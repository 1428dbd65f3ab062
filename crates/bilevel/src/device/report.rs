//! What a step on a device wrote down, and what is made of it: a report, or the error that its twin on the CPU would have given.

use darts_cuda::View;

use crate::error::{Quantity, StepError};
use crate::problem::Pass;
use crate::search::StepReport;
use crate::second_order::SecondOrderReport;
use crate::step::Step;

/// What one step (α, then weights) saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceReport {
    /// Losses and norms.
    pub step: StepReport,
    /// What the problem wrote beside the loss of the weight pass ([`Evaluation::results`](super::Evaluation::results)).
    pub measure: f64,
}

/// Numbers of a step, in order.
const NUMBERS: usize = 22;

/// Where a step writes down what it sees, in f64.
#[derive(Debug, Copy, Clone)]
pub(super) struct Record {
    pub(super) all: View<f64>,
}

impl Record {
    pub(super) const LEN: usize = NUMBERS;

    fn number(&self, index: usize) -> View<f64> {
        self.all.slice(index..index + 1)
    }

    /// Loss and measure of an evaluation; `second` for the other of the two perturbed ones.
    pub(super) fn results(&self, pass: Pass, second: bool) -> View<f64> {
        let first = match (pass, second) {
            (Pass::Virtual, _) => 0,
            (Pass::Validation, _) => 2,
            (Pass::Perturbed, false) => 4,
            (Pass::Perturbed, true) => 6,
            (Pass::Weight, _) => 8,
        };
        self.all.slice(first..first + 2)
    }

    pub(super) fn loss(&self, pass: Pass, second: bool) -> View<f64> {
        self.results(pass, second).slice(0..1)
    }

    /// Norm of the gradient with respect to `w`, of an evaluation that has one.
    pub(super) fn norm(&self, pass: Pass) -> View<f64> {
        self.number(match pass {
            Pass::Virtual => 10,
            Pass::Validation => 11,
            Pass::Perturbed | Pass::Weight => 12,
        })
    }

    /// The clip coefficient of that gradient.
    pub(super) fn clip(&self, pass: Pass) -> View<f64> {
        self.number(match pass {
            Pass::Virtual => 13,
            Pass::Validation => 14,
            Pass::Perturbed | Pass::Weight => 15,
        })
    }

    pub(super) fn alpha_norm(&self) -> View<f64> {
        self.number(16)
    }

    /// Four numbers: ε and what follows from it.
    pub(super) fn finite_difference(&self) -> View<f64> {
        self.all.slice(17..21)
    }

    pub(super) fn learning_rate(&self) -> View<f64> {
        self.number(21)
    }
}

/// The numbers of a step, read back.
pub(super) struct Numbers {
    pub(super) record: Record,
    pub(super) values: [f64; NUMBERS],
}

impl Numbers {
    fn at(&self, number: View<f64>) -> f64 {
        self.values[((number.address - self.record.all.address) / 8) as usize]
    }

    /// The report, or the first number that is not finite, in the order in which the CPU meets them.
    pub(super) fn report<E: std::error::Error + 'static>(
        &self,
        step: Step,
        second_order: bool,
    ) -> Result<DeviceReport, StepError<E>> {
        let record = &self.record;
        let loss = |pass, second| step.finite(Quantity::Loss, pass, self.at(record.loss(pass, second)));
        let norm = |pass| step.finite(Quantity::WeightGradient, pass, self.at(record.norm(pass)));
        let (valid_loss, second_order) = if second_order {
            let (virtual_loss, virtual_grad_norm) = (loss(Pass::Virtual, false)?, norm(Pass::Virtual)?);
            let (valid_loss, valid_grad_norm) = (loss(Pass::Validation, false)?, norm(Pass::Validation)?);
            loss(Pass::Perturbed, false)?;
            loss(Pass::Perturbed, true)?;
            let epsilon = self.at(record.finite_difference().slice(0..1));
            (valid_loss, Some(SecondOrderReport { virtual_loss, virtual_grad_norm, valid_grad_norm, epsilon }))
        } else {
            (loss(Pass::Validation, false)?, None)
        };
        step.finite(Quantity::AlphaGradient, Pass::Validation, self.at(record.alpha_norm()))?;
        let (train_loss, grad_norm) = (loss(Pass::Weight, false)?, norm(Pass::Weight)?);
        let clip = self.at(record.clip(Pass::Weight));
        let measure = self.values[9];
        Ok(DeviceReport { step: StepReport { valid_loss, train_loss, grad_norm, clip, second_order }, measure })
    }
}

//! The weights of a training and their optimizer: SGD, and for language models the switch to averaged SGD. All of it is state
//! that a checkpoint holds, so a training that is stopped on either side of the switch goes on as it was.

use candle_core::Device;
use darts_bilevel::Stateful;
use darts_bilevel::optimizer::{AveragedSgd, AveragedSgdConfig, NonMonotonic, Sgd, SgdConfig};
use darts_ops::vector::Vector;

use crate::error::Result;

/// When a training begins to average its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AverageAfter {
    /// Epochs without a lower validation loss.
    pub(crate) nonmono: usize,
    /// Epochs of the training.
    pub(crate) epochs: usize,
}

/// Averaged SGD, and what decides when it takes over.
struct Averaging {
    trigger: NonMonotonic,
    sgd: AveragedSgd,
}

/// The whole of a training's learned state.
pub(crate) struct Weights {
    w: Vector,
    sgd: Sgd,
    averaging: Option<Averaging>,
    steps: u64,
}

impl Weights {
    /// Weights `w` at the beginning of a training.
    pub(crate) fn new(w: Vector, config: SgdConfig, average: Option<AverageAfter>) -> Result<Self> {
        let (len, device): (usize, Device) = (w.len(), w.device().clone());
        let averaging = match average {
            Some(AverageAfter { nonmono, epochs }) => Some(Averaging {
                trigger: NonMonotonic::new(nonmono, epochs, &device)?,
                sgd: AveragedSgd::new(AveragedSgdConfig { weight_decay: config.weight_decay, start: 0 }, len, &device)?,
            }),
            None => None,
        };
        Ok(Self { sgd: Sgd::new(config, len, &device)?, averaging, w, steps: 0 })
    }

    /// The weights that the next step starts from.
    pub(crate) fn current(&self) -> &Vector {
        &self.w
    }

    /// The weights that are evaluated and saved: the average, where there is one.
    pub(crate) fn evaluated(&self) -> &Vector {
        match &self.averaging {
            Some(averaging) if averaging.sgd.steps() > 0 => averaging.sgd.average(),
            _ => &self.w,
        }
    }

    /// Steps done.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// A step with this gradient times `coefficient`; without one, which is for a gradient that is not finite, the step is
    /// counted and nothing else.
    pub(crate) fn step(&mut self, gradient: &Vector, coefficient: Option<f64>, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let Some(coefficient) = coefficient else { return Ok(()) };
        match &mut self.averaging {
            Some(Averaging { trigger, sgd }) if trigger.has_gone_off() => {
                sgd.step(&mut self.w, gradient, coefficient, learning_rate)?;
            }
            _ => self.sgd.step(&mut self.w, gradient, coefficient, learning_rate)?,
        }
        Ok(())
    }

    /// Takes in the validation loss of an epoch that is over.
    pub(crate) fn end_epoch(&mut self, valid_loss: Option<f64>) -> Result<()> {
        if let (Some(averaging), Some(loss)) = (&mut self.averaging, valid_loss) {
            averaging.trigger.observe(loss)?;
        }
        Ok(())
    }
}

impl Stateful for Weights {
    fn vectors(&self) -> Vec<(&'static str, &Vector)> {
        let mut vectors = vec![("weights", &self.w)];
        vectors.extend(self.sgd.vectors());
        if let Some(Averaging { trigger, sgd }) = &self.averaging {
            vectors.extend(trigger.vectors());
            vectors.extend(sgd.vectors());
        }
        vectors
    }

    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)> {
        let mut vectors = vec![("weights", &mut self.w)];
        vectors.extend(self.sgd.vectors_mut());
        if let Some(Averaging { trigger, sgd }) = &mut self.averaging {
            vectors.extend(trigger.vectors_mut());
            vectors.extend(sgd.vectors_mut());
        }
        vectors
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = vec![("steps", self.steps)];
        counters.extend(self.sgd.counters());
        if let Some(Averaging { trigger, sgd }) = &self.averaging {
            counters.extend(trigger.counters());
            counters.extend(sgd.counters());
        }
        counters
    }

    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        let mut counters = vec![("steps", &mut self.steps)];
        counters.extend(self.sgd.counters_mut());
        if let Some(Averaging { trigger, sgd }) = &mut self.averaging {
            counters.extend(trigger.counters_mut());
            counters.extend(sgd.counters_mut());
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SgdConfig = SgdConfig { momentum: 0.0, weight_decay: 0.0 };

    fn vector(values: &[f32]) -> Vector {
        Vector::from_slice(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn averages_are_of_the_weights_after_the_switch_alone() {
        let average = Some(AverageAfter { nonmono: 1, epochs: 9 });
        let mut weights = Weights::new(vector(&[8.0]), PLAIN, average).unwrap();
        let gradient = vector(&[1.0]);
        let at = |vector: &Vector| vector.to_vec().unwrap()[0];
        for (loss, current, evaluated) in [
            (3.0, 7.0, 7.0),
            (2.0, 6.0, 6.0),
            (3.5, 5.0, 5.0), // above the first epoch's: from now on
            (1.0, 4.0, 4.0),
            (1.0, 3.0, 3.0), // the average's first two steps take the weights themselves
            (1.0, 2.0, 2.5),
            (1.0, 1.0, 2.0),
        ] {
            weights.step(&gradient, Some(1.0), 1.0).unwrap();
            assert_eq!((at(weights.current()), at(weights.evaluated())), (current, evaluated), "loss {loss}");
            weights.end_epoch(Some(loss)).unwrap();
        }
    }

    #[test]
    fn a_gradient_that_is_not_applied_changes_nothing_but_the_count() {
        let mut weights = Weights::new(vector(&[1.0]), PLAIN, None).unwrap();
        weights.step(&vector(&[f32::NAN]), None, 1.0).unwrap();
        assert_eq!((weights.current().to_vec().unwrap(), weights.steps()), (vec![1.0], 1));
    }
}

//! When to begin averaging (Merity et al., arXiv 1708.02182, algorithm 1): as soon as the validation loss is above the best of
//! all epochs but the last few. It refuses to evaluate anything: it is told the losses.

use candle_core::Device;
use darts_ops::vector::{self, Vector};

use crate::error::Error;
use crate::state::Stateful;

/// The non-monotonic trigger: with losses `v_0, v_1, …` of the epochs, it goes off at the first epoch `t` with `t > n` and
/// `v_t > min_{l < t − n} v_l`, and stays so. Losses are kept in f32, so that a restored trigger decides the same.
///
/// ```
/// use candle_core::Device;
/// use darts_bilevel::optimizer::NonMonotonic;
///
/// let mut trigger = NonMonotonic::new(2, 10, &Device::Cpu)?;
/// let gone_off: Vec<bool> = [5.0, 4.0, 3.0, 4.5, 4.5].iter().map(|&v| trigger.observe(v)).collect::<Result<_, _>>()?;
/// assert_eq!(gone_off, [false, false, false, false, true]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NonMonotonic {
    /// n.
    patience: usize,
    losses: Vector,
    epochs: u64,
    gone_off: u64,
}

impl NonMonotonic {
    /// A trigger that does not compare with the last `patience` epochs, for at most `epochs` epochs.
    ///
    /// # Errors
    /// [`Error::Vector`] where there is no memory for the losses.
    pub fn new(patience: usize, epochs: usize, device: &Device) -> Result<Self, Error> {
        Ok(Self { patience, losses: Vector::zeros(epochs, device)?, epochs: 0, gone_off: 0 })
    }

    /// Takes in the validation loss of the next epoch, and says whether the trigger has gone off, then or before.
    ///
    /// # Errors
    /// [`vector::Error`] where the losses cannot be read. Losses beyond the planned number of epochs change nothing.
    pub fn observe(&mut self, loss: f64) -> Result<bool, vector::Error> {
        let (seen, patience, loss) = (self.epochs as usize, self.patience, loss as f32);
        if seen < self.losses.len() {
            let above = self.losses.write(|losses| {
                losses[seen] = loss;
                let best = losses[..seen.saturating_sub(patience)].iter().copied().fold(f32::INFINITY, f32::min);
                seen > patience && loss > best
            })?;
            self.epochs += 1;
            self.gone_off |= u64::from(above);
        }
        Ok(self.has_gone_off())
    }

    /// Whether it has gone off.
    pub fn has_gone_off(&self) -> bool {
        self.gone_off != 0
    }
}

impl Stateful for NonMonotonic {
    fn vectors(&self) -> Vec<(&'static str, &Vector)> {
        vec![("non_monotonic.losses", &self.losses)]
    }

    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)> {
        vec![("non_monotonic.losses", &mut self.losses)]
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("non_monotonic.epochs", self.epochs), ("non_monotonic.gone_off", self.gone_off)]
    }

    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![("non_monotonic.epochs", &mut self.epochs), ("non_monotonic.gone_off", &mut self.gone_off)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the released training script does, on a list.
    fn released(patience: usize, losses: &[f64]) -> Vec<bool> {
        let (mut before, mut gone_off): (Vec<f64>, bool) = (Vec::new(), false);
        let mut answers = Vec::new();
        for &loss in losses {
            let compared = &before[..before.len().saturating_sub(patience)];
            let best = compared.iter().copied().fold(f64::INFINITY, f64::min);
            gone_off |= before.len() > patience && loss > best;
            before.push(loss);
            answers.push(gone_off);
        }
        answers
    }

    #[test]
    fn it_goes_off_where_the_released_script_switches() {
        for patience in [1, 2, 5] {
            for seed in 0..200u64 {
                let noise = |t: u64| ((seed * 31 + t * 17) as f64 * 12.9898).sin();
                let losses: Vec<f64> = (0..20).map(|t| 5.0 - 0.1 * t as f64 + 0.5 * noise(t)).collect();
                let mut trigger = NonMonotonic::new(patience, 20, &Device::Cpu).unwrap();
                let answers: Vec<bool> = losses.iter().map(|&loss| trigger.observe(loss).unwrap()).collect();
                assert_eq!(answers, released(patience, &losses), "patience {patience}, seed {seed}");
            }
        }
    }

    #[test]
    fn a_restored_trigger_goes_on_as_the_old_one() {
        let losses = [5.0, 4.0, 3.9, 3.8, 4.3, 4.1, 4.0];
        let mut whole = NonMonotonic::new(2, 7, &Device::Cpu).unwrap();
        let answers: Vec<bool> = losses.iter().map(|&loss| whole.observe(loss).unwrap()).collect();
        assert!(answers[4] && !answers[3]);
        for cut in 0..losses.len() {
            let mut first = NonMonotonic::new(2, 7, &Device::Cpu).unwrap();
            for &loss in &losses[..cut] {
                first.observe(loss).unwrap();
            }
            let saved: Vec<(&str, Vec<f32>)> =
                first.vectors().into_iter().map(|(name, vector)| (name, vector.to_vec().unwrap())).collect();
            let vectors: Vec<(&str, &[f32])> = saved.iter().map(|(name, values)| (*name, &values[..])).collect();
            let mut second = NonMonotonic::new(2, 7, &Device::Cpu).unwrap();
            second.restore(&vectors, &first.counters()).unwrap();
            for (&loss, &answer) in losses[cut..].iter().zip(&answers[cut..]) {
                assert_eq!(second.observe(loss).unwrap(), answer, "cut at {cut}");
            }
        }
    }
}

//! The two regularizers of a language model's activations (Merity et al. 2017): the size of the output, and its change from one
//! time step to the next. Refuses to weigh them against the loss: the coefficient is the caller's.

/// Floats that are added up in one piece before the pieces are: one order for any number of threads.
const PIECE: usize = 4096;

/// coefficient·mean(o²). Its gradient, 2·coefficient·o/n, is added to `d_output` where one is given.
///
/// # Shapes
/// `output`, `d_output`: any, the same.
///
/// # Panics
/// If the lengths differ.
pub fn activation(output: &[f32], coefficient: f64, d_output: Option<&mut [f32]>) -> f64 {
    if output.is_empty() || coefficient == 0.0 {
        return 0.0;
    }
    let count = output.len() as f64;
    if let Some(d_output) = d_output {
        assert_eq!(d_output.len(), output.len(), "regularizer: gradient of the output");
        let factor = (2.0 * coefficient / count) as f32;
        d_output.iter_mut().zip(output).for_each(|(d, o)| *d += factor * o);
    }
    let piece = |piece: &[f32]| piece.iter().map(|&o| f64::from(o).powi(2)).sum::<f64>();
    coefficient * output.chunks(PIECE).map(piece).sum::<f64>() / count
}

/// coefficient·mean over t ≥ 1 of (h_t − h_{t−1})²; 0 for one time step. Its gradient is added to `d_states` where one is given.
///
/// # Shapes
/// `states`, `d_states`: \[T, …\] with `step` floats for each time step.
///
/// # Panics
/// If the lengths differ or are no whole number of time steps.
pub fn temporal(states: &[f32], step: usize, coefficient: f64, d_states: Option<&mut [f32]>) -> f64 {
    assert!(step > 0 && states.len().is_multiple_of(step), "regularizer: {} floats, {step} a step", states.len());
    if states.len() <= step || coefficient == 0.0 {
        return 0.0;
    }
    let count = states.len() - step;
    if let Some(d_states) = d_states {
        assert_eq!(d_states.len(), states.len(), "regularizer: gradient of the states");
        let factor = (2.0 * coefficient / count as f64) as f32;
        for index in 0..count {
            let term = factor * (states[index + step] - states[index]);
            d_states[index + step] += term;
            d_states[index] -= term;
        }
    }
    let squares = |(later, earlier): (&[f32], &[f32])| {
        let pairs = later.iter().zip(earlier);
        pairs.map(|(&later, &earlier)| (f64::from(later) - f64::from(earlier)).powi(2)).sum::<f64>()
    };
    let pieces = states[step..].chunks(PIECE).zip(states[..count].chunks(PIECE));
    coefficient * pieces.map(squares).sum::<f64>() / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_match_their_definitions() {
        assert_eq!(activation(&[1.0, -2.0, 3.0, 0.0], 0.5, None), 0.5 * 14.0 / 4.0);
        assert_eq!(temporal(&[1.0, 2.0, 4.0, 2.0, 4.0, 5.0], 2, 3.0, None), 3.0 * (9.0 + 0.0 + 0.0 + 9.0) / 4.0);
        assert_eq!(temporal(&[1.0, 2.0], 2, 3.0, None), 0.0);
        assert_eq!(activation(&[], 1.0, None), 0.0);
    }

    #[test]
    fn gradients_match_finite_differences() {
        let values: Vec<f32> = (0..12).map(|i| ((i * 7 % 5) as f32) / 4.0 - 0.5).collect();
        type Regularizer = fn(&[f32], Option<&mut [f32]>) -> f64;
        let activation: Regularizer = |values, gradient| activation(values, 0.7, gradient);
        let temporal: Regularizer = |values, gradient| temporal(values, 3, 0.7, gradient);
        for regularizer in [activation, temporal] {
            let mut gradient = vec![1.0; 12];
            regularizer(&values, Some(&mut gradient));
            for i in 0..12 {
                let moved = |by: f32| {
                    let mut values = values.clone();
                    values[i] += by;
                    regularizer(&values, None)
                };
                let numeric = (moved(0.125) - moved(-0.125)) * 4.0;
                assert!((numeric - f64::from(gradient[i] - 1.0)).abs() < 1e-5, "{i}: {numeric} {}", gradient[i] - 1.0);
            }
        }
    }
}

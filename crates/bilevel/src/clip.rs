//! Clipping by the global norm: one norm over a whole flat vector, one coefficient. It computes the coefficient
//! alone; the kernels that use a gradient multiply with it on the way ([`darts_ops::vector::SgdStep::coefficient`]),
//! so that clipping costs no pass of its own.

/// Added to the norm, so that a gradient just at the limit is scaled, by a hair.
const EPSILON: f64 = 1e-6;

/// `min(1, limit/(norm + 1e-6))`: what brings a gradient of this `norm` to at most `limit`. Without a limit, 1.
///
/// ```
/// use darts_bilevel::clip::coefficient;
/// assert_eq!(coefficient(2.0, Some(5.0)), 1.0);
/// assert!((coefficient(10.0, Some(5.0)) - 0.5).abs() < 1e-6);
/// assert_eq!(coefficient(10.0, None), 1.0);
/// ```
pub fn coefficient(norm: f64, limit: Option<f64>) -> f64 {
    limit.map_or(1.0, |limit| (limit / (norm + EPSILON)).min(1.0))
}

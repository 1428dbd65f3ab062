//! The paper's toy problem (its section 2.3, Figure 2): where each ξ ends.

#[path = "../examples/toy/problem.rs"]
mod problem;

use problem::trajectory;

#[test]
fn xi_zero_converges_to_two() {
    let end = trajectory(0.0, 4000).unwrap()[4000];
    assert!((end.0 - 2.0).abs() < 1e-2 && (end.1 - 2.0).abs() < 1e-2, "ended at (α, w) = {end:?}");
}

#[test]
fn suitable_xi_comes_near_the_optimum() {
    let end = trajectory(0.5, 4000).unwrap()[4000];
    assert!((end.0 - 1.0).abs() < 1e-2 && (end.1 - 1.0).abs() < 1e-2, "ended at (α, w) = {end:?}");
}

#[test]
fn every_xi_ends_at_its_closed_form() {
    // At w = α the gradient through the virtual step is α − 2 + 2ξα: zero at α = 2/(1 + 2ξ).
    for xi in [0.1, 0.25, 1.0] {
        let end = trajectory(xi, 4000).unwrap()[4000];
        let expected = 2.0 / (1.0 + 2.0 * xi);
        assert!((f64::from(end.0) - expected).abs() < 1e-2, "ξ = {xi}: ended at {end:?} instead of {expected}");
    }
}

#[test]
fn trajectories_start_where_figure_2_starts() {
    assert_eq!(trajectory(0.3, 3).unwrap()[0], (2.0, -2.0));
}

//! Per-channel coefficients against the whole-tensor reference, and the backward coefficients against finite differences
//! of that reference.

use super::*;

struct Case {
    z: Vec<f64>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    c: usize,
}

fn case(pixels: usize, c: usize) -> Case {
    let mut x = 0.3;
    let mut next = || {
        x = (x * 997.0 + 0.1234_f64).fract();
        x * 2.0 - 1.0
    };
    Case {
        z: (0..pixels * c).map(|i| f64::from((next() + (i % c) as f64 * 0.5) as f32)).collect(),
        gamma: (0..c).map(|_| (next() + 1.5) as f32).collect(),
        beta: (0..c).map(|_| next() as f32).collect(),
        c,
    }
}

fn sums(g: &[f64], z: &[f64], c: usize) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * c];
    for (i, (g, z)) in g.iter().zip(z).enumerate() {
        sums[i % c] += g;
        sums[c + i % c] += g * z;
    }
    sums
}

fn widen(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&x| f64::from(x)).collect()
}

/// mean, rstd, scale, shift
fn coefficients(t: &Case, running: Option<(&mut [f32], &mut [f32])>) -> [Vec<f32>; 4] {
    let [mut mean, mut rstd, mut scale, mut shift] = [(); 4].map(|()| vec![f32::NAN; t.c]);
    let out = Coefficients { mean: &mut mean, rstd: &mut rstd, scale: &mut scale, shift: &mut shift };
    let count = t.z.len() / t.c;
    let mut s = vec![0.0; 2 * t.c];
    for (i, z) in t.z.iter().enumerate() {
        s[i % t.c] += z;
        s[t.c + i % t.c] += z * z;
    }
    statistics(&s, count, Some(&t.gamma), Some(&t.beta), running, out);
    [mean, rstd, scale, shift]
}

fn close(got: f32, want: f64, what: &str) {
    assert!((f64::from(got) - want).abs() <= 2e-6 * (1.0 + want.abs()), "{what}: got {got}, want {want}");
}

#[test]
fn training_coefficients_match_reference() {
    for (pixels, c) in [(35, 1), (35, 17), (6, 36), (1, 3)] {
        let t = case(pixels, c);
        let want = reference::forward(&t.z, c, &widen(&t.gamma), &widen(&t.beta));
        let (mut mean, mut var) = (vec![0.5; c], vec![2.0; c]);
        let [_, _, scale, shift] = coefficients(&t, Some((&mut mean, &mut var)));
        for (i, &z) in t.z.iter().enumerate() {
            let u = f64::from(scale[i % c]) * z + f64::from(shift[i % c]);
            // The rounding of scale·μ to f32, amplified by 1/√(σ² + ε): by 316 where there is one pixel and σ is 0.
            let slack = if pixels == 1 { 1e-3 } else { 3e-5 };
            assert!((u - want.u[i]).abs() <= slack, "u[{i}]: got {u}, want {}", want.u[i]);
        }
        for k in 0..c {
            let unbiased = if pixels > 1 { want.var[k] * pixels as f64 / (pixels - 1) as f64 } else { want.var[k] };
            close(mean[k], 0.9 * 0.5 + 0.1 * want.mean[k], "running mean");
            close(var[k], 0.9 * 2.0 + 0.1 * unbiased, "running variance");
        }
    }
}

#[test]
fn evaluation_coefficients_match_formula() {
    let [mut mean, mut rstd, mut scale, mut shift] = [[0.0_f32; 2]; 4];
    let out = Coefficients { mean: &mut mean, rstd: &mut rstd, scale: &mut scale, shift: &mut shift };
    from_running(&[1.0, -2.0], &[4.0, 0.0], None, Some(&[0.5, 0.25]), out);
    close(scale[0], 1.0 / (4.0 + EPS).sqrt(), "scale");
    close(scale[1], 1.0 / EPS.sqrt(), "scale of a constant channel");
    close(shift[0], 0.5 - 1.0 / (4.0 + EPS).sqrt(), "shift");
    assert_eq!((mean, rstd), ([1.0, -2.0], scale));
}

/// loss = Σ weight·g·u; its gradient by finite differences of the reference in z, γ and β.
#[test]
fn backward_coefficients_match_finite_differences() {
    let (pixels, c, weight) = (12, 5, 0.7_f32);
    let t = case(pixels, c);
    let g: Vec<f64> = (0..pixels * c).map(|i| f64::from(((i * i) as f32 * 0.37).sin())).collect();
    let (gamma, beta) = (widen(&t.gamma), widen(&t.beta));
    let loss = |z: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
        let u = reference::forward(z, c, gamma, beta).u;
        u.iter().zip(&g).map(|(u, g)| f64::from(weight) * g * u).sum()
    };
    let difference = |values: &[f64], i: usize, f: &dyn Fn(&[f64]) -> f64| {
        let (mut plus, mut minus) = (values.to_vec(), values.to_vec());
        plus[i] += 1e-4;
        minus[i] -= 1e-4;
        (f(&plus) - f(&minus)) / 2e-4
    };

    let [mean, rstd, scale, _] = coefficients(&t, None);
    let [mut s, mut b, mut d, mut d_gamma, mut d_beta] = [(); 5].map(|()| vec![f32::NAN; c]);
    let out = Gradient { scale: &mut s, b: &mut b, d: &mut d, d_gamma: Some(&mut d_gamma), d_beta: Some(&mut d_beta) };
    let forward = Normalized { mean: &mean, rstd: &rstd, scale: &scale };
    backward(&sums(&g, &t.z, c), pixels, forward, weight, true, out);

    for (i, g) in g.iter().enumerate() {
        let k = i % c;
        let got = f64::from(s[k]) * g + f64::from(b[k]) * t.z[i] + f64::from(d[k]);
        let want = difference(&t.z, i, &|z| loss(z, &gamma, &beta));
        assert!((got - want).abs() < 5e-6, "dz[{i}]: got {got}, want {want}");
    }
    for k in 0..c {
        close(d_gamma[k], difference(&gamma, k, &|gamma| loss(&t.z, gamma, &beta)), "dγ");
        close(d_beta[k], difference(&beta, k, &|beta| loss(&t.z, &gamma, beta)), "dβ");
    }
}

#[test]
fn backward_in_evaluation_is_a_plain_scale() {
    let (mut scale, mut b, mut d) = ([0.0], [1.0], [1.0]);
    let out = Gradient { scale: &mut scale, b: &mut b, d: &mut d, d_gamma: None, d_beta: None };
    let forward = Normalized { mean: &[3.0], rstd: &[0.5], scale: &[2.0] };
    backward(&[4.0, 7.0], 10, forward, 0.5, false, out);
    assert_eq!((scale, b, d), ([1.0], [0.0], [0.0]));
}

//! Algorithm 1 against a computation written out in f64 and against closed forms; what it leaves untouched; how it
//! resumes and how it fails.

mod support;

use candle_core::Device;
use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
use darts_bilevel::{Error, Pass, Quantity, Search, SearchConfig, SecondOrder, Stateful, StepError, Strategy};
use darts_ops::vector::Vector;
use support::{HandWritten, Ridge, Rows, Rules, bits, narrow, numbers, relative_error, wide};

const N: usize = 37;
const ROWS: usize = 96;
const TRAIN: Rows = (0, 48);
const VALID: Rows = (48, 48);

fn vector(values: &[f64]) -> Vector {
    Vector::from_vec(narrow(values), &Device::Cpu).unwrap()
}

fn start() -> (Vec<f64>, Vec<f64>) {
    (numbers(N, 11), numbers(N, 12))
}

fn search(rules: &Rules) -> Search {
    let limit = |limit: f64| limit.is_finite().then_some(limit);
    let strategy = if rules.second_order {
        Strategy::SecondOrder(SecondOrder {
            radius: rules.radius,
            xi: None,
            clip_virtual: limit(rules.clip_virtual),
            clip_direction: limit(rules.clip_direction),
        })
    } else {
        Strategy::FirstOrder
    };
    let config = SearchConfig {
        strategy,
        sgd: SgdConfig { momentum: rules.momentum, weight_decay: rules.weight_decay },
        clip: limit(rules.clip_weights),
        adam: AdamConfig {
            learning_rate: rules.alpha_lr,
            betas: rules.betas,
            epsilon: rules.eps,
            weight_decay: rules.alpha_decay,
        },
    };
    let (w, alpha) = start();
    Search::new(vector(&w), vector(&alpha), config).unwrap()
}

/// The convolutional rules: momentum in the virtual step, nothing clipped there.
const CONV: Rules = Rules {
    second_order: true,
    radius: 0.01,
    clip_virtual: f64::INFINITY,
    clip_direction: f64::INFINITY,
    clip_weights: 40.0,
    momentum: 0.9,
    weight_decay: 0.1,
    alpha_lr: 0.01,
    betas: (0.5, 0.999),
    eps: 1e-8,
    alpha_decay: 0.1,
};

/// The recurrent rules: no momentum, all three gradients clipped. Limits at which each is clipped at some steps.
const RECURRENT: Rules = Rules { clip_virtual: 42.0, clip_direction: 45.0, momentum: 0.0, betas: (0.9, 0.999), ..CONV };

/// Batches that differ from step to step, with learning rates.
fn schedule() -> Vec<(Rows, Rows, f64)> {
    (0..6).map(|t| ((5 * t, 40 - 6 * t), (30 + 4 * t, 40 - 5 * t), 0.02 / (1.0 + t as f64))).collect()
}

#[track_caller]
fn assert_matches_hand_written(rules: &Rules) -> HandWritten {
    let mut problem = Ridge::new(N, ROWS);
    let mut search = search(rules);
    let (w, alpha) = start();
    let mut expected = HandWritten::new(w, alpha);
    for (step, (train, valid, lr)) in schedule().into_iter().enumerate() {
        search.step(&mut problem, &train, &valid, lr).unwrap();
        let gradient = expected.step(&problem, rules, train, valid, lr);
        let error = relative_error(&wide(search.alpha_gradient()), &gradient);
        assert!(error < 2e-4, "step {step}: α gradient is off by {error:e}");
        for (what, found, expected) in [
            ("α", search.alphas(), &expected.alpha),
            ("w", search.weights(), &expected.w),
            ("buffer", search.momentum().unwrap_or(search.weights()), {
                if rules.momentum > 0.0 { &expected.buffer } else { &expected.w }
            }),
        ] {
            let error = relative_error(&wide(found), expected);
            assert!(error < 2e-5, "step {step}: {what} is off by {error:e}");
        }
    }
    expected
}

#[test]
fn second_order_with_momentum_matches_hand_written_f64() {
    let run = assert_matches_hand_written(&CONV);
    assert!(run.clipped[2] && run.unclipped[2], "the weight step must be clipped at some steps only");
    assert!(!run.clipped[0] && !run.clipped[1]);
}

#[test]
fn second_order_with_clipping_matches_hand_written_f64() {
    let run = assert_matches_hand_written(&RECURRENT);
    assert_eq!((run.clipped, run.unclipped), ([true; 3], [true; 3]), "each must be clipped at some steps only");
}

#[test]
fn first_order_matches_hand_written_f64() {
    assert_matches_hand_written(&Rules { second_order: false, ..CONV });
    assert_matches_hand_written(&Rules { second_order: false, ..RECURRENT });
}

#[test]
fn finite_difference_alpha_gradient_matches_closed_form() {
    // L_train is quadratic in w, so the mixed derivative is exp(α)·w and the difference quotient is exact but for
    // rounding: α gradient = ρ(α − c) − ξ·exp(α)·w·∇w'L_val(w').
    let rules = Rules { momentum: 0.0, weight_decay: 0.0, ..CONV };
    let mut problem = Ridge::new(N, ROWS);
    let (w, alpha) = start();
    for xi in [0.001, 0.01, 0.1] {
        let mut search = search(&rules);
        search.alpha_step(&mut problem, &TRAIN, &VALID, xi).unwrap();
        let (_, g, _) = problem.losses(false, &w, &alpha, TRAIN);
        let virtual_w: Vec<f64> = w.iter().zip(&g).map(|(w, g)| w - xi * g).collect();
        let (_, v, direct) = problem.losses(true, &virtual_w, &alpha, VALID);
        let implicit: Vec<f64> = problem.mixed_product(&w, &alpha, &v).iter().map(|m| -xi * m).collect();
        let expected: Vec<f64> = direct.iter().zip(&implicit).map(|(d, i)| d + i).collect();
        let found = wide(search.alpha_gradient());
        let error = relative_error(&found, &expected);
        assert!(error < 1e-3, "ξ = {xi}: α gradient is off by {error:e}");
        let direct_found = wide(search.direct_alpha_gradient());
        let found: Vec<f64> = found.iter().zip(&direct_found).map(|(f, d)| f - d).collect();
        let error = relative_error(&found, &implicit);
        assert!(error < 1e-3, "ξ = {xi}: the implicit term alone is off by {error:e}");
    }
}

#[test]
fn alpha_step_leaves_the_weights_bytes_alone() {
    for rules in [CONV, RECURRENT, Rules { second_order: false, ..CONV }] {
        let mut problem = Ridge::new(N, ROWS);
        let mut search = search(&rules);
        search.step(&mut problem, &TRAIN, &VALID, 0.01).unwrap();
        let before = (bits(search.weights()), search.momentum().map(bits), bits(search.alphas()));
        search.alpha_step(&mut problem, &TRAIN, &VALID, 0.01).unwrap();
        assert_eq!(bits(search.weights()), before.0);
        assert_eq!(search.momentum().map(bits), before.1);
        assert_ne!(bits(search.alphas()), before.2);
        let alphas = bits(search.alphas());
        search.weight_step(&mut problem, &TRAIN, 0.01).unwrap();
        assert_eq!(bits(search.alphas()), alphas);
    }
}

#[test]
fn passes_come_in_the_order_of_algorithm_1() {
    let passes = |rules: &Rules| {
        let mut problem = Ridge::new(N, ROWS);
        search(rules).step(&mut problem, &TRAIN, &VALID, 0.01).unwrap();
        problem.calls
    };
    assert_eq!(
        passes(&Rules { second_order: false, ..CONV }),
        [(Pass::Validation, VALID, false, true), (Pass::Weight, TRAIN, true, false)]
    );
    assert_eq!(
        passes(&CONV),
        [
            (Pass::Virtual, TRAIN, true, false),
            (Pass::Validation, VALID, true, true),
            (Pass::Perturbed, TRAIN, false, true),
            (Pass::Perturbed, TRAIN, false, true),
            (Pass::Weight, TRAIN, true, false),
        ]
    );
}

#[test]
fn restored_state_goes_on_with_the_same_bits() {
    for rules in [CONV, RECURRENT, Rules { second_order: false, ..CONV }] {
        let mut problem = Ridge::new(N, ROWS);
        let steps = schedule();
        let mut whole = search(&rules);
        let mut first = search(&rules);
        for (train, valid, lr) in &steps[..3] {
            whole.step(&mut problem, train, valid, *lr).unwrap();
            first.step(&mut problem, train, valid, *lr).unwrap();
        }
        let saved: Vec<(&str, Vec<f32>)> =
            first.vectors().into_iter().map(|(name, v)| (name, v.to_vec().unwrap())).collect();
        let saved: Vec<(&str, &[f32])> = saved.iter().map(|(name, v)| (*name, v.as_slice())).collect();
        let mut second = search(&rules);
        second.restore(&saved, &first.counters()).unwrap();
        for (train, valid, lr) in &steps[3..] {
            let a = whole.step(&mut problem, train, valid, *lr).unwrap();
            let b = second.step(&mut problem, train, valid, *lr).unwrap();
            assert_eq!(a, b);
        }
        assert_eq!(second.steps(), 6);
        for ((name, a), (_, b)) in whole.vectors().into_iter().zip(second.vectors()) {
            assert_eq!(bits(a), bits(b), "{name}");
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_whole() {
    let mut search = search(&CONV);
    let names: Vec<&str> = search.vectors().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["weights", "alphas", "sgd.momentum", "adam.first_moment", "adam.second_moment"]);
    let ones = vec![1.0; N];
    let good: Vec<(&str, &[f32])> = names.iter().map(|name| (*name, ones.as_slice())).collect();
    let counters = [("search.steps", 4), ("adam.steps", 4)];
    let before = bits(search.weights());

    let missing = search.restore(&good[1..], &counters).unwrap_err();
    assert_eq!(missing.to_string(), "saved state: expected \"weights\", which is missing");
    assert!(matches!(search.restore(&good, &counters[..1]), Err(Error::StateMissing { name }) if name == "adam.steps"));
    let mut unknown = good.clone();
    unknown.push(("velocity", &ones));
    assert!(matches!(search.restore(&unknown, &counters), Err(Error::StateUnknown { name, .. }) if name == "velocity"));
    let mut twice = good.clone();
    twice.push(("alphas", &ones));
    assert!(matches!(search.restore(&twice, &counters), Err(Error::StateUnknown { name, .. }) if name == "alphas"));
    let mut short = good.clone();
    short[4].1 = &ones[1..];
    let error = search.restore(&short, &counters).unwrap_err();
    assert_eq!(error.to_string(), "saved state: expected 37 elements in \"adam.second_moment\", found 36");
    assert_eq!(bits(search.weights()), before);

    search.restore(&good, &counters).unwrap();
    assert_eq!(search.weights().to_vec().unwrap(), ones);
    assert_eq!(search.steps(), 4);
}

#[test]
fn a_loss_that_is_not_finite_names_the_step_and_changes_nothing() {
    // Evaluations of a second-order step: virtual, validation, two perturbed, weight.
    let expected = [Pass::Virtual, Pass::Validation, Pass::Perturbed, Pass::Perturbed, Pass::Weight];
    for (i, pass) in expected.into_iter().enumerate() {
        let mut problem = Ridge::new(N, ROWS);
        let mut search = search(&CONV);
        search.step(&mut problem, &TRAIN, &VALID, 0.01).unwrap();
        let (weights, alphas) = (bits(search.weights()), bits(search.alphas()));
        problem.poisoned = Some(5 + i);
        let error = search.step(&mut problem, &TRAIN, &VALID, 0.0125).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("search step 1, {pass} pass, learning rate 0.0125: the loss is NaN, expected a finite number")
        );
        assert!(matches!(error, StepError::NonFinite { quantity: Quantity::Loss, step: 1, .. }));
        assert_eq!(bits(search.weights()), weights);
        assert_eq!(bits(search.alphas()) == alphas, pass != Pass::Weight, "{pass}");
        assert_eq!(search.steps(), 1);
    }
}

#[test]
fn a_learning_rate_that_is_not_finite_is_refused() {
    let mut problem = Ridge::new(N, ROWS);
    let error = search(&CONV).step(&mut problem, &TRAIN, &VALID, f64::NAN).unwrap_err();
    assert!(matches!(error, StepError::NonFinite { quantity: Quantity::LearningRate, step: 0, .. }));
    assert!(problem.calls.is_empty());
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let (w, alpha) = start();
    let refused = |change: &dyn Fn(&mut SearchConfig)| {
        let mut config = SearchConfig {
            strategy: Strategy::SecondOrder(SecondOrder::clipped(0.25)),
            ..SearchConfig::penn_treebank()
        };
        config.validate().unwrap();
        change(&mut config);
        Search::new(vector(&w), vector(&alpha), config).unwrap_err().to_string()
    };
    assert_eq!(refused(&|c| c.sgd.momentum = 1.0), "setting sgd.momentum is 1, expected a number in [0, 1)");
    assert_eq!(
        refused(&|c| c.sgd.weight_decay = -0.5),
        "setting sgd.weight_decay is -0.5, expected a number from 0 up"
    );
    assert_eq!(refused(&|c| c.clip = Some(0.0)), "setting clip is 0, expected a number above 0");
    assert_eq!(refused(&|c| c.adam.betas.1 = f64::NAN), "setting adam.betas.1 is NaN, expected a number in [0, 1)");
    assert_eq!(refused(&|c| c.adam.epsilon = 0.0), "setting adam.epsilon is 0, expected a number above 0");
    let radius = Strategy::SecondOrder(SecondOrder { radius: 0.0, ..SecondOrder::default() });
    assert_eq!(refused(&|c| c.strategy = radius), "setting second_order.radius is 0, expected a number above 0");
}

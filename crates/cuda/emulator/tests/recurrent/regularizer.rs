//! Both regularizers against `darts_ops::regularizer`; their gradients are the same bits.

use darts_cuda::regularizer::{activation, scratch_len, temporal};
use darts_cuda::{Backend, Memory, Program};
use darts_cuda_emulator::in_all_orders;
use darts_ops::regularizer as reference;

use crate::values;

#[track_caller]
fn check(steps: usize, step: usize, coefficient: f64) {
    let (states, before) = (values(steps * step, 1), values(steps * step, 2));
    for is_temporal in [false, true] {
        let run = |wanted: bool| {
            in_all_orders(|device| {
                let (states, gradient) = (device.uploaded(&states).unwrap(), device.uploaded(&before).unwrap());
                let value = device.allocate(1).unwrap();
                let scratch = device.allocate(scratch_len(states.len)).unwrap();
                let mut program = Program::default();
                let wanted = wanted.then_some(gradient);
                if is_temporal {
                    temporal(&mut program, states, step, coefficient, wanted, value, scratch);
                } else {
                    activation(&mut program, states, coefficient, wanted, value, scratch);
                }
                device.run(&program).unwrap();
                (device.downloaded(value).unwrap(), device.downloaded(gradient).unwrap())
            })
        };
        let mut gradient = before.clone();
        let expected = if is_temporal {
            reference::temporal(&states, step, coefficient, Some(&mut gradient))
        } else {
            reference::activation(&states, coefficient, Some(&mut gradient))
        };
        let (value, found) = run(true);
        assert!((value[0] - expected).abs() <= 1e-12 * expected.abs(), "{} instead of {expected}", value[0]);
        assert!(found == gradient, "gradient of {steps} steps of {step}, temporal: {is_temporal}");
        let (without, untouched) = run(false);
        assert!(without == value && untouched == before, "without a gradient");
    }
}

#[test]
fn emulator_values_and_gradients_match_reference() {
    check(5, 34, 0.7);
    check(2, 1, 3.0);
    // One step has no change, a coefficient of 0 no term.
    check(1, 36, 0.5);
    check(3, 17, 0.0);
    // Several pieces.
    check(3, 3000, 1.5);
}

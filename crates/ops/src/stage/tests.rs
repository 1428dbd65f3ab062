//! A stage of all three arguments against candle's own ops: values, gradients, layouts, what is tracked, what is refused.

use super::*;
use candle_core::{Device, Var};

/// y = θ₀·w₀·x³, with x² as the state.
struct Cubic;

impl Stage for Cubic {
    type State = Vec<f32>;

    fn name(&self) -> &'static str {
        "cubic"
    }

    fn output_shape(&self, arguments: &Arguments) -> Result<Vec<usize>, Error> {
        if arguments.theta.len() == 1 {
            return Ok(arguments.input_shape.to_vec());
        }
        let (actual, expected) = (vec![arguments.theta.len()], "[1]".to_owned());
        Err(Error::Shape { operation: "cubic", what: "theta", actual, expected })
    }

    fn forward(&self, arguments: &Arguments, output: &mut [f32]) -> candle_core::Result<Vec<f32>> {
        let factor = arguments.theta[0] * arguments.weights[0];
        output.iter_mut().zip(arguments.input).for_each(|(y, x)| *y = factor * x * x * x);
        Ok(arguments.input.iter().map(|x| x * x).collect())
    }

    fn backward(
        &self,
        arguments: &Arguments,
        squares: &mut Vec<f32>,
        d_output: &[f32],
        gradients: StageGradients,
    ) -> candle_core::Result<()> {
        let (theta, weight) = (arguments.theta[0], arguments.weights[0]);
        let cubes = arguments.input.iter().zip(&*squares).map(|(x, square)| x * square);
        let dot: f32 = d_output.iter().zip(cubes).map(|(d, cube)| d * cube).sum();
        gradients.theta.into_iter().for_each(|gradient| gradient[0] = weight * dot);
        gradients.weights.into_iter().for_each(|gradient| gradient[0] = theta * dot);
        if let Some(input) = gradients.input {
            for ((dx, d), square) in input.iter_mut().zip(d_output).zip(squares) {
                *dx = 3.0 * theta * weight * *square * d;
            }
        }
        Ok(())
    }
}

fn var(values: &[f32]) -> Var {
    Var::new(values, &Device::Cpu).unwrap()
}

fn gradient(of: &Tensor, var: &Var) -> Vec<f32> {
    of.backward().unwrap().get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn values_and_gradients_match_candle_for_a_transposed_input() {
    let x = Var::new(&[[1f32, -2.0, 3.0], [0.5, 4.0, -1.0]], &Device::Cpu).unwrap();
    let (theta, weight) = (var(&[2.0]), var(&[0.25]));
    // Both a product on the way in and one on the way out: the gradient arrives strided, and leaves to be transposed back.
    let transposed = (x.t().unwrap() * 2.0).unwrap().t().unwrap();
    let input = transposed.t().unwrap();
    let y = apply_stage(Cubic, &input, &theta, &weight).unwrap();
    let want = input.powf(3.0).unwrap().broadcast_mul(&theta).unwrap().broadcast_mul(&weight).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), want.to_vec2::<f32>().unwrap());
    let outer = Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
    let [got, want] = [y, want].map(|y| (y.t().unwrap() * &outer).unwrap().sum_all().unwrap());
    for var in [&x, &theta, &weight] {
        for (got, want) in gradient(&got, var).iter().zip(gradient(&want, var)) {
            assert!((got - want).abs() <= 1e-5 * want.abs(), "{got} {want}");
        }
    }
}

#[test]
fn two_uses_of_one_output_add_up() {
    let (x, theta, weight) = (var(&[1.0, 2.0]), var(&[1.0]), var(&[1.0]));
    let y = apply_stage(Cubic, &x, &theta, &weight).unwrap();
    let loss = (y.sum_all().unwrap() + (y.sum_all().unwrap() * 2.0).unwrap()).unwrap();
    assert_eq!(gradient(&loss, &x), [9.0, 36.0]);
    assert_eq!(gradient(&loss, &x), [9.0, 36.0], "backward again");
}

#[test]
fn only_tracked_arguments_get_gradients() {
    let x = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let (theta, weight) = (var(&[1.0]), Tensor::new(&[2f32], &Device::Cpu).unwrap());
    let y = apply_stage(Cubic, &x, &theta, &weight).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(gradients.get(&theta).unwrap().to_vec1::<f32>().unwrap(), [18.0]);
    assert!(gradients.get(&x).is_none() && gradients.get(&weight).is_none());
    assert!(!apply_stage(Cubic, &x, &theta.detach(), &weight).unwrap().track_op());
}

#[test]
fn unfit_arguments_are_refused_with_the_reason() {
    let x = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let wide = Tensor::new(&[1f64, 2.0], &Device::Cpu).unwrap();
    let message = apply_stage(Cubic, &wide, &x, &x).unwrap_err().to_string();
    assert_eq!(message, "apply_stage: input is a tensor of F64, expected one of F32");
    let message = apply_stage(Cubic, &x, &x, &x).unwrap_err().to_string();
    assert_eq!(message, "cubic: theta has shape [2], expected [1]");
}

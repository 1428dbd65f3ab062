//! The layer against candle's own ops, values and gradients, in training and evaluation.

use super::*;
use crate::batch_norm;
use crate::testing::{assert_close, numbers};
use candle_nn::VarMap;

struct Layer {
    unit: SepUnit,
    variables: VarMap,
    x: Var,
    config: SepUnitConfig,
}

fn layer(config: SepUnitConfig, size: (usize, usize)) -> Layer {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let unit = SepUnit::new(config, vb.pp("unit")).unwrap();
    let mut names: Vec<_> = variables.data().lock().unwrap().clone().into_iter().collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    for (seed, (name, var)) in names.into_iter().enumerate() {
        let mut values = numbers(var.elem_count(), seed as u64 + 1);
        if name.ends_with("running_var") {
            values.iter_mut().for_each(|v| *v = v.abs() + 0.5);
        }
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    let shape = (3, config.channels, size.0, size.1);
    let x = numbers(shape.0 * shape.1 * shape.2 * shape.3, 99);
    let x = Var::from_tensor(&Tensor::from_vec(x, shape, &Device::Cpu).unwrap()).unwrap();
    Layer { unit, variables, x, config }
}

impl Layer {
    fn var(&self, name: &str) -> Var {
        self.variables.data().lock().unwrap()[&format!("unit.{name}")].clone()
    }

    /// The same function out of candle's ops; also the batch's mean and biased variance.
    fn slow(&self, train: bool) -> candle_core::Result<(Tensor, Tensor, Tensor)> {
        let SepUnitConfig { channels, kernel, stride, dilation, affine, .. } = self.config;
        let padding = dilation * (kernel - 1) / 2;
        let z = self.x.relu()?.conv2d(&self.var("depthwise.weight"), padding, stride, dilation, channels)?;
        let z = z.conv2d(&self.var("pointwise.weight"), 0, 1, 1, 1)?;
        let over = |t: &Tensor| t.mean_keepdim(0)?.mean_keepdim(2)?.mean_keepdim(3);
        let per_channel = |t: &Tensor| t.reshape((1, (), 1, 1));
        let (mean, var) = if train {
            let mean = over(&z)?;
            let var = over(&z.broadcast_sub(&mean)?.sqr()?)?;
            (mean, var)
        } else {
            (per_channel(&self.var("norm.running_mean"))?, per_channel(&self.var("norm.running_var"))?)
        };
        let mut y = z.broadcast_sub(&mean)?.broadcast_div(&(&var + batch_norm::EPS)?.sqrt()?)?;
        if affine {
            y = y.broadcast_mul(&per_channel(&self.var("norm.weight"))?)?;
            y = y.broadcast_add(&per_channel(&self.var("norm.bias"))?)?;
        }
        Ok((y, mean.flatten_all()?, var.flatten_all()?))
    }

    fn parameters(&self) -> Vec<(&'static str, Var)> {
        let mut names = vec!["depthwise.weight", "pointwise.weight"];
        if self.config.affine {
            names.extend(["norm.weight", "norm.bias"]);
        }
        names.into_iter().map(|name| (name, self.var(name))).chain([("x", self.x.clone())]).collect()
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn configs() -> Vec<SepUnitConfig> {
    let base = SepUnitConfig { channels: 5, ..Default::default() };
    vec![
        base,
        SepUnitConfig { out_channels: Some(7), kernel: 5, affine: false, ..base },
        SepUnitConfig { channels: 4, dilation: 2, ..base },
        SepUnitConfig { channels: 16, stride: 2, ..base },
    ]
}

#[test]
fn outputs_and_gradients_match_candle() {
    for config in configs() {
        for train in [true, false] {
            let layer = layer(config, (6, 8));
            let (want, ..) = layer.slow(train).unwrap();
            let y = layer.unit.forward_t(&layer.x, train).unwrap();
            assert_eq!(y.dims(), want.dims());
            assert_close(&floats(&y), &floats(&want), 2e-5, &format!("{config:?} train {train}"));
            let weights = numbers(want.elem_count(), 7);
            let weights = Tensor::from_vec(weights, want.shape(), &Device::Cpu).unwrap();
            let [got, want] = [y, want].map(|y| (y * &weights).unwrap().sum_all().unwrap().backward().unwrap());
            for (name, var) in layer.parameters() {
                let [got, want] = [&got, &want].map(|gradients| floats(gradients.get(&var).unwrap()));
                // Sums of up to 144 terms, some of which cancel in the norm's backward.
                assert_close(&got, &want, 1e-4, &format!("d {name}, {config:?} train {train}"));
            }
        }
    }
}

#[test]
fn training_updates_running_statistics_and_evaluation_does_not() {
    let layer = layer(SepUnitConfig { channels: 5, ..Default::default() }, (4, 6));
    let before = ["norm.running_mean", "norm.running_var"].map(|name| floats(&layer.var(name)));
    layer.unit.forward_t(&layer.x, false).unwrap();
    assert_eq!(floats(&layer.var("norm.running_mean")), before[0]);
    layer.unit.forward_t(&layer.x, true).unwrap();
    let (_, mean, var) = layer.slow(true).unwrap();
    let count = (3 * 4 * 6) as f32;
    let unbiased = (var * f64::from(count / (count - 1.0))).unwrap();
    for (name, before, batch) in [("norm.running_mean", &before[0], mean), ("norm.running_var", &before[1], unbiased)] {
        let want: Vec<f32> = before.iter().zip(floats(&batch)).map(|(old, new)| 0.9 * old + 0.1 * new).collect();
        assert_close(&floats(&layer.var(name)), &want, 1e-5, name);
    }
}

#[test]
fn a_transposed_input_is_taken_as_it_is_seen() {
    let layer = layer(SepUnitConfig { channels: 6, ..Default::default() }, (6, 6));
    let swapped = layer.x.transpose(2, 3).unwrap();
    let got = layer.unit.forward_t(&swapped, false).unwrap();
    let want = layer.unit.forward_t(&swapped.contiguous().unwrap(), false).unwrap();
    assert_eq!(floats(&got), floats(&want));
}

#[test]
fn unfit_settings_and_inputs_are_refused_with_the_reason() {
    let vb = |dtype| VarBuilder::from_varmap(&VarMap::new(), dtype, &Device::Cpu);
    let config = SepUnitConfig::default();
    let refusal = |config, dtype| SepUnit::new(config, vb(dtype)).unwrap_err().to_string();
    let message = refusal(SepUnitConfig { kernel: 4, ..config }, DType::F32);
    assert_eq!(message, "SepUnit::new: kernel is 4, expected an odd number");
    let message = refusal(SepUnitConfig { stride: 0, ..config }, DType::F32);
    assert_eq!(message, "SepUnit::new: stride is 0, expected 1 or more");
    assert_eq!(refusal(config, DType::F64), "SepUnit::new: dtype is F64, expected F32");
    let unit = SepUnit::new(config, vb(DType::F32)).unwrap();
    let x = Tensor::zeros((1, 3, 4, 4), DType::F32, &Device::Cpu).unwrap();
    let message = unit.forward_t(&x, true).unwrap_err().to_string();
    assert_eq!(message, "SepUnit::forward_t: x has shape [1, 3, 4, 4], expected [N, 16, H, W]");
}

//! Layers for ordinary candle models, on NCHW tensors, made of this crate's kernels. Refuses to be a model zoo: what the
//! kernels are for is searching, and a layer is here if people use the unit on its own.

use crate::Error;
use crate::sep_unit::UnitShape;
use crate::stage::apply_stage;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, ModuleT, VarBuilder};
use std::sync::{Arc, Mutex};

mod stage;
#[cfg(test)]
mod tests;

use stage::{SepUnitStage, Statistics};

/// Sizes of a [`SepUnit`].
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct SepUnitConfig {
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output; none: as many.
    pub out_channels: Option<usize>,
    /// Rows and columns of the depthwise kernel; odd.
    pub kernel: usize,
    /// Stride of the depthwise convolution; the output has ⌈H/stride⌉ × ⌈W/stride⌉ pixels.
    pub stride: usize,
    /// Dilation of the depthwise convolution.
    pub dilation: usize,
    /// Whether the batch norm has a weight and a bias.
    pub affine: bool,
}

impl Default for SepUnitConfig {
    /// 16 channels, 3×3, stride 1, no dilation, affine.
    fn default() -> Self {
        Self { channels: 16, out_channels: None, kernel: 3, stride: 1, dilation: 1, affine: true }
    }
}

/// ReLU → depthwise convolution → pointwise convolution → batch norm: the unit that the operations of the DARTS search space are
/// made of, as a layer. Padding keeps the size at stride 1.
///
/// Parameters: `depthwise.weight` `[C, 1, k, k]`, `pointwise.weight` `[C', C, 1, 1]`, and `norm.{weight, bias, running_mean,
/// running_var}` `[C']`. In training the batch's own statistics normalize, and the running ones are updated in place
/// (0.9·former + 0.1·batch, with the unbiased variance); in evaluation the running ones normalize.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use darts_ops::layers::{SepUnit, SepUnitConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let unit = SepUnit::new(SepUnitConfig { channels: 4, kernel: 5, ..Default::default() }, vb.pp("unit"))?;
/// let x = Tensor::randn(0f32, 1.0, (2, 4, 8, 8), &Device::Cpu)?;
/// let y = unit.forward_t(&x, true)?; // an ordinary tensor, which backward() goes through
/// assert_eq!(y.dims(), [2, 4, 8, 8]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct SepUnit {
    shape: UnitShape,
    depthwise: Tensor,
    pointwise: Tensor,
    affine: Option<(Tensor, Tensor)>,
    running_mean: Var,
    running_var: Var,
    none: Tensor,
}

impl SepUnit {
    /// A unit whose parameters come from `vb`: new ones uniform in ±1/√fan_in, with a norm of weight 1, bias 0, mean 0, variance 1.
    ///
    /// # Errors
    /// If a size is 0, the kernel is even, or `vb` is not f32 on the CPU or lacks a parameter.
    pub fn new(config: SepUnitConfig, vb: VarBuilder) -> Result<Self, Error> {
        let SepUnitConfig { channels, out_channels, kernel, stride, dilation, affine } = config;
        let out = out_channels.unwrap_or(channels);
        let refuse = |what, actual, expected| Err(Error::Value { operation: "SepUnit::new", what, actual, expected });
        for (what, value) in [("channels", channels), ("out_channels", out), ("stride", stride), ("dilation", dilation)]
        {
            if value == 0 {
                return refuse(what, "0".to_owned(), "1 or more");
            }
        }
        if kernel % 2 == 0 {
            return refuse("kernel", kernel.to_string(), "an odd number");
        }
        if vb.dtype() != DType::F32 {
            return refuse("dtype", format!("{:?}", vb.dtype()), "F32");
        }
        if !vb.device().is_cpu() {
            return refuse("device", format!("{:?}", vb.device().location()), "the CPU");
        }
        let uniform = |fan_in: usize| {
            let bound = 1.0 / (fan_in as f64).sqrt();
            Init::Uniform { lo: -bound, up: bound }
        };
        let norm = vb.pp("norm");
        let constant = |name, value| norm.get_with_hints(out, name, Init::Const(value));
        Ok(Self {
            shape: UnitShape { kernel, stride, dilation, c_in: channels, c_out: out },
            depthwise: vb.get_with_hints(
                (channels, 1, kernel, kernel),
                "depthwise.weight",
                uniform(kernel * kernel),
            )?,
            pointwise: vb.get_with_hints((out, channels, 1, 1), "pointwise.weight", uniform(channels))?,
            affine: if affine { Some((constant("weight", 1.0)?, constant("bias", 0.0)?)) } else { None },
            running_mean: Var::from_tensor(&constant("running_mean", 0.0)?)?,
            running_var: Var::from_tensor(&constant("running_var", 1.0)?)?,
            none: Tensor::zeros(0, DType::F32, &Device::Cpu)?,
        })
    }

    /// The layer's output; `train` chooses the statistics that normalize, and whether the running ones are updated.
    ///
    /// # Shapes
    /// `x` `[N, C, H, W]`; output `[N, C', ⌈H/stride⌉, ⌈W/stride⌉]` (a transposed view of channels-last memory).
    ///
    /// # Errors
    /// If `x` is not f32 on the CPU or has another number of dimensions or channels.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor, Error> {
        if x.rank() != 4 || x.dim(1)? != self.shape.c_in {
            let (actual, expected) = (x.dims().to_vec(), format!("[N, {}, H, W]", self.shape.c_in));
            return Err(Error::Shape { operation: "SepUnit::forward_t", what: "x", actual, expected });
        }
        let mut parameters = vec![self.depthwise.flatten_all()?, self.pointwise.flatten_all()?];
        if let Some((weight, bias)) = &self.affine {
            parameters.extend([weight.clone(), bias.clone()]);
        }
        let theta = Tensor::cat(&parameters, 0)?;
        let running = [self.running_mean.to_vec1()?, self.running_var.to_vec1()?];
        let running = Arc::new(Mutex::new(running));
        let statistics = if train { Statistics::Batch(running.clone()) } else { Statistics::Running(running.clone()) };
        let stage = SepUnitStage { shape: self.shape, affine: self.affine.is_some(), statistics };
        let y = apply_stage(stage, &x.permute((0, 2, 3, 1))?, &theta, &self.none)?;
        if train {
            let [mean, var] = stage::lock(&running).clone();
            self.running_mean.set(&Tensor::new(mean, &Device::Cpu)?)?;
            self.running_var.set(&Tensor::new(var, &Device::Cpu)?)?;
        }
        Ok(y.permute((0, 3, 1, 2))?)
    }
}

impl ModuleT for SepUnit {
    fn forward_t(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        Self::forward_t(self, x, train).map_err(candle_core::Error::wrap)
    }
}

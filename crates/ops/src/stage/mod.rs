//! Explicit forward and backward as one differentiable candle op: the bridge between kernels that write into plain slices and
//! candle's autograd. Refuses to know what a stage computes, and to run on anything but f32 in CPU memory.
//!
//! A [`Stage`] maps (input, θ, operation weights) to one output. Everything else it needs (mode, masks, targets) is a field
//! of the value that implements the trait; several outputs are packed into one and handed out as narrowed views.
//! [`apply_stage`] makes a candle op of it: backward runs once per use of the output's gradient, and computes gradients for those of
//! the three arguments that candle tracks, for no others.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use darts_ops::stage::{Arguments, Stage, StageGradients, apply_stage};
//!
//! /// y = θ·x, for one θ.
//! struct Scale;
//!
//! impl Stage for Scale {
//!     type State = ();
//!     fn name(&self) -> &'static str {
//!         "scale"
//!     }
//!     fn output_shape(&self, arguments: &Arguments) -> Result<Vec<usize>, darts_ops::Error> {
//!         Ok(arguments.input_shape.to_vec())
//!     }
//!     fn forward(&self, arguments: &Arguments, output: &mut [f32]) -> candle_core::Result<()> {
//!         output.iter_mut().zip(arguments.input).for_each(|(y, x)| *y = arguments.theta[0] * x);
//!         Ok(())
//!     }
//!     fn backward(
//!         &self,
//!         arguments: &Arguments,
//!         _: &mut (),
//!         d_output: &[f32],
//!         gradients: StageGradients,
//!     ) -> candle_core::Result<()> {
//!         if let Some(theta) = gradients.theta {
//!             theta[0] = d_output.iter().zip(arguments.input).map(|(d, x)| d * x).sum();
//!         }
//!         if let Some(input) = gradients.input {
//!             input.iter_mut().zip(d_output).for_each(|(dx, d)| *dx = arguments.theta[0] * d);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), darts_ops::Error> {
//! let theta = Var::new(&[3f32], &Device::Cpu)?;
//! let x = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;
//! let none = Tensor::new(&[] as &[f32], &Device::Cpu)?;
//! let y = apply_stage(Scale, &x, theta.as_tensor(), &none)?;
//! let gradients = y.sum_all()?.backward()?;
//! assert_eq!(gradients.get(&theta).map(|g| g.to_vec1::<f32>()).transpose()?, Some(vec![3.0]));
//! # Ok(()) }
//! ```

use crate::Error;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Storage, Tensor};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(test)]
mod tests;

/// What a stage reads.
#[derive(Debug, Copy, Clone)]
pub struct Arguments<'a> {
    /// Images, hidden states or whatever the stage is a function of; contiguous.
    pub input: &'a [f32],
    /// Shape of `input`.
    pub input_shape: &'a [usize],
    /// θ, flattened.
    pub theta: &'a [f32],
    /// Operation weights, flattened; empty where a stage has none.
    pub weights: &'a [f32],
}

/// Where a stage's backward puts the gradients that are wanted; each is to be overwritten.
#[derive(Debug)]
pub struct StageGradients<'a> {
    /// With respect to the input.
    pub input: Option<&'a mut [f32]>,
    /// With respect to θ.
    pub theta: Option<&'a mut [f32]>,
    /// With respect to the operation weights.
    pub weights: Option<&'a mut [f32]>,
}

/// A differentiable map with its backward written out.
pub trait Stage: Send + Sync + 'static {
    /// What backward needs of forward beside the arguments.
    type State: Send + 'static;

    /// Name in errors of candle.
    fn name(&self) -> &'static str;

    /// Shape of the output.
    ///
    /// # Errors
    /// If the arguments do not fit the stage.
    fn output_shape(&self, arguments: &Arguments) -> Result<Vec<usize>, Error>;

    /// Writes the output (every element).
    ///
    /// # Errors
    /// Whatever stands in the way; errors of other libraries go through [`candle_core::Error::wrap`].
    fn forward(&self, arguments: &Arguments, output: &mut [f32]) -> candle_core::Result<Self::State>;

    /// Gradients of Σ output·d_output. May be called several times for one forward.
    ///
    /// # Errors
    /// As [`Stage::forward`].
    fn backward(
        &self,
        arguments: &Arguments,
        state: &mut Self::State,
        d_output: &[f32],
        gradients: StageGradients,
    ) -> candle_core::Result<()>;
}

/// The output of `stage` as a tensor that backward goes through.
///
/// Arguments of any layout are taken; they are copied if they are not contiguous. Changing one in place before backward changes
/// the gradients, as with candle's own ops.
///
/// # Errors
/// If an argument is not f32 on the CPU, or does not fit the stage.
pub fn apply_stage<S: Stage>(stage: S, input: &Tensor, theta: &Tensor, weights: &Tensor) -> Result<Tensor, Error> {
    for (what, tensor) in [("input", input), ("theta", theta), ("weights", weights)] {
        let refuse = |what, actual, expected| Err(Error::Value { operation: "apply_stage", what, actual, expected });
        if tensor.dtype() != DType::F32 {
            return refuse(what, format!("a tensor of {:?}", tensor.dtype()), "one of F32");
        }
        if !tensor.device().is_cpu() {
            return refuse(what, format!("a tensor on {:?}", tensor.device().location()), "one on the CPU");
        }
    }
    let tracked = [input, theta, weights].map(Tensor::track_op);
    let (input, theta, weights) = (input.contiguous()?, theta.contiguous()?, weights.contiguous()?);
    let shape = with_arguments([&input, &theta, &weights], |arguments| stage.output_shape(arguments))??;
    let op = StageOp { stage, shape, tracked, state: Mutex::new(None) };
    Ok(input.apply_op3(&theta, &weights, op)?)
}

/// One call of a stage, as candle keeps it in its graph.
struct StageOp<S: Stage> {
    stage: S,
    shape: Vec<usize>,
    tracked: [bool; 3],
    state: Mutex<Option<S::State>>,
}

impl<S: Stage> StageOp<S> {
    fn state(&self) -> MutexGuard<'_, Option<S::State>> {
        // A panic in a stage leaves the last complete state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Stage> CustomOp3 for StageOp<S> {
    fn name(&self) -> &'static str {
        self.stage.name()
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        theta: &CpuStorage,
        theta_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let arguments = Arguments {
            input: floats(input, input_layout)?,
            input_shape: input_layout.dims(),
            theta: floats(theta, theta_layout)?,
            weights: floats(weights, weights_layout)?,
        };
        let mut output = vec![0.0; self.shape.iter().product()];
        *self.state() = Some(self.stage.forward(&arguments, &mut output)?);
        Ok((CpuStorage::F32(output), Shape::from(self.shape.clone())))
    }

    fn bwd(
        &self,
        input: &Tensor,
        theta: &Tensor,
        weights: &Tensor,
        _: &Tensor,
        d_output: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let arguments = [input, theta, weights];
        let mut gradients: [Option<Vec<f32>>; 3] =
            std::array::from_fn(|i| self.tracked[i].then(|| vec![0.0; arguments[i].elem_count()]));
        let d_output = d_output.contiguous()?;
        let (storage, layout) = d_output.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("{}: the gradient is not in CPU memory", self.name())
        };
        let d_output = floats(storage, layout)?;
        let mut state = self.state();
        let Some(state) = state.as_mut() else { candle_core::bail!("{}: backward without a forward", self.name()) };
        let [d_input, d_theta, d_weights] = gradients.each_mut().map(|gradient| gradient.as_deref_mut());
        let wanted = StageGradients { input: d_input, theta: d_theta, weights: d_weights };
        with_arguments(arguments, |arguments| self.stage.backward(arguments, state, d_output, wanted))??;

        let [d_input, d_theta, d_weights] = gradients;
        let tensor = |gradient: Option<Vec<f32>>, like: &Tensor| {
            gradient.map(|gradient| Tensor::from_vec(gradient, like.shape(), like.device())).transpose()
        };
        Ok((tensor(d_input, input)?, tensor(d_theta, theta)?, tensor(d_weights, weights)?))
    }
}

/// Calls `action` with the floats of three contiguous CPU tensors.
fn with_arguments<R>(tensors: [&Tensor; 3], action: impl FnOnce(&Arguments) -> R) -> candle_core::Result<R> {
    let [input, theta, weights] = tensors.map(Tensor::storage_and_layout);
    let (Storage::Cpu(a), Storage::Cpu(b), Storage::Cpu(c)) = (&*input.0, &*theta.0, &*weights.0) else {
        candle_core::bail!("a stage's arguments are not in CPU memory")
    };
    Ok(action(&Arguments {
        input: floats(a, input.1)?,
        input_shape: input.1.dims(),
        theta: floats(b, theta.1)?,
        weights: floats(c, weights.1)?,
    }))
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a stage's argument is not contiguous: {layout:?}")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

//! Flat vectors: one-dimensional f32 candle tensors with fused in-place arithmetic.
//!
//! A network's parameters are one flat vector, so clipping, an optimizer's step, `w ± ε·v` or a checkpoint is one
//! pass over one buffer. [`Vector`] is the owner of such a buffer; the kernels are its methods, the plain loops
//! they are tested against are in `reference`, the CPU loops in `cpu`.
//!
//! * Every mutation takes `&mut self` and every vector owns its storage alone, so no kernel ever sees an alias and
//!   no lock is ever taken twice.
//! * Results do not depend on the number of threads: elementwise kernels have no order to lose, and sums are taken
//!   in f64 over blocks of [`BLOCK`] elements, added up in the order of the blocks.
//! * Scalars are passed in f64 and rounded to f32 once.
//!
//! What it refuses to do: shapes, broadcasting, other dtypes, gradients. It is not a tensor library, it is what a
//! training loop does to a parameter vector. Kernels exist for the CPU; on another device they return
//! [`Error::Device`].
//!
//! ```
//! use candle_core::Device;
//! use darts_ops::vector::Vector;
//!
//! # fn main() -> Result<(), darts_ops::vector::Error> {
//! let mut w = Vector::from_slice(&[3.0, 4.0], &Device::Cpu)?;
//! let g = Vector::from_slice(&[1.0, 1.0], &Device::Cpu)?;
//! assert_eq!(w.norm2()?, 5.0);
//! w.axpy(-0.5, &g)?;
//! assert_eq!(w.to_vec()?, [2.5, 3.5]);
//! # Ok(())
//! # }
//! ```

mod cpu;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor};

/// Elements of a block: the unit of parallel work, and of the f64 partial sums of [`Vector::dot`] and
/// [`Vector::norm2`]. It is part of the result of a sum, so it depends on nothing.
pub const BLOCK: usize = 1 << 15;

/// Why an operation on a [`Vector`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two vectors, or a vector and a slice, of different lengths.
    #[error("{operation}: expected a vector of {expected} elements, got one of {found}")]
    Length {
        /// The method that was called.
        operation: &'static str,
        /// Length of the vector that the method was called on.
        expected: usize,
        /// Length of the argument.
        found: usize,
    },
    /// A tensor that is not one-dimensional f32.
    #[error("Vector::from_tensor: expected a one-dimensional f32 tensor, got {dtype:?} of shape {shape:?}")]
    NotFlat {
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A vector whose device has no kernel for the operation.
    #[error("{operation}: expected a vector on the CPU, got one on {location}")]
    Device {
        /// The method that was called.
        operation: &'static str,
        /// Where the vector is.
        location: String,
    },
    /// candle failed: memory could not be had, or a copy between devices failed.
    #[error("{operation}: {source}")]
    Candle {
        /// The method that was called.
        operation: &'static str,
        /// What candle says.
        source: candle_core::Error,
    },
}

/// Coefficients of one step of stochastic gradient descent,
/// `d = momentum·buffer + coefficient·g + weight_decay·w`, `w ← w − learning_rate·d`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// What is kept of the buffer. Ignored where there is no buffer.
    pub momentum: f64,
    /// What the gradient is multiplied with before weight decay is added: a clip coefficient, or 1.
    pub coefficient: f64,
    /// Weight decay (coupled L2), not subject to the clip coefficient.
    pub weight_decay: f64,
    /// Step size.
    pub learning_rate: f64,
}

/// Coefficients of one step of Adam with coupled L2 ([`Vector::adam_step`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Step size.
    pub learning_rate: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// L2 coefficient: `weight_decay·w` is added to the gradient.
    pub weight_decay: f64,
    /// This step's number, from 1: the exponent of the bias correction.
    pub step: u64,
}

/// A one-dimensional, contiguous f32 tensor that owns its storage.
///
/// # Shapes
/// `[len]`. Vectors that meet in an operation have one length and one device.
///
/// # Errors
/// Every method that takes another vector or a slice returns [`Error::Length`] where lengths differ, and every
/// kernel returns [`Error::Device`] off the CPU; the vectors are then as before.
#[derive(Debug)]
pub struct Vector {
    tensor: Tensor,
}

impl Vector {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`Error::Candle`] where the device has no memory for it.
    pub fn zeros(len: usize, device: &Device) -> Result<Self, Error> {
        let tensor = candle("Vector::zeros", Tensor::zeros(len, DType::F32, device))?;
        Ok(Self { tensor })
    }

    /// A copy of `values` on `device`.
    ///
    /// # Errors
    /// [`Error::Candle`] where the device has no memory for it.
    pub fn from_slice(values: &[f32], device: &Device) -> Result<Self, Error> {
        let tensor = candle("Vector::from_slice", Tensor::from_slice(values, values.len(), device))?;
        Ok(Self { tensor })
    }

    /// `values` on `device`; on the CPU without a copy.
    ///
    /// # Errors
    /// [`Error::Candle`] where the device has no memory for it.
    pub fn from_vec(values: Vec<f32>, device: &Device) -> Result<Self, Error> {
        let len = values.len();
        let tensor = candle("Vector::from_vec", Tensor::from_vec(values, len, device))?;
        Ok(Self { tensor })
    }

    /// A copy of a one-dimensional f32 tensor. (A copy because a vector owns its storage alone.)
    ///
    /// # Errors
    /// [`Error::NotFlat`] for another rank or dtype, [`Error::Candle`] where the device has no memory for it.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self, Error> {
        if tensor.dtype() != DType::F32 || tensor.rank() != 1 {
            return Err(Error::NotFlat { dtype: tensor.dtype(), shape: tensor.dims().to_vec() });
        }
        let tensor = candle("Vector::from_tensor", tensor.force_contiguous())?;
        Ok(Self { tensor: tensor.detach() })
    }

    /// A second vector with the same elements.
    ///
    /// # Errors
    /// [`Error::Candle`] where the device has no memory for it.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let tensor = candle("Vector::try_clone", self.tensor.copy())?;
        Ok(Self { tensor: tensor.detach() })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.tensor.elem_count()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the elements are.
    pub fn device(&self) -> &Device {
        self.tensor.device()
    }

    /// The tensor itself. A clone of it shares the storage: it sees every later change of this vector.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The elements, copied to the host.
    ///
    /// # Errors
    /// [`Error::Candle`] where the copy from the device fails.
    pub fn to_vec(&self) -> Result<Vec<f32>, Error> {
        candle("Vector::to_vec", self.tensor.to_vec1())
    }

    /// Calls `f` on the elements, in place on the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] off the CPU.
    pub fn read<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R, Error> {
        self.read_for("Vector::read", f)
    }

    /// Calls `f` on the elements, which it may change in place, on the CPU.
    ///
    /// # Errors
    /// [`Error::Device`] off the CPU.
    pub fn write<R>(&mut self, f: impl FnOnce(&mut [f32]) -> R) -> Result<R, Error> {
        self.write_for("Vector::write", f)
    }

    /// `self ← source`, bit for bit.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn copy_from(&mut self, source: &Vector) -> Result<(), Error> {
        const OP: &str = "Vector::copy_from";
        self.same_length(OP, source)?;
        source.read_for(OP, |source| self.write_for(OP, |out| cpu::copy(out, source)))?
    }

    /// `self ← values`, bit for bit.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn copy_from_slice(&mut self, values: &[f32]) -> Result<(), Error> {
        const OP: &str = "Vector::copy_from_slice";
        length(OP, self.len(), values.len())?;
        self.write_for(OP, |out| cpu::copy(out, values))
    }

    /// `self ← value` everywhere.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn fill(&mut self, value: f32) -> Result<(), Error> {
        self.write_for("Vector::fill", |out| cpu::fill(out, value))
    }

    /// `self ← factor·self`.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn scale(&mut self, factor: f64) -> Result<(), Error> {
        self.write_for("Vector::scale", |out| cpu::scale(out, factor as f32))
    }

    /// `self ← self + factor·x`.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn axpy(&mut self, factor: f64, x: &Vector) -> Result<(), Error> {
        const OP: &str = "Vector::axpy";
        self.same_length(OP, x)?;
        x.read_for(OP, |x| self.write_for(OP, |out| cpu::axpy(out, factor as f32, x)))?
    }

    /// `self ← self + factor·(x − y)`, the difference taken first: the rounding errors of two nearly equal vectors
    /// are not scaled up by a large factor (a finite difference).
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn add_scaled_difference(&mut self, factor: f64, x: &Vector, y: &Vector) -> Result<(), Error> {
        const OP: &str = "Vector::add_scaled_difference";
        self.same_length(OP, x)?;
        self.same_length(OP, y)?;
        x.read_for(OP, |x| {
            y.read_for(OP, |y| self.write_for(OP, |out| cpu::add_scaled_difference(out, factor as f32, x, y)))
        })??
    }

    /// `self ← point + factor·direction`.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn perturb_from(&mut self, point: &Vector, factor: f64, direction: &Vector) -> Result<(), Error> {
        const OP: &str = "Vector::perturb_from";
        self.same_length(OP, point)?;
        self.same_length(OP, direction)?;
        point.read_for(OP, |point| {
            direction
                .read_for(OP, |direction| self.write_for(OP, |out| cpu::perturb(out, point, factor as f32, direction)))
        })??
    }

    /// `Σ selfᵢ·xᵢ`, in f64 over fixed blocks.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn dot(&self, x: &Vector) -> Result<f64, Error> {
        const OP: &str = "Vector::dot";
        self.same_length(OP, x)?;
        self.read_for(OP, |a| x.read_for(OP, |b| cpu::dot(a, b)))?
    }

    /// The Euclidean norm `√(Σ selfᵢ²)`, in f64 over fixed blocks. Not finite exactly if an element is not.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn norm2(&self) -> Result<f64, Error> {
        self.read_for("Vector::norm2", |a| cpu::dot(a, a).sqrt())
    }

    /// One step of SGD on these weights:
    /// `buffer ← momentum·buffer + coefficient·g + weight_decay·self`, `self ← self − learning_rate·buffer`.
    /// Without a buffer the sum is used as it is.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn sgd_step(&mut self, buffer: Option<&mut Vector>, gradient: &Vector, step: SgdStep) -> Result<(), Error> {
        const OP: &str = "Vector::sgd_step";
        self.same_length(OP, gradient)?;
        if let Some(buffer) = &buffer {
            self.same_length(OP, buffer)?;
        }
        gradient.read_for(OP, |g| {
            self.write_for(OP, |w| match buffer {
                Some(buffer) => buffer.write_for(OP, |b| cpu::sgd_momentum(w, b, g, step)),
                None => {
                    cpu::sgd(w, g, step);
                    Ok(())
                }
            })
        })??
    }

    /// What [`Vector::sgd_step`] would make of `weights`, written here, with weights and buffer left as they are:
    /// `self ← weights − learning_rate·(momentum·buffer + coefficient·g + weight_decay·weights)`.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn virtual_step_from(
        &mut self,
        weights: &Vector,
        buffer: Option<&Vector>,
        gradient: &Vector,
        step: SgdStep,
    ) -> Result<(), Error> {
        const OP: &str = "Vector::virtual_step_from";
        self.same_length(OP, weights)?;
        self.same_length(OP, gradient)?;
        if let Some(buffer) = buffer {
            self.same_length(OP, buffer)?;
        }
        gradient.read_for(OP, |g| {
            weights.read_for(OP, |w| {
                self.write_for(OP, |out| match buffer {
                    Some(buffer) => buffer.read_for(OP, |b| cpu::virtual_step(out, w, Some(b), g, step)),
                    None => {
                        cpu::virtual_step(out, w, None, g, step);
                        Ok(())
                    }
                })
            })
        })???
    }

    /// One step of Adam with coupled L2 on these weights, moments updated in place:
    /// `d = g + weight_decay·self`, `m ← β₁·m + (1 − β₁)·d`, `v ← β₂·v + (1 − β₂)·d²`,
    /// `self ← self − learning_rate/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)`.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn adam_step(
        &mut self,
        first_moment: &mut Vector,
        second_moment: &mut Vector,
        gradient: &Vector,
        step: AdamStep,
    ) -> Result<(), Error> {
        const OP: &str = "Vector::adam_step";
        self.same_length(OP, first_moment)?;
        self.same_length(OP, second_moment)?;
        self.same_length(OP, gradient)?;
        gradient.read_for(OP, |g| {
            self.write_for(OP, |w| {
                first_moment.write_for(OP, |m| second_moment.write_for(OP, |v| cpu::adam(w, m, v, g, step)))
            })
        })???
    }

    /// `self ← self + rate·(value − self)`: one update of a running average. A rate of 1 is a copy, bit for bit.
    ///
    /// # Errors
    /// See [`Vector`].
    pub fn average_towards(&mut self, rate: f64, value: &Vector) -> Result<(), Error> {
        const OP: &str = "Vector::average_towards";
        self.same_length(OP, value)?;
        if rate == 1.0 {
            return self.copy_from(value);
        }
        value.read_for(OP, |value| self.write_for(OP, |out| cpu::average(out, rate as f32, value)))?
    }

    fn same_length(&self, operation: &'static str, other: &Vector) -> Result<(), Error> {
        length(operation, self.len(), other.len())
    }

    fn on_cpu(&self, operation: &'static str) -> Result<(), Error> {
        match self.device() {
            Device::Cpu => Ok(()),
            other => Err(Error::Device { operation, location: format!("{:?}", other.location()) }),
        }
    }

    fn read_for<R>(&self, operation: &'static str, f: impl FnOnce(&[f32]) -> R) -> Result<R, Error> {
        self.on_cpu(operation)?;
        let (storage, layout) = self.tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(Error::Device { operation, location: format!("{:?}", self.device().location()) });
        };
        Ok(f(&candle(operation, storage.as_slice())?[range(layout)]))
    }

    fn write_for<R>(&mut self, operation: &'static str, f: impl FnOnce(&mut [f32]) -> R) -> Result<R, Error> {
        self.on_cpu(operation)?;
        let op = WriteOp { operation, f: Cell::new(Some(f)), result: Cell::new(None) };
        candle(operation, self.tensor.inplace_op1(&op))?;
        op.result.into_inner().ok_or_else(|| Error::Candle {
            operation,
            source: candle_core::Error::msg("the in-place operation was not run"),
        })
    }
}

/// The in-place candle operation that hands a closure the elements: candle's only way to mutate a tensor.
struct WriteOp<F, R> {
    operation: &'static str,
    f: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<F: FnOnce(&mut [f32]) -> R, R> InplaceOp1 for WriteOp<F, R> {
    fn name(&self) -> &'static str {
        self.operation
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(data) = storage else {
            candle_core::bail!("{}: expected f32 storage", self.operation);
        };
        if let Some(f) = self.f.take() {
            self.result.set(Some(f(&mut data[range(layout)])));
        }
        Ok(())
    }
}

/// Where a contiguous layout's elements lie in its storage.
fn range(layout: &Layout) -> std::ops::Range<usize> {
    let start = layout.start_offset();
    start..start + layout.shape().elem_count()
}

fn length(operation: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Length { operation, expected, found }) }
}

fn candle<T>(operation: &'static str, result: candle_core::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Candle { operation, source })
}

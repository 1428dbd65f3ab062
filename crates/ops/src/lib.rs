//! Numerical kernels for differentiable architecture search.
//!
//! Kernels take plain slices of f32 in channels-last order `[N, H, W, C]`, write outputs that their caller owns, and
//! use all threads of the current rayon pool. They are deterministic: work is cut into pieces that depend on shapes
//! alone and partial sums are added in a fixed order, so results are the same bits for any number of threads. The
//! instruction set is chosen at run time ([`simd::InstructionSet`]).
//!
//! Three ways in: the kernels themselves ([`sep_unit`], [`conv`], [`pool`], [`mix`], [`batch_norm`], [`head`] and the recurrent ones),
//! composed over one [`Arena`] as a network does it; [`stage`], which makes a differentiable candle op of any such composition; and
//! [`layers`], ready-made layers for a candle model:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{VarBuilder, VarMap};
//! use darts_ops::layers::{SepUnit, SepUnitConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let unit = SepUnit::new(SepUnitConfig { channels: 4, ..Default::default() }, vb.pp("unit"))?;
//! let x = Tensor::randn(0f32, 1.0, (2, 4, 6, 6), &Device::Cpu)?;
//! let gradients = unit.forward_t(&x, true)?.sqr()?.sum_all()?.backward()?;
//! for (name, variable) in variables.data().lock().map_err(|_| "poisoned")?.iter() {
//!     println!("{name}: gradient {:?}", gradients.get(variable).map(|g| g.dims().to_vec()));
//! }
//! # Ok(()) }
//! ```
//!
//! A node of a cell, from its candidates' outputs (their batch norms folded into scale and shift):
//!
//! ```
//! use darts_ops::{Images, Write, mix};
//!
//! let images = Images { n: 1, h: 1, w: 2, c: 1 };
//! let term = |z, scale| mix::Term { z, scale, shift: Some(&[0.5]), sample_scale: None };
//! let mut node = [0.0; 2];
//! mix::forward(images, &[term(&[1.0, 2.0], &[2.0]), term(&[4.0, 8.0], &[0.25])], &mut node, Write::Overwrite);
//! assert_eq!(node, [4.0, 7.0]);
//! ```

mod ahead;
mod aligned;
pub mod arena;
pub mod batch_norm;
mod channels;
pub mod conv;
mod elementary;
pub mod embedding;
pub mod error;
pub mod head;
pub mod images;
pub mod layers;
pub mod matmul;
mod matrix;
pub mod mix;
pub mod pool;
pub mod profile;
pub mod recurrent_node;
pub mod regularizer;
pub mod roofline;
mod scratch;
pub mod sep_unit;
mod shared;
pub mod simd;
pub mod stage;
#[cfg(test)]
mod testing;
pub mod tied_decoder;
mod upstream;
pub mod vector;

pub use arena::{Arena, Plan, Slot};
pub use error::Error;
pub use images::{Affine, BnTerm, Images, Upstream, UpstreamTerm, Write};

//! Numerical kernels for differentiable architecture search.
//!
//! Kernels take plain slices of f32 in channels-last order `[N, H, W, C]`, write outputs that their caller owns, and
//! use all threads of the current rayon pool. They are deterministic: work is cut into pieces that depend on shapes
//! alone and partial sums are added in a fixed order, so results are the same bits for any number of threads. The
//! instruction set is chosen at run time ([`simd::InstructionSet`]).

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
pub mod recurrent_node;
pub mod regularizer;
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

//! CUDA kernels for differentiable architecture search, and the launches that put them to work.
//!
//! A pass on the device is data. Every operation has a folder: `kernels.cu`, its device code, and `mod.rs`, whose
//! functions take [`View`]s of device memory in the argument order of the CPU kernel of the same name and push
//! [`Launch`]es on a [`Program`]. A program is laid down once, from a network's plan, and run step after step on a
//! [`Backend`]: one launch after the other, or captured as a graph; the launches are the same. So nothing in it depends
//! on a value that the host would have to wait for: what changes from step to step (learning rate, step number, masks,
//! weights of a mixture) lies in device memory.
//!
//! To add an operation: a folder `src/<operation>/` with `mod.rs` and `kernels.cu`, a line in [`kernels::ALL`]. The build
//! scripts find the `.cu` file by themselves. `vector` is the example to copy.
//!
//! What this crate refuses to do: host arithmetic, memory of its own, knowledge of networks. It depends on no other
//! crate of the workspace.
//!
//! ```
//! use darts_cuda::{Program, View, vector};
//!
//! let (x, y, factor) = (View::at(0x1000, 300), View::at(0x2000, 300), View::<f64>::at(0x3000, 1));
//! let mut program = Program::default();
//! vector::axpy(&mut program, y, factor, x);
//! assert_eq!(program.launches[0].kernel.name, "vector_axpy");
//! ```

pub mod augment;
pub mod backend;
pub mod batch_norm;
mod channels;
pub mod conv;
#[cfg(feature = "cuda")]
pub mod driver;
pub mod elementwise;
pub mod embedding;
pub mod error;
pub mod fill;
pub mod fold;
pub mod head;
pub mod hidden_state;
pub mod images;
pub mod kernels;
pub mod matmul;
pub mod mix;
mod pod;
pub mod pool;
pub mod precision;
mod presence;
pub mod program;
mod quads;
pub mod recurrent_node;
pub mod regularizer;
pub mod relaxation;
pub mod sep_unit;
pub mod tied_decoder;
pub mod vector;
pub mod view;

pub use backend::{Backend, Memory, Recording};
pub use error::{Error, Result};
pub use images::{Affine, BnTerm, Images, Upstream, UpstreamTerm, Write};
pub use pod::Pod;
pub use precision::Precision;
pub use presence::driver_is_present;
pub use program::{Kernel, Launch, Program, blocks};
pub use view::View;

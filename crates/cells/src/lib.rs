//! Genotypes, search spaces, supernets and discrete networks of DARTS (Liu, Simonyan, Yang, ICLR 2019, arXiv 1806.09055).
//!
//! A search space says which operations compete on which edges, a relaxation turns α into operation weights, and a genotype is
//! the discrete cell that α stands for:
//!
//! ```
//! use darts_cells::{genotype::Genotype, space::ConvSpace};
//!
//! let space = ConvSpace::darts();
//! let genotype = space.derive(&space.initial_alphas(0))?;
//! println!("{genotype}"); // Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=range(2, 6), …)
//! let read: Genotype = genotype.to_string().parse()?;
//! assert_eq!(read, genotype.into());
//! # Ok::<(), darts_cells::Error>(())
//! ```
//!
//! The crate trains nothing: optimizers and the bilevel problem are in darts-bilevel, data in darts-data, runs in darts-runs.

pub mod conv;
pub mod derive;
#[cfg(feature = "cuda")]
mod device;
mod error;
pub mod genotype;
pub mod parameters;
pub mod primitive;
mod random;
pub mod recurrent;
pub mod relaxation;
pub mod space;

pub use error::{Error, Result};

/// Runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

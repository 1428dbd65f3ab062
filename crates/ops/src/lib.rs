//! darts-ops

pub mod vector;

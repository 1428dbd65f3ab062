//! darts-runs
pub mod report;

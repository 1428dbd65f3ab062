//! darts-runs

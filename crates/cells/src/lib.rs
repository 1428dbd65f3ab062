//! darts-cells

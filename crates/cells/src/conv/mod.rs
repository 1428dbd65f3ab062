//! Convolutional search cells, discrete cells and the networks made of them, as stages with explicit forward and backward
//! passes over one planned arena. Nothing here draws random numbers or reads files.

mod build;
mod cell;
mod convolution;
#[cfg(feature = "cuda")]
mod device;
mod graph;
mod head;
mod module;
mod network;
mod norm;
mod operation;
mod pass;
mod preprocess;
mod single;
mod stem;

#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub use crate::device::DeviceStatistics;
#[cfg(feature = "cuda")]
pub use device::{
    DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceConvPlan, DeviceOperation, DeviceOperationPass,
    OperationGradients,
};
pub use module::{ConvModule, Mode};
pub use network::{ConvNetwork, LossConfig, LossOutput, NetworkConfig, Stem};
pub use pass::{ForwardInput, Gradients, Statistics, Workspace};
pub use single::{ConvOperation, SingleOperation};

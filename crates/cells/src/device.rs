//! What passes of all networks on a device have in common.

use darts_cuda::View;

/// Which statistics batch norm uses.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum DeviceStatistics {
    /// Those of each call's own batch.
    Batch {
        /// Running statistics, as the network's table lays them out: moved towards the batch's where they are given. A recurrent
        /// network does so nodes + 1 times per time step, in the order of computation.
        update: Option<View>,
    },
    /// The running ones.
    Running(View),
}

//! Images and convolutional networks on a GPU: the same data, drawn by the same generators, in runs that write the same files. What
//! it refuses is to compute anything on the host that depends on a weight, but for the scores of a validation.

pub(crate) mod feed;
pub(crate) mod search;
pub(crate) mod supernet;

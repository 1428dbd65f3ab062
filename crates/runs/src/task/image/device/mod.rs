//! Images and convolutional networks on a GPU.

pub(crate) mod feed;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod train;

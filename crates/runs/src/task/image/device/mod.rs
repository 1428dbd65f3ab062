//! Images and convolutional networks on a GPU.

pub(crate) mod feed;
pub(crate) mod score;
pub(crate) mod search;
pub(crate) mod train;

use darts_cuda::Precision;

use crate::error::{Error, Result};
use crate::options::RunOptions;

/// Refuses a precision that convolutional networks are not computed in.
pub(crate) fn check_precision(options: &RunOptions) -> Result<()> {
    if options.precision == Precision::F32 {
        return Ok(());
    }
    let value = format!("{:?}", options.precision).to_lowercase();
    Err(Error::Config { field: "precision", value, expected: "f32: only recurrent networks have others".into() })
}

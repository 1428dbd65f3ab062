//! Charts as SVG within the report's page: curves over epochs, and small multiples of operation weights.
//!
//! They are written by hand, because they take their colours from the page's stylesheet (light, dark, print) and label curves directly; a plotting library
//! would bake colours in. All sizes are in units of a view box that is about as wide as a phone, so that texts stay legible where a chart is scaled down.
//! Charts show what they are given; nothing is smoothed or left out here.

mod line;
mod scale;
mod weights;

pub(crate) use line::{Chart, Reference, Series};
pub(crate) use weights::{edge_panels, legend};

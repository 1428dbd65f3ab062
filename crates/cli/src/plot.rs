//! `darts plot`: a cell as a drawing, SVG or PNG by the file's ending.

use std::ffi::OsStr;
use std::fs;

use anyhow::Context as _;
use darts_runs::report::cell_drawing;

use crate::args::PlotArgs;
use crate::failure::{Result, failed, usage};
use crate::meant;

pub(crate) fn run(typed: &PlotArgs) -> Result<()> {
    let ending = typed.output.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let file = typed.output.display();
    if !matches!(ending.as_deref(), Some("svg" | "png")) {
        return Err(usage(format!("--output {file} is no drawing: expected a name that ends in .svg or .png")));
    }
    if !(0.1..=16.0).contains(&typed.scale) {
        return Err(usage(format!("--scale {} is not possible: expected a number from 0.1 to 16", typed.scale)));
    }
    let genotype = meant::genotype(&typed.genotype, typed.kind)?;
    let svg = cell_drawing::sheet(&genotype, Some(&typed.genotype));
    let bytes = match ending.as_deref() {
        Some("png") => cell_drawing::png(&svg, typed.scale).map_err(failed)?,
        _ => svg.into_bytes(),
    };
    fs::write(&typed.output, bytes).with_context(|| format!("cannot write {file}"))?;
    Ok(())
}

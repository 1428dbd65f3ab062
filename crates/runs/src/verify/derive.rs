//! The golden genotypes: α in, the cell that must be derived from it out, exactly. Random α, planted ties, rows where `none`
//! decides.

use std::path::Path;

use darts_cells::derive::{derive_conv, derive_recurrent};
use darts_cells::genotype::{ConvGenotype, RecurrentGenotype};
use darts_cells::primitive::{Activation, Primitive};
use darts_cells::space::{ConvSpace, RecurrentSpace};
use serde::Deserialize;

use super::VerifyError;
use super::compare::FileReport;
use super::file::read_json;

/// A file of cases that share their primitives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases<T> {
    primitives: Vec<String>,
    cases: Vec<T>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConvCase {
    note: String,
    alphas_normal: Vec<Vec<f32>>,
    alphas_reduce: Vec<Vec<f32>>,
    genotype: ConvGenotype,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecurrentCase {
    kind: String,
    alphas: Vec<Vec<f32>>,
    genotype: RecurrentGenotype,
}

/// Checks a `derive_conv*.json`.
///
/// # Errors
/// A file that cannot be read or does not hold such cases; α whose shape belongs to no search space.
pub fn conv(path: &Path) -> Result<FileReport, VerifyError> {
    let file: Cases<ConvCase> = read_json(path)?;
    let primitives: Vec<Primitive> =
        file.primitives.iter().map(|name| Primitive::from_name(name)).collect::<Result<_, _>>()?;
    let mut report = FileReport::new(path);
    for (i, case) in file.cases.iter().enumerate() {
        let rows = case.alphas_normal.len();
        let nodes = smallest(rows, &|nodes| ConvSpace { nodes, primitives: Vec::new() }.edges());
        let space = ConvSpace { nodes, primitives: primitives.clone() };
        let derived = derive_conv(&case.alphas_normal.concat(), &case.alphas_reduce.concat(), &space)?;
        let key = format!("case {i} ({})", case.note);
        report.exact(&key, 1, difference(&derived, &case.genotype));
    }
    Ok(report)
}

/// Checks a `derive_recurrent*.json`.
///
/// # Errors
/// A file that cannot be read or does not hold such cases; α whose shape belongs to no search space.
pub fn recurrent(path: &Path) -> Result<FileReport, VerifyError> {
    let file: Cases<RecurrentCase> = read_json(path)?;
    let activations: Vec<Activation> =
        file.primitives.iter().map(|name| Activation::from_name(name)).collect::<Result<_, _>>()?;
    let mut report = FileReport::new(path);
    for (i, case) in file.cases.iter().enumerate() {
        let nodes = smallest(case.alphas.len(), &|nodes| RecurrentSpace { nodes, activations: Vec::new() }.edges());
        let space = RecurrentSpace { nodes, activations: activations.clone() };
        let derived = derive_recurrent(&case.alphas.concat(), &space)?;
        let key = format!("case {i} ({})", case.kind);
        report.exact(&key, 1, difference(&derived, &case.genotype));
    }
    Ok(report)
}

/// The smallest number of nodes whose edges are at least `rows` in number: a wrong number of rows is then found as one.
fn smallest(rows: usize, edges: &dyn Fn(usize) -> usize) -> usize {
    (0..=rows).find(|&nodes| edges(nodes) >= rows).unwrap_or(rows)
}

fn difference<T: PartialEq + std::fmt::Debug>(derived: &T, expected: &T) -> Option<String> {
    (derived != expected).then(|| format!("derived {derived:?}, expected {expected:?}"))
}

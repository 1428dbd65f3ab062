//! From α to the cell it stands for (section 2.4 of the paper). Every decision compares softmax weights in f64, and a tie always
//! goes to the lower edge and then to the lower operation; nothing here is drawn at random.

use crate::{
    error::{Error, Result},
    genotype::{ConvGenotype, RecurrentGenotype},
    primitive::{Activation, Primitive},
    relaxation,
    space::{ConvSpace, Edge, RecurrentSpace},
};

/// Incoming edges that a node of a discrete convolutional cell keeps.
const KEPT: usize = 2;

/// The cells of the strongest edges: for every node the two incoming edges whose strongest non-`none` softmax weight is largest,
/// each with that operation, the stronger edge first; the output concatenates all nodes.
///
/// # Shapes
/// `alphas_normal`, `alphas_reduce`: [edges, operations] of `space`.
///
/// # Errors
/// [`Error::Space`], [`Error::Length`] or [`Error::NotFinite`].
pub fn derive_conv(alphas_normal: &[f32], alphas_reduce: &[f32], space: &ConvSpace) -> Result<ConvGenotype> {
    space.validate()?;
    let concat: Vec<usize> = (ConvSpace::INPUTS..ConvSpace::INPUTS + space.nodes).collect();
    let cell = |name, alphas| -> Result<Vec<(Primitive, usize)>> {
        let weights = weights(name, alphas, space.edges(), space.operations())?;
        let mut pairs = Vec::with_capacity(KEPT * space.nodes);
        for &target in &concat {
            let mut edges: Vec<(f64, Primitive, usize)> = (0..target)
                .map(|source| {
                    let row = &weights[ConvSpace::row(Edge { source, target })];
                    let (weight, operation) = strongest(row, &space.primitives, Primitive::None);
                    (weight, operation, source)
                })
                .collect();
            // A stable sort: edges of equal weight stay in the order of their sources.
            edges.sort_by(|a, b| b.0.total_cmp(&a.0));
            pairs.extend(edges.iter().take(KEPT).map(|&(_, operation, source)| (operation, source)));
        }
        Ok(pairs)
    };
    Ok(ConvGenotype {
        normal: cell("normal α", alphas_normal)?,
        normal_concat: concat.clone(),
        reduce: cell("reduce α", alphas_reduce)?,
        reduce_concat: concat.clone(),
    })
}

/// The cell of the strongest predecessors: for every node the largest softmax weight over all its incoming edges and all
/// operations except `none`; the output is the mean of all nodes.
///
/// # Shapes
/// `alphas`: [edges, operations] of `space`.
///
/// # Errors
/// [`Error::Space`], [`Error::Length`] or [`Error::NotFinite`].
pub fn derive_recurrent(alphas: &[f32], space: &RecurrentSpace) -> Result<RecurrentGenotype> {
    space.validate()?;
    let weights = weights("α", alphas, space.edges(), space.operations())?;
    let node = |target| {
        let mut best = (f64::NEG_INFINITY, Activation::None, 0);
        for source in 0..target {
            let row = &weights[RecurrentSpace::row(Edge { source, target })];
            let (weight, operation) = strongest(row, &space.activations, Activation::None);
            if weight > best.0 {
                best = (weight, operation, source);
            }
        }
        (best.1, best.2)
    };
    Ok(RecurrentGenotype { recurrent: (1..=space.nodes).map(node).collect(), concat: (1..=space.nodes).collect() })
}

impl ConvSpace {
    /// The genotype that `alphas` stand for: [normal rows…, reduce rows…], each [edges, operations]; see [`derive_conv`].
    ///
    /// # Errors
    /// Those of [`derive_conv`].
    pub fn derive(&self, alphas: &[f32]) -> Result<ConvGenotype> {
        self.validate()?;
        let one = self.edges() * self.operations();
        if alphas.len() != 2 * one {
            let actual = alphas.len();
            return Err(Error::Length { operation: "derive", what: "α", actual, expected: 2 * one });
        }
        derive_conv(&alphas[..one], &alphas[one..], self)
    }
}

impl RecurrentSpace {
    /// The genotype that `alphas` [edges, operations] stand for; see [`derive_recurrent`].
    ///
    /// # Errors
    /// Those of [`derive_recurrent`].
    pub fn derive(&self, alphas: &[f32]) -> Result<RecurrentGenotype> {
        derive_recurrent(alphas, self)
    }
}

/// Softmax of every row.
fn weights(what: &'static str, alphas: &[f32], rows: usize, columns: usize) -> Result<Vec<Vec<f64>>> {
    let operation = "derive";
    if alphas.len() != rows * columns {
        return Err(Error::Length { operation, what, actual: alphas.len(), expected: rows * columns });
    }
    if let Some(i) = alphas.iter().position(|alpha| !alpha.is_finite()) {
        return Err(Error::NotFinite { operation, row: i / columns, column: i % columns, value: alphas[i] });
    }
    Ok(alphas.chunks_exact(columns).map(relaxation::softmax_row).collect())
}

/// The largest weight of an operation other than `none`, the first on a tie.
fn strongest<T: Copy + PartialEq>(row: &[f64], operations: &[T], none: T) -> (f64, T) {
    let mut best = (f64::NEG_INFINITY, none);
    for (&weight, &operation) in row.iter().zip(operations) {
        if operation != none && weight > best.0 {
            best = (weight, operation);
        }
    }
    best
}

//! What is searched: how many nodes a cell has, which operations compete on its edges, and in which row of α an edge stands.
//! A space holds no weights and no α.

use crate::{
    error::{Error, Result},
    primitive::{Activation, Primitive},
    random,
};

/// One edge of a cell.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The state that the edge starts at.
    pub source: usize,
    /// The state that the edge ends at.
    pub target: usize,
}

/// The convolutional search space: a cell with two inputs (states 0 and 1) and `nodes` intermediate nodes (states 2, 3, …), an
/// edge between every pair, and the same candidate operations on every edge (section 2.1 of the paper).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvSpace {
    /// Number of intermediate nodes.
    pub nodes: usize,
    /// The candidates, in the order of α's columns.
    pub primitives: Vec<Primitive>,
}

impl ConvSpace {
    /// States that come before the first intermediate node.
    pub const INPUTS: usize = 2;

    /// The space of the paper: 4 nodes, 8 operations.
    pub fn darts() -> Self {
        Self { nodes: 4, primitives: Primitive::CONV_SEARCH.to_vec() }
    }

    /// Number of edges, which is the number of α's rows: nodes·(nodes + 3)/2.
    pub fn edges(&self) -> usize {
        self.nodes * (self.nodes + 3) / 2
    }

    /// Number of α's columns.
    pub fn operations(&self) -> usize {
        self.primitives.len()
    }

    /// The edges in the order of α's rows: targets ascending, for one target its sources ascending.
    pub fn rows(&self) -> impl Iterator<Item = Edge> + use<> {
        let states = Self::INPUTS..Self::INPUTS + self.nodes;
        states.flat_map(|target| (0..target).map(move |source| Edge { source, target }))
    }

    /// The row of α at which `edge` stands: (t − 2)·(t + 1)/2 + s for an edge from state s to state t ≥ 2.
    ///
    /// # Panics
    /// If `edge` is no edge of a cell with two inputs.
    pub fn row(edge: Edge) -> usize {
        let Edge { source, target } = edge;
        assert!(target >= Self::INPUTS && source < target, "no edge goes from state {source} to state {target}");
        (target - Self::INPUTS) * (target + 1) / 2 + source
    }

    /// Whether the space has a cell at all.
    ///
    /// # Errors
    /// [`Error::Space`] if it has no nodes, no operation other than `none`, or an operation twice.
    pub fn validate(&self) -> Result<()> {
        check_nodes(self.nodes)?;
        check_operations(&self.primitives, Primitive::None, Primitive::name)
    }

    /// The initial α of both kinds of cell, 1e-3·N(0, 1): [normal rows…, reduce rows…], each [edges, operations].
    pub fn initial_alphas(&self, seed: u64) -> Vec<f32> {
        let one = self.edges() * self.operations();
        ["alphas_normal", "alphas_reduce"]
            .iter()
            .flat_map(|name| random::normal(seed, "init", name, one, 1e-3))
            .collect()
    }
}

/// The recurrent search space: state s₀ is made of the input and the hidden state, and every node 1 … `nodes` has an edge from
/// each state before it (section 2.1 and appendix A.1.2 of the paper).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecurrentSpace {
    /// Number of nodes after s₀.
    pub nodes: usize,
    /// The candidates, in the order of α's columns.
    pub activations: Vec<Activation>,
}

impl RecurrentSpace {
    /// The space of the paper: 8 nodes, 5 operations.
    pub fn darts() -> Self {
        Self { nodes: 8, activations: Activation::SEARCH.to_vec() }
    }

    /// Number of edges, which is the number of α's rows: nodes·(nodes + 1)/2.
    pub fn edges(&self) -> usize {
        self.nodes * (self.nodes + 1) / 2
    }

    /// Number of α's columns.
    pub fn operations(&self) -> usize {
        self.activations.len()
    }

    /// The edges in the order of α's rows: targets ascending from node 1, for one target its sources ascending from s₀.
    pub fn rows(&self) -> impl Iterator<Item = Edge> + use<> {
        (1..=self.nodes).flat_map(|target| (0..target).map(move |source| Edge { source, target }))
    }

    /// The row of α at which `edge` stands: t·(t − 1)/2 + s for an edge from state s to node t ≥ 1.
    ///
    /// # Panics
    /// If `edge` does not go forward.
    pub fn row(edge: Edge) -> usize {
        let Edge { source, target } = edge;
        assert!(source < target, "no edge goes from state {source} to state {target}");
        target * (target - 1) / 2 + source
    }

    /// Whether the space has a cell at all.
    ///
    /// # Errors
    /// [`Error::Space`] if it has no nodes, no operation other than `none`, or an operation twice.
    pub fn validate(&self) -> Result<()> {
        check_nodes(self.nodes)?;
        check_operations(&self.activations, Activation::None, Activation::name)
    }

    /// The initial α, 1e-3·N(0, 1): [edges, operations].
    pub fn initial_alphas(&self, seed: u64) -> Vec<f32> {
        random::normal(seed, "init", "alphas", self.edges() * self.operations(), 1e-3)
    }
}

/// More nodes than anyone searches, few enough that no size computed from them overflows.
const MOST_NODES: usize = 64;

fn check_nodes(nodes: usize) -> Result<()> {
    if (1..=MOST_NODES).contains(&nodes) {
        return Ok(());
    }
    Err(Error::Space { what: "number of nodes", value: nodes.to_string(), expected: "1 to 64" })
}

fn check_operations<T: Copy + PartialEq>(operations: &[T], none: T, name: fn(T) -> &'static str) -> Result<()> {
    let list = || operations.iter().map(|&operation| name(operation)).collect::<Vec<_>>().join(", ");
    if operations.iter().all(|&operation| operation == none) {
        return Err(Error::Space { what: "list of operations", value: list(), expected: "one other than none" });
    }
    if operations.iter().enumerate().any(|(i, operation)| operations[..i].contains(operation)) {
        return Err(Error::Space { what: "list of operations", value: list(), expected: "no operation twice" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_match_the_reference_order() {
        let space = ConvSpace::darts();
        assert_eq!((space.edges(), space.operations()), (14, 8));
        let rows: Vec<_> = space.rows().collect();
        assert_eq!(rows.len(), 14);
        assert_eq!(
            rows[..5].iter().map(|e| (e.target, e.source)).collect::<Vec<_>>(),
            [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
        );
        assert!(rows.iter().enumerate().all(|(i, &edge)| ConvSpace::row(edge) == i));

        let space = RecurrentSpace::darts();
        assert_eq!((space.edges(), space.operations()), (36, 5));
        assert_eq!(space.rows().count(), 36);
        assert!(space.rows().enumerate().all(|(i, edge)| RecurrentSpace::row(edge) == i));
    }

    #[test]
    fn initial_alphas_have_the_deviation_of_the_paper() {
        let alphas = ConvSpace { nodes: 40, ..ConvSpace::darts() }.initial_alphas(3);
        let squares: f64 = alphas.iter().map(|&a| f64::from(a).powi(2)).sum();
        let deviation = (squares / alphas.len() as f64).sqrt();
        assert!((deviation / 1e-3 - 1.0).abs() < 0.03, "{deviation}");
        assert_ne!(ConvSpace::darts().initial_alphas(0), ConvSpace::darts().initial_alphas(1));
    }

    #[test]
    fn spaces_without_a_cell_are_refused() {
        let space = |nodes, primitives| ConvSpace { nodes, primitives };
        assert!(ConvSpace::darts().validate().is_ok());
        assert!(RecurrentSpace::darts().validate().is_ok());
        for refused in [
            space(0, Primitive::CONV_SEARCH.to_vec()),
            space(usize::MAX, Primitive::CONV_SEARCH.to_vec()),
            space(4, vec![]),
            space(4, vec![Primitive::None]),
            space(4, vec![Primitive::SkipConnect, Primitive::SkipConnect]),
        ] {
            assert!(matches!(refused.validate(), Err(Error::Space { .. })), "{refused:?}");
        }
    }
}

//! The wiring of a recurrent cell: which states feed a node and through which columns of the concatenated weights. A searched
//! and a discrete cell differ here and nowhere else. No numbers.
//!
//! The matrices of all nodes stand side by side in one, and a state is multiplied once, with the consecutive blocks of all the
//! nodes that it feeds. In a search cell state j feeds nodes j + 1 …, so blocks are in the order of the nodes and a state's group
//! is a suffix; in a discrete cell every node has one predecessor, so blocks are sorted by it.

use std::ops::Range;

use darts_ops::recurrent_node::Function;

use crate::{
    error::{Error, Result},
    genotype::RecurrentGenotype,
    primitive::Activation,
    space::{Edge, RecurrentSpace},
};

/// What is made of an edge's h.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) enum Choice {
    /// The mixture at a row of the operation weights.
    Mixed { row: usize },
    /// One activation.
    One(Function),
}

/// An edge into a node.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct Incoming {
    /// The state that it comes from.
    pub(super) source: usize,
    /// The node's block within the source's group.
    pub(super) block: usize,
    /// What is made of it.
    pub(super) choice: Choice,
}

/// A cell's wiring. States are s₀ and the nodes 1 … N.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// Of node i at i − 1, sources ascending.
    pub(super) incoming: Vec<Vec<Incoming>>,
    /// Blocks of the concatenated weights that each state is multiplied with.
    pub(super) groups: Vec<Range<usize>>,
    /// The node of each block.
    pub(super) order: Vec<usize>,
    /// The nodes whose mean is the output.
    pub(super) concat: Vec<usize>,
    /// The function of each column of the operation weights; none for `none`. Empty in a discrete cell.
    pub(super) columns: Vec<Option<Function>>,
    /// Whether states go through a batch norm.
    pub(super) normalized: bool,
}

impl Cell {
    pub(super) fn search(space: &RecurrentSpace) -> Result<Self> {
        space.validate()?;
        let nodes = space.nodes;
        let edge = |target: usize, source: usize| Incoming {
            source,
            block: target - 1 - source,
            choice: Choice::Mixed { row: RecurrentSpace::row(Edge { source, target }) },
        };
        Ok(Self {
            incoming: (1..=nodes).map(|target| (0..target).map(|source| edge(target, source)).collect()).collect(),
            groups: (0..=nodes).map(|state| state..nodes).collect(),
            order: (1..=nodes).collect(),
            concat: (1..=nodes).collect(),
            columns: space.activations.iter().map(|&activation| function(activation)).collect(),
            normalized: true,
        })
    }

    pub(super) fn discrete(genotype: &RecurrentGenotype) -> Result<Self> {
        genotype.validate()?;
        let nodes = genotype.recurrent.len();
        let predecessor = |node: usize| genotype.recurrent[node - 1].1;
        let mut order: Vec<usize> = (1..=nodes).collect();
        order.sort_by_key(|&node| predecessor(node));
        let first = |state: usize| order.partition_point(|&node| predecessor(node) < state);
        let groups: Vec<Range<usize>> = (0..=nodes).map(|state| first(state)..first(state + 1)).collect();
        let mut incoming = vec![Vec::new(); nodes];
        for (place, &node) in order.iter().enumerate() {
            let (activation, source) = genotype.recurrent[node - 1];
            let cell = "recurrent";
            let function =
                function(activation).ok_or(Error::Operation { cell, pair: node - 1, operation: activation.name() })?;
            let block = place - groups[source].start;
            incoming[node - 1].push(Incoming { source, block, choice: Choice::One(function) });
        }
        Ok(Self { incoming, groups, order, concat: genotype.concat.clone(), columns: vec![], normalized: false })
    }

    /// N.
    pub(super) fn nodes(&self) -> usize {
        self.incoming.len()
    }

    /// s₀ and the nodes.
    pub(super) fn states(&self) -> usize {
        self.nodes() + 1
    }

    /// Rows of the operation weights.
    pub(super) fn mixed_edges(&self) -> usize {
        if self.columns.is_empty() { 0 } else { self.incoming.iter().map(Vec::len).sum() }
    }
}

fn function(activation: Activation) -> Option<Function> {
    match activation {
        Activation::None => None,
        Activation::Tanh => Some(Function::Tanh),
        Activation::Relu => Some(Function::Relu),
        Activation::Sigmoid => Some(Function::Sigmoid),
        Activation::Identity => Some(Function::Identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::genotype::named;

    /// Every edge's columns in its source's group are those of its own node.
    fn check(cell: &Cell) {
        for (index, incoming) in cell.incoming.iter().enumerate() {
            for edge in incoming {
                assert_eq!(cell.order[cell.groups[edge.source].clone()][edge.block], index + 1);
            }
        }
        let mut order = cell.order.clone();
        order.sort();
        assert_eq!(order, (1..=cell.nodes()).collect::<Vec<_>>());
    }

    #[test]
    fn a_state_is_multiplied_with_the_matrices_of_the_nodes_that_it_feeds() {
        let search = Cell::search(&RecurrentSpace::darts()).unwrap();
        check(&search);
        assert_eq!((search.mixed_edges(), search.groups[3].clone()), (36, 3..8));
        for named in &named::RECURRENT {
            let cell = Cell::discrete(&named.genotype()).unwrap();
            check(&cell);
            assert_eq!(cell.groups.iter().map(ExactSizeIterator::len).sum::<usize>(), cell.nodes());
        }
    }
}

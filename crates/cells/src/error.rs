//! The crate's one error type. Every variant names what was being done, the value that was met and what was expected; no
//! variant is a bare string, and nothing in this crate panics on data that came from outside.

use crate::primitive;

/// What can go wrong between a file, a genotype, a table of parameters and a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that is no operation of the kind of cell at hand.
    #[error("unknown {kind} operation '{name}'; did you mean '{nearest}'? (known: {})", known.join(", "))]
    UnknownOperation {
        /// `convolutional` or `recurrent`.
        kind: &'static str,
        /// The name as it was read, shortened if very long.
        name: String,
        /// The known name with the smallest edit distance.
        nearest: &'static str,
        /// All names that are accepted.
        known: Vec<&'static str>,
    },
    /// A name that is no built-in genotype.
    #[error("unknown genotype '{name}'; did you mean '{nearest}'? (built in: {})", known.join(", "))]
    UnknownGenotype {
        /// The name as it was given.
        name: String,
        /// The built-in name with the smallest edit distance.
        nearest: &'static str,
        /// All built-in names of that kind.
        known: Vec<&'static str>,
    },
    /// The text form of a genotype does not parse.
    #[error("genotype text, byte {offset}: found {found}, expected {expected}")]
    Syntax {
        /// Position of the offending byte, from 0.
        offset: usize,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// The JSON form of a genotype does not parse.
    #[error("genotype JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A cell's list of (operation, source) pairs has a length that its nodes cannot have.
    #[error("{cell} cell: {pairs} (operation, source) pairs, expected {expected}")]
    Pairs {
        /// `normal`, `reduce` or `recurrent`.
        cell: &'static str,
        /// Length of the list.
        pairs: usize,
        /// The rule in words.
        expected: &'static str,
    },
    /// An operation that may not stand in a discrete cell.
    #[error("{cell} cell, pair {pair}: operation '{operation}' cannot stand in a discrete cell")]
    Operation {
        /// `normal`, `reduce` or `recurrent`.
        cell: &'static str,
        /// Position in the list, from 0.
        pair: usize,
        /// The operation.
        operation: &'static str,
    },
    /// A node takes its input from a node that is not computed before it.
    #[error("{cell} cell, pair {pair}: source {source_node}, expected 0 to {last} (an earlier state)")]
    Source {
        /// `normal`, `reduce` or `recurrent`.
        cell: &'static str,
        /// Position in the list, from 0.
        pair: usize,
        /// The source that was given.
        source_node: usize,
        /// The last state that exists when the node is computed.
        last: usize,
    },
    /// A concat list is empty, repeats an index or names a state that is no intermediate node.
    #[error("{cell} cell, concat {concat:?}: {problem}, expected distinct nodes from {first} to {last}")]
    Concat {
        /// `normal`, `reduce` or `recurrent`.
        cell: &'static str,
        /// The list, its first entries only if very long.
        concat: Vec<usize>,
        /// What is wrong with it.
        problem: String,
        /// The first intermediate node.
        first: usize,
        /// The last intermediate node.
        last: usize,
    },
    /// A search space that has no cell.
    #[error("search space: {what} is {value}, expected {expected}")]
    Space {
        /// The field.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// A setting of a network, or an argument of one of its passes, that cannot be.
    #[error("{operation}: {what} is {value}, expected {expected}")]
    Argument {
        /// The operation that refused it.
        operation: &'static str,
        /// The argument.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        expected: String,
    },
    /// A buffer has another length than the operation needs.
    #[error("{operation}: {what} has {actual} numbers, expected {expected}")]
    Length {
        /// The operation that refused it.
        operation: &'static str,
        /// The buffer.
        what: &'static str,
        /// Its length.
        actual: usize,
        /// The length it has to have.
        expected: usize,
    },
    /// α holds a number that is not finite, so no choice can be made.
    #[error("{operation}: row {row}, column {column} of α is {value}, expected a finite number")]
    NotFinite {
        /// The operation that refused it.
        operation: &'static str,
        /// Row of α (an edge), from 0.
        row: usize,
        /// Column of α (an operation), from 0.
        column: usize,
        /// The number.
        value: f32,
    },
    /// A file of tensors lacks one that the network has.
    #[error("tensor '{name}' is missing, expected {expected:?}")]
    MissingTensor {
        /// The tensor's name.
        name: String,
        /// Its shape in the network.
        expected: Vec<usize>,
    },
    /// A file of tensors has one that the network has not.
    #[error("tensor '{name}' {actual:?} belongs to no part of the network")]
    UnexpectedTensor {
        /// The tensor's name.
        name: String,
        /// Its shape in the file.
        actual: Vec<usize>,
    },
    /// A tensor has another shape or element type in a file than in the network.
    #[error("tensor '{name}' is {actual}, expected {expected}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// Element type and shape in the file.
        actual: String,
        /// Element type and shape in the network.
        expected: String,
    },
    /// Bytes that are no safetensors file.
    #[error("safetensors: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// A kernel refused.
    #[error(transparent)]
    Ops(#[from] darts_ops::Error),
    /// A device refused or failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] darts_cuda::Error),
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// An unknown operation, with the nearest known name.
    pub(crate) fn unknown_operation(kind: &'static str, name: &str, known: Vec<&'static str>) -> Self {
        let nearest = primitive::nearest(name, &known);
        Error::UnknownOperation { kind, name: shorten(name), nearest, known }
    }

    /// An unknown built-in genotype, with the nearest built-in name.
    pub(crate) fn unknown_genotype(name: &str, known: Vec<&'static str>) -> Self {
        let nearest = primitive::nearest(name, &known);
        Error::UnknownGenotype { name: shorten(name), nearest, known }
    }
}

/// The first 60 characters of `name`, so that a damaged file cannot make a message of megabytes.
pub(crate) fn shorten(name: &str) -> String {
    const LONGEST: usize = 60;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(LONGEST).collect();
    short.push('…');
    short
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

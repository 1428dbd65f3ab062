//! Discrete cells: which operation joins which states. A genotype is data, read from and written to JSON and the text form, and
//! checked by [`ConvGenotype::validate`] and [`RecurrentGenotype::validate`]; it has no weights. Everything that is read here
//! comes from outside, so no input makes the readers panic or allocate more than it is long.

mod json;
pub mod named;
mod text;

use crate::{
    error::{Error, Result},
    primitive::{Activation, Primitive},
    space::ConvSpace,
};

pub use text::Range;

/// A pair of convolutional cells. Node i (state i + 2) is the sum of the operations at 2i and 2i + 1 of the list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConvGenotype {
    /// (operation, source state) of the normal cell, two per node.
    pub normal: Vec<(Primitive, usize)>,
    /// The states that the normal cell's output concatenates, in that order.
    pub normal_concat: Vec<usize>,
    /// (operation, source state) of the reduction cell, two per node.
    pub reduce: Vec<(Primitive, usize)>,
    /// The states that the reduction cell's output concatenates, in that order.
    pub reduce_concat: Vec<usize>,
}

/// A recurrent cell. Entry i makes node i + 1; state 0 is s₀.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RecurrentGenotype {
    /// (activation, predecessor) of each node.
    pub recurrent: Vec<(Activation, usize)>,
    /// The nodes whose mean is the cell's output.
    pub concat: Vec<usize>,
}

/// A cell of either kind; in JSON the two are told apart by their keys.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Genotype {
    /// A normal and a reduction cell.
    Conv(ConvGenotype),
    /// A recurrent cell.
    Recurrent(RecurrentGenotype),
}

impl ConvGenotype {
    /// Whether both cells can be built: two operations other than `none` per node, every source an earlier state, and a concat
    /// list of distinct intermediate nodes.
    ///
    /// # Errors
    /// [`Error::Pairs`], [`Error::Operation`], [`Error::Source`] or [`Error::Concat`] for the first rule that is broken.
    pub fn validate(&self) -> Result<()> {
        let cells = [("normal", &self.normal, &self.normal_concat), ("reduce", &self.reduce, &self.reduce_concat)];
        for (cell, pairs, concat) in cells {
            if pairs.is_empty() || pairs.len() % 2 != 0 {
                return Err(Error::Pairs { cell, pairs: pairs.len(), expected: "two per node, one node or more" });
            }
            for (pair, &(operation, source)) in pairs.iter().enumerate() {
                if operation == Primitive::None {
                    return Err(Error::Operation { cell, pair, operation: operation.name() });
                }
                check_source(cell, pair, source, ConvSpace::INPUTS + pair / 2 - 1)?;
            }
            check_concat(cell, concat, ConvSpace::INPUTS, ConvSpace::INPUTS + pairs.len() / 2 - 1)?;
        }
        Ok(())
    }
}

impl RecurrentGenotype {
    /// Whether the cell can be built: an activation other than `none` per node, every predecessor an earlier state, and a concat
    /// list of distinct nodes.
    ///
    /// # Errors
    /// [`Error::Pairs`], [`Error::Operation`], [`Error::Source`] or [`Error::Concat`] for the first rule that is broken.
    pub fn validate(&self) -> Result<()> {
        let cell = "recurrent";
        if self.recurrent.is_empty() {
            return Err(Error::Pairs { cell, pairs: 0, expected: "one per node, one node or more" });
        }
        for (pair, &(activation, source)) in self.recurrent.iter().enumerate() {
            if activation == Activation::None {
                return Err(Error::Operation { cell, pair, operation: activation.name() });
            }
            check_source(cell, pair, source, pair)?;
        }
        check_concat(cell, &self.concat, 1, self.recurrent.len())
    }
}

impl Genotype {
    /// Reads a genotype of either kind from the contents of a file, JSON or the text form (told apart by the first byte that is
    /// no white space), and validates it.
    ///
    /// # Errors
    /// [`Error::Json`] or [`Error::Syntax`] where the bytes do not parse, [`Error::UnknownOperation`] for a name that is no
    /// operation, and what `validate` says of the cell.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let genotype = match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => json::read(bytes)?,
            _ => text::read(bytes)?,
        };
        genotype.validate()?;
        Ok(genotype)
    }

    /// Whether the cells can be built.
    ///
    /// # Errors
    /// Those of [`ConvGenotype::validate`] and [`RecurrentGenotype::validate`].
    pub fn validate(&self) -> Result<()> {
        match self {
            Genotype::Conv(genotype) => genotype.validate(),
            Genotype::Recurrent(genotype) => genotype.validate(),
        }
    }

    /// The JSON form with a newline at its end, as `genotype.json` holds it.
    ///
    /// # Errors
    /// None that is known: a genotype is plain data.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

impl From<ConvGenotype> for Genotype {
    fn from(genotype: ConvGenotype) -> Self {
        Genotype::Conv(genotype)
    }
}

impl From<RecurrentGenotype> for Genotype {
    fn from(genotype: RecurrentGenotype) -> Self {
        Genotype::Recurrent(genotype)
    }
}

fn check_source(cell: &'static str, pair: usize, source: usize, last: usize) -> Result<()> {
    if source > last {
        return Err(Error::Source { cell, pair, source_node: source, last });
    }
    Ok(())
}

fn check_concat(cell: &'static str, concat: &[usize], first: usize, last: usize) -> Result<()> {
    let problem = if concat.is_empty() {
        Some("it is empty".to_owned())
    } else if let Some(index) = concat.iter().find(|index| !(first..=last).contains(*index)) {
        Some(format!("{index} is no intermediate node"))
    } else {
        // All indices are in range here, so a longer list than the range repeats one: at most one look per node is needed.
        let looked_at = &concat[..concat.len().min(last - first + 2)];
        let repeated = looked_at.iter().enumerate().find(|&(i, index)| looked_at[..i].contains(index));
        repeated.map(|(_, index)| format!("{index} stands twice"))
    };
    match problem {
        Some(problem) => {
            let concat = concat.iter().copied().take(16).collect();
            Err(Error::Concat { cell, concat, problem, first, last })
        }
        None => Ok(()),
    }
}

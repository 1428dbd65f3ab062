//! The cells that papers have published, by name: those of DARTS (figures 4 to 7 and 10, 11), and the NASNet-A, AmoebaNet-A and
//! ENAS cells that it compares itself with. Names are looked up without regard to case.

use super::{ConvGenotype, Genotype, RecurrentGenotype};
use crate::{
    error::{Error, Result},
    primitive::{
        Activation::{self, Identity, Relu, Sigmoid, Tanh},
        Primitive::{
            self, AvgPool3x3, Conv7x1_1x7, DilConv3x3, MaxPool3x3, SepConv3x3, SepConv5x5, SepConv7x7, SkipConnect,
        },
    },
};

/// A built-in pair of convolutional cells.
#[derive(Debug)]
pub struct NamedConv {
    /// Its name.
    pub name: &'static str,
    normal: &'static [(Primitive, usize)],
    normal_concat: &'static [usize],
    reduce: &'static [(Primitive, usize)],
    reduce_concat: &'static [usize],
}

/// A built-in recurrent cell.
#[derive(Debug)]
pub struct NamedRecurrent {
    /// Its name.
    pub name: &'static str,
    recurrent: &'static [(Activation, usize)],
    concat: &'static [usize],
}

/// The built-in convolutional cells.
pub const CONV: [NamedConv; 4] = [
    NamedConv {
        name: "DARTS_V1",
        normal: &[
            (SepConv3x3, 1),
            (SepConv3x3, 0),
            (SkipConnect, 0),
            (SepConv3x3, 1),
            (SkipConnect, 0),
            (SepConv3x3, 1),
            (SepConv3x3, 0),
            (SkipConnect, 2),
        ],
        normal_concat: &[2, 3, 4, 5],
        reduce: &[
            (MaxPool3x3, 0),
            (MaxPool3x3, 1),
            (SkipConnect, 2),
            (MaxPool3x3, 0),
            (MaxPool3x3, 0),
            (SkipConnect, 2),
            (SkipConnect, 2),
            (AvgPool3x3, 0),
        ],
        reduce_concat: &[2, 3, 4, 5],
    },
    NamedConv {
        name: "DARTS_V2",
        normal: &[
            (SepConv3x3, 0),
            (SepConv3x3, 1),
            (SepConv3x3, 0),
            (SepConv3x3, 1),
            (SepConv3x3, 1),
            (SkipConnect, 0),
            (SkipConnect, 0),
            (DilConv3x3, 2),
        ],
        normal_concat: &[2, 3, 4, 5],
        reduce: &[
            (MaxPool3x3, 0),
            (MaxPool3x3, 1),
            (SkipConnect, 2),
            (MaxPool3x3, 1),
            (MaxPool3x3, 0),
            (SkipConnect, 2),
            (SkipConnect, 2),
            (MaxPool3x3, 1),
        ],
        reduce_concat: &[2, 3, 4, 5],
    },
    NamedConv {
        name: "NASNet",
        normal: &[
            (SepConv5x5, 1),
            (SepConv3x3, 0),
            (SepConv5x5, 0),
            (SepConv3x3, 0),
            (AvgPool3x3, 1),
            (SkipConnect, 0),
            (AvgPool3x3, 0),
            (AvgPool3x3, 0),
            (SepConv3x3, 1),
            (SkipConnect, 1),
        ],
        normal_concat: &[2, 3, 4, 5, 6],
        reduce: &[
            (SepConv5x5, 1),
            (SepConv7x7, 0),
            (MaxPool3x3, 1),
            (SepConv7x7, 0),
            (AvgPool3x3, 1),
            (SepConv5x5, 0),
            (SkipConnect, 3),
            (AvgPool3x3, 2),
            (SepConv3x3, 2),
            (MaxPool3x3, 1),
        ],
        reduce_concat: &[4, 5, 6],
    },
    NamedConv {
        name: "AmoebaNet",
        normal: &[
            (AvgPool3x3, 0),
            (MaxPool3x3, 1),
            (SepConv3x3, 0),
            (SepConv5x5, 2),
            (SepConv3x3, 0),
            (AvgPool3x3, 3),
            (SepConv3x3, 1),
            (SkipConnect, 1),
            (SkipConnect, 0),
            (AvgPool3x3, 1),
        ],
        normal_concat: &[4, 5, 6],
        reduce: &[
            (AvgPool3x3, 0),
            (SepConv3x3, 1),
            (MaxPool3x3, 0),
            (SepConv7x7, 2),
            (SepConv7x7, 0),
            (AvgPool3x3, 1),
            (MaxPool3x3, 0),
            (MaxPool3x3, 1),
            (Conv7x1_1x7, 0),
            (SepConv3x3, 5),
        ],
        reduce_concat: &[3, 4, 6],
    },
];

/// The built-in recurrent cells.
pub const RECURRENT: [NamedRecurrent; 3] = [
    NamedRecurrent {
        name: "DARTS_V1",
        recurrent: &[(Relu, 0), (Relu, 1), (Tanh, 2), (Relu, 3), (Relu, 4), (Identity, 1), (Relu, 5), (Relu, 1)],
        concat: &[1, 2, 3, 4, 5, 6, 7, 8],
    },
    NamedRecurrent {
        name: "DARTS_V2",
        recurrent: &[(Sigmoid, 0), (Relu, 1), (Relu, 1), (Identity, 1), (Tanh, 2), (Sigmoid, 5), (Tanh, 3), (Relu, 5)],
        concat: &[1, 2, 3, 4, 5, 6, 7, 8],
    },
    NamedRecurrent {
        name: "ENAS",
        recurrent: &[
            (Tanh, 0),
            (Tanh, 1),
            (Relu, 1),
            (Tanh, 3),
            (Tanh, 3),
            (Relu, 3),
            (Relu, 4),
            (Relu, 7),
            (Relu, 8),
            (Relu, 8),
            (Relu, 8),
        ],
        concat: &[2, 5, 6, 9, 10, 11],
    },
];

impl NamedConv {
    /// The cells as a value of their own.
    pub fn genotype(&self) -> ConvGenotype {
        ConvGenotype {
            normal: self.normal.to_vec(),
            normal_concat: self.normal_concat.to_vec(),
            reduce: self.reduce.to_vec(),
            reduce_concat: self.reduce_concat.to_vec(),
        }
    }
}

impl NamedRecurrent {
    /// The cell as a value of its own.
    pub fn genotype(&self) -> RecurrentGenotype {
        RecurrentGenotype { recurrent: self.recurrent.to_vec(), concat: self.concat.to_vec() }
    }
}

/// The built-in convolutional cells of that name.
///
/// # Errors
/// [`Error::UnknownGenotype`], with the nearest name.
pub fn conv(name: &str) -> Result<ConvGenotype> {
    let found = CONV.iter().find(|named| named.name.eq_ignore_ascii_case(name));
    found
        .map(NamedConv::genotype)
        .ok_or_else(|| Error::unknown_genotype(name, CONV.iter().map(|named| named.name).collect()))
}

/// The built-in recurrent cell of that name.
///
/// # Errors
/// [`Error::UnknownGenotype`], with the nearest name.
pub fn recurrent(name: &str) -> Result<RecurrentGenotype> {
    let found = RECURRENT.iter().find(|named| named.name.eq_ignore_ascii_case(name));
    found
        .map(NamedRecurrent::genotype)
        .ok_or_else(|| Error::unknown_genotype(name, RECURRENT.iter().map(|named| named.name).collect()))
}

/// All built-in genotypes with their names, the convolutional ones first.
pub fn all() -> impl Iterator<Item = (&'static str, Genotype)> {
    let conv = CONV.iter().map(|named| (named.name, named.genotype().into()));
    conv.chain(RECURRENT.iter().map(|named| (named.name, named.genotype().into())))
}

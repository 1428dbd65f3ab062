//! The operations that cells are made of: one const table row each for the convolutional and for the recurrent kind. Names,
//! order of α's columns, kernel sizes and labels of drawings are read from here and nowhere else. The file knows nothing of
//! weights, edges or genotypes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::Error;

/// A convolutional operation on one edge of a cell.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Primitive {
    /// Zero.
    None,
    /// 3×3 max pooling.
    MaxPool3x3,
    /// 3×3 average pooling over the real cells.
    AvgPool3x3,
    /// Identity; a factorized reduce at stride 2.
    SkipConnect,
    /// Two separable units, kernel 3.
    SepConv3x3,
    /// Two separable units, kernel 5.
    SepConv5x5,
    /// One separable unit, kernel 3, dilation 2.
    DilConv3x3,
    /// One separable unit, kernel 5, dilation 2.
    DilConv5x5,
    /// Two separable units, kernel 7 (no member of the search space; the NASNet and AmoebaNet cells use it).
    SepConv7x7,
    /// A dense 1×7 then a dense 7×1 convolution (no member of the search space; the AmoebaNet cell uses it).
    Conv7x1_1x7,
}

/// What an operation computes, with its sizes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// y = 0.
    Zero,
    /// Maximum over `kernel` × `kernel`, padding ⌊kernel/2⌋.
    MaxPool {
        /// Window size.
        kernel: usize,
    },
    /// Mean over the unpadded cells of `kernel` × `kernel`, padding ⌊kernel/2⌋.
    AvgPool {
        /// Window size.
        kernel: usize,
    },
    /// y = x at stride 1, a factorized reduce at stride 2.
    Skip,
    /// (ReLU, depthwise, pointwise, batch norm) `units` times; only the first has the stride; padding dilation·(kernel − 1)/2.
    Separable {
        /// Size of the depthwise kernel.
        kernel: usize,
        /// Spacing of its taps.
        dilation: usize,
        /// How many times.
        units: usize,
    },
    /// ReLU, dense 1×`kernel`, dense `kernel`×1, batch norm.
    Spatial {
        /// Length of the two kernels.
        kernel: usize,
    },
}

/// One row of [`PRIMITIVES`].
#[derive(Copy, Clone, Debug)]
pub struct PrimitiveRow {
    /// The operation this row is about.
    pub primitive: Primitive,
    /// Its name in files and on the command line.
    pub name: &'static str,
    /// Its name in drawings.
    pub label: &'static str,
    /// What it computes.
    pub operation: Operation,
    /// Whether it is one of the paper's eight candidates (section 3.1.1), which come first, in the order of α's columns.
    pub searched: bool,
}

const fn row(
    primitive: Primitive,
    name: &'static str,
    label: &'static str,
    operation: Operation,
    searched: bool,
) -> PrimitiveRow {
    PrimitiveRow { primitive, name, label, operation, searched }
}

const fn separable(kernel: usize, dilation: usize, units: usize) -> Operation {
    Operation::Separable { kernel, dilation, units }
}

/// All convolutional operations, in the order of [`Primitive`].
pub const PRIMITIVES: [PrimitiveRow; 10] = [
    row(Primitive::None, "none", "none", Operation::Zero, true),
    row(Primitive::MaxPool3x3, "max_pool_3x3", "max pool 3×3", Operation::MaxPool { kernel: 3 }, true),
    row(Primitive::AvgPool3x3, "avg_pool_3x3", "avg pool 3×3", Operation::AvgPool { kernel: 3 }, true),
    row(Primitive::SkipConnect, "skip_connect", "skip", Operation::Skip, true),
    row(Primitive::SepConv3x3, "sep_conv_3x3", "sep conv 3×3", separable(3, 1, 2), true),
    row(Primitive::SepConv5x5, "sep_conv_5x5", "sep conv 5×5", separable(5, 1, 2), true),
    row(Primitive::DilConv3x3, "dil_conv_3x3", "dil conv 3×3", separable(3, 2, 1), true),
    row(Primitive::DilConv5x5, "dil_conv_5x5", "dil conv 5×5", separable(5, 2, 1), true),
    row(Primitive::SepConv7x7, "sep_conv_7x7", "sep conv 7×7", separable(7, 1, 2), false),
    row(Primitive::Conv7x1_1x7, "conv_7x1_1x7", "conv 7×1 1×7", Operation::Spatial { kernel: 7 }, false),
];

impl Primitive {
    /// The candidates of the paper's convolutional search, in the order of α's columns.
    pub const CONV_SEARCH: [Primitive; 8] = [
        Primitive::None,
        Primitive::MaxPool3x3,
        Primitive::AvgPool3x3,
        Primitive::SkipConnect,
        Primitive::SepConv3x3,
        Primitive::SepConv5x5,
        Primitive::DilConv3x3,
        Primitive::DilConv5x5,
    ];

    /// Its row of the table.
    pub const fn row(self) -> &'static PrimitiveRow {
        &PRIMITIVES[self as usize]
    }

    /// Its name in files, for example `sep_conv_3x3`.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Its name in drawings.
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// What it computes.
    pub const fn operation(self) -> Operation {
        self.row().operation
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`], with the nearest name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        PRIMITIVES.iter().find(|row| row.name == name).map(|row| row.primitive).ok_or_else(|| {
            Error::unknown_operation("convolutional", name, PRIMITIVES.iter().map(|row| row.name).collect())
        })
    }
}

/// An operation on one edge of a recurrent cell: the f of `s_p + σ(c)·(f(h) − s_p)`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Activation {
    /// Nothing at all, not even the residual; in the search space only.
    None,
    /// tanh.
    Tanh,
    /// max(0, ·).
    Relu,
    /// 1/(1 + e^−x).
    Sigmoid,
    /// x.
    Identity,
}

/// One row of [`ACTIVATIONS`].
#[derive(Copy, Clone, Debug)]
pub struct ActivationRow {
    /// The operation this row is about.
    pub activation: Activation,
    /// Its name in files, on the command line and in drawings.
    pub name: &'static str,
}

/// All recurrent operations, in the order of α's columns.
pub const ACTIVATIONS: [ActivationRow; 5] = [
    ActivationRow { activation: Activation::None, name: "none" },
    ActivationRow { activation: Activation::Tanh, name: "tanh" },
    ActivationRow { activation: Activation::Relu, name: "relu" },
    ActivationRow { activation: Activation::Sigmoid, name: "sigmoid" },
    ActivationRow { activation: Activation::Identity, name: "identity" },
];

impl Activation {
    /// The candidates of the paper's recurrent search (section 3.1.2), in the order of α's columns.
    pub const SEARCH: [Activation; 5] =
        [Activation::None, Activation::Tanh, Activation::Relu, Activation::Sigmoid, Activation::Identity];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        ACTIVATIONS[self as usize].name
    }

    /// The operation of that name.
    ///
    /// # Errors
    /// [`Error::UnknownOperation`], with the nearest name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        ACTIVATIONS.iter().find(|row| row.name == name).map(|row| row.activation).ok_or_else(|| {
            Error::unknown_operation("recurrent", name, ACTIVATIONS.iter().map(|row| row.name).collect())
        })
    }
}

macro_rules! name_is_its_form {
    ($operation:ty) => {
        impl fmt::Display for $operation {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $operation {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self, Error> {
                Self::from_name(name)
            }
        }

        impl Serialize for $operation {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $operation {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::from_name(&name).map_err(de::Error::custom)
            }
        }
    };
}

name_is_its_form!(Primitive);
name_is_its_form!(Activation);

/// The known name that is most likely meant by `name`: one that it is a piece of (of three letters or more), else the one with
/// the smallest edit distance; the first of several.
pub(crate) fn nearest(name: &str, known: &[&'static str]) -> &'static str {
    // Longer input cannot change which name is nearest, and a damaged file may hold megabytes of it.
    let name: String = name.chars().take(100).flat_map(char::to_lowercase).collect();
    let letters: Vec<char> = name.chars().collect();
    let distance = |candidate: &&&str| {
        let piece = letters.len() >= 3 && candidate.to_lowercase().contains(&name);
        (!piece, edit_distance(&letters, candidate))
    };
    known.iter().min_by_key(distance).copied().unwrap_or("")
}

/// Levenshtein distance between `a` and `b` without regard to case.
fn edit_distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = previous[j] + usize::from(from != to);
            current.push(replaced.min(previous[j + 1] + 1).min(current[j] + 1));
        }
        previous = current;
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_own_index() {
        for (i, row) in PRIMITIVES.iter().enumerate() {
            assert_eq!(row.primitive as usize, i);
            assert_eq!(Primitive::from_name(row.name).unwrap(), row.primitive);
        }
        for (i, row) in ACTIVATIONS.iter().enumerate() {
            assert_eq!(row.activation as usize, i);
            assert_eq!(Activation::from_name(row.name).unwrap(), row.activation);
        }
        let searched: Vec<_> = PRIMITIVES.iter().filter(|row| row.searched).map(|row| row.primitive).collect();
        assert_eq!(searched, Primitive::CONV_SEARCH);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let nearest = |name| match Primitive::from_name(name) {
            Err(Error::UnknownOperation { nearest, .. }) => nearest,
            other => panic!("{other:?}"),
        };
        assert_eq!(nearest("sep_conv_3*3"), "sep_conv_3x3");
        assert_eq!(nearest("skip"), "skip_connect");
        assert_eq!(nearest("MAX_POOL_3X3"), "max_pool_3x3");
        let message = Activation::from_name("sigmod").unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown recurrent operation 'sigmod'; did you mean 'sigmoid'? (known: none, tanh, relu, sigmoid, identity)"
        );
    }

    #[test]
    fn edit_distance_matches_known_values() {
        let distance = |a: &str, b| edit_distance(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}

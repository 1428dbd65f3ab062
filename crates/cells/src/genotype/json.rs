//! The JSON form: `{"normal":[["sep_conv_3x3",0],…],"normal_concat":[2,3,4,5],"reduce":…,"reduce_concat":…}` or
//! `{"recurrent":[["relu",0],…],"concat":[1,…]}`. The kind is decided by the keys first, so that an error is about the kind that
//! was meant and not about all kinds at once.

use serde::{Deserialize, Deserializer, de};

use super::{ConvGenotype, Genotype, RecurrentGenotype};
use crate::{
    error::Result,
    primitive::{Activation, Primitive},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConvFields {
    normal: Vec<(Primitive, usize)>,
    normal_concat: Vec<usize>,
    reduce: Vec<(Primitive, usize)>,
    reduce_concat: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecurrentFields {
    recurrent: Vec<(Activation, usize)>,
    concat: Vec<usize>,
}

/// Parses without validating.
pub(super) fn read(bytes: &[u8]) -> Result<Genotype> {
    parse(serde_json::from_slice(bytes)?).map_err(Into::into)
}

fn parse(value: serde_json::Value) -> serde_json::Result<Genotype> {
    if value.get("recurrent").is_some() {
        let RecurrentFields { recurrent, concat } = serde_json::from_value(value)?;
        return Ok(Genotype::Recurrent(RecurrentGenotype { recurrent, concat }));
    }
    if value.get("normal").is_none() && value.get("reduce").is_none() {
        return Err(de::Error::custom("no key 'normal' and 'reduce' (a convolutional cell) or 'recurrent'"));
    }
    let ConvFields { normal, normal_concat, reduce, reduce_concat } = serde_json::from_value(value)?;
    Ok(Genotype::Conv(ConvGenotype { normal, normal_concat, reduce, reduce_concat }))
}

impl<'de> Deserialize<'de> for Genotype {
    /// Reads and validates.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let genotype = parse(serde_json::Value::deserialize(deserializer)?).map_err(de::Error::custom)?;
        genotype.validate().map_err(de::Error::custom)?;
        Ok(genotype)
    }
}

impl<'de> Deserialize<'de> for ConvGenotype {
    /// Reads and validates.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Genotype::deserialize(deserializer)? {
            Genotype::Conv(genotype) => Ok(genotype),
            Genotype::Recurrent(_) => Err(de::Error::custom("a recurrent cell, expected a convolutional one")),
        }
    }
}

impl<'de> Deserialize<'de> for RecurrentGenotype {
    /// Reads and validates.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Genotype::deserialize(deserializer)? {
            Genotype::Recurrent(genotype) => Ok(genotype),
            Genotype::Conv(_) => Err(de::Error::custom("a convolutional cell, expected a recurrent one")),
        }
    }
}

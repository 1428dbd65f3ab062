//! The flat vectors that networks keep their numbers in, and the tables that give slices of them their usual names and shapes.
//! A table says where a tensor lies and how it is initialized; the numbers belong to whoever trains them.

use std::{collections::HashMap, ops::Range};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    error::{Error, Result},
    random,
};

/// How a tensor's first numbers are chosen.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Init {
    /// U(±1/√fan_in): what Kaiming's uniform initialization with a = √5 comes to for convolutions, and the usual choice for
    /// weight and bias of a linear layer.
    FanIn(usize),
    /// U(±bound).
    Uniform(f64),
    /// 1, for the scale of a batch norm and its running variance.
    Ones,
    /// 0, for shifts, biases and running means.
    Zeros,
}

impl Init {
    /// The initialization of a convolution's weight [out, in/groups, kh, kw]: fan in = in/groups·kh·kw.
    pub fn conv(shape: &[usize]) -> Self {
        Init::FanIn(shape.iter().skip(1).product())
    }
}

/// One tensor of a [`Table`].
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name in files.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where it starts in the flat vector.
    pub offset: usize,
    /// How it is initialized.
    pub init: Init,
}

impl Entry {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it lies in the flat vector.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// Names, shapes and places of the tensors in one flat vector, without gaps, in the order in which they were pushed.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    len: usize,
}

impl Table {
    /// A table without tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a tensor and returns its place in the flat vector.
    ///
    /// # Panics
    /// If the table has a tensor of that name: names are made by the networks, not read.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> Range<usize> {
        let entry = Entry { name: name.into(), shape: shape.to_vec(), offset: self.len, init };
        let range = entry.range();
        let before = self.by_name.insert(entry.name.clone(), self.entries.len());
        assert!(before.is_none(), "two tensors of the name {}", entry.name);
        self.len = range.end;
        self.entries.push(entry);
        range
    }

    /// Length of the flat vector.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the flat vector has no numbers.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All tensors, in the order of the flat vector.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|&index| &self.entries[index])
    }

    /// First numbers of the flat vector. Those of a tensor depend on `seed` and its name alone, so they stay the same when
    /// other tensors come, go or change places.
    pub fn initialize(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.len];
        for entry in &self.entries {
            let out = &mut values[entry.range()];
            let mut uniform = |bound| random::uniform(seed, "init", &entry.name, bound, out);
            match entry.init {
                Init::FanIn(fan_in) => uniform(1.0 / (fan_in.max(1) as f64).sqrt()),
                Init::Uniform(bound) => uniform(bound),
                Init::Ones => out.fill(1.0),
                Init::Zeros => out.fill(0.0),
            }
        }
        values
    }
}

/// What [`load`] does with tensors of a file that stand in none of the tables.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Refuse the file.
    Refuse,
    /// Pass over them.
    Ignore,
}

/// Bytes of a safetensors file with the tensors of all `sections` under their names, f32. The same numbers give the same bytes.
///
/// # Shapes
/// Each section's values are a flat vector of its table.
///
/// # Errors
/// [`Error::Length`] where a vector does not have its table's length, [`Error::Safetensors`] where the format refuses.
pub fn save(sections: &[(&Table, &[f32])], metadata: Option<(&str, &str)>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(sections.len());
    for (table, values) in sections {
        if values.len() != table.len() {
            let (actual, expected) = (values.len(), table.len());
            return Err(Error::Length { operation: "save", what: "flat vector", actual, expected });
        }
        bytes.push(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    }
    let mut views = Vec::new();
    for ((table, _), bytes) in sections.iter().zip(&bytes) {
        for entry in table.entries() {
            let Range { start, end } = entry.range();
            let view = TensorView::new(Dtype::F32, entry.shape.clone(), &bytes[4 * start..4 * end])?;
            views.push((entry.name.as_str(), view));
        }
    }
    let metadata = metadata.map(|(key, value)| HashMap::from([(key.to_owned(), value.to_owned())]));
    Ok(safetensors::serialize(views, metadata)?)
}

/// The flat vectors of `tables` from the bytes of a safetensors file.
///
/// # Errors
/// [`Error::Safetensors`] for bytes that are no such file, [`Error::MissingTensor`] and [`Error::Tensor`] for the first tensor of
/// a table that the file lacks or has in another shape or element type, [`Error::UnexpectedTensor`] for one that stands in no
/// table where `extra` refuses those.
pub fn load(bytes: &[u8], tables: &[&Table], extra: Extra) -> Result<Vec<Vec<f32>>> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut vectors = Vec::with_capacity(tables.len());
    for table in tables {
        let mut values = vec![0.0; table.len()];
        for entry in table.entries() {
            let Ok(view) = file.tensor(&entry.name) else {
                return Err(Error::MissingTensor { name: entry.name.clone(), expected: entry.shape.clone() });
            };
            if view.dtype() != Dtype::F32 || view.shape() != entry.shape {
                return Err(Error::Tensor {
                    name: entry.name.clone(),
                    actual: format!("{:?} {:?}", view.dtype(), view.shape()),
                    expected: format!("{:?} {:?}", Dtype::F32, entry.shape),
                });
            }
            let numbers = view.data().as_chunks::<4>().0;
            for (value, &number) in values[entry.range()].iter_mut().zip(numbers) {
                *value = f32::from_le_bytes(number);
            }
        }
        vectors.push(values);
    }
    if extra == Extra::Refuse {
        let mut unknown: Vec<_> =
            file.iter().filter(|(name, _)| tables.iter().all(|table| table.get(name).is_none())).collect();
        unknown.sort_by(|a, b| a.0.cmp(b.0));
        if let Some((name, view)) = unknown.first() {
            return Err(Error::UnexpectedTensor { name: (*name).to_owned(), actual: view.shape().to_vec() });
        }
    }
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new();
        table.push("stem.0.weight", &[48, 3, 3, 3], Init::conv(&[48, 3, 3, 3]));
        table.push("stem.1.weight", &[48], Init::Ones);
        table.push("stem.1.bias", &[48], Init::Zeros);
        table.push("classifier.weight", &[10, 64], Init::FanIn(64));
        table
    }

    #[test]
    fn tensors_lie_one_after_the_other() {
        let table = table();
        assert_eq!(table.len(), 1296 + 48 + 48 + 640);
        assert_eq!(table.get("stem.1.bias").unwrap().range(), 1344..1392);
        assert!(table.get("stem.2").is_none());
        assert_eq!(table.entries().iter().map(Entry::len).sum::<usize>(), table.len());
    }

    #[test]
    fn initial_numbers_depend_on_seed_and_name_alone() {
        let (table, mut reordered) = (table(), Table::new());
        for entry in table.entries().iter().rev() {
            reordered.push(&entry.name, &entry.shape, entry.init);
        }
        let (values, other) = (table.initialize(7), reordered.initialize(7));
        for entry in table.entries() {
            assert_eq!(values[entry.range()], other[reordered.get(&entry.name).unwrap().range()], "{}", entry.name);
        }
        assert_eq!(values, table.initialize(7));
        assert_ne!(values, table.initialize(8));
    }

    #[test]
    fn initial_numbers_have_the_range_and_variance_of_their_distribution() {
        let table = table();
        let values = table.initialize(0);
        let bound = 1.0 / 27f32.sqrt();
        let conv = &values[table.get("stem.0.weight").unwrap().range()];
        assert!(conv.iter().all(|value| value.abs() <= bound));
        let variance = conv.iter().map(|v| v * v).sum::<f32>() / conv.len() as f32;
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.1);
        assert!(values[table.get("stem.1.weight").unwrap().range()].iter().all(|&v| v == 1.0));
        assert!(values[table.get("stem.1.bias").unwrap().range()].iter().all(|&v| v == 0.0));
    }

    #[test]
    fn files_give_back_the_same_bits_and_are_the_same_bytes() {
        let (table, mut alphas) = (table(), Table::new());
        alphas.push("alphas", &[36, 5], Init::Zeros);
        let (values, zeros) = (table.initialize(1), alphas.initialize(1));
        let sections: [(&Table, &[f32]); 2] = [(&table, &values), (&alphas, &zeros)];
        let bytes = save(&sections, Some(("format", "darts"))).unwrap();
        assert_eq!(bytes, save(&sections, Some(("format", "darts"))).unwrap());
        assert_eq!(load(&bytes, &[&table, &alphas], Extra::Refuse).unwrap(), [values.clone(), zeros]);
        assert_eq!(load(&bytes, &[&table], Extra::Ignore).unwrap(), [values]);
        let refused = load(&bytes, &[&table], Extra::Refuse).unwrap_err();
        assert_eq!(refused.to_string(), "tensor 'alphas' [36, 5] belongs to no part of the network");
    }

    #[test]
    fn other_shapes_names_and_lengths_are_refused_by_name() {
        let table = table();
        let bytes = save(&[(&table, &table.initialize(1))], None).unwrap();
        let mut other = Table::new();
        other.push("classifier.weight", &[100, 64], Init::FanIn(64));
        let refused = load(&bytes, &[&other], Extra::Ignore).unwrap_err().to_string();
        assert_eq!(refused, "tensor 'classifier.weight' is F32 [10, 64], expected F32 [100, 64]");
        other = Table::new();
        other.push("stem.7", &[1], Init::Ones);
        let refused = load(&bytes, &[&other], Extra::Ignore).unwrap_err().to_string();
        assert_eq!(refused, "tensor 'stem.7' is missing, expected [1]");
        assert!(matches!(save(&[(&table, &[0.0])], None), Err(Error::Length { actual: 1, .. })));
        for cut in [0, 7, 8, 100, bytes.len() - 1] {
            assert!(matches!(load(&bytes[..cut], &[&table], Extra::Ignore), Err(Error::Safetensors(_))));
        }
    }
}

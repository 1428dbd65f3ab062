//! State as named flat vectors and counters: what a checkpoint stores, and what makes a resumed run end in the same
//! bytes. It refuses to know files: names and numbers go out, names and numbers come in.

use darts_ops::vector::Vector;

use crate::error::Error;

/// Something whose whole state is a few named vectors and counters.
///
/// Two values that were built with the same settings and have the same vectors and counters behave the same, bit
/// for bit, from then on.
pub trait Stateful {
    /// Every vector of the state, in a fixed order.
    fn vectors(&self) -> Vec<(&'static str, &Vector)>;

    /// The same vectors, to be written to.
    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)>;

    /// Every counter of the state, in a fixed order.
    fn counters(&self) -> Vec<(&'static str, u64)>;

    /// The same counters, to be written to.
    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)>;

    /// Puts a saved state in place of the present one: all of it, or on an error nothing.
    ///
    /// # Errors
    /// [`Error::StateMissing`], [`Error::StateUnknown`] or [`Error::StateLength`] where the names and lengths are
    /// not exactly those of [`Stateful::vectors`] and [`Stateful::counters`].
    fn restore(&mut self, vectors: &[(&str, &[f32])], counters: &[(&str, u64)]) -> Result<(), Error> {
        let lengths: Vec<_> = self.vectors().into_iter().map(|(name, vector)| (name, vector.len())).collect();
        let counter_names: Vec<&str> = self.counters().iter().map(|(name, _)| *name).collect();
        check(&lengths, &counter_names, vectors, counters)?;
        for (name, vector) in self.vectors_mut() {
            vector.copy_from_slice(find(vectors, name)?)?;
        }
        for (name, counter) in self.counters_mut() {
            *counter = find(counters, name)?;
        }
        Ok(())
    }
}

/// Refuses a saved state that has not exactly these vectors and counters.
pub(crate) fn check(
    lengths: &[(&'static str, usize)],
    counter_names: &[&str],
    vectors: &[(&str, &[f32])],
    counters: &[(&str, u64)],
) -> Result<(), Error> {
    let vector_names: Vec<&str> = lengths.iter().map(|(name, _)| *name).collect();
    same_names(&vector_names, &vectors.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    same_names(counter_names, &counters.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    for &(name, expected) in lengths {
        let found = find(vectors, name)?.len();
        if found != expected {
            return Err(Error::StateLength { name: name.to_owned(), expected, found });
        }
    }
    Ok(())
}

/// What is saved under that name.
pub(crate) fn find<T: Copy>(saved: &[(&str, T)], name: &str) -> Result<T, Error> {
    let found = saved.iter().find(|(saved, _)| *saved == name);
    found.map(|(_, value)| *value).ok_or_else(|| Error::StateMissing { name: name.to_owned() })
}

fn same_names(expected: &[&str], found: &[&str]) -> Result<(), Error> {
    for (i, name) in found.iter().enumerate() {
        if !expected.contains(name) || found[..i].contains(name) {
            return Err(Error::StateUnknown { name: (*name).to_owned(), expected: expected.join(", ") });
        }
    }
    match expected.iter().find(|name| !found.contains(name)) {
        Some(name) => Err(Error::StateMissing { name: (*name).to_owned() }),
        None => Ok(()),
    }
}

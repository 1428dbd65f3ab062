//! Between a checkpoint's state and what it is a state of: an optimizer's or a search's vectors and counters by their own
//! names, and a task's vectors under `task.`.

use darts_bilevel::Stateful;
#[cfg(feature = "cuda")]
use darts_cuda::{Backend, Memory as _, View};

use crate::checkpoint::State;
use crate::error::Result;
use crate::task::Vectors;

const TASK: &str = "task.";

/// Everything, copied.
pub(crate) fn collect(learner: &impl Stateful, task: Vectors) -> Result<State> {
    let vectors: Result<Vec<_>> = learner.vectors().into_iter().map(|(name, v)| Ok((name, v.to_vec()?))).collect();
    Ok(gather(vectors?, learner.counters(), task))
}

/// A state of a learner's vectors and counters, and a task's vectors.
pub(crate) fn gather(
    vectors: Vec<(&'static str, Vec<f32>)>,
    counters: Vec<(&'static str, u64)>,
    task: Vectors,
) -> State {
    let mut all: Vectors = vectors.into_iter().map(|(name, values)| (name.to_string(), values)).collect();
    all.extend(task.into_iter().map(|(name, values)| (format!("{TASK}{name}"), values)));
    let counters = counters.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    State { counters, vectors: all }
}

/// Puts `state` into `learner` and returns the task's part of it, which must be shaped as `task` is.
///
/// # Errors
/// A reason in words; nothing is changed then.
pub(crate) fn restore(
    learner: &mut impl Stateful,
    mut state: State,
    task: &Vectors,
) -> std::result::Result<Vectors, String> {
    let shapes: Vec<(String, usize)> = task.iter().map(|(name, values)| (name.clone(), values.len())).collect();
    let own = take_task(&mut state, &shapes)?;
    let (vectors, counters) = borrowed(&state);
    learner.restore(&vectors, &counters).map_err(|e| e.to_string())?;
    Ok(own)
}

/// Takes a task's part out of `state`: vectors of these names and lengths.
///
/// # Errors
/// A reason in words.
pub(crate) fn take_task(state: &mut State, shapes: &[(String, usize)]) -> std::result::Result<Vectors, String> {
    let mut take = |(name, len): &(String, usize)| Ok((name.clone(), state.take(&format!("{TASK}{name}"), *len)?));
    shapes.iter().map(&mut take).collect()
}

/// A vector in device memory, by its name.
#[cfg(feature = "cuda")]
pub(crate) type Named = (&'static str, View);

/// A task's vectors, read back from a device.
#[cfg(feature = "cuda")]
pub(crate) fn read_views(device: &dyn Backend, views: &[Named]) -> Result<Vectors> {
    views.iter().map(|&(name, view)| Ok((name.to_owned(), device.downloaded(view)?))).collect()
}

/// [`take_task`] for vectors in device memory.
#[cfg(feature = "cuda")]
pub(crate) fn take_views(state: &mut State, views: &[Named]) -> std::result::Result<Vectors, String> {
    let shapes: Vec<(String, usize)> = views.iter().map(|&(name, view)| (name.to_owned(), view.len)).collect();
    take_task(state, &shapes)
}

/// Puts a task's vectors, in the order of `views`, into device memory.
///
/// # Errors
/// A reason in words where the device fails.
#[cfg(feature = "cuda")]
pub(crate) fn write_views(device: &dyn Backend, views: &[Named], vectors: &Vectors) -> std::result::Result<(), String> {
    let mut pairs = views.iter().zip(vectors);
    pairs.try_for_each(|((_, view), (_, values))| device.upload(*view, values)).map_err(|error| error.to_string())
}

/// Something by its name.
type ByName<'a, T> = Vec<(&'a str, T)>;

/// The vectors and counters of a state, by name.
pub(crate) fn borrowed(state: &State) -> (ByName<'_, &[f32]>, ByName<'_, u64>) {
    let vectors = state.vectors.iter().map(|(name, values)| (name.as_str(), &values[..])).collect();
    (vectors, state.counters.iter().map(|(name, value)| (name.as_str(), *value)).collect())
}

//! Between a checkpoint's state and what it is a state of: an optimizer's or a search's vectors and counters by their own
//! names, and a task's vectors under `task.`.

use darts_bilevel::Stateful;

use crate::checkpoint::State;
use crate::error::Result;
use crate::task::Vectors;

const TASK: &str = "task.";

/// Everything, copied.
pub(crate) fn collect(learner: &impl Stateful, task: Vectors) -> Result<State> {
    let mut vectors = Vectors::new();
    for (name, vector) in learner.vectors() {
        vectors.push((name.to_string(), vector.to_vec()?));
    }
    vectors.extend(task.into_iter().map(|(name, values)| (format!("{TASK}{name}"), values)));
    let counters = learner.counters().into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    Ok(State { counters, vectors })
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
    let mut own = Vectors::new();
    for (name, values) in task {
        own.push((name.clone(), state.take(&format!("{TASK}{name}"), values.len())?));
    }
    let vectors: Vec<(&str, &[f32])> = state.vectors.iter().map(|(name, v)| (name.as_str(), &v[..])).collect();
    let counters: Vec<(&str, u64)> = state.counters.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    learner.restore(&vectors, &counters).map_err(|e| e.to_string())?;
    Ok(own)
}

//! Which settings of two configurations differ, by name: what `--resume` says when it refuses. It compares what is written
//! to `run.json`, so a setting that a later version adds is compared by its default.

use serde::Serialize;
use serde_json::Value;

/// One setting with two values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The setting, with dots between levels: `data.image_size`.
    pub(crate) field: String,
    /// Its first value as JSON text, or "absent".
    pub(crate) first: String,
    /// Its second value as JSON text, or "absent".
    pub(crate) second: String,
}

/// All settings in which `first` and `second` differ, in alphabetical order of their names.
pub(crate) fn differences<T: Serialize>(first: &T, second: &T) -> serde_json::Result<Vec<Difference>> {
    let mut found = Vec::new();
    compare("", &as_read(first)?, &as_read(second)?, &mut found);
    Ok(found)
}

/// The value as it is after being written to a file and read back: reading a decimal number may miss its last bit, and must
/// then miss it on both sides.
fn as_read(value: &impl Serialize) -> serde_json::Result<Value> {
    serde_json::from_str(&serde_json::to_string(value)?)
}

fn compare(at: &str, first: &Value, second: &Value, found: &mut Vec<Difference>) {
    match (first, second) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
            names.sort();
            for name in names {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => compare(&at, a, b, found),
                    (a, b) => found.push(difference(at, a, b)),
                }
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(difference(at.to_string(), Some(a), Some(b))),
    }
}

fn difference(field: String, first: Option<&Value>, second: Option<&Value>) -> Difference {
    let text = |value: Option<&Value>| value.map_or("absent".to_string(), Value::to_string);
    Difference { field, first: text(first), second: text(second) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DataConfig, SearchConfig};

    #[test]
    fn equal_configurations_have_no_difference() {
        let config = SearchConfig::cifar10();
        assert_eq!(differences(&config, &config.clone()).unwrap(), []);
    }

    #[test]
    fn every_differing_setting_is_named_with_both_values() {
        let first = SearchConfig::cifar10();
        let mut second = first.clone();
        second.learning_rate = 0.05;
        second.train_limit = Some(100);
        second.data = DataConfig::image_folder();
        let found = differences(&first, &second).unwrap();
        let names: Vec<_> = found.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(names, ["data.dataset", "data.image_size", "data.test_fraction", "learning_rate", "train_limit"]);
        assert_eq!((found[3].first.as_str(), found[3].second.as_str()), ("0.025", "0.05"));
        assert_eq!(found[1].first, "absent");
        assert_eq!(found[4].first, "null");
    }
}

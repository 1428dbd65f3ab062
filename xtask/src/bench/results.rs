//! docs/benchmarks.json: a list of comparisons, one a case, and the table made of it. Figures of another machine are not
//! kept beside this one's.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// One case, both sides. Seconds are those of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Median.
    pub(super) ours_s: f64,
    /// Median of the peer's fastest variant.
    pub(super) peer_s: f64,
    /// How many times faster ours is.
    pub(super) ratio: f64,
    /// Largest resident memory.
    pub(super) ours_bytes: u64,
    pub(super) peer_bytes: u64,
    /// What of the peer's memory was there before any work.
    pub(super) peer_imported_bytes: u64,
    pub(super) peer_variant: String,
    /// Medians of all of the peer's variants.
    pub(super) peer_variants_s: BTreeMap<String, f64>,
    /// Fastest and slowest step.
    pub(super) ours_spread_s: [f64; 2],
    pub(super) peer_spread_s: [f64; 2],
    /// Variants that do not count, and why.
    pub(super) left_out: Vec<String>,
    /// Where it was measured, with versions.
    pub(super) machine: String,
}

impl Entry {
    /// The row of the table under [`HEADER`].
    pub(super) fn markdown(&self) -> String {
        let side = |median: f64, [least, most]: [f64; 2]| {
            format!("{:.1} ms ({:.1}–{:.1})", 1e3 * median, 1e3 * least, 1e3 * most)
        };
        let default = self.peer_variants_s.get("default");
        format!(
            "| {} | {} | {} ({}) | {:.2} × | {} | {:.2} / {:.2} GB |",
            self.name,
            side(self.ours_s, self.ours_spread_s),
            side(self.peer_s, self.peer_spread_s),
            self.peer_variant,
            self.ratio,
            default.map_or_else(|| "–".into(), |seconds| format!("{:.2} ×", seconds / self.ours_s)),
            self.ours_bytes as f64 / 1e9,
            self.peer_bytes as f64 / 1e9,
        )
    }
}

/// The head of a table of comparisons.
pub(super) const HEADER: &str = "\
| work | ours: median (spread) | PyTorch's best: median (spread) | ratio | to its default | peak memory, ours / PyTorch |
|---|---|---|---|---|---|";

/// The page's section: a table for the machine, and what was left out.
pub(super) fn section(entries: &[Entry]) -> String {
    let machine = entries.first().map_or("", |entry| &entry.machine);
    let rows: Vec<String> = entries.iter().map(Entry::markdown).collect();
    let left_out: String =
        entries.iter().flat_map(|entry| &entry.left_out).map(|reason| format!("- left out: {reason}\n")).collect();
    format!("{machine}\n\n{HEADER}\n{}\n\n{left_out}", rows.join("\n"))
}

/// Replaces the entry of the same name in the list at `path`, drops those of other machines, and keeps the order of `names`.
///
/// # Errors
/// The file is there but holds no such list, or cannot be written.
pub(super) fn merge(path: &Path, entry: Entry, names: &[&str]) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{} holds no list of results", path.display()))?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    entries.retain(|old| old.name != entry.name && old.machine == entry.machine);
    entries.push(entry);
    entries.sort_by_key(|entry| names.iter().position(|name| *name == entry.name));
    let text = serde_json::to_string_pretty(&entries).context("cannot format the results")? + "\n";
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, ours_s: f64, machine: &str) -> Entry {
        Entry {
            name: name.into(),
            ours_s,
            peer_s: 6.0,
            ratio: 6.0 / ours_s,
            ours_bytes: 1_000_000_000,
            peer_bytes: 5_000_000_000,
            peer_imported_bytes: 0,
            peer_variant: "compile".into(),
            peer_variants_s: [("default".to_owned(), 9.0), ("compile".to_owned(), 6.0)].into(),
            ours_spread_s: [ours_s, ours_s],
            peer_spread_s: [5.0, 7.0],
            left_out: Vec::new(),
            machine: machine.into(),
        }
    }

    #[test]
    fn merging_replaces_entries_of_the_same_name_and_keeps_others_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docs/benchmarks.json");
        let names = ["a", "b", "c"];
        merge(&path, entry("b", 1.0, "m"), &names).unwrap();
        merge(&path, entry("a", 1.0, "m"), &names).unwrap();
        merge(&path, entry("b", 2.0, "m"), &names).unwrap();
        let entries: Vec<Entry> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(entries, [entry("a", 1.0, "m"), entry("b", 2.0, "m")]);
        assert_eq!(merge(&path, entry("c", 1.0, "other"), &names).unwrap(), [entry("c", 1.0, "other")]);
    }

    #[test]
    fn a_row_has_both_ratios_and_both_memories() {
        let row = entry("a", 1.5, "m").markdown();
        assert_eq!(
            row,
            "| a | 1500.0 ms (1500.0–1500.0) | 6000.0 ms (5000.0–7000.0) (compile) | 4.00 × | 6.00 × | 1.00 / 5.00 GB |"
        );
    }
}

//! The crate graph: `cargo metadata` must agree with the one that ARCHITECTURE.md draws, arrow for arrow.
//!
//! Only normal and build dependencies count: tests may use what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Context, Outcome};
use crate::workspace::{cargo, output, root};

/// The info string of the code block in ARCHITECTURE.md that draws the graph.
const FENCE: &str = "```text crate-graph";

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Compares the two graphs.
pub(super) fn check(_: &mut Context) -> Result<Outcome> {
    let path = root().join("ARCHITECTURE.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let drawn = drawn(&text)?;
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let actual = actual(&serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?);
    let wrong = differences(&drawn, &actual);
    if !wrong.is_empty() {
        bail!("the crates are not as ARCHITECTURE.md draws them:\n  {}", wrong.join("\n  "));
    }
    Ok(Outcome::Passed)
}

/// Parses lines `crate → crate, crate`; a crate without arrows stands alone on its line.
fn drawn(text: &str) -> Result<Graph> {
    let block = text.split_once(FENCE).and_then(|(_, rest)| rest.split_once("```")).map(|(block, _)| block);
    let block = block.with_context(|| format!("ARCHITECTURE.md has no block that opens with {FENCE}"))?;
    let lines = block.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines
        .map(|line| {
            let (name, to) = line.split_once('→').unwrap_or((line, ""));
            let to = to.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
            (name.trim().to_owned(), to.collect())
        })
        .collect())
}

fn actual(metadata: &Value) -> Graph {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let dependencies = |package: &Value| -> BTreeSet<String> {
        let all = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
        let shipped = all.iter().filter(|d| d["kind"].as_str() != Some("dev")).filter_map(|d| d["name"].as_str());
        shipped.filter(|name| names.contains(name)).map(str::to_owned).collect()
    };
    packages.iter().filter_map(|p| Some((p["name"].as_str()?.to_owned(), dependencies(p)))).collect()
}

fn differences(drawn: &Graph, actual: &Graph) -> Vec<String> {
    let none = BTreeSet::new();
    let crates: BTreeSet<&String> = drawn.keys().chain(actual.keys()).collect();
    let mut wrong = Vec::new();
    for name in crates {
        match (drawn.contains_key(name), actual.contains_key(name)) {
            (true, false) => wrong.push(format!("{name} is drawn, but there is no such crate")),
            (false, true) => wrong.push(format!("{name} is not drawn")),
            _ => {}
        }
        let (drawn, actual) = (drawn.get(name).unwrap_or(&none), actual.get(name).unwrap_or(&none));
        wrong.extend(actual.difference(drawn).map(|to| format!("{name} → {to} is not drawn")));
        wrong.extend(drawn.difference(actual).map(|to| format!("{name} → {to} is drawn, but Cargo.toml has it not")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{actual, differences, drawn};

    const PAGE: &str = "# x\n```text crate-graph\na\nb → a\nc → a, b\n```\ntail\n";

    fn metadata(c_depends_on: serde_json::Value) -> serde_json::Value {
        json!({ "packages": [
            { "name": "a", "dependencies": [{ "name": "rayon", "kind": null }] },
            { "name": "b", "dependencies": [{ "name": "a", "kind": null }, { "name": "c", "kind": "dev" }] },
            { "name": "c", "dependencies": c_depends_on },
        ]})
    }

    #[test]
    fn the_same_graph_has_no_differences_and_dev_dependencies_do_not_count() {
        let same = metadata(json!([{ "name": "a", "kind": null }, { "name": "b", "kind": "build" }]));
        assert_eq!(differences(&drawn(PAGE).unwrap(), &actual(&same)), Vec::<String>::new());
    }

    #[test]
    fn a_missing_arrow_and_an_extra_crate_are_named() {
        let mut other = metadata(json!([{ "name": "a", "kind": null }]));
        other["packages"].as_array_mut().unwrap().push(json!({ "name": "d", "dependencies": [{ "name": "a" }] }));
        assert_eq!(
            differences(&drawn(PAGE).unwrap(), &actual(&other)),
            ["c → b is drawn, but Cargo.toml has it not", "d is not drawn", "d → a is not drawn"]
        );
    }

    #[test]
    fn a_page_without_a_graph_is_an_error() {
        assert!(drawn("# nothing").unwrap_err().to_string().contains("crate-graph"));
    }
}

//! How the operations of each edge won and lost weight over the epochs: one small panel per edge, on one common scale, arranged as the edges are: a row for
//! each node that receives, a column for each node that sends.
//!
//! Colour is not the only cue: the strongest operation of a panel is drawn boldly and named, and the second of a pair of kindred operations is dashed.

use std::fmt::Write as _;

use super::scale::Scale;
use crate::report::{cell_drawing::readable, html::escape, record::WeightHistory};

/// How an operation's line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OperationStyle {
    /// The class of the page's stylesheet.
    class: &'static str,
    /// Whether its line is dashed.
    dashed: bool,
}

/// The line of an operation by its name in genotypes.
fn operation_style(name: &str) -> OperationStyle {
    let (class, dashed) = match name {
        "none" => ("w-none", true),
        "max_pool_3x3" | "relu" => ("w-pool", false),
        "avg_pool_3x3" => ("w-pool-2", true),
        "skip_connect" | "identity" => ("w-skip", false),
        "sep_conv_3x3" | "tanh" => ("w-sep", false),
        "sep_conv_5x5" => ("w-sep-2", true),
        "dil_conv_3x3" | "sigmoid" => ("w-dil", false),
        "dil_conv_5x5" => ("w-dil-2", true),
        _ => ("w-none", false),
    };
    OperationStyle { class, dashed }
}

/// A legend of the operations' lines.
pub(crate) fn legend(operations: &[&str]) -> String {
    let mut out = String::from(r#"<ul class="legend">"#);
    for operation in operations {
        let style = operation_style(operation);
        let _ = write!(
            out,
            r#"<li><svg viewBox="0 0 26 10" width="26" height="10" aria-hidden="true"><path class="weight strong {}"{} d="M1 5H25"/></svg>{}</li>"#,
            style.class,
            dashes(style),
            escape(&readable(operation))
        );
    }
    out.push_str("</ul>");
    out
}

/// One panel per edge of a history. `inputs` are the names of the nodes that come before the first intermediate one, `operations` the columns of α, and
/// `kept(edge)` the operation that the genotype keeps on an edge.
pub(crate) fn edge_panels(
    history: &WeightHistory,
    inputs: &[&str],
    first_node: usize,
    operations: &[&str],
    kept: &dyn Fn(usize, usize) -> Option<usize>,
) -> String {
    let most = history.weights.iter().flatten().flatten().copied().fold(0.0, f64::max);
    // The axis ends at a round share, the same for all panels.
    let top = [0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8].into_iter().find(|top| most * 1.04 <= *top).unwrap_or(1.0);
    let edges = history.weights.first().map_or(0, Vec::len);
    let mut out = String::new();
    let (mut node, mut source) = (0, 0);
    let mut panels = String::new();
    let mut columns = 0;
    for edge in 0..edges {
        let name = |index: usize| {
            inputs.get(index).map_or_else(|| (index - inputs.len() + first_node).to_string(), |name| (*name).to_owned())
        };
        let title = format!("{} → {}", name(source), node + first_node);
        columns = columns.max(source + 1);
        let _ = write!(panels, r#"<div class="edge" style="--row:{};--column:{}">"#, node + 1, source + 1);
        panel(&mut panels, history, edge, &title, top, operations, kept(node, source));
        panels.push_str("</div>");
        source += 1;
        if source == inputs.len() + node {
            node += 1;
            source = 0;
        }
    }
    let dense = if columns > 5 { " dense" } else { "" };
    let _ = write!(out, r#"<div class="edges{dense}" style="--columns:{columns}">{panels}</div>"#);
    out
}

fn panel(
    out: &mut String,
    history: &WeightHistory,
    edge: usize,
    title: &str,
    top: f64,
    operations: &[&str],
    kept: Option<usize>,
) {
    const WIDTH: f64 = 200.0;
    const LEFT: f64 = 34.0;
    const HEIGHT: f64 = 134.0;
    let end = history.epochs.last().copied().unwrap_or(1.0).max(1.0);
    let start = history.epochs.first().copied().unwrap_or(0.0).min(end);
    let x = Scale::new((if start == end { 0.0 } else { start }, end), (LEFT, WIDTH - 8.0), false);
    let y = Scale::new((0.0, top), (HEIGHT - 19.0, 45.0), false);
    let last = history.weights.last().and_then(|epoch| epoch.get(edge)).cloned().unwrap_or_default();
    let count = last.len();
    // The strongest operation other than none: what a derived cell would take from this edge.
    let strongest = (0..count)
        .filter(|operation| operations.get(*operation) != Some(&"none"))
        .max_by(|a, b| last[*a].total_cmp(&last[*b]).then(b.cmp(a)));
    let name = |operation: usize| operations.get(operation).copied().unwrap_or("?");
    let alt = strongest
        .map(|operation| format!("{title}: strongest is {} with weight {:.3}", name(operation), last[operation]))
        .unwrap_or_default();
    let class = if kept.is_some() { "panel kept" } else { "panel" };
    let _ = write!(
        out,
        r#"<svg class="{class}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}"><title>{}</title>"#,
        escape(&alt),
        escape(&alt)
    );
    let _ = write!(
        out,
        r#"<rect class="frame" x="0.75" y="0.75" width="{}" height="{}" rx="6"/>"#,
        WIDTH - 1.5,
        HEIGHT - 1.5
    );
    let _ = write!(out, r#"<text class="edge-name" x="9" y="16">{}</text>"#, escape(title));
    if kept.is_some() {
        let _ = write!(out, r#"<text class="edge-kept" x="{}" y="16" text-anchor="end">✓ kept</text>"#, WIDTH - 9.0);
    }
    for level in [0.0, top] {
        let _ = write!(
            out,
            r#"<path class="grid" d="M{LEFT} {0:.1}H{1}"/><text class="tick" x="30" y="{2:.1}" text-anchor="end">{3}</text>"#,
            y.at(level),
            WIDTH - 8.0,
            y.at(level) + 3.6,
            if level == 0.0 { "0".to_owned() } else { format!("{level}") }
        );
    }
    if count > 0 {
        let _ = write!(out, r#"<path class="uniform" d="M{LEFT} {0:.1}H{1}"/>"#, y.at(1.0 / count as f64), WIDTH - 8.0);
    }
    for (epoch, anchor, at) in [(x.at(start), "start", start), (x.at(end), "end", end)] {
        if at == end || start < end {
            let _ = write!(
                out,
                r#"<text class="tick" x="{epoch:.1}" y="{}" text-anchor="{anchor}">{at:.0}</text>"#,
                HEIGHT - 6.0
            );
        }
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|operation| Some(*operation) == strongest);
    for operation in order {
        let style = operation_style(name(operation));
        let points: Vec<(f64, f64)> = history
            .epochs
            .iter()
            .zip(&history.weights)
            .filter_map(|(epoch, weights)| Some((x.at(*epoch), y.at(*weights.get(edge)?.get(operation)?))))
            .collect();
        let strong = if Some(operation) == strongest { " strong" } else { "" };
        if let [(x, y)] = points.as_slice() {
            let _ = write!(out, r#"<circle class="weight-point {}" cx="{x:.1}" cy="{y:.1}" r="2.5"/>"#, style.class);
            continue;
        }
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let _ =
            write!(out, r#"<path class="weight{strong} {}"{} d="M{}"/>"#, style.class, dashes(style), path.join("L"));
    }
    if let Some(operation) = strongest {
        let _ = write!(
            out,
            r#"<text class="edge-best {}" x="9" y="31">{} {:.2}</text>"#,
            operation_style(name(operation)).class,
            escape(&readable(name(operation))),
            last[operation]
        );
    }
    out.push_str("</svg>");
}

fn dashes(style: OperationStyle) -> &'static str {
    if style.dashed { r#" stroke-dasharray="4 2.5""# } else { "" }
}

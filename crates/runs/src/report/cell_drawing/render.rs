//! A laid-out cell as SVG.
//!
//! Everything is styled by classes from one stylesheet, which a standalone file carries in itself and the report's page carries once; no ids are used, so
//! that many drawings can share a page. Dark colours come after `prefers-color-scheme`; renderers that know no media queries draw the light ones.

use std::fmt::Write as _;

use super::{
    family::{Family, glyph, readable},
    graph::{CellGraph, Node, Role},
    layout::{Placed, Route, Sizes, layout},
};
use crate::report::html::escape;

const LABEL_HEIGHT: f64 = 25.0;
const LABEL_FONT: f64 = 12.5;
const MARGIN: f64 = 18.0;
const TITLE_HEIGHT: f64 = 34.0;
const FONTS: &str =
    "system-ui, -apple-system, 'Segoe UI', Roboto, Ubuntu, Cantarell, 'Noto Sans', 'Helvetica Neue', Arial, sans-serif";

/// A drawing without its `<svg>` element, to be put anywhere.
pub(super) struct Figure {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) body: String,
    pub(super) title: String,
    pub(super) description: String,
}

/// Draws a cell; with `title`, its name stands above it.
pub(super) fn figure(graph: &CellGraph, title: bool) -> Figure {
    let sizes = Sizes {
        node_width: &|node| node_width(&graph.nodes[node]),
        node_height: &|node| if graph.nodes[node].role == Role::Inner { 36.0 } else { 44.0 },
        label_width: &label_width,
        label_height: LABEL_HEIGHT,
    };
    let plan = layout(graph, &sizes);
    let top = MARGIN + if title { TITLE_HEIGHT } else { 0.0 };
    let mut body = String::new();
    if title {
        let _ = write!(
            body,
            r#"<text class="cell-title" x="{MARGIN}" y="{:.1}">{}</text>"#,
            MARGIN + 16.0,
            escape(&graph.title)
        );
    }
    let _ = write!(body, r#"<g transform="translate({MARGIN} {top})">"#);
    // Lines first, bare ones lowest, so that labels and nodes lie on top.
    for bare in [true, false] {
        for (edge, route) in graph.edges.iter().zip(&plan.routes).filter(|(edge, _)| edge.operation.is_none() == bare) {
            draw_edge(&mut body, edge.operation.as_deref(), route);
        }
    }
    for (edge, route) in graph.edges.iter().zip(&plan.routes) {
        if let (Some(operation), Some(place)) = (&edge.operation, route.label) {
            let ends = format!("{operation}: {} → {}", graph.nodes[edge.from].plain(), graph.nodes[edge.to].plain());
            draw_label(&mut body, operation, &ends, place);
        }
    }
    for (node, place) in graph.nodes.iter().zip(&plan.nodes) {
        draw_node(&mut body, node, *place);
    }
    body.push_str("</g>");
    let title_width = if title { text_width(&graph.title, 17.0) } else { 0.0 };
    Figure {
        width: (plan.width.max(title_width) + 2.0 * MARGIN).ceil(),
        height: (top + plan.height + MARGIN).ceil(),
        body,
        title: graph.title.clone(),
        description: graph.description(),
    }
}

/// The layout alone, for tests that look at where things are.
#[cfg(test)]
pub(super) fn plan(graph: &CellGraph) -> super::layout::Layout {
    layout(
        graph,
        &Sizes {
            node_width: &|node| node_width(&graph.nodes[node]),
            node_height: &|node| if graph.nodes[node].role == Role::Inner { 36.0 } else { 44.0 },
            label_width: &label_width,
            label_height: LABEL_HEIGHT,
        },
    )
}

/// A whole SVG document of one or more figures, one above the other, with the stylesheet and a background of its own.
pub(super) fn document(name: Option<&str>, figures: &[Figure]) -> String {
    let head = if name.is_some() { 40.0 } else { 0.0 };
    let width = figures
        .iter()
        .map(|figure| figure.width)
        .fold(0.0, f64::max)
        .max(name.map_or(0.0, |name| text_width(name, 22.0) + 2.0 * MARGIN));
    let height = head + figures.iter().map(|figure| figure.height).sum::<f64>();
    let titles: Vec<&str> = figures.iter().map(|figure| figure.title.as_str()).collect();
    let mut out = String::new();
    let _ = write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" class="cell" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"><title>{}</title><desc>{}</desc><style>{}</style>"#,
        escape(&titles.join(", ")),
        escape(&figures.iter().map(|figure| figure.description.as_str()).collect::<Vec<_>>().join(" ")),
        stylesheet()
    );
    let _ = write!(out, r#"<rect class="cell-paper" width="{width}" height="{height}" rx="10"/>"#);
    if let Some(name) = name {
        let _ = write!(out, r#"<text class="cell-name" x="{MARGIN}" y="38">{}</text>"#, escape(name));
    }
    let mut y = head;
    for figure in figures {
        let _ = write!(out, r#"<g transform="translate(0 {y})">{}</g>"#, figure.body);
        y += figure.height;
    }
    out.push_str("</svg>\n");
    out
}

/// An `<svg>` element for a page that carries [`stylesheet`] itself.
pub(super) fn inline(figure: &Figure) -> String {
    let Figure { width, height, body, title, description } = figure;
    format!(
        r#"<svg class="cell" viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="--width:{width}px" role="img" aria-label="{}"><desc>{}</desc>{body}</svg>"#,
        escape(title),
        escape(description)
    )
}

/// The rules behind the drawings' classes, light and dark.
pub(super) fn stylesheet() -> String {
    let mut css = format!(
        ".cell text{{font-family:{FONTS}}}\
         .cell-title{{font-size:17px;font-weight:600}}.cell-name{{font-size:22px;font-weight:700}}\
         .cell-op{{font-size:{LABEL_FONT}px;text-anchor:middle}}.cell-label{{font-size:16px;text-anchor:middle}}\
         .cell-caption{{font-size:10.5px;text-anchor:middle}}.cell-sub{{font-size:11px}}\
         .cell-line{{fill:none;stroke-width:1.8;stroke-linecap:round}}.cell-head{{stroke:none}}.cell-bare{{fill:none;stroke-width:1.5}}\
         .cell-line.op-pool{{stroke-width:2.3}}.cell-pill{{stroke-width:1.2}}.cell-box{{stroke-width:1.6}}.op-glyph-line{{stroke-width:1.5;stroke-linecap:round;stroke-linejoin:round}}"
    );
    css.push_str(&scheme(false));
    let _ = write!(css, "@media screen and (prefers-color-scheme:dark){{{}}}", scheme(true));
    css
}

fn scheme(dark: bool) -> String {
    let (paper, ink, soft, bare, input, inner) = if dark {
        ("#12161c", "#e8ecf2", "#a9b2bf", "#79828f", "#232a34", "#1b212a")
    } else {
        ("#ffffff", "#17202c", "#55606e", "#8a94a3", "#eef1f5", "#ffffff")
    };
    let mut css = format!(
        ".cell-paper{{fill:{paper}}}.cell text{{fill:{ink}}}.cell .cell-caption{{fill:{soft}}}\
         .cell-bare{{stroke:{bare}}}.cell-bare-head{{fill:{bare}}}\
         .cell-box{{fill:{inner};stroke:{ink}}}.cell-outer{{fill:{input};stroke:{soft}}}"
    );
    for family in Family::ALL {
        let paint = if dark { family.dark() } else { family.light() };
        let (class, line, fill) = (family.class(), paint.line, paint.fill);
        let _ = write!(
            css,
            ".cell-line.{class}{{stroke:{line}}}.cell-head.{class}{{fill:{line}}}.cell-pill.{class}{{fill:{fill};stroke:{line}}}\
             .cell-glyph.{class}{{fill:{line}}}.cell-glyph.{class} .op-glyph-line{{fill:none;stroke:{line}}}"
        );
    }
    css
}

fn draw_edge(out: &mut String, operation: Option<&str>, route: &Route) {
    let mut path = String::new();
    let mut previous: Option<f64> = None;
    for (index, stop) in route.stops.iter().enumerate() {
        match previous {
            None => {
                let _ = write!(path, "M{:.1} {:.1}", stop.left, stop.y);
            }
            Some(x) => {
                let before = route.stops[index - 1].y;
                if (before - stop.y).abs() < 0.05 {
                    let _ = write!(path, "H{:.1}", stop.left);
                } else {
                    let middle = (x + stop.left) / 2.0;
                    let _ = write!(
                        path,
                        "C{middle:.1} {before:.1} {middle:.1} {:.1} {:.1} {:.1}",
                        stop.y, stop.left, stop.y
                    );
                }
            }
        }
        // Behind a label the line pauses: dashes begin anew on its other side. At the end an arrow head takes the last bit.
        let right = if index + 1 == route.stops.len() { stop.right - 5.0 } else { stop.right };
        if let Some((from, to)) = stop.label {
            let _ = write!(path, "H{from:.1}M{to:.1} {:.1}H{right:.1}", stop.y);
        } else if (right - stop.left).abs() > 0.05 {
            let _ = write!(path, "H{right:.1}");
        }
        previous = Some(stop.right);
    }
    let Some(end) = route.stops.last() else { return };
    let head = format!("M{:.1} {:.1}l-8.5-4.2v8.4z", end.right, end.y);
    match operation {
        Some(operation) => {
            let family = Family::of(operation);
            let dashes = family.dashes().map(|dashes| format!(r#" stroke-dasharray="{dashes}""#)).unwrap_or_default();
            let class = family.class();
            let _ = write!(
                out,
                r#"<path class="cell-line {class}"{dashes} d="{path}"/><path class="cell-head {class}" d="{head}"/>"#
            );
        }
        None => {
            let _ = write!(out, r#"<path class="cell-bare" d="{path}"/><path class="cell-bare-head" d="{head}"/>"#);
        }
    }
}

fn draw_label(out: &mut String, operation: &str, ends: &str, place: Placed) {
    let class = Family::of(operation).class();
    let Placed { x, y, width, height } = place;
    let left = x - width / 2.0;
    let _ = write!(
        out,
        r#"<g><title>{}</title><rect class="cell-pill {class}" x="{left:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}" rx="{:.1}"/><g class="cell-glyph {class}">{}</g><text class="cell-op" x="{:.1}" y="{:.1}">{}</text></g>"#,
        escape(ends),
        y - height / 2.0,
        height / 2.0,
        glyph(operation, left + 16.0, y),
        left + 26.0 + (width - 26.0 - 11.0) / 2.0,
        y + 4.4,
        escape(&readable(operation))
    );
}

fn draw_node(out: &mut String, node: &Node, place: Placed) {
    let Placed { x, y, width, height } = place;
    let class = if node.role == Role::Inner { "cell-box" } else { "cell-box cell-outer" };
    let radius = if node.role == Role::Inner { width.min(height) / 2.0 } else { 8.0 };
    let _ = write!(
        out,
        r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}" rx="{radius:.1}"/>"#,
        x - width / 2.0,
        y - height / 2.0
    );
    let base = y + if node.caption.is_some() { 1.0 } else { 5.5 };
    let subscript =
        node.subscript.map(|text| format!(r#"<tspan class="cell-sub" dy="4">{text}</tspan>"#)).unwrap_or_default();
    let _ =
        write!(out, r#"<text class="cell-label" x="{x:.1}" y="{base:.1}">{}{subscript}</text>"#, escape(&node.label));
    if let Some(caption) = node.caption {
        let _ = write!(out, r#"<text class="cell-caption" x="{x:.1}" y="{:.1}">{caption}</text>"#, y + 16.0);
    }
}

fn node_width(node: &Node) -> f64 {
    match node.role {
        Role::Inner => 36.0,
        Role::Input => 54.0,
        Role::Output => 58.0,
    }
}

fn label_width(operation: &str) -> f64 {
    26.0 + text_width(&readable(operation), LABEL_FONT) + 15.0
}

/// Width that a text needs in the wider ones of the usual sans-serif faces.
fn text_width(text: &str, size: f64) -> f64 {
    let ems: f64 = text
        .chars()
        .map(|char| match char {
            'i' | 'j' | 'l' | 't' | 'f' | 'r' | ' ' | '.' | ',' | ':' | '|' | '(' | ')' | '-' => 0.38,
            'm' | 'w' | 'M' | 'W' | '×' => 0.92,
            'A'..='Z' => 0.72,
            _ => 0.625,
        })
        .sum();
    ems * size
}

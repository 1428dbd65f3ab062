//! Where everything of a cell goes: a layered layout after Sugiyama, with a slot of its own for every label.
//!
//! Columns run left to right. A node's column follows from its longest path from the inputs; between two node columns lies a column for the labels of the edges
//! that end in the second. An edge that passes a column on its way holds a narrow lane there, so that no edge can cross a label or a node: the free
//! gaps between the columns are the only places where edges bend. `order` finds the order within columns, `heights` and `straight` the heights.
//!
//! Nothing is drawn here, and no fonts are measured: sizes come from the caller.

mod heights;
mod order;
mod straight;

use super::graph::{CellGraph, Role};

/// Distance of the places at which edges leave or enter a node.
const PORT_GAP: f64 = 11.0;

/// A box of the finished drawing, by its centre and size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    /// Horizontal centre.
    pub x: f64,
    /// Vertical centre.
    pub y: f64,
    /// Full width.
    pub width: f64,
    /// Full height.
    pub height: f64,
}

/// The way of one edge.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// Pairs of points from source to target; between the points of a pair the edge is straight and horizontal, between pairs it bends.
    pub stops: Vec<Stop>,
    /// Where its label is, if it has one.
    pub label: Option<Placed>,
}

/// A horizontal piece of a route: the edge enters at `left` and leaves at `right`. A label covers its piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Where the edge arrives.
    pub left: f64,
    /// Where it goes on.
    pub right: f64,
    /// The height at which it does both.
    pub y: f64,
    /// Left and right end of the edge's label, if it lies on this piece.
    pub label: Option<(f64, f64)>,
}

/// Coordinates of everything, with the origin at the top left.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// One box per node of the graph.
    pub nodes: Vec<Placed>,
    /// One route per edge of the graph.
    pub routes: Vec<Route>,
    /// Width of the whole.
    pub width: f64,
    /// Height of the whole.
    pub height: f64,
}

/// The sizes that a layout needs to know.
pub(super) struct Sizes<'a> {
    /// Width of a node's box.
    pub node_width: &'a dyn Fn(usize) -> f64,
    /// Least height of a node's box; many edges make it higher.
    pub node_height: &'a dyn Fn(usize) -> f64,
    /// Width of an operation's label.
    pub label_width: &'a dyn Fn(&str) -> f64,
    /// Height of a label.
    pub label_height: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Node,
    Label,
    Lane,
}

struct Item {
    kind: Kind,
    column: usize,
    width: f64,
    height: f64,
}

/// A piece of an edge between items in neighbouring columns.
#[derive(Clone, Copy)]
struct Segment {
    from: usize,
    to: usize,
    weight: f64,
}

struct Layered {
    items: Vec<Item>,
    columns: Vec<Vec<usize>>,
    segments: Vec<Segment>,
    /// The segments of each edge in order.
    chains: Vec<Vec<usize>>,
}

/// Lays a cell out.
pub(super) fn layout(graph: &CellGraph, sizes: &Sizes<'_>) -> Layout {
    let mut layered = layer(graph, sizes);
    order::order(&mut layered);
    let (y, ports) = heights::heights(&layered);
    place(graph, &layered, &y, &ports)
}

/// Longest path from the inputs; the output goes last, alone.
fn ranks(graph: &CellGraph) -> Vec<usize> {
    let mut rank = vec![0; graph.nodes.len()];
    for node in 0..graph.nodes.len() {
        // Edges go from lower to higher indices, so sources are final here.
        rank[node] =
            graph.edges.iter().filter(|edge| edge.to == node).map(|edge| rank[edge.from] + 1).max().unwrap_or(0);
    }
    let last = rank.iter().copied().max().unwrap_or(0);
    for (node, rank) in graph.nodes.iter().zip(&mut rank) {
        match node.role {
            Role::Output => *rank = last,
            Role::Inner => *rank = (*rank).max(1),
            Role::Input => {}
        }
    }
    rank
}

fn layer(graph: &CellGraph, sizes: &Sizes<'_>) -> Layered {
    let rank = ranks(graph);
    // Node ranks have even columns, labels odd ones; columns that would hold lanes alone are closed up.
    let mut used = vec![false; 2 * rank.iter().max().map_or(1, |rank| rank + 1)];
    for rank in &rank {
        used[2 * rank] = true;
    }
    for edge in graph.edges.iter().filter(|edge| edge.operation.is_some()) {
        used[2 * rank[edge.to] - 1] = true;
    }
    let mut items: Vec<Item> = (0..graph.nodes.len())
        .map(|node| {
            let outgoing = graph.edges.iter().filter(|edge| edge.from == node).count();
            let incoming = graph.edges.iter().filter(|edge| edge.to == node).count();
            let ports = outgoing.max(incoming).saturating_sub(1) as f64 * PORT_GAP;
            Item {
                kind: Kind::Node,
                column: 2 * rank[node],
                width: (sizes.node_width)(node),
                height: (sizes.node_height)(node).max(ports + 20.0),
            }
        })
        .collect();
    let mut segments = Vec::new();
    let mut chains = Vec::new();
    for edge in &graph.edges {
        let mut chain = Vec::new();
        let mut previous = edge.from;
        for column in (2 * rank[edge.from] + 1..2 * rank[edge.to]).filter(|column| used[*column]) {
            let label = edge.operation.as_ref().filter(|_| column == 2 * rank[edge.to] - 1);
            items.push(match label {
                Some(operation) => Item {
                    kind: Kind::Label,
                    column,
                    width: (sizes.label_width)(operation),
                    height: sizes.label_height,
                },
                None => Item { kind: Kind::Lane, column, width: 0.0, height: 0.0 },
            });
            link(&items, &mut segments, &mut chain, previous, items.len() - 1);
            previous = items.len() - 1;
        }
        link(&items, &mut segments, &mut chain, previous, edge.to);
        chains.push(chain);
    }
    let mut number = vec![0; used.len()];
    let mut count = 0;
    for (column, used) in used.iter().enumerate() {
        number[column] = count;
        count += usize::from(*used);
    }
    let mut columns = vec![Vec::new(); count];
    for (index, item) in items.iter_mut().enumerate() {
        item.column = number[item.column];
        columns[item.column].push(index);
    }
    for column in &columns {
        let width = column.iter().map(|item| items[*item].width).fold(0.0, f64::max);
        // Labels of about the same length get the same width: a tidy column.
        for item in column {
            if items[*item].kind == Kind::Label && items[*item].width > 0.75 * width {
                items[*item].width = width;
            }
        }
    }
    Layered { items, columns, segments, chains }
}

fn link(items: &[Item], segments: &mut Vec<Segment>, chain: &mut Vec<usize>, from: usize, to: usize) {
    let lanes = [from, to].iter().filter(|item| items[**item].kind == Kind::Lane).count();
    let label = [from, to].iter().any(|item| items[*item].kind == Kind::Label);
    let weight = [if label { 1.5 } else { 1.0 }, 2.0, 8.0][lanes];
    chain.push(segments.len());
    segments.push(Segment { from, to, weight });
}

fn place(graph: &CellGraph, layered: &Layered, y: &[f64], ports: &[(f64, f64)]) -> Layout {
    let items = &layered.items;
    let top = items.iter().zip(y).map(|(item, y)| y - item.height / 2.0).fold(f64::INFINITY, f64::min);
    let bottom = items.iter().zip(y).map(|(item, y)| y + item.height / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let mut spans = Vec::with_capacity(layered.columns.len());
    let mut x = 0.0;
    for (index, column) in layered.columns.iter().enumerate() {
        let width = column.iter().map(|item| items[*item].width).fold(0.0, f64::max);
        spans.push((x, x + width));
        // Steep bends need room.
        let climb = layered
            .segments
            .iter()
            .zip(ports)
            .filter(|(segment, _)| items[segment.from].column == index)
            .map(|(segment, (leave, enter))| (y[segment.to] + enter - y[segment.from] - leave).abs())
            .fold(0.0, f64::max);
        if index + 1 < layered.columns.len() {
            x += width + (22.0 + 0.2 * climb).clamp(26.0, 64.0);
        } else {
            x += width;
        }
    }
    let placed = |item: usize| {
        let (left, right) = spans[items[item].column];
        Placed { x: (left + right) / 2.0, y: y[item] - top, width: items[item].width, height: items[item].height }
    };
    let routes = layered
        .chains
        .iter()
        .map(|chain| {
            let mut route = Route { stops: Vec::new(), label: None };
            for (step, segment) in chain.iter().enumerate() {
                let Segment { from, to, .. } = layered.segments[*segment];
                if step == 0 {
                    let (source, column) = (placed(from), spans[items[from].column]);
                    route.stops.push(Stop {
                        left: source.x + source.width / 2.0,
                        right: column.1,
                        y: source.y + ports[*segment].0,
                        label: None,
                    });
                }
                let (target, column) = (placed(to), spans[items[to].column]);
                let target_y = target.y + ports[*segment].1;
                route.stops.push(match items[to].kind {
                    Kind::Node => {
                        Stop { left: column.0, right: target.x - target.width / 2.0, y: target_y, label: None }
                    }
                    Kind::Lane => Stop { left: column.0, right: column.1, y: target_y, label: None },
                    Kind::Label => {
                        let label = (target.x - target.width / 2.0, target.x + target.width / 2.0);
                        Stop { left: column.0, right: column.1, y: target_y, label: Some(label) }
                    }
                });
                if items[to].kind == Kind::Label {
                    route.label = Some(target);
                }
            }
            route
        })
        .collect();
    Layout { nodes: (0..graph.nodes.len()).map(placed).collect(), routes, width: x, height: bottom - top }
}

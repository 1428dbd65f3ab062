//! A cell as a plain graph: what is drawn, before anything is known about where.
//!
//! Conv and recurrent genotypes are turned into the same nodes and edges here. This file knows nothing of coordinates or colours, and it does not judge
//! whether a genotype is a sensible one: edges to nodes that do not exist are left out.

/// What part a node plays in its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Comes from outside: an earlier cell's output, an input, a hidden state.
    Input,
    /// An intermediate node.
    Inner,
    /// What the cell hands on.
    Output,
}

/// A node of a [`CellGraph`].
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The name in the node's box, `c` in c with subscript k−2.
    pub(super) label: String,
    /// The subscript after it, if any.
    pub(super) subscript: Option<&'static str>,
    /// A word below the name: how an output is put together.
    pub(super) caption: Option<&'static str>,
    /// Input, intermediate or output.
    pub(super) role: Role,
}

/// An edge of a [`CellGraph`]; two edges may have the same ends.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    /// Index of the node that sends.
    pub(super) from: usize,
    /// Index of the node that receives.
    pub(super) to: usize,
    /// Name of the operation as genotypes spell it (`sep_conv_3x3`), or none for a bare connection.
    pub(super) operation: Option<String>,
}

/// A cell as a directed acyclic graph whose edges carry operations; edges go from lower to higher nodes by construction.
#[derive(Clone, Debug)]
pub struct CellGraph {
    /// What is drawn: "Normal cell".
    pub(super) title: String,
    /// Inputs first, then intermediate nodes ascending, then the output.
    pub(super) nodes: Vec<Node>,
    /// In the order of the genotype, then the connections to the output.
    pub(super) edges: Vec<Edge>,
}

impl CellGraph {
    /// A convolutional cell: `pairs` are (operation, source), two for each intermediate node in turn; sources and `concat` count the two inputs as 0 and 1.
    pub fn conv<S: AsRef<str>>(title: &str, pairs: &[(S, usize)], concat: &[usize]) -> Self {
        let mut nodes = vec![input("c", Some("k−2")), input("c", Some("k−1"))];
        let count = pairs.len().div_ceil(2);
        nodes.extend((0..count).map(inner));
        let mut edges: Vec<Edge> = pairs
            .iter()
            .enumerate()
            .map(|(i, (operation, from))| Edge {
                from: *from,
                to: 2 + i / 2,
                operation: Some(operation.as_ref().to_owned()),
            })
            .collect();
        finish(&mut nodes, &mut edges, concat, output("c", "k", "concat"));
        Self { title: title.to_owned(), nodes, edges }
    }

    /// A recurrent cell: `pairs` are (activation, predecessor), one for each node from 1 on; node 0 is the state made of input and hidden state.
    pub fn recurrent<S: AsRef<str>>(title: &str, pairs: &[(S, usize)], concat: &[usize]) -> Self {
        let mut nodes = vec![input("x", Some("t")), input("h", Some("t−1"))];
        nodes.extend((0..=pairs.len()).map(inner));
        let mut edges = vec![Edge { from: 0, to: 2, operation: None }, Edge { from: 1, to: 2, operation: None }];
        edges.extend(pairs.iter().enumerate().map(|(i, (activation, from))| Edge {
            from: from + 2,
            to: i + 3,
            operation: Some(activation.as_ref().to_owned()),
        }));
        let concat: Vec<usize> = concat.iter().map(|node| node + 2).collect();
        finish(&mut nodes, &mut edges, &concat, output("h", "t", "mean"));
        Self { title: title.to_owned(), nodes, edges }
    }

    /// What is drawn: "Normal cell".
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The cell in words, a sentence for each node: for readers who do not see the drawing.
    pub(super) fn description(&self) -> String {
        let mut text = String::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.role != Role::Input) {
            let terms: Vec<String> = self
                .edges
                .iter()
                .filter(|edge| edge.to == index)
                .map(|edge| match &edge.operation {
                    Some(operation) => format!("{operation}({})", self.nodes[edge.from].plain()),
                    None => self.nodes[edge.from].plain(),
                })
                .collect();
            let joint = if node.role == Role::Output { ", " } else { " + " };
            text.push_str(&format!(
                "{} = {}{}. ",
                node.plain(),
                node.caption.map(|word| format!("{word} of ")).unwrap_or_default(),
                terms.join(joint)
            ));
        }
        text.trim_end().to_owned()
    }
}

impl Node {
    /// The node's name on one line: `c_k−2`, `node 0`.
    pub(super) fn plain(&self) -> String {
        match (self.subscript, self.role) {
            (Some(subscript), _) => format!("{}_{subscript}", self.label),
            (None, Role::Inner) => format!("node {}", self.label),
            (None, _) => self.label.clone(),
        }
    }
}

fn input(label: &str, subscript: Option<&'static str>) -> Node {
    Node { label: label.to_owned(), subscript, caption: None, role: Role::Input }
}

fn inner(index: usize) -> Node {
    Node { label: index.to_string(), subscript: None, caption: None, role: Role::Inner }
}

fn output(label: &str, subscript: &'static str, caption: &'static str) -> Node {
    Node { label: label.to_owned(), subscript: Some(subscript), caption: Some(caption), role: Role::Output }
}

/// Adds the output and its connections, and drops edges that do not go from an earlier node to a later one.
fn finish(nodes: &mut Vec<Node>, edges: &mut Vec<Edge>, concat: &[usize], output: Node) {
    let last = nodes.len();
    nodes.push(output);
    edges.extend(concat.iter().map(|from| Edge { from: *from, to: last, operation: None }));
    edges.retain(|edge| edge.from < edge.to && edge.to <= last);
}

//! Operation weights of a search, cell by cell.

use darts_cells::{
    genotype::Genotype,
    primitive::{Activation, Primitive},
};

use crate::report::{
    charts::{edge_panels, legend},
    record::{CellKind, Record},
};

/// All panels of a search; says so if there is nothing yet.
pub(super) fn of_run(record: &Record) -> String {
    if record.weights.is_empty() {
        return "<p class=\"empty-note\">No epoch has ended yet.</p>".to_owned();
    }
    let mut out = String::from(
        "<p>Softmax weights of the candidate operations after each epoch; a row of panels for each node that receives, left to right by the node that sends. \
         The strongest operation is bold and named, the dotted line is where all would be equal, and edges that the derived cell keeps are framed.</p>",
    );
    for (kind, history) in &record.weights {
        let heading = match kind {
            CellKind::Normal => "Normal cell",
            CellKind::Reduce => "Reduction cell",
            CellKind::Recurrent => "Recurrent cell",
        };
        let count = history.weights.first().and_then(|edges| edges.first()).map_or(0, Vec::len);
        let operations: Vec<&str> = match kind {
            CellKind::Recurrent => Activation::SEARCH.iter().map(|operation| operation.name()).collect(),
            CellKind::Normal | CellKind::Reduce => {
                Primitive::CONV_SEARCH.iter().map(|operation| operation.name()).collect()
            }
        };
        // A space of another size has columns that this version has no names for.
        let operations: Vec<&str> = if operations.len() == count { operations } else { vec!["?"; count] };
        let (inputs, first): (&[&str], usize) =
            if *kind == CellKind::Recurrent { (&["0"], 1) } else { (&["cₖ₋₂", "cₖ₋₁"], 0) };
        let pairs = record.genotype.as_ref().map(|genotype| pairs(genotype, *kind)).unwrap_or_default();
        let per_node = inputs.len();
        let kept = |node: usize, source: usize| {
            let own = pairs.get(node * per_node..(node + 1) * per_node)?;
            let (name, _) = own.iter().find(|(_, from)| *from == source)?;
            operations.iter().position(|operation| operation == name)
        };
        out.push_str(&format!(
            "<h3>{heading}</h3>{}{}",
            legend(&operations),
            edge_panels(history, inputs, first, &operations, &kept)
        ));
    }
    out
}

/// (operation, source) pairs of one cell: two per node in conv cells, one in recurrent ones, which is how many inputs those have.
fn pairs(genotype: &Genotype, kind: CellKind) -> Vec<(&'static str, usize)> {
    match (genotype, kind) {
        (Genotype::Conv(cell), CellKind::Normal) => {
            cell.normal.iter().map(|(operation, from)| (operation.name(), *from)).collect()
        }
        (Genotype::Conv(cell), CellKind::Reduce) => {
            cell.reduce.iter().map(|(operation, from)| (operation.name(), *from)).collect()
        }
        (Genotype::Recurrent(cell), CellKind::Recurrent) => {
            cell.recurrent.iter().map(|(operation, from)| (operation.name(), *from)).collect()
        }
        _ => Vec::new(),
    }
}

//! Cells as drawings that a person enjoys reading: inputs left, output right, every operation named on its edge.
//!
//! [`drawings`] and [`sheet`] give SVG, [`png()`] pixels. Texts of an SVG use the viewer's sans-serif font; a PNG carries its own. What the drawings show is the
//! genotype alone: preprocessing of inputs, strides and channels are the network's affair and are left out.

mod family;
mod graph;
mod layout;
mod png;
mod render;
#[cfg(test)]
mod tests;

pub(crate) use family::readable;
pub use graph::CellGraph;
pub use png::png;

use darts_cells::genotype::Genotype;

/// One cell, drawn.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// File name without its ending: `cell_normal`, `cell_reduce` or `cell_recurrent`.
    pub stem: &'static str,
    /// A whole SVG document.
    pub svg: String,
}

/// The cells of a genotype as graphs: normal and reduction cell, or the recurrent cell.
pub fn graphs(genotype: &Genotype) -> Vec<CellGraph> {
    fn named<O: Copy, N: Fn(O) -> &'static str>(pairs: &[(O, usize)], name: N) -> Vec<(&'static str, usize)> {
        pairs.iter().map(|(operation, from)| (name(*operation), *from)).collect()
    }
    match genotype {
        Genotype::Conv(cells) => vec![
            CellGraph::conv("Normal cell", &named(&cells.normal, |operation| operation.name()), &cells.normal_concat),
            CellGraph::conv(
                "Reduction cell",
                &named(&cells.reduce, |operation| operation.name()),
                &cells.reduce_concat,
            ),
        ],
        Genotype::Recurrent(cell) => {
            vec![CellGraph::recurrent(
                "Recurrent cell",
                &named(&cell.recurrent, |activation| activation.name()),
                &cell.concat,
            )]
        }
    }
}

/// Each cell of a genotype as an SVG document, under the file names of a run's folder; `name` stands above it.
pub fn drawings(genotype: &Genotype, name: Option<&str>) -> Vec<Drawing> {
    let stems: &[&'static str] = match genotype {
        Genotype::Conv(_) => &["cell_normal", "cell_reduce"],
        Genotype::Recurrent(_) => &["cell_recurrent"],
    };
    let graphs = graphs(genotype);
    stems
        .iter()
        .zip(&graphs)
        .map(|(stem, graph)| Drawing { stem, svg: svg(name, std::slice::from_ref(graph)) })
        .collect()
}

/// All cells of a genotype on one sheet, as an SVG document.
pub fn sheet(genotype: &Genotype, name: Option<&str>) -> String {
    svg(name, &graphs(genotype))
}

/// Graphs one above the other, as an SVG document; `name` stands above them.
pub fn svg(name: Option<&str>, graphs: &[CellGraph]) -> String {
    let figures: Vec<_> = graphs.iter().map(|graph| render::figure(graph, true)).collect();
    render::document(name, &figures)
}

/// One graph as an `<svg>` element for a page that carries [`stylesheet`].
pub(super) fn inline(graph: &CellGraph) -> String {
    render::inline(&render::figure(graph, false))
}

/// The rules that [`inline`]'s classes need.
pub(super) fn stylesheet() -> String {
    render::stylesheet()
}

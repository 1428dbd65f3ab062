//! The cells of a genotype, drawn, with the text form that the paper's code uses.

use std::fmt::Write as _;

use darts_cells::genotype::Genotype;

use crate::report::{cell_drawing, html::escape};

/// Figures of all cells of a genotype.
pub(super) fn figures(genotype: &Genotype) -> String {
    let mut out = String::new();
    for graph in cell_drawing::graphs(genotype) {
        let note = match graph.title() {
            "Reduction cell" => " Operations on the inputs have stride 2.",
            "Recurrent cell" => {
                " Node 0 is the gated mix of input and hidden state; every edge is a highway step with the named activation."
            }
            _ => "",
        };
        let _ = write!(
            out,
            "<figure class=\"drawing\"><figcaption>{}<small>{note}</small></figcaption><div class=\"scroll\">{}</div></figure>",
            escape(graph.title()),
            cell_drawing::inline(&graph)
        );
    }
    let _ = write!(out, "<details><summary>As text</summary><pre>{}</pre></details>", escape(&text(genotype)));
    out
}

fn text(genotype: &Genotype) -> String {
    genotype.to_string()
}

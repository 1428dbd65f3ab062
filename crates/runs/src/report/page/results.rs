//! A run's result beside the table that was published on the same data.
//!
//! Synthetic data is never compared: the table is then shown for reference, the run's own row says so, and no mark of it is put on the published scale.

use std::fmt::Write as _;

use super::settings::Difference;
use crate::report::{
    html::escape,
    tables::{Figure, Row, Table},
};

/// The row of the reader's own run.
pub(super) struct Own {
    /// What it is.
    pub(super) name: String,
    /// Its figures, in the order of the table's; none where there are none yet.
    pub(super) figures: [Option<f64>; 2],
    /// How many final trainings they are the mean of.
    pub(super) count: usize,
    /// Parameters, in millions.
    pub(super) parameters: Option<f64>,
    /// Multiply-adds, in millions.
    pub(super) multiply_adds: Option<f64>,
    /// The search's cost, "0.31 CPU-days".
    pub(super) cost: Option<String>,
    /// Whether it was made from synthetic data.
    pub(super) synthetic: bool,
    /// Settings in which it differs from the paper.
    pub(super) differences: Vec<Difference>,
}

/// The section's body.
pub(super) fn table(table: &Table, own: &Own) -> String {
    let mut out = String::new();
    let lead = if own.synthetic {
        format!(
            "<p>This run was made from <strong>generated, synthetic data</strong>: its figures say that the software works, and nothing about {}. The published table is shown \
             for reference; the two cannot be compared.</p>",
            escape(table.title.split(',').next().unwrap_or_default())
        )
    } else if own.figures[table.headline].is_none() {
        "<p>The run has no test figure yet; it will stand in the first row.</p>".to_owned()
    } else {
        let count = if own.count > 1 {
            format!("the mean of {} final trainings", own.count)
        } else {
            "one final training (n = 1)".to_owned()
        };
        format!("<p>The run’s figure is that of {count}.</p>")
    };
    out.push_str(&lead);
    if !own.synthetic && !own.differences.is_empty() {
        let list: Vec<String> = own
            .differences
            .iter()
            .map(|difference| {
                format!(
                    "{} {} (paper: {})",
                    escape(&difference.name),
                    escape(&difference.own),
                    escape(&difference.paper)
                )
            })
            .collect();
        let _ = write!(out, "<p class=\"note\"><strong>Not the paper’s setting:</strong> {}.</p>", list.join(", "));
    }
    let range = range(table, own);
    let _ = write!(
        out,
        "<table class=\"published\"><caption>Table {} of the paper: {}. Cost in GPU-days of the search.</caption><thead><tr><th scope=\"col\">Architecture</th>",
        table.number,
        escape(table.title)
    );
    for figure in table.figures {
        let _ = write!(out, "<th scope=\"col\" class=\"number\">{}</th>", escape(figure));
    }
    out.push_str("<th class=\"plot\" aria-hidden=\"true\"></th><th scope=\"col\" class=\"number\">params, M</th>");
    if table.multiply_adds {
        out.push_str("<th scope=\"col\" class=\"number\">mult-adds, M</th>");
    }
    out.push_str("<th scope=\"col\" class=\"number\">cost</th><th scope=\"col\">method</th><th scope=\"col\">arXiv v1</th></tr></thead>");
    own_row(&mut out, table, own, range);
    out.push_str("<tbody>");
    for row in table.rows {
        published_row(&mut out, table, row, own, range);
    }
    out.push_str("</tbody></table><div class=\"remarks\">");
    out.push_str(
        "<p>Published figures: H. Liu, K. Simonyan, Y. Yang, “DARTS: Differentiable Architecture Search”, ICLR 2019, and the sources it names in each row. † trained by \
         the DARTS authors in their own set-up. “arXiv v1” is what the first version (1806.09055v1, June 2018) says where it differs.</p>",
    );
    for remark in table.remarks {
        let _ = write!(out, "<p>{}</p>", escape(remark));
    }
    out.push_str("</div>");
    out
}

/// The axis of the small plots: from the best to the worst published figure and the run's own, if it is comparable and not far off.
fn range(table: &Table, own: &Own) -> (f64, f64) {
    let published = table.rows.iter().filter_map(|row| row.figures[table.headline]).flat_map(|figure| {
        let spread = figure.deviation.unwrap_or(0.0);
        [figure.value - spread, figure.value + spread]
    });
    let (low, high) =
        published.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match own.figures[table.headline] {
        Some(value) if !own.synthetic => (low.min(value), high.max(value.min(high + (high - low)))),
        _ => (low, high),
    }
}

/// A dot with its deviation; the run's own value as a line through every row. Places are shares of the width, so that dots stay round at any.
fn plot(out: &mut String, figure: Option<(f64, Option<f64>)>, own: Option<f64>, range: (f64, f64), is_own: bool) {
    let at = |value: f64| 4.0 + 92.0 * ((value - range.0) / (range.1 - range.0).max(1e-9)).clamp(0.0, 1.0);
    out.push_str(
        r#"<td class="plot" aria-hidden="true"><svg height="30"><line class="grid" x1="4%" x2="96%" y1="15" y2="15"/>"#,
    );
    if let Some(own) = own {
        let _ = write!(out, r#"<line class="own-line" x1="{0:.1}%" x2="{0:.1}%" y1="0" y2="30"/>"#, at(own));
    }
    if let Some((value, deviation)) = figure {
        if let Some(deviation) = deviation {
            let (low, high) = (at(value - deviation), at(value + deviation));
            let _ = write!(out, r#"<line class="whisker" x1="{low:.1}%" x2="{high:.1}%" y1="15" y2="15"/>"#);
        }
        let (class, radius) = if is_own { ("dot own", 5.5) } else { ("dot", 4.0) };
        let _ = write!(out, r#"<circle class="{class}" cx="{:.1}%" cy="15" r="{radius}"/>"#, at(value));
    }
    out.push_str("</svg></td>");
}

fn own_row(out: &mut String, table: &Table, own: &Own, range: (f64, f64)) {
    let tag = if own.synthetic { " <span class=\"tag synthetic\">synthetic data, not comparable</span>" } else { "" };
    let _ = write!(out, "<tbody class=\"own\"><tr><th scope=\"row\">{}{tag}</th>", escape(&own.name));
    for (index, title) in table.figures.iter().enumerate() {
        let text = own.figures[index].map_or("–".to_owned(), |value| {
            format!("{value:.*}", if table.number == 1 || value < 20.0 { 2 } else { 1 })
        });
        let _ = write!(out, "<td class=\"number\" data-label=\"{}\"><strong>{text}</strong></td>", escape(title));
    }
    let headline = own.figures[table.headline].filter(|_| !own.synthetic);
    plot(out, headline.map(|value| (value, None)), headline, range, true);
    let number =
        |value: Option<f64>, decimals: usize| value.map_or("–".to_owned(), |value| format!("{value:.decimals$}"));
    let size = if own.parameters.is_some_and(|millions| millions < 0.1) { 3 } else { 1 };
    let _ = write!(out, "<td class=\"number\" data-label=\"params, M\">{}</td>", number(own.parameters, size));
    if table.multiply_adds {
        let _ = write!(out, "<td class=\"number\" data-label=\"mult-adds, M\">{}</td>", number(own.multiply_adds, 0));
    }
    let _ = write!(
        out,
        "<td class=\"number\" data-label=\"cost\">{}</td><td data-label=\"method\">gradient</td><td class=\"empty\"></td></tr></tbody>",
        own.cost.as_deref().map_or("–".to_owned(), escape)
    );
}

fn published_row(out: &mut String, table: &Table, row: &Row, own: &Own, range: (f64, f64)) {
    let mark = if row.retrained { " †" } else { "" };
    let source = row.source.map(|source| format!(" <small>{}</small>", escape(source))).unwrap_or_default();
    let _ = write!(out, "<tr><th scope=\"row\">{}{mark}{source}</th>", escape(row.architecture));
    for (index, title) in table.figures.iter().enumerate() {
        let text = row.figures[index].map_or("–".to_owned(), |figure: Figure| figure.text());
        let _ = write!(out, "<td class=\"number\" data-label=\"{}\">{text}</td>", escape(title));
    }
    let figure = row.figures[table.headline].map(|figure| (figure.value, figure.deviation));
    plot(out, figure, own.figures[table.headline].filter(|_| !own.synthetic), range, false);
    let _ = write!(out, "<td class=\"number\" data-label=\"params, M\">{}</td>", row.parameters.unwrap_or("–"));
    if table.multiply_adds {
        let _ = write!(
            out,
            "<td class=\"number\" data-label=\"mult-adds, M\">{}</td>",
            row.multiply_adds.map_or("–".to_owned(), |millions| millions.to_string())
        );
    }
    let v1 = match row.v1 {
        Some(difference) => format!("<td data-label=\"arXiv v1\">{}</td>", escape(difference)),
        None => "<td class=\"empty\"></td>".to_owned(),
    };
    let _ = write!(
        out,
        "<td class=\"number\" data-label=\"cost\">{}</td><td data-label=\"method\">{}</td>{v1}</tr>",
        escape(&row.cost.text()),
        row.method.text()
    );
}

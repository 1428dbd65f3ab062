//! How operations look: a family's colours, its kind of line, and a small glyph, so that colour is never the only cue.
//!
//! Names that are not known get the plain family rather than an error: a drawing of a genotype from elsewhere is better than none.

use std::fmt::Write as _;

use darts_cells::primitive::PRIMITIVES;

/// Operations that look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Depthwise-separable convolutions; tanh.
    Separable,
    /// Dilated convolutions; sigmoid.
    Dilated,
    /// Maximum and average pooling; relu.
    Pool,
    /// Identity and factorized reduce; identity.
    Skip,
    /// Dense convolutions.
    Dense,
    /// No operation, and names that are not known.
    Plain,
}

/// The colours of a family in one scheme.
pub(super) struct Paint {
    pub(super) line: &'static str,
    pub(super) fill: &'static str,
}

impl Family {
    /// All families, for stylesheets.
    pub(super) const ALL: [Self; 6] =
        [Self::Separable, Self::Dilated, Self::Pool, Self::Skip, Self::Dense, Self::Plain];

    /// The family of an operation by its name in genotypes.
    pub(super) fn of(operation: &str) -> Self {
        match operation {
            "tanh" => Self::Separable,
            "sigmoid" => Self::Dilated,
            "relu" => Self::Pool,
            "identity" | "skip_connect" => Self::Skip,
            name if name.starts_with("sep_conv") => Self::Separable,
            name if name.starts_with("dil_conv") => Self::Dilated,
            name if name.contains("pool") => Self::Pool,
            name if name.starts_with("conv") => Self::Dense,
            _ => Self::Plain,
        }
    }

    /// The class by which stylesheets find it.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Separable => "op-sep",
            Self::Dilated => "op-dil",
            Self::Pool => "op-pool",
            Self::Skip => "op-skip",
            Self::Dense => "op-dense",
            Self::Plain => "op-plain",
        }
    }

    pub(super) fn light(self) -> Paint {
        let (line, fill) = match self {
            Self::Separable => ("#1f5fb4", "#e4eefb"),
            Self::Dilated => ("#7a35b8", "#f3e8fc"),
            Self::Pool => ("#a94e06", "#fdeedb"),
            Self::Skip => ("#17763a", "#e2f5e8"),
            Self::Dense => ("#0c6a80", "#dcf3f8"),
            Self::Plain => ("#5b6472", "#eceff3"),
        };
        Paint { line, fill }
    }

    pub(super) fn dark(self) -> Paint {
        let (line, fill) = match self {
            Self::Separable => ("#82b4f7", "#172a45"),
            Self::Dilated => ("#cba3f4", "#2e1f42"),
            Self::Pool => ("#f2b066", "#3b2913"),
            Self::Skip => ("#79d698", "#13311f"),
            Self::Dense => ("#6cd3e8", "#0f3038"),
            Self::Plain => ("#a9b2bf", "#272d36"),
        };
        Paint { line, fill }
    }

    /// Dashes of its lines.
    pub(super) fn dashes(self) -> Option<&'static str> {
        match self {
            Self::Skip => Some("7 4"),
            Self::Pool => Some("0.1 4.2"),
            Self::Dilated => Some("10 3.5 1 3.5"),
            Self::Separable | Self::Dense | Self::Plain => None,
        }
    }
}

/// A name as people read it, `sep_conv_3x3` as "sep conv 3×3": the label of the table of primitives; other names with spaces for underscores.
pub(crate) fn readable(operation: &str) -> String {
    match PRIMITIVES.iter().find(|row| row.name == operation) {
        Some(row) => row.label.to_owned(),
        None => operation.replace('_', " "),
    }
}

/// The glyph of an operation, about 14 units square around (x, y): kernels as grids, dilation as gaps in them, pools by what they keep of a window, activations as their
/// curves.
pub(super) fn glyph(operation: &str, x: f64, y: f64) -> String {
    let mut out = String::new();
    match operation {
        "max_pool_3x3" => {
            window(&mut out, x, y);
            dot(&mut out, x + 4.3, y - 4.3, 3.2);
        }
        "avg_pool_3x3" => {
            window(&mut out, x, y);
            for i in 0..9 {
                dot(&mut out, x + f64::from(i % 3 - 1) * 4.0, y + f64::from(i / 3 - 1) * 4.0, 1.9);
            }
        }
        "skip_connect" => stroke(&mut out, x, y, "M-6 3C-3-5 3-5 6 2M2.2 1.9 6.2 2.4 6.6-1.6"),
        "identity" => stroke(&mut out, x, y, "M-6 6 6-6"),
        "relu" => stroke(&mut out, x, y, "M-6.5 4H-.5L6-5.5"),
        "tanh" => stroke(&mut out, x, y, "M-6.5 5.5H-4.5C-.5 5.5.5-5.5 4.5-5.5H6.5"),
        "sigmoid" => stroke(&mut out, x, y, "M-6.5 4.5C1 4.5-1-4.5 6.5-4.5M-6.5 6.8H6.5"),
        "none" => stroke(&mut out, x, y, "M-4.5-4.5 4.5 4.5M4.5-4.5-4.5 4.5"),
        "conv_7x1_1x7" => {
            for i in -2..=2 {
                dot(&mut out, x + f64::from(i) * 2.9, y, 2.1);
                if i != 0 {
                    dot(&mut out, x, y + f64::from(i) * 2.9, 2.1);
                }
            }
        }
        name => match (Family::of(name), kernel(name)) {
            (Family::Separable, Some(size)) => {
                grid(&mut out, x, y, size, [0.0, 0.0, 0.0, 4.2, 0.0, 2.85, 0.0, 2.1][size.min(7)], 0.74)
            }
            (Family::Dilated, Some(size)) => {
                grid(&mut out, x, y, size, [0.0, 0.0, 0.0, 5.4, 0.0, 3.1, 0.0, 2.2][size.min(7)], 0.42)
            }
            _ => dot(&mut out, x, y, 6.0),
        },
    }
    out
}

/// Side of the kernel at the end of a name; only the sizes that a glyph exists for.
fn kernel(name: &str) -> Option<usize> {
    let (_, size) = name.rsplit_once('x')?;
    size.parse().ok().filter(|size| matches!(size, 3 | 5 | 7))
}

fn grid(out: &mut String, x: f64, y: f64, size: usize, step: f64, share: f64) {
    let middle = (size - 1) as f64 / 2.0;
    for i in 0..size * size {
        dot(out, x + ((i % size) as f64 - middle) * step, y + ((i / size) as f64 - middle) * step, step * share);
    }
}

fn dot(out: &mut String, x: f64, y: f64, side: f64) {
    let half = side / 2.0;
    let _ = write!(
        out,
        r#"<rect x="{:.1}" y="{:.1}" width="{side:.1}" height="{side:.1}" rx="{:.1}"/>"#,
        x - half,
        y - half,
        side * 0.2
    );
}

fn window(out: &mut String, x: f64, y: f64) {
    let _ = write!(
        out,
        r#"<rect class="op-glyph-line" x="{:.1}" y="{:.1}" width="14" height="14" rx="2"/>"#,
        x - 7.0,
        y - 7.0
    );
}

fn stroke(out: &mut String, x: f64, y: f64, path: &str) {
    let _ = write!(out, r#"<path class="op-glyph-line" transform="translate({x:.1} {y:.1})" d="{path}"/>"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_people_write_them() {
        assert_eq!(readable("sep_conv_3x3"), "sep conv 3×3");
        assert_eq!(readable("conv_7x1_1x7"), "conv 7×1 1×7");
        assert_eq!(readable("max_pool_3x3"), "max pool 3×3");
        assert_eq!(readable("tanh"), "tanh");
        assert_eq!(readable("my_new_op"), "my new op");
    }

    #[test]
    fn unknown_names_are_plain_and_still_have_a_glyph() {
        assert_eq!(Family::of("my_new_op"), Family::Plain);
        assert!(glyph("sep_conv_9x9", 0.0, 0.0).contains("<rect"));
    }
}

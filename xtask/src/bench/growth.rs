//! `cargo xtask bench growth`: how time and memory of the convolutional search's weight step grow with its sizes, one size
//! varied at a time; fitted, and drawn in docs/growth.svg. Nothing may grow faster than the arithmetic does.

use std::fs;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;

use super::cases;
use super::measure::{Settings, Sizes};
use super::page::{self, Section};
use crate::workspace::root;

const CASE: &str = "conv-search-weight-step";

/// What is not varied: small enough that the largest of every axis is done in seconds.
const BASE: Sizes = Sizes { batch: Some(16), channels: Some(16), layers: Some(8), nodes: Some(4) };

struct Axis {
    name: &'static str,
    values: &'static [usize],
    /// The base with the size set; threads are no size.
    set: fn(&mut Settings, usize),
}

const AXES: [Axis; 5] = [
    Axis { name: "batch", values: &[16, 32, 64, 128, 256], set: |s, value| s.sizes.batch = Some(value) },
    Axis { name: "channels", values: &[8, 16, 32, 64], set: |s, value| s.sizes.channels = Some(value) },
    Axis { name: "layers", values: &[4, 8, 12, 16, 20], set: |s, value| s.sizes.layers = Some(value) },
    Axis { name: "nodes", values: &[2, 3, 4, 5, 6, 7], set: |s, value| s.sizes.nodes = Some(value) },
    Axis { name: "threads", values: &[1, 2], set: |s, value| s.threads = value },
];

/// A step at some size.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    value: usize,
    flops: f64,
    seconds: f64,
    bytes: f64,
}

/// Measures every axis, prints a table, writes it and the drawing.
///
/// # Errors
/// A step fails, or a file cannot be written.
pub(super) fn run(settings: &Settings) -> Result<()> {
    let mut text = String::from(HEADER);
    print!("{text}");
    let mut curves = Vec::new();
    for axis in &AXES {
        let mut points = Vec::new();
        for &value in axis.values {
            let mut settings = Settings { sizes: BASE, images: None, ..settings.clone() };
            (axis.set)(&mut settings, value);
            let measured = cases::measure(CASE, &settings)?;
            let (seconds, bytes) = (measured.median(), measured.peak_bytes as f64);
            points.push(Point { value, flops: measured.flops, seconds, bytes });
        }
        let line = row(axis.name, &points);
        print!("{line}");
        text += &line;
        curves.push((axis.name, points));
    }
    draw(&curves).map_err(|error| anyhow!("cannot draw docs/growth.svg: {error}"))?;
    page::write(Section::Growth, &format!("{text}\n![Seconds of a weight step over its arithmetic](growth.svg)\n"))
}

const HEADER: &str = "\
| varied | values | ms | time ∝ arithmetic to the power of | MB | memory ∝ value to the power of |
|---|---|---|---|---|---|
";

fn row(name: &str, points: &[Point]) -> String {
    let list = |of: &dyn Fn(&Point) -> String| points.iter().map(of).collect::<Vec<_>>().join(", ");
    let power = |x: &dyn Fn(&Point) -> f64, y: &dyn Fn(&Point) -> f64| {
        slope(&points.iter().map(|p| (x(p).ln(), y(p).ln())).collect::<Vec<_>>())
    };
    // The arithmetic does not change with the threads.
    let time = match name {
        "threads" => format!("{:.2} × faster", points[0].seconds / points[points.len() - 1].seconds),
        _ => format!("{:.2}", power(&|p| p.flops, &|p| p.seconds)),
    };
    format!(
        "| {name} | {} | {} | {time} | {} | {:.2} |\n",
        list(&|p| p.value.to_string()),
        list(&|p| format!("{:.0}", 1e3 * p.seconds)),
        list(&|p| format!("{:.0}", p.bytes / 1e6)),
        power(&|p| p.value as f64, &|p| p.bytes),
    )
}

/// The slope of the line with the least squares of distances in y.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (xy, xx) =
        points.iter().fold((0.0, 0.0), |(xy, xx), p| (xy + (p.0 - mx) * (p.1 - my), xx + (p.0 - mx).powi(2)));
    xy / xx
}

/// Seconds over GFLOP, both logarithmic: a curve steeper than the grey line grows faster than its arithmetic.
fn draw(curves: &[(&str, Vec<Point>)]) -> Result<()> {
    let path = root().join("docs/growth.svg");
    fs::create_dir_all(root().join("docs"))?;
    let curves: Vec<_> = curves.iter().filter(|(name, _)| *name != "threads").collect();
    let all = || curves.iter().flat_map(|(_, points)| points);
    let range = |of: fn(&Point) -> f64| {
        let (least, most) = all().map(of).fold((f64::MAX, 0.0f64), |(a, b), v| (a.min(v), b.max(v)));
        least / 1.3..most * 1.3
    };
    let (x, y) = (range(|p| p.flops / 1e9), range(|p| p.seconds));
    let area = SVGBackend::new(&path, (760, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("GFLOP of a weight step")
        .y_desc("seconds")
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|gflop| format!("{gflop:.0}"))
        .y_label_formatter(&|seconds| format!("{seconds:.1}"))
        .draw()?;
    let base =
        curves.iter().flat_map(|(name, points)| points.iter().filter(move |p| *name == "batch" && p.value == 16));
    for p in base {
        let rate = p.seconds / (p.flops / 1e9);
        let line = [(x.start, x.start * rate), (x.end, x.end * rate)];
        chart.draw_series(LineSeries::new(line, BLACK.mix(0.3).stroke_width(6)))?;
    }
    for (index, (name, points)) in curves.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let line = || points.iter().map(|p| (p.flops / 1e9, p.seconds));
        chart
            .draw_series(LineSeries::new(line(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(line().map(|at| Circle::new(at, 4, colour.filled())))?;
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(BLACK.mix(0.2)).draw()?;
    area.present().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Point, row, slope};

    #[test]
    fn a_power_law_has_its_exponent_as_slope() {
        let points: Vec<_> = [1.0f64, 2.0, 3.0, 7.0].iter().map(|x| (x.ln(), (5.0 * x.powf(1.5)).ln())).collect();
        assert!((slope(&points) - 1.5).abs() < 1e-12);
    }

    #[test]
    fn a_row_holds_both_exponents() {
        let point = |value: usize| {
            let x = value as f64;
            Point { value, flops: 1e9 * x * x, seconds: 0.001 * x * x, bytes: 1e6 * x }
        };
        let text = row("channels", &[point(8), point(16), point(32)]);
        assert_eq!(text, "| channels | 8, 16, 32 | 64, 256, 1024 | 1.00 | 8, 16, 32 | 1.00 |\n");
    }
}

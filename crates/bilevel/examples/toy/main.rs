//! Figure 2 of the paper, drawn anew: the way of (α, w) on the toy bilevel problem for several ξ.
//!
//! `cargo run --release -p darts-bilevel --example toy -- figure.svg` (without a path: `toy.svg`)

mod problem;

use std::error::Error;
use std::fmt::Write;

/// ξ, and the colour of its way (a palette that colour-blind readers can tell apart).
const WAYS: [(f64, &str); 4] = [(0.0, "#0072b2"), (0.1, "#e69f00"), (0.25, "#009e73"), (0.5, "#cc79a7")];
const STEPS: usize = 4000;
/// ξ, colour, and the points (α, w).
type Way<'a> = (f64, &'a str, Vec<(f32, f32)>);
/// Width and height of the plot, and the margin around it, in pixels.
const SIZE: f64 = 440.0;
const MARGIN: f64 = 52.0;
/// What the axes show: α from 0 to 4, w from −2.5 to 3.
const ALPHA: (f64, f64) = (0.0, 4.0);
const W: (f64, f64) = (-2.5, 3.0);

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "toy.svg".to_owned());
    let mut ways = Vec::new();
    for (xi, colour) in WAYS {
        let points = problem::trajectory(xi, STEPS)?;
        let (alpha, w) = points[STEPS];
        println!("ξ = {xi:<4}  ends at α = {alpha:.3}, w = {w:.3}  (closed form {:.3})", 2.0 / (1.0 + 2.0 * xi));
        ways.push((xi, colour, points));
    }
    std::fs::write(&path, draw(&ways)?).map_err(|error| format!("{path}: {error}"))?;
    println!("wrote {path}");
    Ok(())
}

/// Pixel of a point (α, w).
fn pixel(alpha: f64, w: f64) -> (f64, f64) {
    let x = MARGIN + SIZE * (alpha - ALPHA.0) / (ALPHA.1 - ALPHA.0);
    let y = MARGIN + SIZE * (W.1 - w) / (W.1 - W.0);
    (x, y)
}

fn draw(ways: &[Way<'_>]) -> Result<String, std::fmt::Error> {
    let mut svg = String::new();
    let total = SIZE + 2.0 * MARGIN;
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {total}" width="{total}" height="{total}" font-family="sans-serif" font-size="13" fill="#222">"##
    )?;
    writeln!(svg, r#"<title>The toy bilevel problem: trajectories of (α, w) for several ξ</title>"#)?;
    writeln!(svg, r#"<rect width="{total}" height="{total}" fill="white"/>"#)?;
    axes(&mut svg)?;
    line(&mut svg, (0.0, 0.0), (3.0, 3.0), r##"stroke="#c00" stroke-dasharray="6 5""##)?;
    let (x, y) = pixel(2.62, 2.78);
    writeln!(svg, r##"<text x="{x:.1}" y="{y:.1}" text-anchor="end" fill="#c00">w = w*(α)</text>"##)?;
    for (_, colour, points) in ways {
        way(&mut svg, colour, points)?;
    }
    mark(&mut svg, (2.0, -2.0), "start (2, −2)", true)?;
    mark(&mut svg, (1.0, 1.0), "optimum (1, 1)", false)?;
    for (i, (xi, colour, _)) in ways.iter().enumerate() {
        let (x, y) = (MARGIN + SIZE - 92.0, MARGIN + SIZE - 90.0 + 20.0 * i as f64);
        writeln!(svg, r#"<path d="M{x:.1} {y:.1}h26" stroke="{colour}" stroke-width="3"/>"#)?;
        writeln!(svg, r#"<text x="{:.1}" y="{:.1}">ξ = {xi}</text>"#, x + 34.0, y + 4.5)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn axes(svg: &mut String) -> std::fmt::Result {
    let (left, bottom) = (MARGIN, MARGIN + SIZE);
    for tick in 0..=4 {
        let (x, _) = pixel(f64::from(tick), 0.0);
        writeln!(svg, r##"<path d="M{x:.1} {MARGIN}V{bottom}" stroke="#eee"/>"##)?;
        writeln!(svg, r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"#, bottom + 18.0)?;
    }
    for tick in -2..=3 {
        let (_, y) = pixel(0.0, f64::from(tick));
        let label = tick.to_string().replace('-', "−");
        writeln!(svg, r##"<path d="M{left} {y:.1}H{}" stroke="#eee"/>"##, left + SIZE)?;
        writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#, left - 8.0, y + 4.5)?;
    }
    writeln!(svg, r##"<path d="M{left} {MARGIN}V{bottom}H{}" fill="none" stroke="#222"/>"##, left + SIZE)?;
    writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">α</text>"#, left + SIZE / 2.0, bottom + 38.0)?;
    writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">w</text>"#, left - 34.0, MARGIN + SIZE / 2.0)
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) -> std::fmt::Result {
    let ((x1, y1), (x2, y2)) = (pixel(from.0, from.1), pixel(to.0, to.1));
    writeln!(svg, r#"<path d="M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}" {style}/>"#)
}

/// A trajectory, thinned to points at least a pixel and a half apart, with a dot at its end.
fn way(svg: &mut String, colour: &str, points: &[(f32, f32)]) -> std::fmt::Result {
    let pixels: Vec<(f64, f64)> = points.iter().map(|&(alpha, w)| pixel(f64::from(alpha), f64::from(w))).collect();
    write!(svg, r#"<path fill="none" stroke="{colour}" stroke-width="2" d=""#)?;
    let mut last: Option<(f64, f64)> = None;
    for &(x, y) in &pixels {
        if last.is_none_or(|(lx, ly)| (x - lx).hypot(y - ly) > 1.5) {
            write!(svg, "{}{x:.1} {y:.1}", if last.is_none() { 'M' } else { 'L' })?;
            last = Some((x, y));
        }
    }
    writeln!(svg, r#""/>"#)?;
    let (x, y) = pixels[pixels.len() - 1];
    writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="5" fill="{colour}" stroke="white"/>"#)
}

/// A cross with its label, to the right below or to the left above.
fn mark(svg: &mut String, at: (f64, f64), label: &str, right: bool) -> std::fmt::Result {
    let (x, y) = pixel(at.0, at.1);
    writeln!(
        svg,
        r##"<path d="M{:.1} {y:.1}h12M{x:.1} {:.1}v12" stroke="#222" stroke-width="2"/>"##,
        x - 6.0,
        y - 6.0
    )?;
    let (x, y, anchor) = if right { (x + 10.0, y + 16.0, "start") } else { (x - 10.0, y - 8.0, "end") };
    writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{label}</text>"#)
}

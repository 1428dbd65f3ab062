//! Curves over epochs, each labelled at its end.

use std::fmt::Write as _;

use super::scale::{Scale, tick_text};
use crate::report::{html::escape, record::Points};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 262.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 104.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// One quantity.
pub(crate) struct Series {
    /// What stands at its end.
    pub(crate) name: String,
    /// Which of the page's curve colours it takes, from 0.
    pub(crate) colour: usize,
    /// Values at the ends of epochs.
    pub(crate) epochs: Points,
    /// Values along the steps, drawn faintly.
    pub(crate) steps: Points,
}

/// A level to compare with.
pub(crate) struct Reference {
    /// What it is.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) value: f64,
}

/// Curves over a common axis of epochs.
pub(crate) struct Chart {
    /// What is measured, with its unit: the heading.
    pub(crate) title: String,
    /// Shown after values, "%".
    pub(crate) unit: &'static str,
    /// Decimals of the values at the ends of curves.
    pub(crate) decimals: usize,
    /// Values are multiplied by this first, 100 for percent.
    pub(crate) factor: f64,
    /// Whether the vertical axis may be logarithmic; it is where values span more than a factor of six.
    pub(crate) log: bool,
    /// The curves.
    pub(crate) series: Vec<Series>,
    /// Levels.
    pub(crate) references: Vec<Reference>,
}

impl Chart {
    /// The chart as a `<figure>`; nothing at all if there is no value to show.
    pub(crate) fn figure(&self) -> String {
        let main =
            |series: &Series| if series.epochs.is_empty() { series.steps.clone() } else { series.epochs.clone() };
        let mut values: Vec<f64> = self.series.iter().flat_map(main).map(|point| point.1 * self.factor).collect();
        if values.is_empty() {
            return String::new();
        }
        // Single steps may be wild: the axis follows all of the epochs' values but only the bulk of the steps'.
        for series in &self.series {
            values.extend(bulk(&series.steps).map(|value| value * self.factor));
        }
        values.extend(self.references.iter().map(|reference| reference.value * self.factor));
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log = self.log && low > 0.0 && high > 6.0 * low;
        let pad = 0.06 * (high - low);
        let range = match (log, self.unit) {
            (true, _) => (low / 1.08, high * 1.08),
            (false, "%") => ((low - pad).max(0.0), (high + pad).min(100.0)),
            (false, _) => (if low >= 0.0 { (low - pad).max(0.0) } else { low - pad }, high + pad),
        };
        let end = self
            .series
            .iter()
            .flat_map(|series| series.epochs.iter().chain(&series.steps))
            .map(|point| point.0)
            .fold(0.0, f64::max);
        let x = Scale::new((0.0, end.max(1e-3)), (LEFT, WIDTH - RIGHT), false);
        let y = Scale::new(range, (HEIGHT - BOTTOM, TOP), log);

        let title = escape(&self.title);
        let mut out = format!(
            r#"<figure class="chart"><figcaption>{title}{}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
            if log { " <small>(logarithmic)</small>" } else { "" },
            escape(&self.summary())
        );
        self.axes(&mut out, &x, &y);
        for series in &self.series {
            if !series.steps.is_empty() && !series.epochs.is_empty() {
                let _ = write!(
                    out,
                    r#"<path class="curve faint c{}" d="{}"/>"#,
                    series.colour,
                    self.path(&series.steps, &x, &y)
                );
            }
        }
        for series in &self.series {
            let points = main(series);
            let thin = if series.epochs.is_empty() && points.len() > 60 { " thin" } else { "" };
            let _ = write!(out, r#"<path class="curve{thin} c{}" d="{}"/>"#, series.colour, self.path(&points, &x, &y));
            if points.len() <= 60 {
                for (epoch, value) in &points {
                    let value = value * self.factor;
                    let _ = write!(
                        out,
                        r#"<circle class="point c{}" cx="{:.1}" cy="{:.1}" r="{}"><title>{}, epoch {}: {value:.*} {}</title></circle>"#,
                        series.colour,
                        x.at(*epoch),
                        y.at(value),
                        if points.len() <= 25 { 2.6 } else { 1.6 },
                        escape(&series.name),
                        epoch_text(*epoch),
                        self.decimals,
                        self.unit
                    );
                }
            }
        }
        self.labels(&mut out, &y);
        out.push_str("</svg></figure>");
        out
    }

    /// The chart in a sentence, for readers who do not see it.
    fn summary(&self) -> String {
        let parts: Vec<String> = self
            .series
            .iter()
            .filter_map(|series| {
                let points = if series.epochs.is_empty() { &series.steps } else { &series.epochs };
                let (first, last) = (points.first()?, points.last()?);
                let text = |value: f64| {
                    format!("{:.*} {}", self.decimals, value * self.factor, self.unit).trim_end().to_owned()
                };
                Some(format!(
                    "{} from {} to {} at epoch {}",
                    series.name,
                    text(first.1),
                    text(last.1),
                    epoch_text(last.0)
                ))
            })
            .collect();
        format!("{}: {}", self.title, parts.join("; "))
    }

    fn path(&self, points: &[(f64, f64)], x: &Scale, y: &Scale) -> String {
        let mut path = String::new();
        for (index, (epoch, value)) in points.iter().enumerate() {
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if index == 0 { "M" } else { "L" },
                x.at(*epoch),
                y.at(value * self.factor)
            );
        }
        path
    }

    fn axes(&self, out: &mut String, x: &Scale, y: &Scale) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let ticks = y.ticks(5, false);
        for tick in &ticks {
            let at = y.at(*tick);
            let _ = write!(
                out,
                r#"<path class="grid" d="M{LEFT} {at:.1}H{right}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 7.0,
                at + 4.2,
                tick_text(*tick, &ticks)
            );
        }
        let _ = write!(out, r#"<path class="axis" d="M{LEFT} {bottom}H{right}"/>"#);
        let ticks = x.ticks(6, true);
        for tick in &ticks {
            let at = x.at(*tick);
            let _ = write!(
                out,
                r#"<path class="axis" d="M{at:.1} {bottom}v4"/><text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                bottom + 18.0,
                tick_text(*tick, &ticks)
            );
        }
        let _ = write!(out, r#"<text class="tick" x="{:.1}" y="{:.1}">epoch</text>"#, right + 22.0, bottom + 18.0);
    }

    /// Names and last values beside the ends of the curves, moved apart where they would overlap.
    fn labels(&self, out: &mut String, y: &Scale) {
        const LINE: f64 = 15.0;
        let mut labels: Vec<(f64, String, String)> = Vec::new();
        for reference in &self.references {
            let at = y.at(reference.value * self.factor);
            let _ = write!(out, r#"<path class="reference" d="M{LEFT} {at:.1}H{}"/>"#, WIDTH - RIGHT);
            labels.push((at, "reference-label".to_owned(), self.label(&reference.name, reference.value)));
        }
        for series in &self.series {
            let points = if series.epochs.is_empty() { &series.steps } else { &series.epochs };
            if let Some((_, value)) = points.last() {
                labels.push((
                    y.at(value * self.factor),
                    format!("c{}", series.colour),
                    self.label(&series.name, *value),
                ));
            }
        }
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut places: Vec<f64> = labels.iter().map(|label| label.0).collect();
        for index in 1..places.len() {
            places[index] = places[index].max(places[index - 1] + LINE);
        }
        // What was pushed below the axis goes back up, and its upper neighbours with it.
        let mut limit = HEIGHT - BOTTOM;
        for place in places.iter_mut().rev() {
            *place = place.min(limit);
            limit = *place - LINE;
        }
        for ((_, class, text), place) in labels.iter().zip(places) {
            let _ = write!(
                out,
                r#"<text class="label {class}" x="{:.1}" y="{:.1}">{text}</text>"#,
                WIDTH - RIGHT + 8.0,
                place + 4.2
            );
        }
    }

    fn label(&self, name: &str, value: f64) -> String {
        let unit = if self.unit.is_empty() { String::new() } else { format!("\u{202f}{}", self.unit) };
        let value = value * self.factor;
        let text = if value != 0.0 && value.abs() < 0.5 * 10f64.powi(-(self.decimals as i32)) {
            format!("{value:.1e}")
        } else {
            format!("{value:.*}", self.decimals)
        };
        format!("{} <tspan class=\"value\">{}{unit}</tspan>", escape(name), text.replace('-', "−"))
    }
}

/// An epoch's number, without decimals where it is a whole one.
fn epoch_text(epoch: f64) -> String {
    if epoch.fract() == 0.0 { format!("{epoch:.0}") } else { format!("{epoch:.2}") }
}

/// The values of points without their lowest and highest fiftieth.
fn bulk(points: &[(f64, f64)]) -> impl Iterator<Item = f64> {
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    values.sort_by(f64::total_cmp);
    let cut = values.len().div_ceil(50);
    let kept = values.len().saturating_sub(2 * cut);
    values.into_iter().skip(cut).take(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Chart {
        Chart {
            title: "loss <nats>".to_owned(),
            unit: "",
            decimals: 2,
            factor: 1.0,
            log: false,
            series,
            references: Vec::new(),
        }
    }

    fn series(name: &str, epochs: Points) -> Series {
        Series { name: name.to_owned(), colour: 0, epochs, steps: Points::new() }
    }

    #[test]
    fn a_chart_without_values_is_nothing() {
        assert_eq!(chart(vec![series("train", Points::new())]).figure(), "");
    }

    #[test]
    fn labels_of_equal_curves_do_not_overlap() {
        let same = |name| series(name, vec![(1.0, 2.0), (2.0, 1.0)]);
        let svg = chart(vec![same("a"), same("b"), same("c")]).figure();
        let places: Vec<f64> = svg
            .split("<text class=\"label")
            .skip(1)
            .map(|text| text.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(places.len(), 3);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 14.9), "{places:?}");
        assert!(places.iter().all(|place| *place <= HEIGHT - BOTTOM + 5.0));
        assert!(svg.contains("loss &lt;nats&gt;"));
    }

    #[test]
    fn one_value_and_a_constant_are_drawn() {
        for points in [vec![(1.0, 0.5)], vec![(1.0, 0.0), (2.0, 0.0)]] {
            let svg = chart(vec![series("train", points)]).figure();
            assert!(svg.contains("<circle") && !svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}

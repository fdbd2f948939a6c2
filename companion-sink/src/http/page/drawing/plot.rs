//! Figures by period as bars, or as a line where there are many.

use std::fmt::Write;

use crate::http::page::drawing::escaped;
use crate::http::page::layout::number_text;

/// A figure of a period; none where it has none.
pub(crate) struct Point {
    pub(crate) period: String,
    pub(crate) value: Option<f64>,
    /// As the figure stands in the table.
    pub(crate) text: String,
}

const LEFT: f64 = 64.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;
/// More periods are a line.
const BARS_MAX: usize = 62;
/// A label below takes so much.
const LABEL_WIDTH: f64 = 100.0;

/// The lowest and the highest value of a plot, with 0 between them.
pub(crate) fn range<'p>(points: impl Iterator<Item = &'p Point>) -> (f64, f64) {
    let values = points.filter_map(|point| point.value);
    values.fold((0.0, 0.0), |(low, high), value| {
        (value.min(low), value.max(high))
    })
}

/// Marks between the ends of a range: round numbers.
fn marks((low, high): (f64, f64)) -> (f64, Vec<f64>) {
    const PARTS: f64 = 4.0;
    let span = high - low;
    if span <= 0.0 || !span.is_finite() {
        return (1.0, vec![0.0, 1.0]);
    }
    let rough = span / PARTS;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let step = steps
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let first = (low / step).floor();
    let last = (high / step).ceil();
    let count = (last - first) as usize;
    let marks = (0..=count).map(|place| (first + place as f64) * step);
    (step, marks.collect())
}

/// A plot of a width and height; `name` says what it shows.
pub(crate) fn plot(
    name: &str,
    points: &[Point],
    range: (f64, f64),
    (full_width, height): (f64, f64),
) -> String {
    let (step, marks) = marks(range);
    let (low, high) = (marks[0], marks[marks.len() - 1]);
    let plot_height = height - TOP - BOTTOM;
    let y = |value: f64| TOP + (high - value) / (high - low) * plot_height;
    let width = full_width - LEFT - RIGHT;
    let slot = width / points.len().max(1) as f64;
    let x = |place: usize| LEFT + (place as f64 + 0.5) * slot;
    let mut svg = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {full_width} {height}\" role=\"img\" aria-label=\"{}\">",
        escaped(name)
    );
    let decimals = usize::from(step < 1.0) + usize::from(step < 0.1);
    for mark in marks {
        let at = y(mark);
        let text = escaped(&number_text(&format!("{mark:.decimals$}")));
        let class = if mark == 0.0 { "zero" } else { "grid" };
        // Writing into a text cannot fail, here and below.
        let _ = write!(
            svg,
            "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"axis end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
            full_width - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    match points.len() <= BARS_MAX {
        true => bars(&mut svg, points, x, y, slot),
        false => line(&mut svg, points, x, y),
    }
    let labels = (width / LABEL_WIDTH).max(1.0) as usize;
    let every = points.len().div_ceil(labels).max(1);
    for (place, point) in points.iter().enumerate().step_by(every) {
        let _ = write!(
            svg,
            "<text class=\"axis middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x(place).min(full_width - LABEL_WIDTH * 0.4),
            height - 8.0,
            escaped(&point.period)
        );
    }
    svg + "</svg>"
}

fn bars(
    svg: &mut String,
    points: &[Point],
    x: impl Fn(usize) -> f64,
    y: impl Fn(f64) -> f64,
    slot: f64,
) {
    const WIDEST: f64 = 48.0;
    let width = (slot * 0.7).min(WIDEST);
    for (place, point) in points.iter().enumerate() {
        let Some(value) = point.value else {
            continue;
        };
        let (top, bottom) = (y(value.max(0.0)), y(value.min(0.0)));
        let _ = write!(
            svg,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"><title>{}: {}</title></rect>",
            x(place) - width / 2.0,
            bottom - top,
            escaped(&point.period),
            escaped(&point.text)
        );
    }
}

fn line(svg: &mut String, points: &[Point], x: impl Fn(usize) -> f64, y: impl Fn(f64) -> f64) {
    let mut path = String::new();
    let mut is_open = false;
    for (place, point) in points.iter().enumerate() {
        match point.value {
            Some(value) => {
                let verb = if is_open { 'L' } else { 'M' };
                let _ = write!(path, "{verb}{:.1} {:.1}", x(place), y(value));
                is_open = true;
            }
            // What has no figure is no figure of 0.
            None => is_open = false,
        }
    }
    let _ = write!(svg, "<path class=\"line\" d=\"{path}\"/>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[Option<f64>]) -> Vec<Point> {
        let points = values.iter().enumerate().map(|(place, value)| Point {
            period: format!("p{place}<"),
            value: *value,
            text: String::new(),
        });
        points.collect()
    }

    #[test]
    fn marks_are_round_and_around_all_values() {
        assert_eq!(marks((0.0, 93.0)).1, [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(marks((-3.0, 8.0)).1, [-5.0, 0.0, 5.0, 10.0]);
        assert_eq!(marks((0.0, 0.0)).1, [0.0, 1.0]);
        assert_eq!(marks((0.0, f64::INFINITY)).1.len(), 2);
    }

    #[test]
    fn few_periods_are_bars_and_many_a_line_with_gaps() {
        let few = points(&[Some(1.0), None, Some(-2.0)]);
        let svg = plot("n", &few, range(few.iter()), (720.0, 200.0));
        assert_eq!(svg.matches("class=\"bar\"").count(), 2);
        assert!(svg.contains("p0&lt;") && !svg.contains("NaN"));
        let mut values = vec![Some(1.0); 70];
        values[3] = None;
        let many = points(&values);
        let svg = plot("n", &many, range(many.iter()), (720.0, 200.0));
        let line = svg.split("class=\"line\" d=\"").nth(1).unwrap();
        assert_eq!(line.split('"').next().unwrap().matches('M').count(), 2);
    }
}

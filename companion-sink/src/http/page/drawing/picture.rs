//! The flow as a picture: source, topics, sinks, and what leads where. A table beside it says the same.

use std::fmt::Write;

use crate::http::page::drawing::{ending, escaped};

/// A part of the flow.
pub(crate) struct FlowBox {
    pub(crate) name: String,
    /// Smaller, below the name.
    pub(crate) told: String,
    /// A class of the style sheet: `ok`, `warn`, `bad`, `idle`.
    pub(crate) look: &'static str,
}

/// What is drawn.
pub(crate) struct Picture {
    pub(crate) source: Option<FlowBox>,
    pub(crate) topics: Vec<FlowBox>,
    pub(crate) sinks: Vec<FlowBox>,
    /// Topic and sink, by their places.
    pub(crate) edges: Vec<(usize, usize)>,
}

const WIDTH: usize = 1000;
const MARGIN: usize = 1;
/// Where a column begins, and how wide it is.
const SOURCE: (usize, usize) = (MARGIN, 200);
const TOPICS: (usize, usize) = (310, 320);
const SINKS: (usize, usize) = (739, 260);
const GAP: usize = 12;
const TALL: usize = 56;
const SHORT: usize = 38;

/// The tops of boxes that stand in the middle of a picture.
fn tops(count: usize, box_height: usize, height: usize) -> impl Iterator<Item = usize> {
    let all = (count * (box_height + GAP)).saturating_sub(GAP);
    let first = (height.saturating_sub(all)) / 2;
    (0..count).map(move |place| first + place * (box_height + GAP))
}

impl Picture {
    /// As SVG.
    pub(crate) fn svg(&self) -> String {
        let needed = |count: usize, height: usize| count * (height + GAP);
        let height = needed(self.topics.len(), SHORT).max(needed(self.sinks.len(), TALL));
        let height = height.max(TALL + GAP) + 2 * MARGIN;
        let source: Vec<usize> = tops(1, TALL, height).collect();
        let topics: Vec<usize> = tops(self.topics.len(), SHORT, height).collect();
        let sinks: Vec<usize> = tops(self.sinks.len(), TALL, height).collect();
        let mut svg = format!(
            "<svg class=\"flow\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"The flow from the source over topics to sinks; the tables below say the same\">\
             <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0.5 7.5 4 0 7.5z\"/></marker></defs>"
        );
        if self.source.is_some() {
            for top in &topics {
                let from = (SOURCE.0 + SOURCE.1, source[0] + TALL / 2);
                edge(&mut svg, from, (TOPICS.0, top + SHORT / 2), "ok");
            }
        }
        for (topic, sink) in &self.edges {
            let from = (TOPICS.0 + TOPICS.1, topics[*topic] + SHORT / 2);
            let look = self.sinks[*sink].look;
            edge(&mut svg, from, (SINKS.0, sinks[*sink] + TALL / 2), look);
        }
        if let Some(shown) = &self.source {
            draw(&mut svg, shown, SOURCE, source[0], TALL);
        }
        for (shown, top) in self.topics.iter().zip(&topics) {
            draw(&mut svg, shown, TOPICS, *top, SHORT);
        }
        for (shown, top) in self.sinks.iter().zip(&sinks) {
            draw(&mut svg, shown, SINKS, *top, TALL);
        }
        svg + "</svg>"
    }
}

fn edge(svg: &mut String, from: (usize, usize), to: (usize, usize), look: &str) {
    const ROOM: usize = 4;
    let middle = usize::midpoint(from.0, to.0);
    // Writing into a text cannot fail, here and below.
    let _ = write!(
        svg,
        "<path class=\"edge {look}\" d=\"M{} {} C{middle} {} {middle} {} {} {}\" marker-end=\"url(#arrow)\"/>",
        from.0,
        from.1,
        from.1,
        to.1,
        to.0 - ROOM,
        to.1
    );
}

fn draw(svg: &mut String, shown: &FlowBox, column: (usize, usize), top: usize, height: usize) {
    const PADDING: usize = 14;
    /// Of the font for names.
    const CHAR_WIDTH: f64 = 7.9;
    const SMALL_CHAR_WIDTH: f64 = 6.3;
    let (left, width) = column;
    let room = (width - 2 * PADDING) as f64;
    let chars = |char_width: f64| (room / char_width) as usize;
    let look = shown.look;
    let _ = write!(
        svg,
        "<g class=\"box {look}\"><rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\
         <rect class=\"mark\" x=\"{left}\" y=\"{top}\" width=\"5\" height=\"{height}\" rx=\"2\"/>"
    );
    let name = escaped(&ending(&shown.name, chars(CHAR_WIDTH)));
    let x = left + PADDING;
    if shown.told.is_empty() {
        let y = top + height / 2 + 4;
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{x}\" y=\"{y}\">{name}</text>"
        );
    } else {
        let (name_y, told_y) = (top + height / 2 - 5, top + height / 2 + 14);
        let told: String = shown.told.chars().take(chars(SMALL_CHAR_WIDTH)).collect();
        let told = escaped(&told);
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{x}\" y=\"{name_y}\">{name}</text><text class=\"told\" x=\"{x}\" y=\"{told_y}\">{told}</text>"
        );
    }
    svg.push_str("</g>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_every_edge_is_drawn() {
        let shown = |name: &str, told: &str| FlowBox {
            name: name.to_owned(),
            told: told.to_owned(),
            look: "ok",
        };
        let picture = Picture {
            source: Some(shown("pg", "streaming")),
            topics: vec![shown("<script>", ""), shown("b", "")],
            sinks: vec![shown("one", "running"), shown("two", "\"&")],
            edges: vec![(0, 0), (0, 1), (1, 1)],
        };
        let svg = picture.svg();
        assert!(svg.contains("&lt;script&gt;") && svg.contains("&quot;&amp;"));
        assert_eq!(svg.matches("class=\"edge").count(), 2 + 3);
        let empty = Picture {
            source: None,
            topics: Vec::new(),
            sinks: Vec::new(),
            edges: Vec::new(),
        };
        assert!(empty.svg().ends_with("</svg>"));
    }
}

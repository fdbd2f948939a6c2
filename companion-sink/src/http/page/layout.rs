//! How pages are made: templates, what surrounds every page, and how values are shown. All that comes from events is hostile: the
//! templates escape everything but the drawings, which escape their own texts.

use std::sync::LazyLock;

use axum::response::Html;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, escape_formatter};
use serde_json::{Value as Json, json};

use crate::error::{Code, Result};
use crate::http::page::urls::path_part;
use crate::http::problem::Problem;
use change::trouble::Trouble;

/// A page, or why there is none.
pub(crate) type PageAnswer = std::result::Result<Html<String>, Problem>;

/// The parts of the site, in the order of the list at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Flow,
    History,
    Models,
    Statistics,
    DeadLetters,
    Effects,
    Topics,
    /// In no list.
    Login,
}

/// What a page is called, and where it belongs.
pub(crate) struct PageHead {
    section: Section,
    title: String,
    /// The pages above it: name and address.
    above: Vec<(String, String)>,
}

/// What surrounds a page for who asks.
pub(crate) struct Frame<'f> {
    /// The configuration's name.
    pub(crate) instance: &'f str,
    /// The parts that there are.
    pub(crate) sections: Vec<Section>,
    /// Who is logged in.
    pub(crate) person: Option<&'f str>,
    /// Of forms; none for who is not logged in.
    pub(crate) form_secret: Option<&'f str>,
    /// What came of a form.
    pub(crate) notice: Option<String>,
}

impl Section {
    /// Name and address.
    pub(crate) fn told(self) -> (&'static str, &'static str) {
        match self {
            Section::Flow => ("Flow", "/"),
            Section::History => ("History", "/history"),
            Section::Models => ("Read models", "/models"),
            Section::Statistics => ("Statistics", "/statistics"),
            Section::DeadLetters => ("Dead letters", "/dead-letters"),
            Section::Effects => ("Effects", "/effects"),
            Section::Topics => ("Topics", "/topics"),
            Section::Login => ("Log in", "/login"),
        }
    }
}

impl PageHead {
    /// The first page of a part, or one that `below` puts elsewhere.
    pub(crate) fn new(section: Section, title: impl Into<String>) -> PageHead {
        PageHead {
            section,
            title: title.into(),
            above: Vec::new(),
        }
    }

    /// A page of a part, with the pages above it.
    pub(crate) fn below(mut self, name: impl Into<String>, address: impl Into<String>) -> PageHead {
        self.above.push((name.into(), address.into()));
        self
    }
}

static TEMPLATES: LazyLock<Result<Environment<'static>>> = LazyLock::new(templates);

fn templates() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    // What is not there is shown as nothing.
    environment.set_formatter(|out, state, value| match value.is_none() {
        true => Ok(()),
        false => escape_formatter(out, state, value),
    });
    environment.add_filter("part", |text: String| path_part(&text));
    environment.add_filter("number", |number: Value| number_text(&number.to_string()));
    environment.add_filter("seconds", seconds_text);
    environment.add_filter("when", |time: String| when_text(&time));
    for (name, text) in [
        ("layout.html", include_str!("templates/layout.html")),
        ("parts.html", include_str!("templates/parts.html")),
        ("error.html", include_str!("templates/error.html")),
        ("login.html", include_str!("templates/login.html")),
        ("flow.html", include_str!("templates/flow.html")),
        ("flow_now.html", include_str!("templates/flow_now.html")),
        ("tables.html", include_str!("templates/tables.html")),
        ("table.html", include_str!("templates/table.html")),
        ("entity.html", include_str!("templates/entity.html")),
        ("as_of.html", include_str!("templates/as_of.html")),
        ("models.html", include_str!("templates/models.html")),
        ("model.html", include_str!("templates/model.html")),
        ("document.html", include_str!("templates/document.html")),
        (
            "figure_sinks.html",
            include_str!("templates/figure_sinks.html"),
        ),
        ("statistics.html", include_str!("templates/statistics.html")),
        (
            "dead_letters.html",
            include_str!("templates/dead_letters.html"),
        ),
        (
            "dead_letter.html",
            include_str!("templates/dead_letter.html"),
        ),
        ("effects.html", include_str!("templates/effects.html")),
        ("effect.html", include_str!("templates/effect.html")),
        ("topics.html", include_str!("templates/topics.html")),
        ("topic.html", include_str!("templates/topic.html")),
        ("topic_rows.html", include_str!("templates/topic_rows.html")),
    ] {
        environment.add_template(name, text).map_err(broken)?;
    }
    Ok(environment)
}

/// A template of ours is wrong. Its text may hold values of rows.
#[allow(clippy::needless_pass_by_value)]
fn broken(error: minijinja::Error) -> Trouble {
    let place = error.name().unwrap_or_default();
    let line = error.line().unwrap_or_default();
    Trouble::new(
        Code::TargetRefuses,
        format!(
            "the page cannot be made: {place}, line {line}: {}",
            error.kind()
        ),
        "Report this.",
    )
}

/// A page with all that surrounds it.
pub(crate) fn page(
    frame: &Frame<'_>,
    head: &PageHead,
    template: &str,
    content: &Json,
) -> PageAnswer {
    let sections = frame.sections.iter().map(|section| {
        let (name, address) = section.told();
        json!({ "name": name, "address": address, "current": *section == head.section })
    });
    let (section_name, section_address) = head.section.told();
    let mut above = vec![json!({ "name": section_name, "address": section_address })];
    above.extend(
        head.above
            .iter()
            .map(|(name, address)| json!({ "name": name, "address": address })),
    );
    let around = json!({
        "title": head.title,
        "section": section_name,
        "above": above,
        "sections": sections.collect::<Vec<_>>(),
        "instance": frame.instance,
        "person": frame.person,
        "secret": frame.form_secret,
        "notice": frame.notice,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut context = content.clone();
    context["page"] = around;
    fragment(template, &context).map(Html)
}

/// A part of a page.
pub(crate) fn fragment(template: &str, content: &Json) -> std::result::Result<String, Problem> {
    let templates = TEMPLATES.as_ref().map_err(Clone::clone)?;
    let made = templates.get_template(template);
    let made = made.and_then(|template| template.render(Value::from(Serde(content))));
    made.map_err(|error| broken(error).into())
}

/// `1234567.8` as `1 234 567.8`, with spaces that do not break.
pub(crate) fn number_text(number: &str) -> String {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => ("\u{2212}", digits),
        None => ("", number),
    };
    let (whole, rest) = match digits.split_once('.') {
        Some((whole, rest)) => (whole, Some(rest)),
        None => (digits, None),
    };
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return number.to_owned();
    }
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    match rest {
        Some(rest) => format!("{sign}{grouped}.{rest}"),
        None => format!("{sign}{grouped}"),
    }
}

/// Whether a text is a number that stands under others: what begins with 0 is rather a code.
pub(crate) fn is_figure(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits(whole) && is_digits(rest) && (whole == "0" || !whole.starts_with('0'))
}

/// The names of columns, each with whether all its cells (`rows` by rows) are figures.
pub(crate) fn columns_of<S: AsRef<str>>(names: &[S], rows: &[Vec<Json>]) -> Vec<Json> {
    let names = names.iter().enumerate();
    names
        .map(|(place, name)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(place)?["text"].as_str());
            let mut cells = cells.filter(|text| !text.is_empty()).peekable();
            let number = cells.peek().is_some() && cells.all(is_figure);
            json!({ "name": name.as_ref(), "number": number })
        })
        .collect()
}

/// A time span as people say it.
pub(crate) fn seconds_text(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 3600.0;
    const DAY: f64 = 86_400.0;
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 2.0 * MINUTE => format!("{seconds:.0} s"),
        seconds if seconds < 2.0 * HOUR => format!("{:.0} min", seconds / MINUTE),
        seconds if seconds < 2.0 * DAY => format!("{:.0} h", seconds / HOUR),
        seconds => format!("{:.0} days", seconds / DAY),
    }
}

/// `2026-11-21T10:40:00.123456Z` as `2026-11-21 10:40:00.123`: milliseconds are enough for people.
pub(crate) fn when_text(rfc3339: &str) -> String {
    const SHOWN_CHARS: usize = 23;
    let text: String = rfc3339
        .replace('T', " ")
        .chars()
        .take(SHOWN_CHARS)
        .collect();
    text.trim_end_matches('Z')
        .trim_end_matches(".000")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_for_people() {
        for (number, shown) in [
            ("0", "0"),
            ("999", "999"),
            ("1234567.25", "1\u{202f}234\u{202f}567.25"),
            ("-1000", "\u{2212}1\u{202f}000"),
            ("abc", "abc"),
        ] {
            assert_eq!(number_text(number), shown);
        }
        for (seconds, shown) in [
            (0.04, "0.0 s"),
            (12.0, "12 s"),
            (300.0, "5 min"),
            (7300.0, "2 h"),
            (1e6, "12 days"),
        ] {
            assert_eq!(seconds_text(seconds), shown);
        }
        assert_eq!(
            when_text("2026-11-21T10:40:00.123456Z"),
            "2026-11-21 10:40:00.123"
        );
        assert_eq!(
            when_text("2026-11-21T10:40:00.000000Z"),
            "2026-11-21 10:40:00"
        );
    }

    #[test]
    fn columns_of_figures_are_known() {
        for (text, is) in [
            ("0", true),
            ("-12.50", true),
            ("007", false),
            ("1e5", false),
            ("", false),
            ("1.", false),
        ] {
            assert_eq!(is_figure(text), is, "{text}");
        }
        let cell = |text: &str| json!({ "text": text });
        let rows = [
            vec![cell("1"), cell("x")],
            vec![json!({ "null": true }), cell("2")],
        ];
        let columns = columns_of(&["a", "b"], &rows);
        assert_eq!(
            (&columns[0]["number"], &columns[1]["number"]),
            (&true.into(), &false.into())
        );
    }

    #[test]
    fn what_comes_from_events_is_text() {
        let frame = Frame {
            instance: "<i>",
            sections: vec![Section::Flow],
            person: None,
            form_secret: None,
            notice: Some("<b>".into()),
        };
        let head = PageHead::new(Section::Topics, "<script>alert(1)</script>");
        let content = json!({ "title": "<u>", "detail": "\"'><img src=x>", "code": null });
        let Html(page) = page(&frame, &head, "error.html", &content).unwrap();
        for wrong in ["<i>", "<b>", "<script>alert", "<u>", "<img"] {
            assert!(!page.contains(wrong), "{wrong}\n{page}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)"));
    }
}

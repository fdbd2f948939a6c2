//! Figures: a table, and a plot of one measure.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Extract};
use serde_json::{Map, Value, json};

use crate::config::StatisticsSettings;
use crate::http::page::drawing::plot::{Point, plot, range};
use crate::http::page::layout::{PageAnswer, PageHead, Section};
use crate::http::page::login::visitor::Visitor;
use crate::http::page::pages::Pages;
use crate::http::page::urls::{path_part, with_parameters};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::http::statistics::statistics;
use crate::timestamp::{now_us, rfc3339};

/// Groups that have a plot.
const PLOTS_MAX: usize = 6;
/// Width and height.
const ONE_SIZE: (f64, f64) = (960.0, 280.0);
const EACH_SIZE: (f64, f64) = (480.0, 180.0);

type AskedPages = Extract<Arc<Pages>>;

/// All sinks of figures.
pub(crate) async fn list(Extract(pages): AskedPages, visitor: Visitor) -> PageAnswer {
    let sinks = pages.figures.sinks.iter().map(|(name, (settings, _))| {
        json!({
            "name": name, "address": address(name), "period": settings.period.name(), "time_zone": settings.time_zone.name(),
            "groups": groups(settings).join(", "), "measures": measures(settings).join(", "),
        })
    });
    let content = json!({ "sinks": sinks.collect::<Vec<_>>() });
    let head = PageHead::new(Section::Statistics, "Statistics");
    pages.page(
        visitor.logged_in.as_ref(),
        &head,
        "figure_sinks.html",
        &content,
    )
}

/// The figures of a sink: `measure` to be plotted, `from`, `to`, `group.COLUMN`, and `after`.
pub(crate) async fn page(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Path(sink): Path<String>,
    Parameters(wanted): Parameters<Vec<(String, String)>>,
) -> PageAnswer {
    let Some((settings, _)) = pages.figures.sinks.get(&sink) else {
        return Err(Problem::no_figures(&sink));
    };
    let given = |name: &str| {
        let found = wanted.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim()).unwrap_or_default()
    };
    let (measures, groups) = (measures(settings), groups(settings));
    let measure = measures
        .iter()
        .find(|measure| **measure == given("measure"));
    let measure = *measure.unwrap_or(&measures[0]);
    let mut question = Vec::new();
    for name in ["from", "to", "after"] {
        question.push((name.to_owned(), given(name).to_owned()));
    }
    for group in &groups {
        let value = given(&format!("group.{group}"));
        if !value.is_empty() {
            question.push(("group".to_owned(), format!("{group}={value}")));
        }
    }
    question.retain(|(_, value)| !value.is_empty());
    let figures = Extract(Arc::clone(&pages.figures));
    let Json(answer) = statistics(figures, Path(sink.clone()), Parameters(question)).await?;
    let rows: Vec<&Map<String, Value>> = answer["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .collect();
    let next = answer["next"].as_str().map(|next| {
        let kept = wanted.iter().filter(|(name, _)| name != "after");
        let kept = kept.map(|(name, value)| (name.as_str(), value.as_str()));
        with_parameters(&address(&sink), kept.chain([("after", next)]))
    });
    let shown: Vec<Value> = rows.iter().map(|row| cells(row, settings)).collect();
    let group_fields = groups
        .iter()
        .map(|group| json!({ "name": group, "value": given(&format!("group.{group}")) }));
    let content = json!({
        "sink": sink, "address": address(&sink), "period": settings.period.name(), "time_zone": settings.time_zone.name(),
        "measures": measures, "measure": measure, "groups": group_fields.collect::<Vec<_>>(),
        "from": given("from"), "to": given("to"), "columns": settings.columns(), "group_count": groups.len(), "rows": shown,
        "next": next, "complete_up_to": answer["complete_up_to"], "plots": plots(&rows, &groups, measure),
        "plotted_max": PLOTS_MAX, "now": rfc3339(now_us()),
    });
    let head = PageHead::new(Section::Statistics, sink.clone());
    pages.page(
        visitor.logged_in.as_ref(),
        &head,
        "statistics.html",
        &content,
    )
}

fn address(sink: &str) -> String {
    format!("/statistics/{}", path_part(sink))
}

fn groups(settings: &StatisticsSettings) -> Vec<&str> {
    settings.group_by.iter().map(|path| path.name()).collect()
}

fn measures(settings: &StatisticsSettings) -> Vec<&str> {
    settings
        .measures
        .iter()
        .map(|measure| measure.name.as_str())
        .collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A row of the table; figures are numbers, and stand so.
fn cells(row: &Map<String, Value>, settings: &StatisticsSettings) -> Value {
    let columns = settings.columns();
    let names = 1 + settings.group_by.len();
    let cells = columns.iter().enumerate().map(|(place, column)| {
        let value = row.get(*column).unwrap_or(&Value::Null);
        json!({ "text": text(value), "number": place >= names, "null": value.is_null() })
    });
    cells.collect()
}

/// A plot for each group; those with most come first, and only some. All have the same periods and marks.
fn plots(rows: &[&Map<String, Value>], groups: &[&str], measure: &str) -> Value {
    let mut periods: Vec<&str> = Vec::new();
    let mut by_group: Vec<(String, Vec<(&str, String)>)> = Vec::new();
    for row in rows {
        // What has no time is in no place of a plot.
        let Some(period) = row.get("period").and_then(Value::as_str) else {
            continue;
        };
        // Rows come in the order of their periods.
        if periods.last() != Some(&period) {
            periods.push(period);
        }
        let cell = |name: &str| row.get(name).map(text).unwrap_or_default();
        let names: Vec<String> = groups.iter().map(|group| cell(group)).collect();
        let name = names.join(" · ");
        let figure = (period, cell(measure));
        match by_group.iter_mut().find(|(known, _)| *known == name) {
            Some((_, figures)) => figures.push(figure),
            None => by_group.push((name, vec![figure])),
        }
    }
    let mut drawn: Vec<(String, Vec<Point>)> = by_group
        .into_iter()
        .map(|(name, figures)| (name, points(&periods, &figures)))
        .collect();
    let total = |points: &[Point]| points.iter().filter_map(|point| point.value).sum::<f64>();
    drawn.sort_by(|(_, one), (_, other)| total(other).total_cmp(&total(one)));
    let left_out = drawn.len().saturating_sub(PLOTS_MAX);
    drawn.truncate(PLOTS_MAX);
    let range = range(drawn.iter().flat_map(|(_, points)| points));
    let size = if drawn.len() > 1 { EACH_SIZE } else { ONE_SIZE };
    let drawn = drawn.iter().map(|(name, points)| {
        let told = match name.as_str() {
            "" => format!("{measure} by period"),
            name => format!("{measure} of {name} by period"),
        };
        json!({ "name": name, "svg": plot(&told, points, range, size) })
    });
    json!({ "drawn": drawn.collect::<Vec<_>>(), "left_out": left_out })
}

/// A point for each period, with the figures of one group; both are in order.
fn points(periods: &[&str], figures: &[(&str, String)]) -> Vec<Point> {
    let mut figures = figures.iter().peekable();
    let points = periods.iter().map(|period| {
        let figure = figures.next_if(|(of, _)| of == period);
        let text = figure.map(|(_, text)| text.clone()).unwrap_or_default();
        Point {
            period: (*period).to_owned(),
            value: text.parse().ok().filter(|value: &f64| value.is_finite()),
            text,
        }
    });
    points.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_a_plot_and_only_figures_are_drawn() {
        let rows = [
            json!({"period": "2026-11-01", "account": "a", "total": "10.50"}),
            json!({"period": "2026-11-01", "account": "<b>", "total": "20"}),
            json!({"period": "2026-11-02", "account": "a", "total": null}),
            json!({"period": null, "account": "a", "total": "5"}),
        ];
        let rows: Vec<_> = rows.iter().filter_map(Value::as_object).collect();
        let plots = plots(&rows, &["account"], "total");
        assert_eq!(plots["drawn"][0]["name"], "<b>");
        let svg = plots["drawn"][1]["svg"].as_str().unwrap();
        assert_eq!(svg.matches("class=\"bar\"").count(), 1);
        assert!(
            plots["drawn"][0]["svg"]
                .as_str()
                .unwrap()
                .contains("of &lt;b&gt; by")
        );
    }
}

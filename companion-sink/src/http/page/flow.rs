//! The flow: where events come from, which topics have them, and what each sink of this instance is doing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Extract;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::config::topic_pattern::follows;
use crate::http::page::drawing::picture::{FlowBox, Picture};
use crate::http::page::layout::{
    PageAnswer, PageHead, Section, fragment, number_text, seconds_text,
};
use crate::http::page::login::visitor::Visitor;
use crate::http::page::pages::Pages;
use crate::http::problem::Problem;
use crate::http::state::status_json;

/// More are only counted.
const TOPICS_DRAWN: usize = 12;
/// Between two looks at what has changed.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The page.
pub(crate) async fn page(Extract(pages): Extract<Arc<Pages>>, visitor: Visitor) -> PageAnswer {
    let shows_topics = visitor.logged_in.is_some();
    let now = now(&pages, shows_topics).await;
    let head = PageHead::new(Section::Flow, "Flow");
    pages.page(visitor.logged_in.as_ref(), &head, "flow.html", &now)
}

/// The same, sent again when it has changed.
pub(crate) async fn events(
    Extract(pages): Extract<Arc<Pages>>,
    visitor: Visitor,
) -> Result<Response, Problem> {
    let turn = pages.topics.follower()?;
    let shows_topics = visitor.logged_in.is_some();
    let first = (pages, String::new(), turn);
    let changes = stream::unfold(first, move |(pages, mut shown, turn)| async move {
        loop {
            if !shown.is_empty() {
                sleep(LOOK_PAUSE).await;
            }
            let now = now(&pages, shows_topics).await;
            // One that cannot be made now may be made later.
            let made = fragment("flow_now.html", &now).unwrap_or_default();
            if made != shown {
                shown.clone_from(&made);
                let event = Event::default().data(made);
                return Some((Ok::<_, Infallible>(event), (pages, shown, turn)));
            }
        }
    });
    Ok(Sse::new(changes)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// What the parts of the flow are doing now.
async fn now(pages: &Pages, shows_topics: bool) -> Value {
    let status = status_json(&pages.shared).await;
    let known = pages
        .shared
        .cluster
        .borrow()
        .topics
        .clone()
        .unwrap_or_default();
    let followed: Vec<(&str, Vec<&str>)> = pages
        .shared
        .sinks
        .iter()
        .map(|sink| {
            let patterns = pages.config.sinks.get(&sink.name);
            let patterns = patterns.map_or(&[][..], |settings| &settings.topics);
            let topics = known.keys().map(String::as_str);
            let topics = topics.filter(|topic| follows(patterns, topic)).collect();
            (sink.name.as_str(), topics)
        })
        .collect();
    let mut topics: Vec<&str> = followed
        .iter()
        .flat_map(|(_, topics)| topics.clone())
        .collect();
    topics.sort_unstable();
    topics.dedup();
    let source = source(&status);
    let sinks: Vec<Value> = followed
        .iter()
        .map(|(name, topics)| sink(name, &status["sinks"][*name], topics, shows_topics))
        .collect();
    let picture = picture(source.as_ref(), &topics, &followed, &sinks, shows_topics);
    json!({
        "source": source,
        "kafka_error": status["kafka"]["error"],
        "topic_count": topics.len(),
        "topics": shows_topics.then_some(topics),
        "sinks": sinks,
        "picture": picture.svg(),
    })
}

/// The sender, as far as it is known: what it says itself, or what its positions in Kafka tell.
fn source(status: &Value) -> Option<Value> {
    let position = status.get("position");
    let asked = status.get("source");
    if position.is_none() && asked.is_none() {
        return None;
    }
    let sender = asked.map_or(&Value::Null, |asked| &asked["sender"]);
    let error = asked.map_or(&Value::Null, |asked| &asked["error"]);
    let state = match (error.is_null(), sender["state"].as_str()) {
        (false, _) => "out of reach",
        (true, Some(state)) => state,
        (true, None) => "not asked",
    };
    let look = match state {
        "streaming" => "ok",
        "not asked" => "idle",
        "out of reach" | "halted" | "gap" | "fenced" => "bad",
        _ => "warn",
    };
    let name = position.and_then(|position| position["source_name"].as_str());
    let name = name.or(sender["source_name"].as_str());
    Some(json!({
        "name": name.unwrap_or("source"), "state": state, "look": look, "error": error,
        "sender": sender, "position": position, "tables": asked.map(|asked| &asked["tables"]),
    }))
}

/// What a state looks like.
fn look(status: &Value) -> &'static str {
    let stuck = status["stuck"] == true;
    let stopped = status["stopped_topics"]
        .as_object()
        .is_some_and(|stopped| !stopped.is_empty());
    match status["state"].as_str() {
        Some("halted") => "bad",
        _ if stuck => "bad",
        Some("retrying") => "warn",
        Some("running") if stopped => "warn",
        Some("running") => "ok",
        _ => "idle",
    }
}

fn sink(name: &str, status: &Value, topics: &[&str], shows_topics: bool) -> Value {
    let mut shown = status.clone();
    shown["name"] = name.into();
    shown["look"] = look(status).into();
    shown["topic_count"] = topics.len().into();
    shown["topics"] = shows_topics.then_some(topics).into();
    // A rate of half an event is not worth a change of the page.
    let rate = status["events_per_second"].as_f64().unwrap_or_default();
    shown["rate"] = (rate.round() as u64).into();
    shown
}

fn picture(
    source: Option<&Value>,
    topics: &[&str],
    followed: &[(&str, Vec<&str>)],
    sinks: &[Value],
    shows_topics: bool,
) -> Picture {
    let source = source.map(|source| {
        let lag = source["sender"]["lag_seconds"].as_f64();
        let lag = lag.map_or(String::new(), |lag| {
            format!(" · {} behind", seconds_text(lag))
        });
        FlowBox {
            name: source["name"].as_str().unwrap_or_default().to_owned(),
            told: format!("{}{lag}", source["state"].as_str().unwrap_or_default()),
            look: look_of(source),
        }
    });
    let drawn = if shows_topics {
        &topics[..topics.len().min(TOPICS_DRAWN)]
    } else {
        &[]
    };
    let rest = topics.len() - drawn.len();
    let topic_box = |name: String| FlowBox {
        name,
        told: String::new(),
        look: "plain",
    };
    let mut boxes: Vec<FlowBox> = drawn
        .iter()
        .map(|topic| topic_box((*topic).to_owned()))
        .collect();
    if rest > 0 {
        let more = if drawn.is_empty() { "" } else { " more" };
        let plural = if rest == 1 { "" } else { "s" };
        boxes.push(topic_box(format!("{rest}{more} topic{plural}")));
    }
    let mut edges = Vec::new();
    for (place, (_, of_sink)) in followed.iter().enumerate() {
        let shown = drawn.iter().enumerate();
        let shown = shown.filter(|(_, topic)| of_sink.contains(topic));
        edges.extend(shown.map(|(topic, _)| (topic, place)));
        if of_sink.iter().any(|topic| !drawn.contains(topic)) {
            edges.push((drawn.len(), place));
        }
    }
    Picture {
        source,
        topics: boxes,
        sinks: sinks.iter().map(sink_box).collect(),
        edges,
    }
}

fn sink_box(sink: &Value) -> FlowBox {
    let state = sink["state"].as_str().unwrap_or_default();
    let lag = match sink["apply_lag_events"].as_u64() {
        Some(0) => " · up to date".to_owned(),
        Some(events) => format!(" · {} waiting", number_text(&events.to_string())),
        None => String::new(),
    };
    FlowBox {
        name: sink["name"].as_str().unwrap_or_default().to_owned(),
        told: format!(
            "{} · {state}{lag}",
            sink["kind"].as_str().unwrap_or_default()
        ),
        look: look_of(sink),
    }
}

fn look_of(part: &Value) -> &'static str {
    let known = ["ok", "warn", "bad", "idle"].into_iter();
    let mut known = known.filter(|known| part["look"] == *known);
    known.next().unwrap_or("idle")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_looks() {
        for (status, expected) in [
            (
                json!({"state": "running", "stuck": false, "stopped_topics": {}}),
                "ok",
            ),
            (
                json!({"state": "running", "stopped_topics": {"t": {}}}),
                "warn",
            ),
            (json!({"state": "running", "stuck": true}), "bad"),
            (json!({"state": "retrying"}), "warn"),
            (json!({"state": "halted"}), "bad"),
            (json!({"state": "standby"}), "idle"),
        ] {
            assert_eq!(look(&status), expected, "{status}");
        }
    }

    #[test]
    fn topics_that_are_not_shown_are_counted() {
        let sinks = [json!({"name": "a", "look": "ok"})];
        let followed = [("a", vec!["t", "u"])];
        let picture = picture(None, &["t", "u"], &followed, &sinks, false);
        let names: Vec<&str> = picture.topics.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((names, picture.edges), (vec!["2 topics"], vec![(0, 0)]));
    }
}

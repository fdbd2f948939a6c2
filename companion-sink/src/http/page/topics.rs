//! Topics, the newest records of one, and what comes into it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, State as Extract};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use change::event::op::Op;
use change::trouble::Trouble;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::{Code, misconfigured};
use crate::http::page::layout::{PageAnswer, PageHead, Section, fragment};
use crate::http::page::login::visitor::Visitor;
use crate::http::page::pages::Pages;
use crate::http::page::urls::{path_part, with_parameters};
use crate::http::parameters::Parameters;
use crate::http::problem::Problem;
use crate::http::topics::{StopOnDrop, TailParameters, TopicState, newest_entries};
use crate::topic::asked::ask;
use crate::topic::entry::Entry;
use crate::topic::filter::TopicFilter;
use crate::topic::follow::follow;
use crate::topic::in_words::cells;
use crate::topic::json::indented;
use crate::topic::told::{Content, ToldRecord};

const RECORDS: u32 = 50;
/// Of a long value the beginning is enough; `topic show` has all of it.
const VALUE_CHARS: usize = 20_000;
/// Records that wait for a browser that is slow.
const AHEAD: usize = 16;

type AskedPages = Extract<Arc<Pages>>;
type Offsets = BTreeMap<i32, i64>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListParameters {
    pattern: String,
}

/// The topics.
pub(crate) async fn list(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Parameters(wanted): Parameters<ListParameters>,
) -> PageAnswer {
    let pattern = Some(wanted.pattern.trim()).filter(|pattern| !pattern.is_empty());
    let found = pages.topics.overview(pattern).await?;
    let topics = found.iter().map(|one| {
        let mut topic = one.json();
        topic["address"] = address(&one.topic).into();
        let retention = one.settings.retention_ms;
        topic["retention_seconds"] = retention
            .filter(|ms| *ms >= 0)
            .map(|ms| ms as f64 / 1000.0)
            .into();
        topic["is_for_ever"] = retention.is_some_and(|ms| ms < 0).into();
        topic
    });
    let head = PageHead::new(Section::Topics, "Topics");
    let content = json!({ "topics": topics.collect::<Vec<_>>(), "pattern": pattern });
    pages.page(visitor.logged_in.as_ref(), &head, "topics.html", &content)
}

/// Forms send fields that are empty, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FollowParameters {
    n: Option<String>,
    key: Option<String>,
    op: Option<String>,
    actor: Option<String>,
    since: Option<String>,
    until: Option<String>,
    /// Offsets by partition: `0:12,1:7`.
    from: Option<String>,
}

impl FollowParameters {
    fn tail(self) -> Result<TailParameters, Problem> {
        let given = |text: Option<String>| {
            let text = text.map(|text| text.trim().to_owned());
            text.filter(|text| !text.is_empty())
        };
        let n = given(self.n).map(|n| {
            n.parse().map_err(|_| {
                misconfigured(
                    format!("\"{n}\" is no number of records"),
                    "Write a whole number.",
                )
            })
        });
        Ok(TailParameters {
            n: Some(n.transpose()?.unwrap_or(RECORDS)),
            key: given(self.key),
            op: given(self.op),
            actor: given(self.actor),
            since: given(self.since),
            until: given(self.until),
        })
    }
}

/// The newest records of a topic.
pub(crate) async fn tail(
    Extract(pages): AskedPages,
    visitor: Visitor,
    Path(topic): Path<String>,
    Parameters(wanted): Parameters<FollowParameters>,
) -> PageAnswer {
    let wanted = wanted.tail()?;
    let (entries, bounds) = newest_entries(&pages.topics, &topic, &wanted).await?;
    let ends = bounds.iter().map(|(at, range)| (at.partition, range.end));
    let ends = offsets_text(&ends.collect());
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, op, actor) = (text(&wanted.key), text(&wanted.op), text(&wanted.actor));
    let (since, until) = (text(&wanted.since), text(&wanted.until));
    let events = with_parameters(
        &format!("{}/events", address(&topic)),
        [
            ("key", key.as_str()),
            ("op", &op),
            ("actor", &actor),
            ("from", &ends),
        ],
    );
    let head = PageHead::new(Section::Topics, topic.clone());
    let content = json!({
        "topic": topic, "address": address(&topic), "records": rows(entries.iter().rev()), "partitions": bounds.len(),
        "n": wanted.n, "key": key, "op": op, "actor": actor, "since": since, "until": until,
        // What has an end does not grow.
        "events": until.is_empty().then_some(events),
        "ops": Op::ALL.into_iter().map(Op::header).collect::<Vec<_>>(),
    });
    pages.page(visitor.logged_in.as_ref(), &head, "topic.html", &content)
}

fn address(topic: &str) -> String {
    format!("/topics/{}", path_part(topic))
}

fn rows<'e>(entries: impl Iterator<Item = &'e Entry>) -> Value {
    entries.map(row).collect()
}

fn row(entry: &Entry) -> Value {
    let told = ToldRecord::of(entry);
    let look = match entry.op() {
        _ if told.refusal().is_some() || told.undecodable.is_some() => "bad",
        Some(Op::Create | Op::Read) => "new",
        Some(Op::Delete | Op::Truncate) => "gone",
        Some(Op::Update) => "change",
        _ => "idle",
    };
    let value = entry.record.value().map(|value| {
        let text = indented(&Content::of(value).text());
        match text.char_indices().nth(VALUE_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    });
    let headers = entry.record.headers().map(|(name, value)| {
        let value = value.map(|value| String::from_utf8_lossy(value).into_owned());
        json!({ "name": name, "value": value })
    });
    let [when, place, op, key, actor, what] = cells(&told);
    json!({
        "when": when, "place": place, "op": op, "key": key, "actor": actor, "what": what, "look": look, "value": value,
        "headers": headers.collect::<Vec<_>>(),
    })
}

fn offsets_text(offsets: &Offsets) -> String {
    let offsets = offsets.iter();
    let texts: Vec<String> = offsets
        .map(|(partition, offset)| format!("{partition}:{offset}"))
        .collect();
    texts.join(",")
}

fn offsets_of(text: &str) -> Option<Offsets> {
    let parts = text.split(',').map(|part| {
        let (partition, offset) = part.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    });
    parts.collect()
}

/// What comes into a topic, as rows of the table. A browser that comes again says where it was.
pub(crate) async fn events(
    Extract(pages): AskedPages,
    Path(topic): Path<String>,
    headers: axum::http::HeaderMap,
    Parameters(mut wanted): Parameters<FollowParameters>,
) -> Result<Response, Problem> {
    let turn = pages.topics.follower()?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let from = last.map(str::to_owned).or(wanted.from.take());
    let from = from.as_deref().and_then(offsets_of).unwrap_or_default();
    let filter = wanted.tail()?.filter()?;
    let stop = StopOnDrop::default();
    let stopped = Arc::clone(&stop.0);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let asking = Arc::clone(&pages.topics);
    tokio::task::spawn_blocking(move || {
        let followed = follow_into(&asking, &topic, from, filter, &stopped, &sender);
        if let Err(error) = followed {
            // Nobody may listen any more.
            let _ = sender.blocking_send(Event::default().event("trouble").data(error.message));
        }
    });
    let events = stream::unfold(
        (receiver, stop, turn),
        |(mut receiver, stop, turn)| async move {
            let event = receiver.recv().await?;
            Some((Ok::<_, Infallible>(event), (receiver, stop, turn)))
        },
    );
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// Waits for Kafka, until somebody stops it.
fn follow_into(
    state: &TopicState,
    topic: &str,
    from: Offsets,
    mut filter: TopicFilter,
    stop: &std::sync::atomic::AtomicBool,
    sender: &mpsc::Sender<Event>,
) -> crate::error::Result<()> {
    let asked = ask(&state.config, topic)?;
    let asked = asked.map_err(|none| {
        Trouble::new(
            Code::Unreachable,
            none.text(),
            "Look at the list of topics.",
        )
    })?;
    let from = match from.is_empty() {
        true => {
            let bounds = asked.bounds()?;
            let ends = bounds.iter().map(|(at, range)| (at.partition, range.end));
            ends.collect()
        }
        false => from,
    };
    let mut next = from.clone();
    follow(&asked, &from, &mut filter, stop, |entries| {
        for entry in &entries {
            next.insert(entry.record.partition, entry.record.offset + 1);
        }
        let rows = json!({ "records": rows(entries.iter().rev()) });
        // What cannot be shown is in the topic still.
        let rows = fragment("topic_rows.html", &rows).unwrap_or_default();
        let event = Event::default().id(offsets_text(&next)).data(rows);
        if sender.blocking_send(event).is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_come_back() {
        let offsets: Offsets = [(0, 12), (3, 7)].into();
        assert_eq!(offsets_of(&offsets_text(&offsets)), Some(offsets));
        assert_eq!(offsets_of("0:x"), None);
        assert_eq!(offsets_of(""), None);
    }
}

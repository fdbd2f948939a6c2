//! `companion-sink topic show`.

use std::sync::atomic::{AtomicBool, Ordering};

use change::event::headers::HeaderName;
use clap::Args;
use serde_json::Value;

use crate::cli::answer::{Answer, Format, Look};
use crate::cli::printable;
use crate::cli::topic::asking::{find, in_thread, stopped_by_signals};
use crate::cli::topic::outcome::TopicOutcome;
use crate::config::Loaded;
use crate::error::Result;
use crate::history::change_text::side_text;
use crate::history::difference::Side;
use crate::terminal::Color;
use crate::timestamp::rfc3339;
use crate::topic::asked::AskedTopic;
use crate::topic::entry::Entry;
use crate::topic::find::{RecordPlace, at, by_id};
use crate::topic::header_meaning::meaning;
use crate::topic::in_words::{op, what};
use crate::topic::json::{differences, whole};
use crate::topic::told::{Content, ToldRecord};

const HEADER: &[&str] = &["", "VALUE"];

/// Which record.
#[derive(Debug, Clone, Args)]
pub(super) struct Show {
    /// The topic's name
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Where it stands, such as 0:133
    #[arg(
        value_name = "PARTITION:OFFSET",
        required_unless_present = "id",
        conflicts_with = "id"
    )]
    place: Option<RecordPlace>,
    /// The newest one with this event id: the whole topic may have to be read for it
    #[arg(long, value_name = "EVENT_ID")]
    id: Option<String>,
}

impl Show {
    pub(super) async fn run(
        &self,
        config: &Loaded,
        format: Option<Format>,
        color: Color,
    ) -> Result<TopicOutcome> {
        let stop = stopped_by_signals()?;
        let (show, config) = (self.clone(), config.clone());
        in_thread(move || show.show(&config, format, color, &stop)).await
    }

    /// Waits for Kafka.
    fn show(
        &self,
        config: &Loaded,
        format: Option<Format>,
        color: Color,
        stop: &AtomicBool,
    ) -> Result<TopicOutcome> {
        let Some(asked) = find(config, &self.topic)? else {
            return Ok(TopicOutcome::Nothing);
        };
        match self.find(&asked, stop)? {
            Ok(entry) => print(&entry, format, color).map(|()| TopicOutcome::Found),
            Err(_) if stop.load(Ordering::Relaxed) => Ok(TopicOutcome::Interrupted),
            Err(why) => {
                eprintln!("companion-sink: {}", printable(&why));
                Ok(TopicOutcome::Nothing)
            }
        }
    }

    fn find(
        &self,
        asked: &AskedTopic,
        stop: &AtomicBool,
    ) -> Result<std::result::Result<Entry, String>> {
        match (self.place, &self.id) {
            (Some(place), _) => at(asked, place),
            (None, id) => {
                let id = id.as_deref().unwrap_or_default();
                let found = by_id(asked, id, stop)?;
                Ok(found.ok_or_else(|| format!("no event {id} in {}", self.topic)))
            }
        }
    }
}

fn print(entry: &Entry, format: Option<Format>, color: Color) -> Result<()> {
    let told = ToldRecord::of(entry);
    let mut answer = Answer::new(format, None, color, HEADER)?;
    if answer.is_json() {
        answer.text(&format!("{}\n", whole(&told)))?;
        return answer.finish("");
    }
    for (name, value) in lines(&told) {
        answer.row(|| Value::Null, vec![name, value], Look::Plain)?;
    }
    let record = &entry.record;
    answer.finish(&format!(
        "{} {}:{}",
        record.topic, record.partition, record.offset
    ))
}

/// A record for people.
fn lines(told: &ToldRecord<'_>) -> Vec<(String, String)> {
    let (entry, record) = (told.entry, &told.entry.record);
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| lines.push((name.to_owned(), value));
    let time = |us: Option<i64>| us.map_or_else(|| "-".to_owned(), rfc3339);
    add(
        "event",
        told.header(HeaderName::ID).unwrap_or("-").to_owned(),
    );
    add("time", time(entry.time_us()));
    add(
        "sent",
        time(entry.sent_ms.map(|ms| ms.saturating_mul(1000))),
    );
    add("op", op(told));
    for (name, part) in [
        ("actor", told.actor()),
        ("reason", told.reason()),
        ("request", told.request_id()),
    ] {
        if let Some(part) = part {
            add(name, part.to_owned());
        }
    }
    add("change", what(told));
    for (name, value) in record.headers() {
        let text = value.map_or_else(
            || "null".to_owned(),
            |value| match std::str::from_utf8(value) {
                Ok(text) => text.to_owned(),
                Err(_) => Content::of(value).text(),
            },
        );
        let shown = match meaning(name, &text) {
            Some(meaning) => format!("{text}  ({meaning})"),
            None => text,
        };
        add(&format!("header {name}"), shown);
    }
    for (name, part) in [("key", record.key()), ("value", record.value())] {
        let text = part.map_or_else(|| "null".to_owned(), pretty);
        for (number, line) in text.lines().enumerate() {
            add(if number == 0 { name } else { "" }, line.to_owned());
        }
    }
    for difference in differences(told).into_iter().flatten() {
        let column = &difference.column;
        let side = |side: &Side| side_text(column, side, None);
        let text = format!("{} -> {}", side(&difference.from), side(&difference.to));
        add(&format!("column {column}"), text);
    }
    lines
}

/// JSON with a line for each part of it.
fn pretty(bytes: &[u8]) -> String {
    let content = Content::of(bytes);
    let parsed = match content {
        Content::Json(json) => serde_json::from_str::<Value>(json.get()).ok(),
        _ => None,
    };
    let pretty = parsed.and_then(|value| serde_json::to_string_pretty(&value).ok());
    pretty.unwrap_or_else(|| content.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;

    #[test]
    fn a_record_is_shown_whole() {
        let value = br#"{"source":{"db":"d","schema":"public","table":"t","ts_us":1795257600123456},"audit":{"actor":"ann"},
            "before":null,"after":{"id":42,"city":"Bern"}}"#;
        let headers = [
            ("cdc.id", "n-1"),
            (
                "cdc.version",
                "0001-00000001-00000000015a3098-0000000001-00",
            ),
            ("cdc.op", "c"),
            ("cdc.table", "d.public.t"),
            ("own", "x"),
        ];
        let headers = headers.map(|(name, value)| (name, Some(value.as_bytes())));
        let key = Some(&b"{\"id\":42}"[..]);
        let record = Record::new("t".into(), 0, 3, key, Some(value), headers.into_iter());
        let entry = Entry {
            record,
            sent_ms: None,
        };
        let lines = lines(&ToldRecord::of(&entry));
        let has = |name: &str, text: &str| {
            let found = lines.iter().find(|(known, _)| known == name);
            assert!(
                found.is_some_and(|(_, value)| value.contains(text)),
                "{name} {lines:?}"
            );
        };
        has("event", "n-1");
        has("sent", "-");
        has("actor", "ann");
        has("header cdc.version", "commit 0/15A3098");
        has("header own", "x");
        has("column city", r#"- -> "Bern""#);
        assert!(
            lines.contains(&(String::new(), "  \"id\": 42".to_owned())),
            "{lines:?}"
        );
    }
}

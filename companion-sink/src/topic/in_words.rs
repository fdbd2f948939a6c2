//! A record in a few words, for people.

use change::event::op::Op;

use crate::history::change_text::{change_text, key_text, op_text};
use crate::timestamp::rfc3339;
use crate::topic::told::{Content, ToldRecord};

/// Of a long value the beginning is enough to see which it is.
const SHOWN_CHARS: usize = 500;

/// When, where, operation, key, who, what.
pub(crate) fn cells(told: &ToldRecord<'_>) -> [String; 6] {
    let entry = told.entry;
    let time = entry.time_us().map(rfc3339);
    [
        time.map_or_else(|| "-".to_owned(), |time| when(&time)),
        format!("{}:{}", entry.record.partition, entry.record.offset),
        op(told),
        key(told),
        told.actor().unwrap_or("-").to_owned(),
        shortened(&what(told)),
    ]
}

/// Milliseconds are enough for people.
pub(crate) fn when(rfc3339: &str) -> String {
    rfc3339.replace('T', " ").chars().take(23).collect()
}

/// The operation by the word that the history has for it.
pub(crate) fn op(told: &ToldRecord<'_>) -> String {
    match (&told.document, told.entry.op()) {
        (Some(version), _) => op_text(version),
        (None, Some(Op::Truncate)) => "truncate".to_owned(),
        (None, Some(op)) => op.header().to_owned(),
        (None, None) => told.op().unwrap_or("-").to_owned(),
    }
}

/// `id=42`, or the key as it is.
pub(crate) fn key(told: &ToldRecord<'_>) -> String {
    let key = told.entry.record.key();
    let in_document = told.document.as_ref().and_then(key_text);
    in_document
        .or_else(|| object_text(key?))
        .or_else(|| Some(Content::of(key?).text()))
        .unwrap_or_else(|| "-".to_owned())
}

/// A JSON object as `a=1 b=2`.
fn object_text(json: &[u8]) -> Option<String> {
    let serde_json::Value::Object(object) = serde_json::from_slice(json).ok()? else {
        return None;
    };
    let part = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    let parts: Vec<String> = object.iter().map(part).collect();
    Some(parts.join(" "))
}

/// What changed, what a control event says, or the value as it is.
pub(crate) fn what(told: &ToldRecord<'_>) -> String {
    let change = match &told.undecodable {
        Some(why) => {
            let value = told
                .entry
                .record
                .value()
                .map(|value| Content::of(value).text());
            format!("undecodable, {why}: {}", value.unwrap_or_default())
        }
        None => readable(told),
    };
    let Some(refused) = told.refusal() else {
        return change;
    };
    format!(
        "refused by {}: {} [{}], {}; {change}",
        refused.sink, refused.message, refused.code, refused.reason
    )
}

fn readable(told: &ToldRecord<'_>) -> String {
    if told.is_bare() {
        return "the value is kept by the sink".to_owned();
    }
    if let Some(version) = &told.document {
        return change_text(version, None);
    }
    let about = told.header(change::event::headers::HeaderName::TOPIC);
    let control = match told.entry.op() {
        Some(Op::Schema) => told.definition(),
        Some(Op::Snapshot) => told.snapshot(),
        Some(Op::Truncate) => Some("emptied".to_owned()),
        _ => None,
    };
    if let Some(control) = control {
        return match about {
            Some(topic) => format!("{topic}: {control}"),
            None => control,
        };
    }
    let value = told.entry.record.value();
    value.map_or_else(|| "-".to_owned(), |value| Content::of(value).text())
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;
    use crate::topic::entry::Entry;

    fn told(op: &str, more: &[(&str, &str)], key: &str, value: Option<&[u8]>) -> [String; 6] {
        let ours = [
            ("cdc.id", "n-1"),
            (
                "cdc.version",
                "0001-00000001-00000000015a3098-0000000001-00",
            ),
            ("cdc.op", op),
            ("cdc.table", "d.public.t"),
        ];
        let ours = ours.iter().filter(|_| !op.is_empty());
        let headers = ours
            .chain(more)
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        let entry = Entry {
            record: Record::new("t".into(), 2, 7, Some(key.as_bytes()), value, headers),
            sent_ms: Some(1_795_257_600_123),
        };
        cells(&ToldRecord::of(&entry))
    }

    fn body(rest: &str) -> String {
        format!(
            r#"{{"source":{{"db":"d","schema":"public","table":"t","ts_us":1795257600123456}},"audit":{{"actor":"ann"}},{rest}}}"#
        )
    }

    #[test]
    fn a_change_is_a_readable_line() {
        let value = body(r#""before":{"id":42,"city":"Basel"},"after":{"id":42,"city":"Bern"}"#);
        assert_eq!(
            told("u", &[], r#"{"id":42}"#, Some(value.as_bytes())),
            [
                "2026-11-21 10:40:00.123",
                "2:7",
                "update",
                "id=42",
                "ann",
                r#"city "Basel" -> "Bern""#
            ]
        );
        let letter = [
            ("cdc.dlq.code", "CDC1006"),
            ("cdc.dlq.sink", "replica"),
            ("cdc.dlq.reason", "conversion"),
            ("__connect.errors.exception.message", "no date"),
        ];
        assert_eq!(
            told("u", &letter, r#"{"id":42}"#, Some(value.as_bytes()))[5],
            r#"refused by replica: no date [CDC1006], conversion; city "Basel" -> "Bern""#
        );
    }

    #[test]
    fn control_events_are_readable() {
        let topic = [("cdc.topic", "d.public.t")];
        let line = |op: &str, rest: &str| {
            let key = r#"{"topic":"d.public.t","event":"x"}"#;
            told(op, &topic, key, Some(body(rest).as_bytes()))
        };
        let schema = line("schema", r#""type":"CREATE","ddl":null"#);
        assert_eq!(schema[2..4], ["schema", "topic=d.public.t event=x"]);
        assert_eq!(schema[5], "d.public.t: CREATE");
        let end = r#""snapshot":{"id":3,"chunk":1,"event":"chunk_end"}"#;
        assert_eq!(
            line("snapshot", end)[5],
            "d.public.t: chunk 1 of snapshot 3 ends"
        );
        let truncate = line("t", r#""before":null"#);
        assert_eq!(
            (&*truncate[2], &*truncate[5]),
            ("truncate", "d.public.t: emptied")
        );
    }

    #[test]
    fn any_record_has_a_line() {
        let line = |value| told("", &[], "k", value);
        assert_eq!(
            line(Some(b"hello")),
            ["2026-11-21 10:40:00.123", "2:7", "-", "k", "-", "hello"]
        );
        assert_eq!(line(None)[2..], ["tombstone", "k", "-", "-"]);
        assert_eq!(line(Some(b"\xff"))[5], "1 bytes, base64 /w==");
        let broken = told("u", &[], "k", Some(b"{x"));
        assert!(
            broken[5].starts_with("undecodable, the value is not JSON"),
            "{}",
            broken[5]
        );
        assert!(broken[5].ends_with(": {x"));
        let long = "ä".repeat(2 * SHOWN_CHARS);
        let shown = &line(Some(long.as_bytes()))[5];
        assert_eq!(shown.chars().count(), SHOWN_CHARS + 1);
    }
}

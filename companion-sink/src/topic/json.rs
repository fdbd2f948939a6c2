//! Records as answers have them: JSON on one line, with every number as its event has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use change::event::headers::HeaderName;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::history::difference::{Difference, difference};
use crate::timestamp::rfc3339;
use crate::topic::header_meaning::meaning;
use crate::topic::told::{Content, DeadLetterReason, ToldRecord};

/// A record.
#[derive(Serialize)]
struct RecordJson<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    time: Option<String>,
    id: Option<&'a str>,
    op: Option<&'a str>,
    key: Option<Shown>,
    actor: Option<&'a str>,
    before: Option<Shown>,
    after: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<&'a str>,
    /// Of a control event.
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    marks: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<DeadLetterReason<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undecodable: Option<&'a str>,
    /// Of what is no row's event.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Shown>,
    sent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<HeaderJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<Value>>,
}

/// A value: JSON as it is but for blanks, else a text, else bytes.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Json(Box<RawValue>),
    Text(String),
    Bytes { base64: String },
}

#[derive(Serialize)]
struct HeaderJson<'a> {
    name: &'a str,
    value: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<String>,
}

/// What a record says, on one line.
pub(crate) fn line(told: &ToldRecord<'_>) -> String {
    text(&record(told))
}

/// The same with everything that it consists of.
pub(crate) fn whole(told: &ToldRecord<'_>) -> String {
    let of_record = &told.entry.record;
    let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
    let headers = of_record.headers().map(|(name, value)| HeaderJson {
        name,
        value: value.map(|value| match std::str::from_utf8(value) {
            Ok(text) => Shown::Text(text.to_owned()),
            Err(_) => Shown::of(value),
        }),
        meaning: meaning(
            name,
            value.map_or("", |value| std::str::from_utf8(value).unwrap_or_default()),
        ),
    });
    text(&RecordJson {
        size_bytes: Some(length(of_record.key()) + length(of_record.value())),
        headers: Some(headers.collect()),
        differences: differences(told).map(|all| all.iter().map(Difference::json).collect()),
        value: of_record.value().map(Shown::of),
        ..record(told)
    })
}

/// What the row was before and what after, where they differ; none for what is no change of a row.
pub(crate) fn differences(told: &ToldRecord<'_>) -> Option<Vec<Difference>> {
    let [before, after] = told.sides()?;
    Some(difference(&before, &after))
}

fn record<'a>(told: &'a ToldRecord<'_>) -> RecordJson<'a> {
    let record = &told.entry.record;
    let is_row = told.document.is_some();
    RecordJson {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        time: told.entry.time_us().map(rfc3339),
        id: told.header(HeaderName::ID),
        op: told.op(),
        key: record.key().map(Shown::of),
        actor: told.actor(),
        before: told.body.before.map(Shown::json),
        after: told.body.after.map(Shown::json),
        reason: told.reason(),
        request_id: told.request_id(),
        version: record.version(),
        table: told.header(HeaderName::TABLE),
        about: told.header(HeaderName::TOPIC),
        marks: told.body.marks.map(Shown::json),
        refused: told.refusal(),
        undecodable: told.undecodable.as_deref(),
        value: record.value().filter(|_| !is_row).map(Shown::of),
        sent: told
            .entry
            .sent_ms
            .map(|ms| rfc3339(ms.saturating_mul(1000))),
        size_bytes: None,
        headers: None,
        differences: None,
    }
}

impl Shown {
    fn of(bytes: &[u8]) -> Shown {
        match Content::of(bytes) {
            Content::Json(json) => Shown::json(json),
            Content::Text(text) => Shown::Text(text.to_owned()),
            Content::Bytes(bytes) => Shown::Bytes {
                base64: STANDARD.encode(bytes),
            },
        }
    }

    fn json(json: &RawValue) -> Shown {
        match RawValue::from_string(without_blanks(json.get())) {
            Ok(json) => Shown::Json(json),
            Err(_) => Shown::Text(json.get().to_owned()),
        }
    }
}

/// JSON without blanks between its parts, of which a line's end is one.
fn without_blanks(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut is_escaped) = (false, false);
    for c in json.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = in_string,
            '"' => in_string = !in_string,
            ' ' | '\t' | '\r' | '\n' if !in_string => continue,
            _ => {}
        }
        out.push(c);
    }
    out
}

/// JSON over several lines, to the byte but for blanks; what is no JSON is as it is.
pub(crate) fn indented(text: &str) -> String {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return text.to_owned();
    }
    let text = without_blanks(text);
    let mut out = String::with_capacity(2 * text.len());
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut before = ' ';
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    for c in text.chars() {
        let is_mark = !in_string;
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = in_string,
            '"' => in_string = !in_string,
            _ => {}
        }
        let opens = is_mark && matches!(before, '{' | '[');
        let closes = is_mark && matches!(c, '}' | ']');
        match (opens, closes) {
            (true, true) => depth -= 1,
            (true, false) => line(&mut out, depth),
            (false, true) => {
                depth -= 1;
                line(&mut out, depth);
            }
            (false, false) => {}
        }
        out.push(c);
        match c {
            '{' | '[' if is_mark => depth += 1,
            ',' if is_mark => line(&mut out, depth),
            ':' if is_mark => out.push(' '),
            _ => {}
        }
        before = if in_string || !is_mark { ' ' } else { c };
    }
    out
}

/// Nothing of it can fail to be written.
fn text(record: &RecordJson<'_>) -> String {
    serde_json::to_string(record).unwrap_or_else(|error| {
        let place = format!("{}:{}", record.partition, record.offset);
        serde_json::json!({ "topic": record.topic, "place": place, "undecodable": error.to_string() }).to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::record::Record;
    use crate::topic::entry::Entry;

    fn entry(headers: &[(&str, &str)], key: &str, value: Option<&[u8]>) -> Entry {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        Entry {
            record: Record::new("t".into(), 2, 7, Some(key.as_bytes()), value, headers),
            sent_ms: Some(1_795_257_600_123),
        }
    }

    fn parsed(text: &str) -> Value {
        assert!(!text.contains('\n'));
        serde_json::from_str(text).unwrap()
    }

    const HEADERS: [(&str, &str); 4] = [
        ("cdc.id", "n-1"),
        (
            "cdc.version",
            "0001-00000001-00000000015a3098-0000000001-00",
        ),
        ("cdc.op", "u"),
        ("cdc.table", "d.public.t"),
    ];

    #[test]
    fn a_change_is_an_object_with_its_numbers_as_they_are() {
        let value = br#"{"source":{"db":"d","schema":"public","table":"t","ts_us":1795257600123456},"audit":{"actor":"ann"},
            "before":{"id":1, "n":0.10},"after":{"id":1,"n":12345678901234567890123}}"#;
        let update = entry(&HEADERS, r#"{"id":1}"#, Some(value));
        let told = ToldRecord::of(&update);
        let text = line(&told);
        assert!(text.contains(
            r#""before":{"id":1,"n":0.10},"after":{"id":1,"n":12345678901234567890123}"#
        ));
        let object = parsed(&text);
        for (name, expected) in [
            ("topic", Value::from("t")),
            ("partition", 2.into()),
            ("offset", 7.into()),
            ("time", "2026-11-21T10:40:00.123456Z".into()),
            ("id", "n-1".into()),
            ("op", "u".into()),
            ("key", serde_json::json!({"id": 1})),
            ("actor", "ann".into()),
            ("sent", "2026-11-21T10:40:00.123000Z".into()),
        ] {
            assert_eq!(object[name], expected, "{name}");
        }
        assert!(object.get("value").is_none());
        let object = parsed(&whole(&told));
        assert_eq!(object["headers"][0]["name"], "cdc.id");
        assert_eq!(object["differences"][0]["path"], "n");
        assert_eq!(object["value"]["audit"]["actor"], "ann");
    }

    #[test]
    fn json_is_indented_and_nothing_else_happens_to_it() {
        let text = r#"{"a":1e400,"b":[],"c":{"d":"x{,:\\\"y"},"e":[1,[2]]}"#;
        let shown = "{\n  \"a\": 1e400,\n  \"b\": [],\n  \"c\": {\n    \"d\": \"x{,:\\\\\\\"y\"\n  },\n  \"e\": [\n    1,\n    [\n      2\n    ]\n  ]\n}";
        assert_eq!(indented(text), shown);
        assert_eq!(indented("{} x"), "{} x");
        assert_eq!(indented("[{}]"), "[\n  {}\n]");
    }

    #[test]
    fn whatever_a_record_holds_it_is_an_object_on_one_line() {
        let of = |headers: &[(&str, &str)], value: Option<&[u8]>| {
            parsed(&line(&ToldRecord::of(&entry(headers, "k 1", value))))
        };
        assert_eq!(of(&[], Some(b"{\n \"a\": \"x y\"\n}"))["value"]["a"], "x y");
        assert_eq!(of(&[], Some(b"hello"))["value"], "hello");
        assert_eq!(of(&[], Some(b"\xff"))["value"]["base64"], "/w==");
        let tombstone = of(&[], None);
        assert_eq!(tombstone["op"], "tombstone");
        assert_eq!(
            (&tombstone["key"], &tombstone["id"]),
            (&"k 1".into(), &Value::Null)
        );
        let broken = of(&HEADERS, Some(b"{"));
        assert!(broken["undecodable"].as_str().unwrap().contains("not JSON"));
        assert_eq!(broken["value"], "{");
    }
}

//! What a record says, as far as it can be read.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use change::event::headers::HeaderName;
use change::event::op::Op;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::json::{Malformed, Text, parse};
use crate::event::{Headers, parse_body};
use crate::sink::mongo_history::documents::bson_value::Names;
use crate::sink::mongo_history::documents::document;
use crate::sink::mongo_history::documents::history_body::HistoryBody;
use crate::topic::entry::Entry;

/// What is shown of an event's value.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ToldBody<'a> {
    #[serde(borrow)]
    audit: ToldAudit<'a>,
    #[serde(borrow)]
    pub(crate) before: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) after: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) marks: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) snapshot: Option<&'a RawValue>,
    /// Of a definition: what became of the table.
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    ddl: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldAudit<'a> {
    #[serde(borrow)]
    actor: Option<Text<'a>>,
    #[serde(borrow)]
    reason: Option<Text<'a>>,
    #[serde(borrow)]
    request_id: Option<Text<'a>>,
}

/// Where a snapshot is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToldSnapshot<'a> {
    id: i64,
    chunk: u64,
    #[serde(borrow)]
    event: Cow<'a, str>,
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct DeadLetterReason<'a> {
    pub(crate) sink: &'a str,
    pub(crate) code: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) partition: &'a str,
    pub(crate) offset: &'a str,
    pub(crate) attempts: &'a str,
    pub(crate) first_failed: &'a str,
    pub(crate) last_failed: &'a str,
}

/// Bytes that somebody wrote into a topic.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// A record and what it says.
#[derive(Debug)]
pub(crate) struct ToldRecord<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) body: ToldBody<'a>,
    /// Why it is no event, though its headers say so.
    pub(crate) undecodable: Option<String>,
    /// Of a row's event: the change as the history has it.
    pub(crate) document: Option<Document>,
}

impl<'a> ToldRecord<'a> {
    /// Reads what can be read of it.
    pub(crate) fn of(entry: &'a Entry) -> ToldRecord<'a> {
        let mut told = ToldRecord {
            entry,
            body: ToldBody::default(),
            undecodable: None,
            document: None,
        };
        if let Err(Malformed(why)) = told.read() {
            told.undecodable = Some(why);
        }
        told
    }

    fn read(&mut self) -> Result<(), Malformed> {
        let record = &self.entry.record;
        if !self.entry.is_ours() || self.is_bare() {
            return Ok(());
        }
        let headers = Headers::read(record)?;
        if headers.op == Op::Emit || record.value().is_none() && headers.op == Op::Tombstone {
            return Ok(());
        }
        self.body = parse_body(record)?;
        if headers.op.is_row() {
            let body = HistoryBody::parse(record, headers.op)?;
            let names = Names::AsTheyAre;
            let document = document::of_event(&body, record, &headers, "", "", None, names)?;
            let document = document.to_document();
            self.document = Some(document.map_err(|_| Malformed("the row cannot be read".into()))?);
        }
        Ok(())
    }

    /// A dead letter whose value was too large for the topic: the sink has it.
    pub(crate) fn is_bare(&self) -> bool {
        self.entry.record.header("cdc.dlq.stored") == Some("true")
    }

    /// A header as text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&'a str> {
        self.entry.record.header(name.as_str())
    }

    /// What happened, as the header has it.
    pub(crate) fn op(&self) -> Option<&'a str> {
        let text = self.entry.record.op_text();
        text.or_else(|| self.entry.op().map(Op::header))
    }

    /// Who did it.
    pub(crate) fn actor(&self) -> Option<&str> {
        self.who(&self.body.audit.actor, HeaderName::ACTOR)
    }

    /// Why.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.who(&self.body.audit.reason, HeaderName::REASON)
    }

    /// In which request.
    pub(crate) fn request_id(&self) -> Option<&str> {
        self.who(&self.body.audit.request_id, HeaderName::REQUEST_ID)
    }

    fn who<'s>(&'s self, body: &'s Option<Text<'a>>, header: HeaderName) -> Option<&'s str> {
        let text = body.as_ref().map(|Text(text)| &**text);
        let text = text.or_else(|| self.header(header));
        text.filter(|text| !text.is_empty())
    }

    /// What a definition says: what became of the table, and the command.
    pub(crate) fn definition(&self) -> Option<String> {
        let text = |text: &Option<Text<'a>>| text.as_ref().map(|Text(text)| text.to_string());
        let kind = text(&self.body.kind)?;
        Some(match text(&self.body.ddl) {
            Some(ddl) => format!("{kind}: {ddl}"),
            None => kind,
        })
    }

    /// Where a snapshot is.
    pub(crate) fn snapshot(&self) -> Option<String> {
        let part: ToldSnapshot<'a> = serde_json::from_str(self.body.snapshot?.get()).ok()?;
        let event = match &*part.event {
            "chunk_begin" => "begins",
            "chunk_end" => "ends",
            other => other,
        };
        Some(format!(
            "chunk {} of snapshot {} {event}",
            part.chunk, part.id
        ))
    }

    /// Why it is a dead letter; none if it is not.
    pub(crate) fn refusal(&self) -> Option<DeadLetterReason<'a>> {
        let header = |name: &str| self.entry.record.header(name).unwrap_or_default();
        let dlq = self.entry.record.header("cdc.dlq.code")?;
        Some(DeadLetterReason {
            code: dlq,
            sink: header("cdc.dlq.sink"),
            reason: header("cdc.dlq.reason"),
            message: header("__connect.errors.exception.message"),
            topic: header("__connect.errors.topic"),
            partition: header("__connect.errors.partition"),
            offset: header("__connect.errors.offset"),
            attempts: header("cdc.dlq.attempts"),
            first_failed: header("cdc.dlq.first_failed"),
            last_failed: header("cdc.dlq.last_failed"),
        })
    }

    /// The row before and after, as two versions of a row; an image that is not there is an empty one.
    pub(crate) fn sides(&self) -> Option<[Document; 2]> {
        let document = self.document.as_ref()?;
        let side = |image: &str| {
            let marks = document.get_document("marks").ok();
            let marks = marks.and_then(|marks| marks.get(image)).cloned();
            let state = match document.get_document(image) {
                Ok(state) => Bson::Document(state.clone()),
                Err(_) => Bson::Document(doc! {}),
            };
            doc! { "op": "update", "after": state, "marks": { "after": marks.unwrap_or(Bson::Null) } }
        };
        Some(["before", "after"].map(side))
    }
}

/// Who did what a record tells of.
pub(crate) fn actor_of(entry: &Entry) -> Option<String> {
    #[derive(Deserialize)]
    struct Who<'a> {
        #[serde(borrow, default)]
        audit: ToldAudit<'a>,
    }
    let record = &entry.record;
    let who = record.value().and_then(|value| parse("value", value).ok());
    let in_body = who.and_then(|Who { audit }| audit.actor);
    match in_body {
        Some(Text(actor)) => Some(actor.into_owned()),
        None => record.header(HeaderName::ACTOR.as_str()).map(str::to_owned),
    }
}

impl<'a> Content<'a> {
    /// What bytes are.
    pub(crate) fn of(bytes: &'a [u8]) -> Content<'a> {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Content::Bytes(bytes);
        };
        match serde_json::from_str(text) {
            Ok(json) => Content::Json(json),
            Err(_) => Content::Text(text),
        }
    }

    /// As text, in which bytes that are none are in base64.
    pub(crate) fn text(&self) -> String {
        match self {
            Content::Json(json) => json.get().to_owned(),
            Content::Text(text) => (*text).to_owned(),
            Content::Bytes(bytes) => {
                format!("{} bytes, base64 {}", bytes.len(), STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::difference::difference;
    use crate::kafka::record::Record;

    const VERSION: &str = "0001-00000001-00000000015a3098-0000000001-00";

    pub(crate) fn entry(headers: &[(&str, &str)], value: Option<&[u8]>) -> Entry {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        Entry {
            record: Record::new("t".into(), 0, 0, Some(b"{\"id\":1}"), value, headers),
            sent_ms: Some(1),
        }
    }

    fn event<'h>(op: &'h str, more: &[(&'h str, &'h str)], value: &[u8]) -> Entry {
        let mut headers = vec![
            ("cdc.id", "n-1"),
            ("cdc.version", VERSION),
            ("cdc.op", op),
            ("cdc.table", "d.public.t"),
        ];
        headers.extend(more);
        entry(&headers, Some(value))
    }

    const UPDATE: &[u8] = br#"{"source":{"db":"d","schema":"public","table":"t","ts_us":1},"audit":{"actor":"ann","reason":""},
        "marks":{"before":null,"after":{"iban":"redacted"}},"before":{"id":1,"city":"Basel","iban":null},"after":{"id":1,"city":"Bern","iban":null}}"#;

    #[test]
    fn a_change_is_read_whole() {
        let update = event("u", &[], UPDATE);
        let told = ToldRecord::of(&update);
        assert_eq!(told.undecodable, None);
        assert_eq!((told.op(), told.actor()), (Some("u"), Some("ann")));
        assert_eq!(told.reason(), None, "an empty one is none");
        let [before, after] = told.sides().unwrap();
        let columns = difference(&before, &after);
        let columns: Vec<_> = columns.iter().map(|side| side.column.as_str()).collect();
        assert_eq!(columns, ["city", "iban"]);
    }

    #[test]
    fn what_cannot_be_read_is_said_and_no_end() {
        for (entry, why) in [
            (event("u", &[], b"{"), "the value is not JSON"),
            (event("u", &[], b"\xff"), "not UTF-8"),
            (event("c", &[], b"{\"source\":{}}"), "is not an event"),
            (event("zz", &[], UPDATE), "unknown value"),
            (entry(&[("cdc.op", "u")], Some(UPDATE)), "is missing"),
            (entry(&[("cdc.op", "u")], None), "is missing"),
        ] {
            let told = ToldRecord::of(&entry);
            let told = told.undecodable.unwrap();
            assert!(told.contains(why), "{told} {why}");
        }
        for strange in [None, Some(&b"hello"[..]), Some(b"\xff"), Some(b"[1]")] {
            assert_eq!(ToldRecord::of(&entry(&[], strange)).undecodable, None);
        }
    }

    #[test]
    fn control_events_emitted_ones_and_dead_letters_say_what_they_are() {
        let schema = br#"{"type":"ALTER","ddl":"ALTER TABLE t ADD x int"}"#;
        let schema = event("schema", &[], schema);
        let told = ToldRecord::of(&schema).definition();
        assert_eq!(told.as_deref(), Some("ALTER: ALTER TABLE t ADD x int"));
        let end = event(
            "snapshot",
            &[],
            br#"{"snapshot":{"id":7,"chunk":2,"event":"chunk_end"}}"#,
        );
        let told = ToldRecord::of(&end).snapshot();
        assert_eq!(told.as_deref(), Some("chunk 2 of snapshot 7 ends"));
        let emitted = event("emit", &[("cdc.actor", "ann")], b"no JSON");
        let told = ToldRecord::of(&emitted);
        assert_eq!((told.actor(), &told.undecodable), (Some("ann"), &None));
        assert_eq!(actor_of(&emitted).as_deref(), Some("ann"));
        let letter = event(
            "u",
            &[("cdc.dlq.code", "CDC1006"), ("cdc.dlq.sink", "replica")],
            UPDATE,
        );
        let refusal = ToldRecord::of(&letter).refusal().unwrap();
        assert_eq!((refusal.code, refusal.sink), ("CDC1006", "replica"));
        let mut headers = vec![("cdc.dlq.code", "CDC1006"), ("cdc.dlq.stored", "true")];
        headers.extend([("cdc.op", "u"), ("cdc.id", "n")]);
        assert_eq!(ToldRecord::of(&entry(&headers, None)).undecodable, None);
    }

    #[test]
    fn bytes_are_json_text_or_neither() {
        let text = |bytes| Content::of(bytes).text();
        assert!(matches!(Content::of(b"{\"a\": 1}"), Content::Json(_)));
        assert_eq!(text(b"hello"), "hello");
        assert_eq!(text(b"\xff\x00"), "2 bytes, base64 /wA=");
    }
}

//! The event: its headers, and of its body only what is needed, borrowed from the record.
//!
//! Order, duplicates, routing and coalescing need the headers alone; the body is parsed once, of those events that
//! are really applied.

use crate::event::json::{Malformed, parse, undecodable};

pub(crate) mod json;

pub(crate) mod own;

pub(crate) mod snapshot;

use crate::event::image::Image;

pub(crate) mod image;

pub(crate) mod pg_type;

use std::borrow::Cow;
use std::ops::RangeInclusive;

use change::event::headers::HeaderName;
pub(crate) use change::event::op::Op;
use change::version::{VERSION_CHARS, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kafka::record::Record;

/// The headers of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers<'a> {
    /// Event id, the same for every copy of the event.
    pub(crate) id: &'a str,
    /// The only order: compares as text.
    pub(crate) version: &'a str,
    /// What happened.
    pub(crate) op: Op,
    /// `database.schema.table`, escaped as topics are; empty for events without one.
    pub(crate) table: &'a str,
    /// The row's identity, where it is not the record's key.
    pub(crate) identity: Option<&'a str>,
    /// On the create of a changed key: the key before.
    pub(crate) old_key: Option<&'a str>,
}

impl<'a> Headers<'a> {
    /// Reads the headers; what every event needs must be there and well formed.
    pub(crate) fn read(record: &'a Record) -> Result<Self, Malformed> {
        const NAMES: [&str; 6] = [
            HeaderName::ID.as_str(),
            HeaderName::VERSION.as_str(),
            HeaderName::OP.as_str(),
            HeaderName::TABLE.as_str(),
            HeaderName::IDENTITY.as_str(),
            HeaderName::OLD_KEY.as_str(),
        ];
        if record.has_strange_header() {
            return Err(Malformed("the name of a header is not UTF-8".into()));
        }
        let [id, version, op, table, identity, old_key] = record.headers_of(&NAMES);
        let missing = |name: HeaderName| Malformed(format!("header {} is missing", name.as_str()));
        let op = Op::parse(op.ok_or_else(|| missing(HeaderName::OP))?)
            .ok_or_else(|| Malformed("header cdc.op has an unknown value".into()))?;
        let version = version.ok_or_else(|| missing(HeaderName::VERSION))?;
        if !is_version(version) {
            return Err(Malformed("header cdc.version is not a version".into()));
        }
        let needs_table = op.is_row() || op.is_about_table();
        if needs_table && table.is_none() {
            return Err(missing(HeaderName::TABLE));
        }
        Ok(Headers {
            id: id.ok_or_else(|| missing(HeaderName::ID))?,
            version,
            op,
            table: table.unwrap_or_default(),
            identity,
            old_key,
        })
    }
}

/// Whether a record is a snapshot's for other sinks than `sink`.
pub(crate) fn is_for_others(record: &Record, sink: &str) -> bool {
    // Everybody is meant where it is no JSON array of names.
    let names = |sinks: &str| serde_json::from_str::<Vec<String>>(sinks);
    record
        .header(HeaderName::SINKS.as_str())
        .and_then(|sinks| names(sinks).ok())
        .is_some_and(|sinks| !sinks.iter().any(|name| name == sink))
}

/// When the source committed what a record tells of, microseconds since 1970; `None` where its body does not say.
pub(crate) fn commit_time_us(record: &Record) -> Option<i64> {
    #[derive(Deserialize)]
    struct EventParts {
        source: SourceField,
    }
    #[derive(Deserialize)]
    struct SourceField {
        ts_us: i64,
    }
    /// The years 1 to 9999, which every target knows.
    const POSSIBLE: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
    let body: EventParts = serde_json::from_slice(record.value()?).ok()?;
    Some(body.source.ts_us).filter(|us| POSSIBLE.contains(us))
}

/// Whether `text` is a version: the form, digits of which those of sequence and sub are decimal, and a commit that can be.
pub(crate) fn is_version(text: &str) -> bool {
    /// PostgreSQL counts timelines from 1, and nobody has promoted two thousand million times.
    const TIMELINE_MAX: u32 = i32::MAX as u32;
    /// Four exabytes of WAL.
    const LSN_MAX: u64 = 1 << 62;
    text.len() == VERSION_CHARS
        && text.bytes().enumerate().all(|(place, byte)| match place {
            4 | 13 | 30 | 41 => byte == b'-',
            31.. => byte.is_ascii_digit(),
            // One spelling only: versions compare as texts.
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
        && Version::parse(text).is_some_and(|version| {
            (1..=TIMELINE_MAX).contains(&version.timeline) && version.commit_lsn < LSN_MAX
        })
}

/// What the replica needs of the body.
#[derive(Debug, Deserialize)]
pub(crate) struct RowBody<'a> {
    /// Where the row comes from, not parsed: of a known table nothing of it is needed.
    #[serde(borrow)]
    pub(crate) source: RawSource<'a>,
    /// The row before the change, not parsed: few need it.
    #[serde(borrow)]
    pub(crate) before: Option<&'a RawValue>,
    /// The row after the change.
    #[serde(borrow)]
    pub(crate) after: Option<Image<'a>>,
    /// What the images do not show by themselves.
    #[serde(borrow)]
    pub(crate) marks: Option<RowMarks<'a>>,
}

/// An event's `source`, as it is.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(crate) struct RawSource<'a>(#[serde(borrow)] &'a RawValue);

impl<'a> RawSource<'a> {
    /// Its JSON.
    pub(crate) fn text(self) -> &'a str {
        self.0.get()
    }

    /// The table that it names.
    pub(crate) fn table_name(self) -> Result<TableName<'a>, Malformed> {
        let name = serde_json::from_str(self.0.get());
        name.map_err(|error| undecodable("source", &error))
    }
}

/// Marks of a row's new image, by column.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RowMarks<'a> {
    #[serde(borrow)]
    after: Option<Image<'a>>,
}

impl RowMarks<'_> {
    /// The first column of the new image whose value was too large to be shipped.
    pub(crate) fn stub(&self) -> Option<&str> {
        let columns = &self.after.as_ref()?.0;
        let stub = columns
            .iter()
            .find(|(_, mark)| mark.get().starts_with("{\"stub\":"));
        stub.map(|(column, _)| column.as_ref())
    }
}

/// The table's real name, unescaped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct TableName<'a> {
    /// The database.
    #[serde(borrow, default)]
    pub(crate) db: Cow<'a, str>,
    /// The schema.
    #[serde(borrow)]
    pub(crate) schema: Cow<'a, str>,
    /// The table.
    #[serde(borrow)]
    pub(crate) table: Cow<'a, str>,
}

impl TableName<'_> {
    /// The same, borrowing nothing.
    pub(crate) fn into_owned(self) -> TableName<'static> {
        TableName {
            db: Cow::Owned(self.db.into_owned()),
            schema: Cow::Owned(self.schema.into_owned()),
            table: Cow::Owned(self.table.into_owned()),
        }
    }
}

impl<'a> RowBody<'a> {
    /// Parses the body of a row event or a truncate.
    pub(crate) fn parse(record: &'a Record) -> Result<Self, Malformed> {
        parse_body(record)
    }
}

/// Parses a record's value; a missing value and broken JSON are malformed.
pub(crate) fn parse_body<'a, T: Deserialize<'a>>(record: &'a Record) -> Result<T, Malformed> {
    let value = record
        .value()
        .ok_or_else(|| Malformed("the value is missing".into()))?;
    parse("value", value)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&'static str, &'static str)], value: &[u8]) -> Record {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())))
            .collect();
        Record::new("t".into(), 0, 0, None, Some(value), headers.iter().copied())
    }

    const VERSION: &str = "0001-00000001-00000000015a3098-0000000001-00";

    #[test]
    fn headers_are_read() {
        let record = record(
            &[
                ("cdc.id", "n-1"),
                ("cdc.version", VERSION),
                ("cdc.op", "u"),
                ("cdc.table", "shop.public.t"),
            ],
            b"{}",
        );
        let headers = Headers::read(&record).unwrap();
        assert_eq!(headers.op, Op::Update);
        assert_eq!(headers.table, "shop.public.t");
    }

    #[test]
    fn what_is_missing_is_named() {
        let record = record(&[("cdc.op", "u"), ("cdc.version", VERSION)], b"{}");
        assert_eq!(
            Headers::read(&record).unwrap_err().0,
            "header cdc.table is missing"
        );
    }

    #[test]
    fn versions_have_one_form() {
        assert!(is_version(VERSION));
        assert!(!is_version(&VERSION[1..]));
        assert!(!is_version(&VERSION.replace("-00", "/00")));
        for wrong in [
            "ffff-ffffffff-ffffffffffffffff-9999999999-99",
            "0001-00000000-00000000015a3098-0000000001-00",
            "0001-00000001-00000000015A3098-0000000001-00",
            "0001-00000001-00000000015a3098-00000000a1-00",
            "0001-00000001-00000000015a3098-0000000001-0f",
            "0001-00000001-+0000000015a3098-0000000001-00",
            "0001-00000001-00000000015a3098-+000000001-00",
        ] {
            assert!(!is_version(wrong), "{wrong}");
        }
    }

    #[test]
    fn columns_keep_order_and_exact_numbers() {
        let image = Image::parse(br#"{"b":9223372036854775807,"a\n":"x","c":null}"#).unwrap();
        let names: Vec<_> = image.0.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["b", "a\n", "c"]);
        assert_eq!(image.get("b").unwrap().get(), "9223372036854775807");
    }

    #[test]
    fn what_is_nested_too_deep_is_malformed_and_no_overflow() {
        let nested = |open: &str, close: &str, depth: usize| {
            format!("{{\"a\":{}1{}}}", open.repeat(depth), close.repeat(depth))
        };
        for (open, close) in [("[", "]"), ("{\"b\":", "}")] {
            let image = |depth| Image::parse(nested(open, close, depth).as_bytes()).is_ok();
            assert!(image(100) && !image(101) && !image(100_000));
        }
        let text = format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(1000));
        assert!(
            Image::parse(text.as_bytes()).is_ok(),
            "a text is not nested"
        );
    }

    #[test]
    fn a_malformed_body_is_told_without_its_content() {
        let record = record(&[], br#"{"source":{"schema":"s","table":7777}}"#);
        let body = RowBody::parse(&record).unwrap();
        let Malformed(text) = body.source.table_name().unwrap_err();
        assert!(!text.contains("7777"), "{text}");
    }
}

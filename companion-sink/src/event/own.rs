//! Events of applications' own: the value is the payload alone, and who and why stand in headers. A plain event, which another
//! producer than pg_cdc wrote, is one, too.

use change::event::headers::HeaderName;
use serde_json::value::{RawValue, to_raw_value};

use crate::event::json::{Malformed, undecodable};
use crate::event::{Op, parse_body};
use crate::kafka::record::Record;

/// Whether a record is a plain event: it has none of our headers.
pub(crate) fn is_plain(record: &Record) -> bool {
    !record.headers().any(|(name, _)| name.starts_with("cdc."))
}

/// Whether a record is an application's own event.
pub(crate) fn is_own(record: &Record) -> bool {
    op_text(record) == Op::Emit.header()
}

/// What happened, as expressions and figures name it.
pub(crate) fn op_text(record: &Record) -> &str {
    match record.op_text() {
        None if is_plain(record) => Op::Emit.header(),
        told => told.unwrap_or_default(),
    }
}

/// An application's own event.
pub(crate) struct OwnEvent<'r> {
    /// The payload; none of a tombstone.
    pub(crate) value: Option<&'r RawValue>,
    /// Who and why, under the names that they have in the events of rows.
    pub(crate) audit: Box<RawValue>,
}

impl<'r> OwnEvent<'r> {
    /// Reads one.
    pub(crate) fn read(record: &'r Record) -> Result<OwnEvent<'r>, Malformed> {
        let audit = serde_json::json!({
            "actor": record.header(HeaderName::ACTOR.as_str()),
            "reason": record.header(HeaderName::REASON.as_str()),
            "request_id": record.header(HeaderName::REQUEST_ID.as_str()),
        });
        Ok(OwnEvent {
            value: record.value().map(|_| parse_body(record)).transpose()?,
            audit: to_raw_value(&audit).map_err(|error| undecodable("audit", &error))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&'static str, &'static str)]) -> Record {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, Some(value.as_bytes())));
        Record::new("t".into(), 0, 0, None, Some(b"{\"a\":1}"), headers)
    }

    #[test]
    fn who_and_why_are_headers() {
        let event = record(&[("cdc.op", "emit"), ("cdc.actor", "ann")]);
        let own = OwnEvent::read(&event).unwrap();
        assert_eq!(own.value.map(RawValue::get), Some("{\"a\":1}"));
        let audit: serde_json::Value = serde_json::from_str(own.audit.get()).unwrap();
        assert_eq!(audit["actor"], "ann");
        assert!(audit["reason"].is_null());
    }

    #[test]
    fn what_has_a_header_of_ours_is_not_plain() {
        assert!(is_plain(&record(&[("content-type", "application/json")])));
        assert!(is_own(&record(&[])) && op_text(&record(&[])) == "emit");
        for broken in [("cdc.id", "1"), ("cdc.version", "x"), ("cdc.op", "c")] {
            assert!(!is_own(&record(&[broken])), "{broken:?}");
        }
    }
}

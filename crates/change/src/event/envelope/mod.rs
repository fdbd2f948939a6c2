//! The envelope of an event: Debezium's, with `id`, `audit`, `marks`, `snapshot` and `schema_change`; and its headers.

mod audit;
pub(in crate::event) mod row_image;
pub(in crate::event) mod texts;

use std::ops::Range;

use crate::event::commit::Numbers;
use crate::event::envelope::row_image::{Bounds, put_image, put_marks};
use crate::event::envelope::texts::{BodyTexts, RelationTexts};
use crate::event::headers::{HeaderName, Headers};
use crate::event::op::Op;
use crate::value::json::put_string;
use crate::wal::body::Row;
use crate::wal::image::Value;
use crate::wal::record::RecordKind;
use crate::wal::relation::Relation;
use crate::wire::WireError;

/// The row at hand, and what its events need besides.
pub(in crate::event) struct RowContext<'c, 'b> {
    pub(in crate::event) texts: &'c BodyTexts,
    pub(in crate::event) relation: &'c Relation<'b>,
    pub(in crate::event) relation_texts: &'c RelationTexts,
    pub(in crate::event) row: &'c Row<'b>,
    /// A delete of this row is followed by a tombstone.
    pub(in crate::event) tombstone: bool,
    /// A truncate goes into the table's topic, too.
    pub(in crate::event) truncates: bool,
}

/// The pieces of one event before it is put together.
pub(in crate::event) struct EventParts<'a> {
    pub(in crate::event) op: Op,
    pub(in crate::event) key: Option<&'a [u8]>,
    pub(in crate::event) before: Option<&'a [Value<'a>]>,
    pub(in crate::event) after: Option<&'a [Value<'a>]>,
    pub(in crate::event) schema_change: Option<&'a str>,
    /// The `snapshot` object of a row, or of the beginning or end of a chunk.
    pub(in crate::event) snapshot: Option<&'a [u8]>,
    /// [`HeaderName::NEW_KEY`] or [`HeaderName::OLD_KEY`], and that key.
    pub(in crate::event) other_key: Option<(HeaderName, &'a [u8])>,
    pub(in crate::event) identity: Option<&'a [u8]>,
}

impl<'a> EventParts<'a> {
    /// An event without images.
    pub(in crate::event) fn of(op: Op, key: Option<&'a [u8]>) -> EventParts<'a> {
        EventParts {
            op,
            key,
            before: None,
            after: None,
            schema_change: None,
            snapshot: None,
            other_key: None,
            identity: None,
        }
    }
}

/// A rendered event, in buffers that are used again and again.
#[derive(Debug, Default)]
pub(in crate::event) struct Rendered {
    pub(in crate::event) value: Vec<u8>,
    pub(in crate::event) headers: Headers,
    marks: [Vec<u8>; 2],
    /// Where each column of the first image stands in `value`, with the comma in front; empty if it has a mark.
    texts: Vec<Range<usize>>,
}

impl Rendered {
    /// Renders the value of the newest event, the `order`th of its table; values of the images that are too long become stubs.
    pub(in crate::event) fn put_value(
        &mut self,
        numbers: &Numbers,
        row: &RowContext<'_, '_>,
        event: &EventParts<'_>,
        order: u64,
        bounds: &Bounds,
    ) -> Result<(), WireError> {
        let out = &mut self.value;
        out.clear();
        out.extend_from_slice(b"{\"id\":\"");
        numbers.put_id(out, 0);
        out.extend_from_slice(b"\",\"op\":\"");
        out.extend_from_slice(event.op.envelope().as_bytes());
        out.extend_from_slice(&row.texts.sent);
        out.extend_from_slice(&row.relation_texts.source);
        out.extend_from_slice(&row.texts.origin);
        out.extend_from_slice(b",\"origin_lsn\":null}");
        numbers.put_transaction(out, order);
        out.push(b',');
        out.extend_from_slice(&row.texts.audit);
        if let Some(snapshot) = event.snapshot {
            out.push(b',');
            out.extend_from_slice(snapshot);
        }
        let [before_marks, after_marks] = &mut self.marks;
        let texts = &mut self.texts;
        texts.clear();
        let columns = (row.relation, row.relation_texts);
        out.extend_from_slice(b",\"before\":");
        let before = event.before;
        put_image(out, before_marks, columns, before, None, texts, bounds)?;
        out.extend_from_slice(b",\"after\":");
        put_image(
            out,
            after_marks,
            columns,
            event.after,
            before,
            texts,
            bounds,
        )?;
        let crossed = row.row.crossed_filter.then_some(match row.row.op {
            RecordKind::Delete => "left",
            _ => "entered",
        });
        put_marks(out, before_marks, after_marks, crossed);
        if let Some(change) = event.schema_change {
            // What a definition says stands beside the rest, as in Debezium's schema change topic.
            out.extend_from_slice(b",\"databaseName\":");
            put_string(out, &row.texts.database);
            out.extend_from_slice(b",\"schemaName\":");
            put_string(out, row.relation.schema);
            let change = change
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            let change = change.ok_or(WireError::Invalid("schema change"))?;
            out.push(b',');
            out.extend_from_slice(change.as_bytes());
        }
        out.push(b'}');
        Ok(())
    }

    /// Renders the headers of the newest event. `sub` is 1 for its tombstone; a control event has that of the topic `about` which
    /// it is, among those of its table.
    pub(in crate::event) fn put_headers(
        &mut self,
        numbers: &Numbers,
        row: &RowContext<'_, '_>,
        event: &EventParts<'_>,
        sub: u8,
        sinks: Option<&[u8]>,
        about: Option<&str>,
    ) {
        let headers = &mut self.headers;
        headers.clear();
        headers.add(HeaderName::ID, |out| numbers.put_id(out, sub));
        headers.add(HeaderName::VERSION, |out| numbers.put_version(out, sub));
        headers.add_text(HeaderName::OP, event.op.header());
        headers.add_text(HeaderName::TABLE, &row.relation_texts.table);
        if let Some(topic) = about {
            headers.add_text(HeaderName::TOPIC, topic);
        } else if let Some(control) = row.relation_texts.controls.of_row(event.op, row.relation) {
            headers.add_text(HeaderName::CONTROL, control);
        }
        if let Some(identity) = event.identity {
            headers.add(HeaderName::IDENTITY, |out| out.extend_from_slice(identity));
        }
        headers.add(HeaderName::TRANSACTION, |out| numbers.put_order(out));
        if let Some((name, key)) = event.other_key {
            headers.add(name, |out| out.extend_from_slice(key));
        }
        if let Some(traceparent) = &row.texts.traceparent {
            headers.add_text(HeaderName::TRACEPARENT, traceparent);
        }
        if let Some(sinks) = sinks {
            headers.add(HeaderName::SINKS, |out| out.extend_from_slice(sinks));
        }
    }
}

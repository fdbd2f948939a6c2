//! What an event about a snapshot says.

use crate::event::TableName;
use crate::event::json::Malformed;
use crate::event::parse_body;
use crate::kafka::record::Record;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The beginning or end of a snapshot's chunk.
#[derive(Debug, Deserialize)]
pub(crate) struct SnapshotBody<'a> {
    #[serde(borrow)]
    pub(crate) source: TableName<'a>,
    #[serde(borrow)]
    pub(super) snapshot: SnapshotPart<'a>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SnapshotPart<'a> {
    pub(super) id: i64,
    pub(super) chunk: u64,
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) to: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) partial: bool,
    #[serde(borrow, default)]
    pub(super) changed: Vec<&'a RawValue>,
}

impl<'a> SnapshotBody<'a> {
    /// Parses the body of a snapshot event.
    pub(crate) fn parse(record: &'a Record) -> Result<Self, Malformed> {
        parse_body(record)
    }

    /// The snapshot's number.
    pub(crate) fn id(&self) -> i64 {
        self.snapshot.id
    }

    /// The whole snapshot begins here.
    pub(crate) fn is_beginning(&self) -> bool {
        self.snapshot.event == "chunk_begin" && self.snapshot.chunk == 1
    }

    /// The whole snapshot ends here.
    pub(crate) fn is_end(&self) -> bool {
        self.is_chunk_end() && self.snapshot.to.is_none_or(|to| to.get() == "null")
    }

    /// A chunk ends here.
    pub(crate) fn is_chunk_end(&self) -> bool {
        self.snapshot.event == "chunk_end"
    }

    /// The chunk says nothing of rows that it has not got.
    pub(crate) fn is_partial(&self) -> bool {
        self.snapshot.partial
    }

    /// Keys of rows that the chunk left out, for they were changed before it.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &'a [u8]> {
        self.snapshot.changed.iter().map(|key| key.get().as_bytes())
    }
}

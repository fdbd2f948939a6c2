//! What is captured.

use change::wal::emission::Emission;
use change::wal::record::RecordKind;
use change::wal::snapshot_chunk::{ChunkBegin, ChunkEnd};
use pgrx::pg_sys;

/// What a row is.
pub(crate) enum Captured<'a> {
    Inserted(pg_sys::HeapTuple),
    Deleted(pg_sys::HeapTuple),
    /// By an UPDATE: a delete, or an insert, for those who read.
    LeftFilter(pg_sys::HeapTuple),
    EnteredFilter(pg_sys::HeapTuple),
    Updated {
        old: pg_sys::HeapTuple,
        new: pg_sys::HeapTuple,
    },
    Truncated,
    /// The `schema_change` object, as JSON.
    SchemaChanged(&'a str),
    Emitted(&'a Emission<'a>),
    /// By a snapshot: the plan's columns alone, in their order.
    Found {
        tuple: pg_sys::HeapTuple,
        descriptor: pg_sys::TupleDesc,
    },
    ChunkBegin(&'a ChunkBegin<'a>),
    ChunkEnd(&'a ChunkEnd<'a>),
}

impl Captured<'_> {
    #[inline]
    pub(super) fn kind(&self) -> RecordKind {
        match self {
            Captured::Inserted(_) | Captured::EnteredFilter(_) => RecordKind::Insert,
            Captured::Deleted(_) | Captured::LeftFilter(_) => RecordKind::Delete,
            Captured::Updated { .. } => RecordKind::Update,
            Captured::Truncated => RecordKind::Truncate,
            Captured::SchemaChanged(_) => RecordKind::Schema,
            Captured::Emitted(_) => RecordKind::Emit,
            Captured::Found { .. } => RecordKind::Read,
            Captured::ChunkBegin(_) => RecordKind::ChunkBegin,
            Captured::ChunkEnd(_) => RecordKind::ChunkEnd,
        }
    }

    #[inline]
    pub(super) fn has_crossed_filter(&self) -> bool {
        matches!(self, Captured::LeftFilter(_) | Captured::EnteredFilter(_))
    }
}

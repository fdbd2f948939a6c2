//! A snapshot's chunk: a transaction of rows that were there before, between two events that say so.

use super::snapshot_window::{TableId, Verdict, Windows, put_snapshot};
use crate::value::json::put_integer;
use crate::wal::snapshot_chunk::{ChunkBegin, ChunkEnd};

/// What is sent of a snapshot's chunk about rows that were changed meanwhile: if it is more, the chunk is read again.
const MAX_CHANGED_BYTES: usize = 256 * 1024;

/// What was decided about a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    pub slot: u32,
    pub chunk: u64,
    pub accepted: bool,
}

/// The snapshots that are being made, and the chunk that the transaction at hand is.
#[derive(Debug)]
pub(super) struct Snapshots {
    windows: Windows,
    chunk: Option<Chunk>,
}

/// A chunk while it is rendered.
#[derive(Debug)]
struct Chunk {
    slot: u32,
    number: u64,
    verdict: Verdict,
    /// `"snapshot":{"id":3,"chunk":12`
    text: Vec<u8>,
    /// JSON array of sinks, or `null`.
    sinks: Vec<u8>,
    /// Rows that were sent.
    rows: u64,
}

/// An event around a chunk's rows.
pub(super) enum ChunkEvent<'a> {
    Begin,
    End(ChunkEnd<'a>),
}

impl Chunk {
    fn is_rejected(&self) -> bool {
        self.verdict == Verdict::Rejected
    }

    fn is_out_of_date(&self, key: &[u8]) -> bool {
        match &self.verdict {
            Verdict::Rejected => true,
            Verdict::Accepted(keys) => keys.contains(key),
        }
    }

    fn put_end(&self, text: &mut Vec<u8>, end: &ChunkEnd<'_>) {
        text.extend_from_slice(b",\"event\":\"chunk_end\",\"from\":");
        text.extend_from_slice(end.from.unwrap_or("null").as_bytes());
        text.extend_from_slice(b",\"to\":");
        text.extend_from_slice(end.to.unwrap_or("null").as_bytes());
        text.extend_from_slice(b",\"partial\":");
        text.extend_from_slice(if end.partial { b"true" } else { b"false" });
        text.extend_from_slice(b",\"rows\":");
        put_integer(text, self.rows);
        // Rows of the range that are there though the chunk has not got them.
        text.extend_from_slice(b",\"changed\":[");
        if let Verdict::Accepted(keys) = &self.verdict {
            for (index, key) in keys.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                text.extend_from_slice(key);
            }
        }
        text.push(b']');
    }

    fn put_sinks(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b",\"sinks\":");
        text.extend_from_slice(&self.sinks);
        text.push(b'}');
    }
}

impl Snapshots {
    /// Changes of tables of which a snapshot is being made take `max_window_bytes` at most.
    pub(super) fn new(max_window_bytes: usize) -> Snapshots {
        Snapshots {
            windows: Windows::new(max_window_bytes),
            chunk: None,
        }
    }

    /// Forgets changes of tables of which no snapshot is made any more.
    pub(super) fn keep(&mut self, is_snapshot: &dyn Fn(TableId) -> bool) {
        self.windows.keep(is_snapshot);
    }

    /// Remembers that a transaction changed a row; without a key, any row.
    #[inline]
    pub(super) fn touch(&mut self, table: TableId, xid8: u64, key: Option<&[u8]>) {
        self.windows.touch(table, xid8, key);
    }

    /// The next transaction is no chunk unless [`Snapshots::begin_chunk`] says so.
    pub(super) fn begin_transaction(&mut self) {
        self.chunk = None;
    }

    /// Decides what becomes of the chunk that this transaction is. Chunks of another session of the sender are rejected.
    pub(super) fn begin_chunk(&mut self, table: TableId, begin: &ChunkBegin<'_>, session: u64) {
        let verdict = if begin.session == session {
            self.windows
                .judge(table, &begin.visibility)
                .within(MAX_CHANGED_BYTES)
        } else {
            Verdict::Rejected
        };
        let mut text = Vec::new();
        put_snapshot(&mut text, begin);
        self.chunk = Some(Chunk {
            slot: begin.slot,
            number: begin.chunk,
            verdict,
            text,
            sinks: begin.sinks.unwrap_or("null").as_bytes().to_vec(),
            rows: 0,
        });
    }

    /// Whether this transaction is a chunk.
    #[inline]
    pub(super) fn is_chunk(&self) -> bool {
        self.chunk.is_some()
    }

    /// Whether this transaction is a chunk that must be read again.
    pub(super) fn is_rejected(&self) -> bool {
        self.chunk.as_ref().is_some_and(Chunk::is_rejected)
    }

    /// What was decided about the chunk that this transaction is, if it is one.
    pub(super) fn judged(&self) -> Option<Judged> {
        self.chunk.as_ref().map(|chunk| Judged {
            slot: chunk.slot,
            chunk: chunk.number,
            accepted: !chunk.is_rejected(),
        })
    }

    /// The sinks that the rows are for, as JSON, where they are not for all.
    #[inline]
    pub(super) fn sinks(&self) -> Option<&[u8]> {
        let sinks = self.chunk.as_ref().map(|chunk| chunk.sinks.as_slice());
        sinks.filter(|sinks| *sinks != b"null")
    }

    /// The `snapshot` object of an event around the rows; none where the chunk is rejected.
    pub(super) fn event_text(&self, event: &ChunkEvent<'_>) -> Option<Vec<u8>> {
        let chunk = self.chunk.as_ref().filter(|chunk| !chunk.is_rejected())?;
        let mut text = chunk.text.clone();
        match event {
            ChunkEvent::Begin => text.extend_from_slice(b",\"event\":\"chunk_begin\""),
            ChunkEvent::End(end) => chunk.put_end(&mut text, end),
        }
        chunk.put_sinks(&mut text);
        Some(text)
    }

    /// Appends the `snapshot` object of a row, unless it is older than an event before it: then it is left out, and the answer is
    /// no.
    pub(super) fn take_row(&mut self, key: &[u8], text: &mut Vec<u8>) -> bool {
        let Some(chunk) = &mut self.chunk else {
            return true;
        };
        if chunk.is_out_of_date(key) {
            return false;
        }
        chunk.rows += 1;
        text.extend_from_slice(&chunk.text);
        chunk.put_sinks(text);
        true
    }
}

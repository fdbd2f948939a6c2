//! The records before and behind the rows of a snapshot's chunk.

use crate::wire::{Cursor, WireError, put_optional, put_varint};

/// A snapshot of PostgreSQL's: which transactions' changes it sees (`pg_current_snapshot()`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visibility {
    /// All transactions before this are over.
    pub xmin: u64,
    /// This and all later ones had not begun or were not over.
    pub xmax: u64,
    /// Those between that were not over.
    pub in_progress: Vec<u64>,
}

impl Visibility {
    /// Whether the changes of a transaction that committed are seen.
    pub fn sees(&self, xid8: u64) -> bool {
        xid8 < self.xmin || (xid8 < self.xmax && !self.in_progress.contains(&xid8))
    }
}

/// The record before a chunk's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkBegin<'a> {
    pub snapshot_id: i64,
    /// From 1; a chunk that is read again has its number again.
    pub chunk: u64,
    /// The sender's session in which writers were waited for: only it knows what was changed since.
    pub session: u64,
    /// The place of the snapshot's worker in shared memory.
    pub slot: u32,
    pub visibility: Visibility,
    /// JSON array of the sinks that are to act on the rows; none for all.
    pub sinks: Option<&'a str>,
}

impl<'a> ChunkBegin<'a> {
    /// Bytes that [`ChunkBegin::put`] needs at most.
    pub fn capacity(&self) -> usize {
        10 * (8 + self.visibility.in_progress.len()) + self.sinks.map_or(0, str::len)
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        for number in [
            self.snapshot_id as u64,
            self.chunk,
            self.session,
            u64::from(self.slot),
            self.visibility.xmin,
            self.visibility.xmax,
            self.visibility.in_progress.len() as u64,
        ] {
            put_varint(out, number);
        }
        for xid8 in &self.visibility.in_progress {
            put_varint(out, *xid8);
        }
        put_optional(out, self.sinks);
    }

    pub fn read(image: &'a [u8]) -> Result<ChunkBegin<'a>, WireError> {
        let mut cursor = Cursor::new(image);
        let snapshot_id = cursor.varint()? as i64;
        let chunk = cursor.varint()?;
        let session = cursor.varint()?;
        let slot = u32::try_from(cursor.varint()?).map_err(|_| WireError::Invalid("slot"))?;
        let (xmin, xmax) = (cursor.varint()?, cursor.varint()?);
        let mut in_progress = Vec::new();
        for _ in 0..cursor.varint()? {
            in_progress.push(cursor.varint()?);
        }
        Ok(ChunkBegin {
            snapshot_id,
            chunk,
            session,
            slot,
            visibility: Visibility {
                xmin,
                xmax,
                in_progress,
            },
            sinks: cursor.optional()?,
        })
    }
}

/// The record behind a chunk's rows: their range of keys, as JSON objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEnd<'a> {
    /// The last key of the chunk before; none at the beginning.
    pub from: Option<&'a str>,
    /// The last key of this one; none at the end of the table.
    pub to: Option<&'a str>,
    /// The range says nothing of rows that are not in the chunk: the snapshot has a filter, or keys are masked.
    pub partial: bool,
}

impl<'a> ChunkEnd<'a> {
    /// Bytes that [`ChunkEnd::put`] needs at most.
    pub fn capacity(&self) -> usize {
        let len = |text: Option<&str>| text.map_or(0, str::len) + 10;
        len(self.from) + len(self.to) + 1
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        put_optional(out, self.from);
        put_optional(out, self.to);
        out.push(u8::from(self.partial));
    }

    pub fn read(image: &'a [u8]) -> Result<ChunkEnd<'a>, WireError> {
        let mut cursor = Cursor::new(image);
        Ok(ChunkEnd {
            from: cursor.optional()?,
            to: cursor.optional()?,
            partial: cursor.u8()? != 0,
        })
    }
}

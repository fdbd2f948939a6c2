//! The rows of a chunk as capture writes them, and how the sender reads them.
//!
//! ```text
//! body     database, topic prefix | base state: sequence, command, context, statement time
//!          contexts: count, (length, context)*     who and why, as the rows refer to them
//!          relations: count, (length, relation)*   names, topic, columns, key: no catalog is needed to read the rows
//!          records*
//! record   length (4) | code (1) | rest
//!          16 context switch: index                 17 statement: its start, microseconds since 2000-01-01
//!          1..11 row: relation, sequence and command as differences to the row before | images
//!          (+64: an UPDATE by which the row crossed the filter; +128: an UPDATE of the key)
//! image    flags (1): bit 0 null bitmap, bit 1 changed bitmap, bit 2 stub bitmap
//!          | [changed bitmap] [null bitmap] [stub bitmap] values
//! stub     bytes (8) | SHA-256 (32)      instead of a value that is too large to be shipped
//! ```
//! An UPDATE has the whole old image and, of the new one, only the columns that changed. Strings are UTF-8.

use std::cell::OnceCell;

use super::context::{Context, read_context};
use super::record::{
    CODE_CONTEXT, CODE_CROSSED_FILTER, CODE_KEY_CHANGED, CODE_STATEMENT, RecordKind, RecordState,
};
use super::relation::{Addressed, Relation, read_addressed, read_relation};
use crate::wire::{Cursor, WireError, make_room, put_bytes, put_varint};

/// What stands before the records of a body.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub database: &'a str,
    /// Topic prefix of the database: `source.name` in the events.
    pub prefix: &'a str,
    pub base: RecordState,
    /// Contexts with their lengths, one after the other, and their number.
    pub contexts: (u32, &'a [u8]),
    /// Relations likewise.
    pub relations: (u32, &'a [u8]),
}

/// Appends everything of a body but its records.
pub fn put_head(out: &mut Vec<u8>, head: &Head<'_>) {
    put_bytes(out, head.database.as_bytes());
    put_bytes(out, head.prefix.as_bytes());
    put_varint(out, head.base.sequence);
    put_varint(out, u64::from(head.base.command));
    out.extend_from_slice(&head.base.context.to_le_bytes());
    out.extend_from_slice(&head.base.statement_us.to_le_bytes());
    for (count, blobs) in [head.contexts, head.relations] {
        put_varint(out, u64::from(count));
        out.extend_from_slice(blobs);
    }
}

/// Bytes that `put_head` needs at most.
pub fn head_capacity(head: &Head<'_>) -> usize {
    head.database.len() + head.prefix.len() + head.contexts.1.len() + head.relations.1.len() + 64
}

/// A decoded body. Rows are decoded one by one, and what they refer to when it is asked for: what one table brings along
/// does not keep the rows of others from being read.
#[derive(Debug)]
pub struct Body<'a> {
    pub database: &'a str,
    pub prefix: &'a str,
    pub base: RecordState,
    contexts: Vec<&'a [u8]>,
    relations: Vec<RelationEntry<'a>>,
    records: &'a [u8],
}

#[derive(Debug)]
struct RelationEntry<'a> {
    blob: &'a [u8],
    read: OnceCell<Box<Relation<'a>>>,
}

impl<'a> Body<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Body<'a>, WireError> {
        let mut cursor = Cursor::new(bytes);
        let database = cursor.text()?;
        let prefix = cursor.text()?;
        let base = RecordState {
            sequence: cursor.varint()?,
            command: u32::try_from(cursor.varint()?)
                .map_err(|_| WireError::Invalid("command id"))?,
            context: cursor.u32()?,
            statement_us: cursor.i64()?,
        };
        let mut contexts = Vec::new();
        for _ in 0..cursor.varint()? {
            make_room(&mut contexts, 1)?;
            contexts.push(cursor.bytes()?);
        }
        let mut relations = Vec::new();
        for _ in 0..cursor.varint()? {
            make_room(&mut relations, 1)?;
            relations.push(RelationEntry {
                blob: cursor.bytes()?,
                read: OnceCell::new(),
            });
        }
        Ok(Body {
            database,
            prefix,
            base,
            contexts,
            relations,
            records: cursor.rest(),
        })
    }

    /// How many relations the rows refer to.
    pub fn relations(&self) -> usize {
        self.relations.len()
    }

    /// A relation that rows refer to, read once.
    pub fn relation(&self, index: usize) -> Result<&Relation<'a>, WireError> {
        let entry = self
            .relations
            .get(index)
            .ok_or(WireError::Invalid("relation index"))?;
        match entry.read.get() {
            Some(relation) => Ok(relation),
            None => {
                let relation = read_relation(entry.blob)?;
                Ok(entry.read.get_or_init(|| Box::new(relation)))
            }
        }
    }

    /// The same, as far as one must know it who does not want its rows.
    pub fn addressed(&self, index: usize) -> Result<Addressed<'a>, WireError> {
        read_addressed(&mut Cursor::new(self.relation_blob(index)))
    }

    /// Who and why, of a row with this state.
    pub fn context(&self, state: &RecordState) -> Result<Context<'a>, WireError> {
        let blob = self.context_blob(state.context);
        read_context(blob.ok_or(WireError::Invalid("context index"))?)
    }

    /// The rows, from the first record on.
    pub fn rows(&self) -> Rows<'_, 'a> {
        Rows {
            body: self,
            state: self.base,
            rest: Cursor::new(self.records),
        }
    }

    /// The row whose record begins `offset` bytes into the records, `state` being that of the record before.
    pub fn row_at(&self, offset: usize, state: RecordState) -> Result<Row<'a>, WireError> {
        let records = self.records.get(offset..).ok_or(WireError::Truncated)?;
        Rows {
            body: self,
            state,
            rest: Cursor::new(records),
        }
        .next()
        .unwrap_or(Err(WireError::Truncated))
    }

    pub fn context_blob(&self, index: u32) -> Option<&'a [u8]> {
        self.contexts.get(index as usize).copied()
    }

    pub fn relation_blob(&self, index: usize) -> &'a [u8] {
        self.relations[index].blob
    }
}

/// One row (or table event) of a body.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub op: RecordKind,
    pub key_changed: bool,
    /// An insert or delete that is an UPDATE: the row entered or left the table's filter.
    pub crossed_filter: bool,
    /// Index into the body's relations, checked.
    pub relation: usize,
    /// With the row's own sequence, command, context and statement.
    pub state: RecordState,
    /// RecordState before this record and its position: what `row_at` needs to come back.
    pub before: RecordState,
    pub offset: usize,
    pub images: &'a [u8],
}

/// Iterator over the rows of a body; stops after the first error.
#[derive(Debug)]
pub struct Rows<'b, 'a> {
    body: &'b Body<'a>,
    state: RecordState,
    rest: Cursor<'a>,
}

impl<'a> Rows<'_, 'a> {
    fn advance(&mut self) -> Result<Option<Row<'a>>, WireError> {
        while !self.rest.is_empty() {
            let offset = self.body.records.len() - self.rest.rest().len();
            let before = self.state;
            let len = self.rest.u32()? as usize;
            let mut record = Cursor::new(self.rest.take(len)?);
            match record.u8()? {
                CODE_CONTEXT => {
                    self.state.context = u32::try_from(record.varint()?)
                        .map_err(|_| WireError::Invalid("context index"))?;
                }
                CODE_STATEMENT => self.state.statement_us = record.i64()?,
                code => {
                    let relation = record.varint()? as usize;
                    if relation >= self.body.relations.len() {
                        return Err(WireError::Invalid("relation index"));
                    }
                    self.state.sequence = self.state.sequence.wrapping_add(record.signed()? as u64);
                    self.state.command =
                        u32::try_from(i64::from(self.state.command).wrapping_add(record.signed()?))
                            .map_err(|_| WireError::Invalid("command id"))?;
                    return Ok(Some(Row {
                        op: RecordKind::from_code(
                            code & !(CODE_KEY_CHANGED | CODE_CROSSED_FILTER),
                        )?,
                        key_changed: code & CODE_KEY_CHANGED != 0,
                        crossed_filter: code & CODE_CROSSED_FILTER != 0,
                        relation,
                        state: self.state,
                        before,
                        offset,
                        images: record.rest(),
                    }));
                }
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Rows<'_, 'a> {
    type Item = Result<Row<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.rest = Cursor::new(&[]);
        }
        next.transpose()
    }
}

//! A tracked table as its rows name it: no catalog is needed to read them.

use crate::value::kind::Kind;
use crate::wire::{Cursor, WireError, put_bytes, put_optional, put_varint};

/// A column as it was when the row was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    pub kind: Kind,
    pub masked: Option<Masked>,
}

/// What stands in an image instead of the column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Masked {
    Hashed = 1,
    /// The image has NULL.
    Redacted = 2,
    Truncated = 3,
}

impl Masked {
    fn from_code(code: u8) -> Result<Option<Masked>, WireError> {
        Ok(match code {
            0 => None,
            1 => Some(Masked::Hashed),
            2 => Some(Masked::Redacted),
            3 => Some(Masked::Truncated),
            _ => return Err(WireError::Invalid("mask")),
        })
    }
}

/// A tracked table as it was when the row was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation<'a> {
    pub oid: u32,
    pub schema: &'a str,
    pub table: &'a str,
    pub topic: &'a str,
    /// Topics of inserts, updates, deletes and truncates, where they have one of their own.
    pub topics: [Option<&'a str>; 4],
    pub columns: Vec<Column<'a>>,
    /// Kafka key: indexes into `columns`, in key order; empty: no key.
    pub key: Vec<usize>,
    /// Identity of the row where it is not the Kafka key: indexes into `columns`.
    pub identity: Option<Vec<usize>>,
    /// Deletes of this table are followed by a tombstone.
    pub tombstones: bool,
}

impl Relation<'_> {
    /// Appends the relation with its length: capture does this once per plan and copies the bytes from then on.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut blob = Vec::with_capacity(64 + self.columns.len() * 16);
        blob.extend_from_slice(&self.oid.to_le_bytes());
        blob.push(u8::from(self.tombstones));
        for text in [self.schema, self.table, self.topic] {
            put_bytes(&mut blob, text.as_bytes());
        }
        for topic in self.topics {
            put_optional(&mut blob, topic);
        }
        put_varint(&mut blob, self.columns.len() as u64);
        for column in &self.columns {
            put_bytes(&mut blob, column.name.as_bytes());
            column.kind.put(&mut blob);
            blob.push(column.masked.map_or(0, |masked| masked as u8));
        }
        put_indexes(&mut blob, &self.key);
        match &self.identity {
            None => blob.push(0),
            Some(identity) => {
                blob.push(1);
                put_indexes(&mut blob, identity);
            }
        }
        put_bytes(out, &blob);
    }
}

fn put_indexes(out: &mut Vec<u8>, indexes: &[usize]) {
    put_varint(out, indexes.len() as u64);
    for index in indexes {
        put_varint(out, *index as u64);
    }
}

fn read_indexes(cursor: &mut Cursor<'_>, columns: usize) -> Result<Vec<usize>, WireError> {
    let count = cursor.varint()?;
    let mut indexes = Vec::new();
    for _ in 0..count {
        let index = cursor.varint()? as usize;
        if index >= columns {
            return Err(WireError::Invalid("column index"));
        }
        indexes.push(index);
    }
    Ok(indexes)
}

/// The relation in an entry that [`Relation::put`] wrote.
pub fn relation_of(entry: &[u8]) -> Result<Relation<'_>, WireError> {
    read_relation(Cursor::new(entry).bytes()?)
}

/// What the entry of a relation begins with: enough to know whom its rows are for.
#[derive(Debug, Clone, Copy)]
pub struct Addressed<'a> {
    pub oid: u32,
    tombstones: bool,
    schema: &'a str,
    table: &'a str,
    pub topic: &'a str,
    pub topics: [Option<&'a str>; 4],
}

pub(super) fn read_addressed<'a>(cursor: &mut Cursor<'a>) -> Result<Addressed<'a>, WireError> {
    Ok(Addressed {
        oid: cursor.u32()?,
        tombstones: cursor.u8()? != 0,
        schema: cursor.text()?,
        table: cursor.text()?,
        topic: cursor.text()?,
        topics: [
            cursor.optional()?,
            cursor.optional()?,
            cursor.optional()?,
            cursor.optional()?,
        ],
    })
}

pub(super) fn read_relation(blob: &[u8]) -> Result<Relation<'_>, WireError> {
    let mut cursor = Cursor::new(blob);
    let Addressed {
        oid,
        tombstones,
        schema,
        table,
        topic,
        topics,
    } = read_addressed(&mut cursor)?;
    let count = cursor.varint()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(Column {
            name: cursor.text()?,
            kind: Kind::read(&mut cursor)?,
            masked: Masked::from_code(cursor.u8()?)?,
        });
    }
    let key = read_indexes(&mut cursor, columns.len())?;
    let identity = match cursor.u8()? {
        0 => None,
        _ => Some(read_indexes(&mut cursor, columns.len())?),
    };
    Ok(Relation {
        oid,
        schema,
        table,
        topic,
        topics,
        columns,
        key,
        identity,
        tombstones,
    })
}

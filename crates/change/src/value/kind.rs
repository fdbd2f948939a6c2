//! How a column's values stand in a row image, and so how they are rendered.

use crate::wire::{Cursor, WireError, put_bytes, put_varint};

/// The binary form of a column's values. Fixed kinds are PostgreSQL's own in-memory bytes in little-endian order;
/// the others are a length and the datum's content without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// Days since 2000-01-01.
    Date,
    /// Microseconds since midnight.
    Time,
    /// Microseconds since midnight, then seconds west of UTC.
    TimeTz,
    /// Microseconds since 2000-01-01, no zone.
    Timestamp,
    /// Microseconds since 2000-01-01 UTC.
    TimestampTz,
    /// Microseconds, days, months.
    Interval,
    Uuid,
    /// UTF-8 (or, from an SQL_ASCII database, any bytes). Also json, and every type that goes through its output function.
    Text,
    Bytea,
    /// The content of PostgreSQL's `Numeric` (numeric.c, "packed" format).
    Numeric,
    /// The text of a `bit(1)`, shown as a boolean.
    Bit1,
    /// hstore's own text, shown as the text of a JSON object.
    Hstore,
    /// Elements of one kind. The content is [`ARRAY_TEXT`] and PostgreSQL's text, or [`ARRAY_ITEMS`], the number of
    /// dimensions (1 byte), their lengths (variable), a NULL bitmap, and the elements that are not NULL.
    Array(Box<Kind>),
    /// Attributes by name. The content is a NULL bitmap and the values that are not NULL.
    Composite(Vec<(String, Kind)>),
}

/// Kinds may lie so deep in each other: what lies deeper is text. Whatever goes through a kind is recursive, and must fit
/// into a thread's stack.
pub const MOST_LEVELS: u32 = 32;

/// The array has a lower bound that is not 1: only PostgreSQL's text shows that.
pub const ARRAY_TEXT: u8 = 0;
pub const ARRAY_ITEMS: u8 = 1;

impl Kind {
    /// Bytes of a value of a fixed kind; `None` for the kinds that carry a length.
    #[inline]
    pub fn fixed_len(&self) -> Option<usize> {
        Some(match self {
            Kind::Bool => 1,
            Kind::Int2 => 2,
            Kind::Int4 | Kind::Oid | Kind::Float4 | Kind::Date => 4,
            Kind::Int8 | Kind::Float8 | Kind::Time | Kind::Timestamp | Kind::TimestampTz => 8,
            Kind::TimeTz => 12,
            Kind::Interval | Kind::Uuid => 16,
            Kind::Text
            | Kind::Bytea
            | Kind::Numeric
            | Kind::Bit1
            | Kind::Hstore
            | Kind::Array(_)
            | Kind::Composite(_) => return None,
        })
    }

    fn code(&self) -> u8 {
        match self {
            Kind::Bool => 1,
            Kind::Int2 => 2,
            Kind::Int4 => 3,
            Kind::Int8 => 4,
            Kind::Oid => 5,
            Kind::Float4 => 6,
            Kind::Float8 => 7,
            Kind::Date => 8,
            Kind::Time => 9,
            Kind::TimeTz => 10,
            Kind::Timestamp => 11,
            Kind::TimestampTz => 12,
            Kind::Interval => 13,
            Kind::Uuid => 14,
            Kind::Text => 32,
            Kind::Bytea => 33,
            Kind::Numeric => 34,
            Kind::Bit1 => 35,
            Kind::Hstore => 36,
            Kind::Array(_) => 64,
            Kind::Composite(_) => 65,
        }
    }

    /// Appends the kind itself, as a relation has it for each column.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.code());
        match self {
            Kind::Array(element) => element.put(out),
            Kind::Composite(attributes) => {
                put_varint(out, attributes.len() as u64);
                for (name, kind) in attributes {
                    put_bytes(out, name.as_bytes());
                    kind.put(out);
                }
            }
            _ => {}
        }
    }

    /// Reads what [`Kind::put`] wrote.
    pub fn read(cursor: &mut Cursor<'_>) -> Result<Kind, WireError> {
        Kind::read_below(cursor, MOST_LEVELS)
    }

    /// Reads a kind that may have `levels` more below it.
    fn read_below(cursor: &mut Cursor<'_>, levels: u32) -> Result<Kind, WireError> {
        const SCALARS: [Kind; 19] = [
            Kind::Bool,
            Kind::Int2,
            Kind::Int4,
            Kind::Int8,
            Kind::Oid,
            Kind::Float4,
            Kind::Float8,
            Kind::Date,
            Kind::Time,
            Kind::TimeTz,
            Kind::Timestamp,
            Kind::TimestampTz,
            Kind::Interval,
            Kind::Uuid,
            Kind::Text,
            Kind::Bytea,
            Kind::Numeric,
            Kind::Bit1,
            Kind::Hstore,
        ];
        let below = levels
            .checked_sub(1)
            .ok_or(WireError::Invalid("depth of a column kind"));
        match cursor.u8()? {
            64 => Ok(Kind::Array(Box::new(Kind::read_below(cursor, below?)?))),
            65 => {
                let below = below?;
                let mut attributes = Vec::new();
                for _ in 0..cursor.varint()? {
                    let name = cursor.text()?.to_owned();
                    attributes.push((name, Kind::read_below(cursor, below)?));
                }
                Ok(Kind::Composite(attributes))
            }
            code => SCALARS
                .into_iter()
                .find(|kind| kind.code() == code)
                .ok_or(WireError::Invalid("column kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_kinds_come_back() {
        let address = Kind::Composite(vec![
            ("street".into(), Kind::Text),
            ("lines".into(), Kind::Array(Box::new(Kind::Numeric))),
        ]);
        for kind in [
            Kind::Hstore,
            address.clone(),
            Kind::Array(Box::new(address)),
        ] {
            let mut out = Vec::new();
            kind.put(&mut out);
            let mut cursor = Cursor::new(&out);
            assert_eq!(Kind::read(&mut cursor), Ok(kind));
            assert!(cursor.is_empty());
        }
        assert!(Kind::read(&mut Cursor::new(&[99])).is_err());
    }

    #[test]
    fn a_kind_is_as_deep_as_a_stack_allows_and_no_deeper() {
        let nested = |levels: u32| {
            (0..levels).fold(Kind::Int4, |kind, level| match level % 2 {
                0 => Kind::Array(Box::new(kind)),
                _ => Kind::Composite(vec![("a".to_owned(), kind)]),
            })
        };
        for (levels, is_read) in [
            (MOST_LEVELS, true),
            (MOST_LEVELS + 1, false),
            (5_000, false),
        ] {
            let mut out = Vec::new();
            nested(levels).put(&mut out);
            assert_eq!(Kind::read(&mut Cursor::new(&out)).is_ok(), is_read);
        }
        // As many levels as there are bytes.
        assert!(Kind::read(&mut Cursor::new(&[64; 1_000_000])).is_err());
    }
}

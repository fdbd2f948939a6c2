//! How a column's values stand in a row image, and so how they are rendered.

use crate::wire::WireError;

/// The binary form of a column's values. Fixed kinds are PostgreSQL's own in-memory bytes in little-endian order;
/// the others are a length and the datum's content without its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Bool = 1,
    Int2 = 2,
    Int4 = 3,
    Int8 = 4,
    Oid = 5,
    Float4 = 6,
    Float8 = 7,
    /// Days since 2000-01-01.
    Date = 8,
    /// Microseconds since midnight.
    Time = 9,
    /// Microseconds since midnight, then seconds west of UTC.
    TimeTz = 10,
    /// Microseconds since 2000-01-01, no zone.
    Timestamp = 11,
    /// Microseconds since 2000-01-01 UTC.
    TimestampTz = 12,
    /// Microseconds, days, months.
    Interval = 13,
    Uuid = 14,
    /// UTF-8 (or, from an SQL_ASCII database, any bytes). Also json, and every type that goes through its output function.
    Text = 32,
    Bytea = 33,
    /// The content of PostgreSQL's `Numeric` (numeric.c, "packed" format).
    Numeric = 34,
    /// The text of a `bit(1)`, shown as a boolean.
    Bit1 = 35,
}

impl Kind {
    /// Bytes of a value of a fixed kind; `None` for the kinds that carry a length.
    #[inline]
    pub fn fixed_len(self) -> Option<usize> {
        Some(match self {
            Kind::Bool => 1,
            Kind::Int2 => 2,
            Kind::Int4 | Kind::Oid | Kind::Float4 | Kind::Date => 4,
            Kind::Int8 | Kind::Float8 | Kind::Time | Kind::Timestamp | Kind::TimestampTz => 8,
            Kind::TimeTz => 12,
            Kind::Interval | Kind::Uuid => 16,
            Kind::Text | Kind::Bytea | Kind::Numeric | Kind::Bit1 => return None,
        })
    }

    pub fn from_code(code: u8) -> Result<Kind, WireError> {
        const ALL: [Kind; 18] = [
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
        ];
        ALL.into_iter()
            .find(|kind| *kind as u8 == code)
            .ok_or(WireError::Invalid("column kind"))
    }
}

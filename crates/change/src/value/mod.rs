//! One value of a row image as JSON.

pub mod datetime;
pub mod float;
pub mod hstore;
pub mod json;
pub mod kind;
pub mod numeric;

use crate::hex::put_hex;
use crate::value::json::{escaped_len, put_base64, put_integer, put_string};
use crate::value::kind::{ARRAY_ITEMS, ARRAY_TEXT, Kind};
use crate::wire::{Cursor, WireError, make_room};

/// What a reader must know about a value that JSON alone does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Text that is not valid UTF-8 (an SQL_ASCII database): shown in base64.
    Base64,
}

/// Takes one value's bytes off an image.
#[inline]
pub fn take_value<'a>(cursor: &mut Cursor<'a>, kind: &Kind) -> Result<&'a [u8], WireError> {
    match kind.fixed_len() {
        Some(len) => cursor.take(len),
        None => cursor.bytes(),
    }
}

/// Appends one value, as `take_value` gave it, as JSON.
pub fn put_value(out: &mut Vec<u8>, kind: &Kind, bytes: &[u8]) -> Result<Option<Mark>, WireError> {
    let mut fixed = Cursor::new(bytes);
    match kind {
        Kind::Bool => out.extend_from_slice(if fixed.u8()? != 0 { b"true" } else { b"false" }),
        Kind::Int2 => put_integer(out, fixed.u16()? as i16),
        Kind::Int4 => put_integer(out, fixed.u32()? as i32),
        Kind::Int8 => put_integer(out, fixed.i64()?),
        Kind::Oid => put_integer(out, fixed.u32()?),
        Kind::Float4 => float::put_float4(out, f32::from_bits(fixed.u32()?)),
        Kind::Float8 => float::put_float8(out, f64::from_bits(fixed.u64()?)),
        Kind::Date => datetime::put_date(out, fixed.u32()? as i32),
        Kind::Time => datetime::put_time(out, fixed.i64()?),
        Kind::TimeTz => datetime::put_timetz(out, fixed.i64()?, fixed.u32()? as i32),
        Kind::Timestamp => datetime::put_timestamp(out, fixed.i64()?),
        Kind::TimestampTz => datetime::put_timestamptz(out, fixed.i64()?),
        Kind::Interval => {
            datetime::put_interval(out, fixed.i64()?, fixed.u32()? as i32, fixed.u32()? as i32)
        }
        Kind::Uuid => put_uuid(out, &fixed.array()?),
        Kind::Bytea => put_base64(out, bytes),
        Kind::Numeric => numeric::put_numeric(out, bytes)?,
        Kind::Bit1 => out.extend_from_slice(if bytes == b"1" { b"true" } else { b"false" }),
        Kind::Text => return Ok(put_text(out, bytes)),
        Kind::Hstore => match hstore::to_json(bytes)? {
            Some(json) => put_string(out, &json),
            None => return Ok(put_text(out, bytes)),
        },
        Kind::Array(element) => match fixed.u8()? {
            ARRAY_TEXT => return Ok(put_text(out, fixed.rest())),
            ARRAY_ITEMS => return put_array(out, element, &mut fixed, None),
            _ => return Err(WireError::Invalid("array form")),
        },
        Kind::Composite(attributes) => return put_composite(out, attributes, &mut fixed, None),
    }
    Ok(None)
}

/// Appends one large value if all of `out` has `most` bytes at most then, else [`WireError::TooLong`]: what a value becomes may be
/// many times its size, and that must be known before there is no memory left.
pub fn put_large_value(
    out: &mut Vec<u8>,
    kind: &Kind,
    bytes: &[u8],
    most: usize,
) -> Result<Option<Mark>, WireError> {
    let mut rest = Cursor::new(bytes);
    match kind {
        Kind::Array(element) if bytes.first() == Some(&ARRAY_ITEMS) => {
            rest.u8()?;
            return put_array(out, element, &mut rest, Some(most));
        }
        Kind::Composite(attributes) => {
            return put_composite(out, attributes, &mut rest, Some(most));
        }
        _ => {}
    }
    let becomes = match kind {
        Kind::Text => escaped_len(bytes),
        // Four of three bytes, also of what is no text.
        Kind::Bytea => bytes.len() / 3 * 4 + 6,
        // An escaped text of an escaped text at most.
        Kind::Hstore => escaped_len(bytes).saturating_mul(6),
        // Digits, and texts of PostgreSQL's own.
        _ => bytes.len().saturating_mul(6),
    };
    if out.len().saturating_add(becomes) > most {
        return Err(WireError::TooLong);
    }
    make_room(out, becomes)?;
    put_value(out, kind, bytes)
}

/// Values longer than this are looked at before they become JSON, if there is a bound for all.
const LARGE_BYTES: usize = 4096;

/// Appends one of many values that have a bound together: all of `out` has about `most` bytes at most then.
pub fn put_bounded(
    out: &mut Vec<u8>,
    kind: &Kind,
    bytes: &[u8],
    most: usize,
) -> Result<Option<Mark>, WireError> {
    if bytes.len() > LARGE_BYTES || matches!(kind, Kind::Array(_) | Kind::Composite(_)) {
        return put_large_value(out, kind, bytes, most);
    }
    grow(out, most)?;
    put_value(out, kind, bytes)
}

/// Makes sure that a small value finds room, in steps that double, as far as `most` allows.
fn grow(out: &mut Vec<u8>, most: usize) -> Result<(), WireError> {
    if out.len() > most {
        return Err(WireError::TooLong);
    }
    let needed = 8 * LARGE_BYTES;
    if out.capacity() - out.len() < needed {
        make_room(out, needed.max(out.len()))?;
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, bytes: &[u8]) -> Option<Mark> {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            put_string(out, text);
            None
        }
        Err(_) => {
            put_base64(out, bytes);
            Some(Mark::Base64)
        }
    }
}

/// Values behind a NULL bitmap, one after the other.
struct Nullable<'a> {
    nulls: &'a [u8],
    next: usize,
}

impl<'a> Nullable<'a> {
    fn begin(cursor: &mut Cursor<'a>, count: usize) -> Result<Nullable<'a>, WireError> {
        Ok(Nullable {
            nulls: cursor.take(count.div_ceil(8))?,
            next: 0,
        })
    }

    /// Appends the next value; as a NULL where it is one.
    fn put(
        &mut self,
        out: &mut Vec<u8>,
        kind: &Kind,
        cursor: &mut Cursor<'a>,
        most: Option<usize>,
    ) -> Result<Option<Mark>, WireError> {
        let index = self.next;
        self.next += 1;
        if self.nulls[index / 8] >> (index % 8) & 1 == 1 {
            if let Some(most) = most {
                grow(out, most)?;
            }
            out.extend_from_slice(b"null");
            return Ok(None);
        }
        let bytes = take_value(cursor, kind)?;
        match most {
            None => put_value(out, kind, bytes),
            Some(most) => put_bounded(out, kind, bytes, most),
        }
    }
}

/// An array as nested JSON arrays.
fn put_array(
    out: &mut Vec<u8>,
    element: &Kind,
    cursor: &mut Cursor<'_>,
    most: Option<usize>,
) -> Result<Option<Mark>, WireError> {
    let dimensions = cursor.u8()?;
    let mut lengths = Vec::with_capacity(dimensions.into());
    let mut count = 1usize;
    for _ in 0..dimensions {
        let length = cursor.varint()? as usize;
        count = count
            .checked_mul(length)
            .ok_or(WireError::Invalid("array length"))?;
        lengths.push(length);
    }
    if lengths.is_empty() || count == 0 {
        out.extend_from_slice(b"[]");
        return Ok(None);
    }
    let mut values = Nullable::begin(cursor, count)?;
    let mut mark = None;
    for place in 0..count {
        if place > 0 {
            out.push(b',');
        }
        out.extend(std::iter::repeat_n(b'[', edges(&lengths, place)));
        mark = values.put(out, element, cursor, most)?.or(mark);
        out.extend(std::iter::repeat_n(b']', edges(&lengths, place + 1)));
    }
    Ok(mark)
}

/// How many dimensions begin before element `place`, which is as many as end after the one before.
fn edges(lengths: &[usize], place: usize) -> usize {
    let mut size = 1;
    lengths
        .iter()
        .rev()
        .take_while(|length| {
            size *= **length;
            place.is_multiple_of(size)
        })
        .count()
}

/// A composite as an object by attribute.
fn put_composite(
    out: &mut Vec<u8>,
    attributes: &[(String, Kind)],
    cursor: &mut Cursor<'_>,
    most: Option<usize>,
) -> Result<Option<Mark>, WireError> {
    let mut values = Nullable::begin(cursor, attributes.len())?;
    let mut mark = None;
    out.push(b'{');
    for (index, (name, kind)) in attributes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_string(out, name);
        out.push(b':');
        mark = values.put(out, kind, cursor, most)?.or(mark);
    }
    out.push(b'}');
    Ok(mark)
}

fn put_uuid(out: &mut Vec<u8>, bytes: &[u8; 16]) {
    let mut before = b'"';
    for group in [
        &bytes[..4],
        &bytes[4..6],
        &bytes[6..8],
        &bytes[8..10],
        &bytes[10..],
    ] {
        out.push(before);
        put_hex(out, group);
        before = b'-';
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: Kind, bytes: &[u8]) -> (String, Option<Mark>) {
        let mut out = Vec::new();
        let mark = put_value(&mut out, &kind, bytes).unwrap();
        (String::from_utf8(out).unwrap(), mark)
    }

    #[test]
    fn every_kind_has_its_json() {
        assert_eq!(
            shown(Kind::Int8, &i64::MAX.to_le_bytes()).0,
            "9223372036854775807"
        );
        assert_eq!(shown(Kind::Oid, &u32::MAX.to_le_bytes()).0, "4294967295");
        assert_eq!(shown(Kind::Bytea, &[1, 2, 3]).0, "\"AQID\"");
        assert_eq!(
            shown(Kind::Uuid, &[0xab; 16]).0,
            "\"abababab-abab-abab-abab-abababababab\""
        );
        assert_eq!(shown(Kind::Bit1, b"1").0, "true");
        assert_eq!(
            shown(Kind::Text, "Z\u{fc}rich".as_bytes()),
            ("\"Z\u{fc}rich\"".into(), None)
        );
        assert_eq!(
            shown(Kind::Text, &[0xff, 0x41]),
            ("\"/0E=\"".into(), Some(Mark::Base64))
        );
    }

    #[test]
    fn a_text_that_just_fits_is_rendered() {
        const MOST: usize = 1 << 20;
        let mut out = Vec::new();
        put_large_value(&mut out, &Kind::Text, &vec![b'a'; MOST - 2], MOST).unwrap();
        assert_eq!(out.len(), MOST);
        let one_more = vec![b'a'; MOST - 1];
        let refused = put_large_value(&mut Vec::new(), &Kind::Text, &one_more, MOST);
        assert!(matches!(refused, Err(WireError::TooLong)));
    }

    #[test]
    fn what_becomes_too_long_is_not_rendered() {
        const MOST: usize = 1 << 20;
        let wide = Kind::Composite(
            (0..100)
                .map(|number| (format!("a_name_of_many_characters_{number}"), Kind::Bool))
                .collect(),
        );
        let many = |count: u64, element: &[u8], nulls: u8| {
            let mut bytes = vec![ARRAY_ITEMS, 1];
            crate::wire::put_varint(&mut bytes, count);
            bytes.resize(bytes.len() + (count as usize).div_ceil(8), nulls);
            for _ in 0..count {
                bytes.extend_from_slice(element);
            }
            bytes
        };
        let composite = {
            let mut bytes = vec![13];
            bytes.extend_from_slice(&[0xff; 13]);
            bytes
        };
        for (kind, bytes) in [
            (Kind::Text, vec![1; 200_000]),
            (Kind::Bytea, vec![1; 800_000]),
            (Kind::Array(Box::new(Kind::Int4)), many(400_000, b"", 0xff)),
            (Kind::Array(Box::new(wide)), many(1_000, &composite, 0)),
        ] {
            let mut out = Vec::new();
            assert_eq!(
                put_large_value(&mut out, &kind, &bytes, MOST),
                Err(WireError::TooLong),
                "{kind:?}"
            );
            assert!(out.capacity() < 4 * MOST, "{kind:?}: {}", out.capacity());
            // With room for it, it is what it is without a bound.
            out.clear();
            put_large_value(&mut out, &kind, &bytes, usize::MAX).unwrap();
            assert!(out.len() > MOST);
            assert_eq!(String::from_utf8(out).unwrap(), shown(kind, &bytes).0);
        }
    }

    #[test]
    fn arrays_and_composites_nest() {
        let numbers = Kind::Array(Box::new(Kind::Int2));
        // Two dimensions of two, the last one NULL.
        let bytes = [ARRAY_ITEMS, 2, 2, 2, 0b1000, 1, 0, 2, 0, 3, 0];
        assert_eq!(shown(numbers.clone(), &bytes).0, "[[1,2],[3,null]]");
        let cube = [ARRAY_ITEMS, 3, 1, 2, 1, 0, 1, 0, 2, 0];
        assert_eq!(shown(numbers.clone(), &cube).0, "[[[1],[2]]]");
        assert_eq!(shown(numbers.clone(), &[ARRAY_ITEMS, 0]).0, "[]");
        let mut odd = vec![ARRAY_TEXT];
        odd.extend_from_slice(b"[0:1]={1,2}");
        assert_eq!(shown(numbers.clone(), &odd).0, "\"[0:1]={1,2}\"");
        let pair = Kind::Composite(vec![("a".into(), numbers), ("b \"".into(), Kind::Text)]);
        // The array's length stands before it.
        let bytes = [0b10, 5, ARRAY_ITEMS, 1, 1, 0, 7, 0];
        assert!(put_value(&mut Vec::new(), &pair, &bytes[..7]).is_err());
        let bytes = [0b10, 6, ARRAY_ITEMS, 1, 1, 0, 7, 0];
        assert_eq!(shown(pair, &bytes).0, "{\"a\":[7],\"b \\\"\":null}");
    }
}

//! One value of a row image as JSON (the table of types is interface 3.3).

use crate::json::{put_base64, put_integer, put_string};
use crate::kind::Kind;
use crate::wire::{Cursor, WireError};
use crate::{datetime, float, numeric};

/// What a reader must know about a value that JSON alone does not show (interface 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Text that is not valid UTF-8 (an SQL_ASCII database): shown in base64.
    Base64,
}

/// Takes one value's bytes off an image.
#[inline]
pub fn take_value<'a>(cursor: &mut Cursor<'a>, kind: Kind) -> Result<&'a [u8], WireError> {
    match kind.fixed_len() {
        Some(len) => cursor.take(len),
        None => cursor.bytes(),
    }
}

/// Appends one value, as `take_value` gave it, as JSON.
pub fn put_value(out: &mut Vec<u8>, kind: Kind, bytes: &[u8]) -> Result<Option<Mark>, WireError> {
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
        Kind::Text => match std::str::from_utf8(bytes) {
            Ok(text) => put_string(out, text),
            Err(_) => {
                put_base64(out, bytes);
                return Ok(Some(Mark::Base64));
            }
        },
    }
    Ok(None)
}

fn put_uuid(out: &mut Vec<u8>, bytes: &[u8; 16]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&[HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: Kind, bytes: &[u8]) -> (String, Option<Mark>) {
        let mut out = Vec::new();
        let mark = put_value(&mut out, kind, bytes).unwrap();
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
}

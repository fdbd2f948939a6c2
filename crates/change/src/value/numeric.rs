//! PostgreSQL's `numeric`, from its packed form to decimal text (numeric.c: `NumericChoice`, `get_str_from_var`).

use crate::wire::{Cursor, WireError};

const SIGN_MASK: u16 = 0xC000;
const NEGATIVE: u16 = 0x4000;
const SHORT: u16 = 0x8000;
const SPECIAL: u16 = 0xC000;
const EXTENDED_SIGN_MASK: u16 = 0xF000;
const POSITIVE_INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Appends the decimal text of a packed numeric (the datum's content without the varlena header) as a JSON string.
/// Trailing zeros are kept; `NaN`, `Infinity` and `-Infinity` are PostgreSQL's spelling.
pub fn put_numeric(out: &mut Vec<u8>, packed: &[u8]) -> Result<(), WireError> {
    let mut cursor = Cursor::new(packed);
    let header = cursor.u16()?;
    if header & SIGN_MASK == SPECIAL {
        out.extend_from_slice(match header & EXTENDED_SIGN_MASK {
            POSITIVE_INFINITY => b"\"Infinity\"",
            NEGATIVE_INFINITY => b"\"-Infinity\"",
            _ => b"\"NaN\"",
        });
        return Ok(());
    }
    let form = Form::read(header, &mut cursor)?;
    let digits = cursor.rest();
    // Digit i counts units of 10000^(weight - i); what is not stored is zero.
    let digit = |index: i32| -> u16 {
        usize::try_from(index)
            .ok()
            .and_then(|index| digits.get(2 * index..2 * index + 2))
            .map_or(0, |pair| u16::from_le_bytes([pair[0], pair[1]]))
    };
    out.reserve(packed.len() * 2 + form.scale + 4);
    out.push(b'"');
    if form.is_negative {
        out.push(b'-');
    }
    if form.weight < 0 {
        out.push(b'0');
    }
    for index in 0..=form.weight {
        let text = four(digit(index));
        let skip = if index == 0 {
            text[..3].iter().take_while(|byte| **byte == b'0').count()
        } else {
            0
        };
        out.extend_from_slice(&text[skip..]);
    }
    if form.scale > 0 {
        out.push(b'.');
        let mut left = form.scale;
        let mut index = form.weight + 1;
        while left > 0 {
            let take = left.min(4);
            out.extend_from_slice(&four(digit(index))[..take]);
            left -= take;
            index += 1;
        }
    }
    out.push(b'"');
    Ok(())
}

/// What stands before the digits of a number.
struct Form {
    is_negative: bool,
    /// Decimal digits behind the point.
    scale: usize,
    /// The power of 10000 of the first stored digit.
    weight: i32,
}

impl Form {
    /// Reads it, whose first two bytes are `header`; the digits come next.
    #[inline]
    fn read(header: u16, cursor: &mut Cursor<'_>) -> Result<Form, WireError> {
        if header & SIGN_MASK != SHORT {
            return Ok(Form {
                is_negative: header & SIGN_MASK == NEGATIVE,
                scale: usize::from(header & 0x3fff),
                weight: i32::from(cursor.u16()? as i16),
            });
        }
        let weight = i32::from(header & 0x3f);
        Ok(Form {
            is_negative: header & 0x2000 != 0,
            scale: usize::from((header & 0x1f80) >> 7),
            weight: match header & 0x40 {
                0 => weight,
                _ => weight - 64,
            },
        })
    }
}

/// A digit of base 10000 as text.
#[inline]
fn four(digit: u16) -> [u8; 4] {
    [1000, 100, 10, 1].map(|unit| b'0' + (digit / unit % 10) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[u16]) -> String {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut out = Vec::new();
        put_numeric(&mut out, &bytes).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn short_form() {
        // 10.50: scale 2, weight 0, digits 10 and 5000.
        assert_eq!(shown(&[SHORT | 2 << 7, 10, 5000]), "\"10.50\"");
        assert_eq!(shown(&[SHORT | 2 << 7]), "\"0.00\"");
        // -0.00012: weight -1 (7 bits, two's complement), digits 1, 2000.
        assert_eq!(
            shown(&[SHORT | 0x2000 | 5 << 7 | 0x7f, 1, 2000]),
            "\"-0.00012\""
        );
        assert_eq!(shown(&[SHORT | 1, 12, 34]), "\"120034\"");
        // 1e8: only the leading digit is stored.
        assert_eq!(shown(&[SHORT | 2, 1]), "\"100000000\"");
    }

    #[test]
    fn long_form_and_specials() {
        assert_eq!(shown(&[NEGATIVE | 4, 0, 7, 1]), "\"-7.0001\"");
        assert_eq!(shown(&[0xC000]), "\"NaN\"");
        assert_eq!(shown(&[0xD000]), "\"Infinity\"");
        assert_eq!(shown(&[0xF000]), "\"-Infinity\"");
    }
}

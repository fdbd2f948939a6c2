//! JSON strings and base64, appended to a buffer.

use base64::Engine;

use crate::hex::DIGITS;

/// Appends `text` as a JSON string with its quotes (RFC 8259: only `"`, `\` and control characters are escaped).
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    // Without an early exit, so that many bytes are compared at once.
    if !bytes
        .iter()
        .fold(false, |found, byte| found | must_be_escaped(*byte))
    {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut done = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if !must_be_escaped(byte) {
            continue;
        }
        out.extend_from_slice(&bytes[done..index]);
        done = index + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                DIGITS[(byte >> 4) as usize],
                DIGITS[(byte & 15) as usize],
            ]),
        }
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

/// Bytes that a text becomes as a JSON string.
pub fn escaped_len(bytes: &[u8]) -> usize {
    let more: usize = bytes
        .iter()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
            0..0x20 => 5,
            _ => 0,
        })
        .sum();
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len() + more + 2,
        // It becomes base64.
        Err(_) => bytes.len() / 3 * 4 + 6,
    }
}

fn must_be_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Appends a JSON string, or `null`.
pub fn put_optional_string(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => put_string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends bytes as a JSON string in standard base64 with padding.
pub fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The slice has exactly the encoded length, so encoding cannot fail; an error would leave zero bytes behind.
    let written = base64::engine::general_purpose::STANDARD
        .encode_slice(bytes, &mut out[start..])
        .unwrap_or(0);
    debug_assert_eq!(start + written, out.len());
    out.push(b'"');
}

/// Appends an integer in decimal.
#[inline]
pub fn put_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_read_back(text: String) {
            let mut out = Vec::new();
            put_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn base64_reads_back(bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_base64(&mut out, &bytes);
            let text: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(base64::engine::general_purpose::STANDARD.decode(text).unwrap(), bytes);
        }
    }
}

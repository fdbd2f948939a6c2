//! Version and event id: the only order, and the only identity.

use std::fmt;

use crate::hex::{DIGITS, put_hex};

/// Characters of a version's text.
pub const VERSION_CHARS: usize = 4 + 1 + 8 + 1 + 16 + 1 + 10 + 1 + 2;

/// The order of events of one source: never a clock, never an LSN alone (LSNs repeat after a failover or a restore).
/// Its text sorts as the version does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub generation: u16,
    pub timeline: u32,
    /// Where the commit record begins.
    pub commit_lsn: u64,
    /// Place of the event in its transaction, from 1; at most ten decimal digits.
    pub sequence: u64,
    /// Tells apart the records of one event: 0, or 1 for the tombstone after a delete.
    pub sub: u8,
}

/// A commit in the order of all commits of one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub generation: u16,
    pub timeline: u32,
    /// Where the commit record begins.
    pub commit_lsn: u64,
}

impl Version {
    /// The commit that the event belongs to.
    pub fn place(&self) -> Place {
        Place {
            generation: self.generation,
            timeline: self.timeline,
            commit_lsn: self.commit_lsn,
        }
    }

    /// Appends the text: generation, timeline and LSN in hexadecimal, sequence and sub in decimal, all of fixed width.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.put_place(out);
        put_order(out, self.sequence, self.sub);
    }

    /// The part that all events of a transaction share, with the hyphen behind it.
    pub fn put_place(&self, out: &mut Vec<u8>) {
        put_digits(out, u64::from(self.generation), 4);
        out.push(b'-');
        put_digits(out, u64::from(self.timeline), 8);
        out.push(b'-');
        put_digits(out, self.commit_lsn, 16);
        out.push(b'-');
    }

    /// Reads the text that `put` writes; `None` for anything else.
    pub fn parse(text: &str) -> Option<Version> {
        if text.len() != VERSION_CHARS || !text.is_ascii() {
            return None;
        }
        let mut parts = text.split('-');
        let mut hex = |chars: usize| {
            let part = parts
                .next()
                .filter(|part| part.len() == chars && !part.starts_with('+'))?;
            u64::from_str_radix(part, 16).ok()
        };
        let (generation, timeline, commit_lsn) = (hex(4)? as u16, hex(8)? as u32, hex(16)?);
        let mut decimal = |chars: usize| {
            let part = parts
                .next()
                .filter(|part| part.len() == chars && !part.starts_with('+'))?;
            part.parse::<u64>().ok()
        };
        let (sequence, sub) = (decimal(10)?, decimal(2)? as u8);
        Some(Version {
            generation,
            timeline,
            commit_lsn,
            sequence,
            sub,
        })
    }
}

impl fmt::Display for Place {
    /// What the versions of its events begin with.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}-{:08x}-{:016x}",
            self.generation, self.timeline, self.commit_lsn
        )
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(VERSION_CHARS);
        self.put(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Appends the part of a version that tells the events of a transaction apart.
pub fn put_order(out: &mut Vec<u8>, sequence: u64, sub: u8) {
    let mut digits = *b"0000000000-00";
    put_decimal(&mut digits[..10], sequence);
    put_decimal(&mut digits[11..], u64::from(sub));
    out.extend_from_slice(&digits);
}

/// Appends the end of an event id, which is the transaction's nonce in hexadecimal, a hyphen, and this: the sequence, and
/// the sub if there is one.
pub fn put_event_number(out: &mut Vec<u8>, sequence: u64, sub: u8) {
    crate::value::json::put_integer(out, sequence);
    if sub != 0 {
        out.push(b'.');
        crate::value::json::put_integer(out, sub);
    }
}

/// Appends the id of an event of the application's own: known when it is emitted, so made of its place in the capture.
pub fn put_emitted_id(out: &mut Vec<u8>, nonce: &[u8; 16], sequence: u64) {
    put_hex(out, nonce);
    out.extend_from_slice(b"-e");
    crate::value::json::put_integer(out, sequence);
}

fn put_digits(out: &mut Vec<u8>, value: u64, chars: u32) {
    for place in (0..chars).rev() {
        out.push(DIGITS[(value >> (4 * place) & 15) as usize]);
    }
}

/// Fills `digits` from the right.
fn put_decimal(digits: &mut [u8], value: u64) {
    let mut left = value;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn versions() -> impl Strategy<Value = Version> {
        (
            any::<u16>(),
            any::<u32>(),
            any::<u64>(),
            0u64..10_000_000_000,
            0u8..100,
        )
            .prop_map(
                |(generation, timeline, commit_lsn, sequence, sub)| Version {
                    generation,
                    timeline,
                    commit_lsn,
                    sequence,
                    sub,
                },
            )
    }

    proptest! {
        #[test]
        fn text_sorts_as_versions_do_and_reads_back(one in versions(), other in versions()) {
            prop_assert_eq!(one.to_string().cmp(&other.to_string()), one.cmp(&other));
            prop_assert_eq!(Version::parse(&one.to_string()), Some(one));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = Version::parse(&text);
        }
    }

    #[test]
    fn looks_as_documented() {
        let version = Version {
            generation: 1,
            timeline: 1,
            commit_lsn: 0x15A3098,
            sequence: 1,
            sub: 0,
        };
        assert_eq!(
            version.to_string(),
            "0001-00000001-00000000015a3098-0000000001-00"
        );
        let mut id = Vec::new();
        put_hex(&mut id, &[0x5b; 16]);
        id.push(b'-');
        put_event_number(&mut id, 12, 1);
        assert_eq!(
            String::from_utf8(id).unwrap(),
            format!("{}-12.1", "5b".repeat(16))
        );
    }
}

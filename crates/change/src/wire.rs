//! The primitives of the binary formats: little-endian integers, LEB128 variable-length integers, prefixed strings.

use std::fmt;

use crate::memory::may_fail;

/// Why bytes could not be decoded. The MAC is checked before decoding, so this means a defect or another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// The bytes end before the value does.
    Truncated,
    /// A length or code that the format does not allow; names the field.
    Invalid(&'static str),
    /// What it would become is longer than is allowed for it. Nothing is wrong with the bytes.
    TooLong,
    /// There is no memory for it.
    OutOfMemory,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated => f.write_str("ends too early"),
            WireError::Invalid(field) => write!(f, "invalid {field}"),
            WireError::TooLong => f.write_str("becomes too long"),
            WireError::OutOfMemory => f.write_str("needs more memory than there is"),
        }
    }
}

impl std::error::Error for WireError {}

/// Makes room for `items` more: where their number depends on data, too little memory must not end the process.
#[inline]
pub fn make_room<T>(out: &mut Vec<T>, items: usize) -> Result<(), WireError> {
    if out.capacity() - out.len() >= items {
        return Ok(());
    }
    may_fail(|| out.try_reserve(items)).map_err(|_| WireError::OutOfMemory)
}

/// Appends an unsigned LEB128 integer (1 to 10 bytes).
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer, zigzag-coded, so that small differences of both signs stay one byte.
#[inline]
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends length and bytes.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends an optional string: 0 for none, else length + 1 and the bytes.
pub fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => put_varint(out, 0),
        Some(text) => {
            put_varint(out, text.len() as u64 + 1);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// A reader over borrowed bytes; every read checks its bounds.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        if len > self.rest.len() {
            return Err(WireError::Truncated);
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Invalid("variable-length integer"))
    }

    #[inline]
    pub fn signed(&mut self) -> Result<i64, WireError> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.varint()?;
        self.take(usize::try_from(len).map_err(|_| WireError::Truncated)?)
    }

    pub fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Invalid("text"))
    }

    pub fn optional(&mut self) -> Result<Option<&'a str>, WireError> {
        match self.varint()? {
            0 => Ok(None),
            len => {
                let bytes =
                    self.take(usize::try_from(len - 1).map_err(|_| WireError::Truncated)?)?;
                std::str::from_utf8(bytes)
                    .map(Some)
                    .map_err(|_| WireError::Invalid("text"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_and_text_come_back(unsigned: u64, signed: i64, text: String, missing: bool) {
            let mut out = Vec::new();
            put_varint(&mut out, unsigned);
            put_signed(&mut out, signed);
            put_bytes(&mut out, text.as_bytes());
            put_optional(&mut out, (!missing).then_some(text.as_str()));
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.varint().unwrap(), unsigned);
            prop_assert_eq!(cursor.signed().unwrap(), signed);
            prop_assert_eq!(cursor.text().unwrap(), text.as_str());
            prop_assert_eq!(cursor.optional().unwrap(), (!missing).then_some(text.as_str()));
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.text().is_ok() && !cursor.is_empty() {}
            let mut cursor = Cursor::new(&bytes);
            while cursor.signed().is_ok() && !cursor.is_empty() {}
        }
    }
}

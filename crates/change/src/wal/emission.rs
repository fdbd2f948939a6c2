//! An event of the application's own.

use crate::wire::{Cursor, WireError, put_bytes, put_optional, put_varint};

/// An event of the application's own: a key, a payload and headers, as it gave them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission<'a> {
    pub key: Option<&'a str>,
    /// JSON; none for a record without value.
    pub payload: Option<&'a str>,
    /// Names and values.
    pub headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Emission<'a> {
    /// Bytes that [`Emission::put`] needs at most.
    pub fn capacity(&self) -> usize {
        let len = |text: Option<&str>| text.map_or(0, str::len) + 10;
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + 20)
            .sum();
        len(self.key) + len(self.payload) + headers + 10
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        put_optional(out, self.key);
        put_optional(out, self.payload);
        put_varint(out, self.headers.len() as u64);
        for (name, value) in &self.headers {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }

    /// Reads what [`Emission::put`] wrote.
    pub fn read(image: &'a [u8]) -> Result<Emission<'a>, WireError> {
        let mut cursor = Cursor::new(image);
        let (key, payload) = (cursor.optional()?, cursor.optional()?);
        let mut headers = Vec::new();
        for _ in 0..cursor.varint()? {
            headers.push((cursor.text()?, cursor.text()?));
        }
        Ok(Emission {
            key,
            payload,
            headers,
        })
    }
}

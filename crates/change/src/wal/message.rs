//! The sealed WAL message around captured rows: who wrote it, where it belongs, and a keyed MAC.
//!
//! ```text
//! offset  0  format (1) | flags (1) | zero (2)
//!         4  MAC (16)              BLAKE3, keyed, over everything else
//!        20  top-level xid8 (8) | xid of the record (4) | chunk number in the transaction, from 0 (4)
//!        36  transaction nonce (16)
//!        52  database oid (4) | length of the body before compression (4)
//!        60  manifest (32), if flagged: chunks (4), order flags (4), rows (8), key changes (8), LSN of the first chunk (8)
//!            body, LZ4 block format if flagged (see `body`)
//! ```
//! The MAC covers xid, nonce and number, so a genuine chunk copied into another transaction, or sent again in the same
//! one, is recognised (promise G9).

use std::fmt;

use crate::mac_key::MacKey;
use crate::wire::{Cursor, WireError, make_room};

/// Prefix of our logical messages in the WAL.
pub const MESSAGE_PREFIX: &str = "pg_cdc";

const FORMAT: u8 = 1;
const FLAG_LZ4: u8 = 1;
const FLAG_MANIFEST: u8 = 2;
const MAC_RANGE: std::ops::Range<usize> = 4..20;
const HEADER_BYTES: usize = 60;
const MANIFEST_BYTES: usize = 32;
/// Below this a body is not worth compressing.
const COMPRESS_FROM_BYTES: usize = 1500;
/// The largest body that is accepted: a chunk is one WAL record, and PostgreSQL bounds those to about 1 GB.
const MAX_BODY_BYTES: usize = 1 << 30;

/// Where a chunk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Full id of the top-level transaction.
    pub xid8: u64,
    /// The xid that the WAL record must carry: the subtransaction that wrote the chunk.
    pub record_xid: u32,
    pub number: u32,
    /// Random, once per transaction: with the sequence it is the event id.
    pub nonce: [u8; 16],
    pub database_oid: u32,
}

/// What the last chunk of a transaction says about the whole: the sender compares before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Surviving chunks, this one included.
    pub chunks: u32,
    /// The rows are not in the true order as captured; the sender must sort them.
    pub unordered: bool,
    /// Surviving rows.
    pub rows: u64,
    /// Surviving updates that changed the key: each becomes two events.
    pub key_changes: u64,
    /// LSN of the transaction's first chunk, 0 if it is this one.
    pub first_lsn: u64,
}

/// Why bytes are not a chunk of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// Not made by this server's capture: forged, damaged, or sealed with another key.
    Forged,
    /// Sealed by us, in a format that this version does not know.
    UnknownFormat(u8),
    /// Sealed by us and still undecodable.
    Wire(WireError),
    /// Sealed by us, but the body does not decompress to its stated length.
    Compression,
    /// There is no memory for the body.
    OutOfMemory,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Forged => f.write_str("message was not written by this server's capture"),
            MessageError::UnknownFormat(format) => {
                write!(
                    f,
                    "message has format {format}, this library knows {FORMAT}"
                )
            }
            MessageError::Wire(error) => write!(f, "message {error}"),
            MessageError::Compression => f.write_str("message does not decompress"),
            MessageError::OutOfMemory => f.write_str("message needs more memory than there is"),
        }
    }
}

impl std::error::Error for MessageError {}

impl From<WireError> for MessageError {
    fn from(error: WireError) -> Self {
        MessageError::Wire(error)
    }
}

/// Bytes that `seal` may need for a body of `body_bytes`: reserve them first, then sealing does not allocate.
pub fn sealed_capacity(body_bytes: usize) -> usize {
    HEADER_BYTES
        + MANIFEST_BYTES
        + lz4_flex::block::get_maximum_output_size(body_bytes).max(body_bytes)
}

/// The compressor's table: made once, so that sealing a chunk does not allocate.
pub struct Compressor(lz4_flex::block::CompressTable);

impl Default for Compressor {
    fn default() -> Self {
        Compressor(lz4_flex::block::CompressTable::large())
    }
}

/// Writes the sealed chunk into `out` (cleared first); without a compressor the body stays as it is.
pub fn seal(
    out: &mut Vec<u8>,
    key: &MacKey,
    header: &Header,
    manifest: Option<&Manifest>,
    body: &[u8],
    compressor: Option<&mut Compressor>,
) {
    out.clear();
    out.extend_from_slice(&[
        FORMAT,
        if manifest.is_some() { FLAG_MANIFEST } else { 0 },
        0,
        0,
    ]);
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&header.xid8.to_le_bytes());
    out.extend_from_slice(&header.record_xid.to_le_bytes());
    out.extend_from_slice(&header.number.to_le_bytes());
    out.extend_from_slice(&header.nonce);
    out.extend_from_slice(&header.database_oid.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    if let Some(manifest) = manifest {
        out.extend_from_slice(&manifest.chunks.to_le_bytes());
        out.extend_from_slice(&u32::from(manifest.unordered).to_le_bytes());
        out.extend_from_slice(&manifest.rows.to_le_bytes());
        out.extend_from_slice(&manifest.key_changes.to_le_bytes());
        out.extend_from_slice(&manifest.first_lsn.to_le_bytes());
    }
    let start = out.len();
    let mut compressed = None;
    if let Some(Compressor(table)) = compressor.filter(|_| body.len() >= COMPRESS_FROM_BYTES) {
        out.resize(
            start + lz4_flex::block::get_maximum_output_size(body.len()),
            0,
        );
        compressed = lz4_flex::block::compress_into_with_table(body, &mut out[start..], table)
            .ok()
            .filter(|len| *len < body.len());
    }
    match compressed {
        Some(len) => {
            out.truncate(start + len);
            out[1] |= FLAG_LZ4;
        }
        None => {
            out.truncate(start);
            out.extend_from_slice(body);
        }
    }
    let mac = key.mac(&[&out[..MAC_RANGE.start], &out[MAC_RANGE.end..]]);
    out[MAC_RANGE].copy_from_slice(&mac);
}

/// A chunk whose MAC is right. The body is not decompressed yet.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub header: Header,
    pub manifest: Option<Manifest>,
    body: &'a [u8],
    body_bytes: usize,
    lz4: bool,
}

/// Checks the MAC before anything else is looked at, then reads the header.
pub fn open<'a>(bytes: &'a [u8], key: &MacKey) -> Result<Message<'a>, MessageError> {
    if bytes.len() < HEADER_BYTES
        || key.mac(&[&bytes[..MAC_RANGE.start], &bytes[MAC_RANGE.end..]]) != bytes[MAC_RANGE]
    {
        return Err(MessageError::Forged);
    }
    read(bytes)
}

/// Reads a chunk whose MAC was checked before.
pub fn read(bytes: &[u8]) -> Result<Message<'_>, MessageError> {
    let mut cursor = Cursor::new(bytes);
    let [format, flags, _, _] = cursor.array()?;
    if format != FORMAT {
        return Err(MessageError::UnknownFormat(format));
    }
    cursor.take(16)?;
    let header = Header {
        xid8: cursor.u64()?,
        record_xid: cursor.u32()?,
        number: cursor.u32()?,
        nonce: cursor.array()?,
        database_oid: cursor.u32()?,
    };
    let body_bytes = cursor.u32()? as usize;
    let manifest = if flags & FLAG_MANIFEST != 0 {
        Some(Manifest {
            chunks: cursor.u32()?,
            unordered: cursor.u32()? & 1 != 0,
            rows: cursor.u64()?,
            key_changes: cursor.u64()?,
            first_lsn: cursor.u64()?,
        })
    } else {
        None
    };
    Ok(Message {
        header,
        manifest,
        body: cursor.rest(),
        body_bytes,
        lz4: flags & FLAG_LZ4 != 0,
    })
}

impl Message<'_> {
    /// Bytes of the body after decompression.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Puts the decompressed body into `out`.
    pub fn body_into(&self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        out.clear();
        if !self.lz4 {
            make_room(out, self.body.len()).map_err(|_| MessageError::OutOfMemory)?;
            out.extend_from_slice(self.body);
            return Ok(());
        }
        if self.body_bytes > MAX_BODY_BYTES {
            return Err(MessageError::Compression);
        }
        make_room(out, self.body_bytes).map_err(|_| MessageError::OutOfMemory)?;
        out.resize(self.body_bytes, 0);
        match lz4_flex::block::decompress_into(self.body, out) {
            Ok(len) if len == self.body_bytes => Ok(()),
            _ => Err(MessageError::Compression),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            xid8: 7 << 32 | 9,
            record_xid: 10,
            number: 3,
            nonce: [5; 16],
            database_oid: 16401,
        }
    }

    proptest! {
        #[test]
        fn opens_to_what_was_sealed(body: Vec<u8>, repeat in 0usize..50, compress: bool, with_manifest: bool) {
            let body = body.repeat(repeat);
            let key = MacKey::derive("test", b"secret");
            let manifest = Manifest { chunks: 4, unordered: true, rows: 77, key_changes: 2, first_lsn: 42 };
            let mut sealed = Vec::new();
            seal(&mut sealed, &key, &header(), with_manifest.then_some(&manifest), &body, compress.then_some(&mut Compressor::default()));
            prop_assert!(sealed.len() <= sealed_capacity(body.len()));
            let chunk = open(&sealed, &key).unwrap();
            prop_assert_eq!(chunk.header, header());
            prop_assert_eq!(chunk.manifest, with_manifest.then_some(manifest));
            let mut opened = Vec::new();
            chunk.body_into(&mut opened).unwrap();
            prop_assert_eq!(opened, body);
        }

        #[test]
        fn any_changed_bit_is_a_forgery(position: prop::sample::Index, bit in 0u8..8) {
            let key = MacKey::derive("test", b"secret");
            let mut sealed = Vec::new();
            seal(&mut sealed, &key, &header(), None, b"some rows", None);
            let position = position.index(sealed.len());
            sealed[position] ^= 1 << bit;
            prop_assert_eq!(open(&sealed, &key).unwrap_err(), MessageError::Forged);
        }
    }

    #[test]
    fn another_key_is_a_forgery() {
        let mut sealed = Vec::new();
        seal(
            &mut sealed,
            &MacKey::derive("test", b"one"),
            &header(),
            None,
            b"rows",
            None,
        );
        assert_eq!(
            open(&sealed, &MacKey::derive("test", b"two")).unwrap_err(),
            MessageError::Forged
        );
    }
}

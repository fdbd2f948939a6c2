//! Masks: what is shipped instead of a column's value is made here, before the WAL, so that no secret leaves the server.

use change::hex::DIGITS;
use hmac::{Hmac, KeyInit, Mac};
use pgrx::prelude::*;
use sha2::Sha256;

use crate::report::Report;
use crate::secret_file::{self, Refused};
use crate::settings;

/// Stands before the digest, so that a hashed value is not taken for another one.
const PREFIX: &[u8; 5] = b"hmac:";
const MIN_KEY_BYTES: usize = 32;
/// Bytes of a hashed value: the prefix and 64 hex digits.
const HASHED_BYTES: usize = PREFIX.len() + 64;

/// HMAC-SHA256 with the key of `cdc.mask_key_file`.
pub struct Hasher(Hmac<Sha256>);

impl Hasher {
    /// Reads the key; CDC0113 where that is not possible: a value is never shipped unmasked instead.
    pub fn new() -> Hasher {
        let path = settings::text(&settings::MASK_KEY_FILE);
        if path.is_empty() {
            no_key("cdc.mask_key_file is not set.").raise();
        }
        let key = match secret_file::read(&path) {
            Ok(key) if key.len() >= MIN_KEY_BYTES => key,
            Ok(_) => no_key(&format!(
                "File \"{path}\" has less than {MIN_KEY_BYTES} bytes."
            ))
            .raise(),
            Err(Refused::Unreadable(error)) => {
                no_key(&format!("File \"{path}\" cannot be read: {error}.")).raise()
            }
            Err(Refused::Exposed) => no_key(&format!(
                "File \"{path}\" has group or world access, or another owner."
            ))
            .raise(),
        };
        match Hmac::new_from_slice(&key) {
            Ok(hmac) => Hasher(hmac),
            Err(_) => no_key("The key has a length that HMAC does not take.").raise(),
        }
    }

    /// `hmac:` and the digest of a value's text, as 64 hex digits.
    pub fn hash(&self, text: &[u8]) -> [u8; HASHED_BYTES] {
        let mut hmac = self.0.clone();
        hmac.update(text);
        let mut out = [0; HASHED_BYTES];
        out[..PREFIX.len()].copy_from_slice(PREFIX);
        for (pair, byte) in out[PREFIX.len()..]
            .chunks_exact_mut(2)
            .zip(hmac.finalize().into_bytes())
        {
            pair.copy_from_slice(&[
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]);
        }
        out
    }
}

/// The first `characters` of a text in UTF-8; of other bytes, as many bytes.
pub fn truncate(text: &[u8], characters: u32) -> &[u8] {
    let characters = characters as usize;
    match std::str::from_utf8(text) {
        Ok(valid) => match valid.char_indices().nth(characters) {
            Some((end, _)) => &text[..end],
            None => text,
        },
        Err(_) => &text[..characters.min(text.len())],
    }
}

/// CDC0113.
fn no_key(detail: &str) -> Report {
    Report::new(
        "CDC0113",
        PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR,
        "mask key file missing",
        "Put at least 32 random bytes into a file of mode 0600 that the server's user owns, name it in cdc.mask_key_file, and SELECT pg_reload_conf().",
    )
    .detail(detail)
}

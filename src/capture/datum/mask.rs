//! Masks: what is shipped instead of a column's value is made here, before the WAL, so that no secret leaves the server.

use change::code::Code;
use change::hex::DIGITS;
use change::trouble::Trouble;
use hmac::{Hmac, KeyInit, Mac};
use pgrx::pg_sys;
use sha2::Sha256;
use shipper::files::secret::{self, Refused};

use crate::catalog::database_name;
use crate::report::Raise;
use crate::settings;

/// Stands before the digest, so that a hashed value is not taken for another one.
const PREFIX: &[u8; 5] = b"hmac:";
const MIN_KEY_BYTES: usize = 32;
/// Bytes of a hashed value: the prefix and 64 hex digits.
const HASHED_BYTES: usize = PREFIX.len() + 64;

/// What the database's name is put behind to make its key of the server's.
const KEY_OF_DATABASE: &[u8] = b"pg_cdc mask ";

/// HMAC-SHA256 with a key of this database's own, made of that in `cdc.mask_key_file`: who may write a hashed column in one
/// database and read its topic cannot try out what stands in another's.
pub(crate) struct Hasher(Hmac<Sha256>);

impl Hasher {
    /// Reads the key; CDC0113 where that is not possible: a value is never shipped unmasked instead.
    pub(crate) fn new() -> Hasher {
        let path = settings::text(&settings::MASK_KEY_FILE);
        if path.is_empty() {
            no_key("cdc.mask_key_file is not set.").raise();
        }
        let key = match secret::read(&path) {
            Ok(key) if key.len() >= MIN_KEY_BYTES => key,
            Ok(_) => unfit(&path, &format!("has less than {MIN_KEY_BYTES} bytes")),
            Err(Refused::Unreadable(error)) => unfit(&path, &format!("cannot be read: {error}")),
            Err(Refused::Exposed) => unfit(&path, "has group or world access, or another owner"),
        };
        let of_database = keyed(&key).map(|mut hmac| {
            hmac.update(KEY_OF_DATABASE);
            hmac.update(database_name().as_bytes());
            hmac.finalize().into_bytes()
        });
        match of_database.and_then(|key| keyed(&key)) {
            Some(hmac) => Hasher(hmac),
            None => no_key("The key has a length that HMAC does not take.").raise(),
        }
    }

    /// `hmac:` and the digest of a value's text, as 64 hex digits.
    pub(crate) fn hash(&self, text: &[u8]) -> [u8; HASHED_BYTES] {
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

fn keyed(key: &[u8]) -> Option<Hmac<Sha256>> {
    Hmac::new_from_slice(key).ok()
}

/// The first `characters` of a text in UTF-8; of other bytes, as many bytes.
pub(crate) fn truncate(text: &[u8], characters: u32) -> &[u8] {
    let characters = characters as usize;
    match std::str::from_utf8(text) {
        Ok(valid) => match valid.char_indices().nth(characters) {
            Some((end, _)) => &text[..end],
            None => text,
        },
        Err(_) => &text[..characters.min(text.len())],
    }
}

/// CDC0113. Where the file is, only those are told who may see the setting; the log has it in any case.
fn unfit(path: &str, fault: &str) -> ! {
    let whole = no_key(&format!("File \"{path}\" {fault}."));
    if may_see_settings() {
        whole.raise();
    }
    whole.log();
    no_key("The file that it names is not fit: the server's log says why.").raise()
}

fn may_see_settings() -> bool {
    // SAFETY: catalog look-ups inside the running transaction.
    unsafe {
        let role = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_SETTINGS);
        pg_sys::has_privs_of_role(pg_sys::GetUserId(), role)
    }
}

/// CDC0113.
fn no_key(detail: &str) -> Trouble {
    Trouble::new(
        Code::NoMaskKey,
        "mask key file missing",
        "Put at least 32 random bytes into a file of mode 0600 that the server's user owns, name it in cdc.mask_key_file, and SELECT pg_reload_conf().",
    )
    .detail(detail)
}

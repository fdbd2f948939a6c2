//! The key that seals messages in the WAL and positions.

/// The key of the MAC: derived from the server's own secret, never stored.
#[derive(Clone)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// Derives the key for one `purpose` from `secret` (pg_control's mock authentication nonce, equal on every standby).
    pub fn derive(purpose: &str, secret: &[u8]) -> MacKey {
        MacKey(blake3::derive_key(purpose, secret))
    }

    /// The first 16 bytes of keyed BLAKE3 over the parts, one after the other.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        let mut mac = [0; 16];
        mac.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        mac
    }
}

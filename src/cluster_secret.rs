//! The cluster's own secret, and what is derived from it.

use change::mac_key::MacKey;
use pgrx::pg_sys;

/// The key of the chunks' MAC, derived from the cluster's own secret in pg_control: equal on every standby, kept by
/// backup and rewind, not readable by SQL.
pub(crate) fn message_key() -> MacKey {
    MacKey::derive("pg_cdc 1 chunk", &cluster_secret())
}

/// The 32 random bytes that initdb put into pg_control (`MOCK_AUTH_NONCE_LEN`).
pub(crate) fn cluster_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    // SAFETY: pg_control is mapped in every process of the server; the nonce has 32 bytes.
    unsafe {
        let nonce = pg_sys::GetMockAuthenticationNonce();
        secret.copy_from_slice(std::slice::from_raw_parts(nonce.cast(), 32));
    }
    secret
}

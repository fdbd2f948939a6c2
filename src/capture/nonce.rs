//! Nonces of transactions: 16 random bytes each, got from the system many at a time, for a call costs more than its bytes.

use pgrx::pg_sys;

const NONCE_BYTES: usize = 16;
const NONCES_PER_CALL: usize = 64;

/// Random bytes that were not used yet. They belong to one backend: the postmaster, whose memory backends inherit,
/// captures nothing.
#[derive(Default)]
pub(crate) struct Nonces {
    bytes: Vec<u8>,
}

impl Nonces {
    /// A nonce that no transaction had before.
    pub(crate) fn take(&mut self) -> [u8; NONCE_BYTES] {
        if self.bytes.len() < NONCE_BYTES {
            self.refill();
        }
        let mut nonce = [0; NONCE_BYTES];
        let rest = self.bytes.len() - NONCE_BYTES;
        nonce.copy_from_slice(&self.bytes[rest..]);
        self.bytes.truncate(rest);
        nonce
    }

    #[cold]
    fn refill(&mut self) {
        self.bytes.resize(NONCE_BYTES * NONCES_PER_CALL, 0);
        // SAFETY: fills the bytes; a failure of the system's random numbers is an ERROR below.
        let filled =
            unsafe { pg_sys::pg_strong_random(self.bytes.as_mut_ptr().cast(), self.bytes.len()) };
        if !filled {
            self.bytes.clear();
            pgrx::error!("could not get random bytes for the transaction's nonce");
        }
    }
}

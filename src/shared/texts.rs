//! The texts of `cdc_status()` in shared memory.

use change::trouble::Trouble;

/// A text in shared memory: cut off at its room, never overwritten beyond it.
#[repr(C)]
pub(super) struct Text<const BYTES: usize> {
    len: usize,
    bytes: [u8; BYTES],
}

impl<const BYTES: usize> Text<BYTES> {
    pub(super) fn set(&mut self, text: &str) {
        let mut len = text.len().min(BYTES);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        self.len = len;
    }

    pub(super) fn get(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.len.min(BYTES)]).into_owned()
    }
}

/// The texts of `cdc_status()`.
#[repr(C)]
pub(super) struct Texts {
    pub source_id: Text<40>,
    pub waiting_for: Text<512>,
    pub oldest_gid: Text<200>,
    /// The number of the error's code, 0 for none.
    pub error_code: u16,
    pub error: Text<1024>,
    pub remedy: Text<1024>,
}

/// A copy of the texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Described {
    pub source_id: String,
    pub waiting_for: String,
    /// Of the oldest open transaction, where it is prepared.
    pub oldest_gid: String,
    /// What the sender waits for or halted for, if anything.
    pub trouble: Option<Trouble>,
}

//! How much WAL the sender may hold, and what it says before that is reached (`cdc.max_wal_behind`).

use std::sync::atomic::Ordering;

use change::code::Code;
use change::position::lsn_text;
use change::trouble::Trouble;
use pgrx::pg_sys;

use super::reader::{end_of_wal, flushed};
use super::slot::Slot;
use crate::ffi;
use crate::report::Raise;
use crate::settings;
use crate::shared::Shared;

/// Parts of the limit, in percent: above the one it is said, below the other it may be said again.
const WARN_PERCENT: u64 = 75;
const CALM_PERCENT: u64 = 60;

/// Watches the WAL that the slot holds. Part of the sender, on its main thread.
pub(crate) struct WalBound {
    /// Half of what was free on the disk of the WAL when the sender began.
    half_of_free_bytes: u64,
    warned: bool,
}

impl WalBound {
    pub(crate) fn new() -> WalBound {
        WalBound {
            half_of_free_bytes: free_bytes() / 2,
            warned: false,
        }
    }

    /// `cdc.max_wal_behind` in bytes, 0 for no bound.
    fn bytes(&self) -> u64 {
        match u64::try_from(settings::MAX_WAL_BEHIND.get()) {
            Ok(mb) => mb * 1024 * 1024,
            Err(_) => self.half_of_free_bytes,
        }
    }

    /// Lets go of the WAL where more is held than may be, and warns before that.
    pub(crate) fn tend(&mut self, shared: &Shared, slot: &mut Slot) {
        let own = self.bytes();
        shared.max_wal_behind.store(own, Ordering::Relaxed);
        let (_, flush_lsn) = flushed();
        let held = flush_lsn.saturating_sub(slot.restart_lsn());
        let Some(limit) = limit_bytes(own) else {
            return;
        };
        if own != 0 && held > own {
            let (from, to) = (slot.restart_lsn(), end_of_wal());
            slot.let_go(shared, to);
            Trouble::new(
                Code::WalNearLimit,
                format!(
                    "WAL from {} is no longer held: it is more than cdc.max_wal_behind",
                    lsn_text(from)
                ),
                format!(
                    "Bring Kafka back before the next checkpoint removes it, or see {}.",
                    Code::WalGone
                ),
            )
            .detail(format!("{held} bytes were held, {own} are allowed."))
            .log();
            // The bound is one of disk space: a checkpoint gives it back.
            ffi::request_checkpoint();
        } else if held * 100 > limit * WARN_PERCENT && !self.warned {
            self.warned = true;
            Trouble::new(
                Code::WalNearLimit,
                format!("WAL held is at {} % of the limit", held * 100 / limit.max(1)),
                "See cdc_status(): what it waits for holds the WAL. Beyond the limit changes are lost to Kafka.",
            )
            .detail(format!("{held} of {limit} bytes are held."))
            .log();
        } else if held * 100 < limit * CALM_PERCENT {
            self.warned = false;
        }
    }
}

/// The limit that comes first, of the server's and `own`; none where neither is set.
pub(crate) fn limit_bytes(own: u64) -> Option<u64> {
    // SAFETY: a plain read of a setting (megabytes, -1 for no limit).
    let server_mb = unsafe { pg_sys::max_slot_wal_keep_size_mb };
    let server = u64::try_from(server_mb).ok().map(|mb| mb * 1024 * 1024);
    let own = (own != 0).then_some(own);
    match (server, own) {
        (Some(server), Some(own)) => Some(server.min(own)),
        (one, other) => one.or(other),
    }
}

/// Free bytes where the WAL is; 0 if that cannot be said.
fn free_bytes() -> u64 {
    // SAFETY: a plain call with a path and a buffer of our own.
    let (answer, space) = unsafe {
        let mut space: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(c"pg_wal".as_ptr(), &mut space), space)
    };
    if answer != 0 {
        let error = std::io::Error::last_os_error();
        pgrx::log!(
            "pg_cdc: cdc.max_wal_behind = -1 is no bound: the free space is not known: {error}"
        );
        return 0;
    }
    space.f_bavail * space.f_frsize
}

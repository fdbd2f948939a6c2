//! How far synchronous standbys have the WAL: with `cdc.wait_for_standby` nothing is sent before (promise G3).
//!
//! The WAL senders publish what enough standbys have flushed in `WalSndCtl->lsn` (syncrep.c, SyncRepReleaseWaiters). With
//! `ANY n (...)` a promoted standby may lack what another one confirmed: who promotes must pick the furthest.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use crate::settings::{self, WaitForStandby};

/// How far the WAL may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// Nobody need confirm anything.
    NotNeeded,
    /// Enough standbys have flushed it up to here.
    UpTo(u64),
    /// `cdc.wait_for_standby` is on, and no standby is named.
    NoneNamed,
}

/// Looks at the settings, which may change at any reload, and at what the WAL senders say.
pub(crate) fn confirmed() -> Confirmed {
    let wanted = settings::WAIT_FOR_STANDBY.get();
    if wanted == WaitForStandby::Off {
        return Confirmed::NotNeeded;
    }
    // SAFETY: a setting's text, null or zero-ended; on the main thread, which alone changes it.
    let are_named = unsafe {
        let names = pg_sys::SyncRepStandbyNames;
        !names.is_null() && *names != 0
    };
    match (are_named, wanted) {
        // SAFETY: shared memory of the server's whole life; the value is one aligned word.
        (true, _) => Confirmed::UpTo(unsafe {
            let flushed = &raw mut (*pg_sys::WalSndCtl).lsn[pg_sys::SYNC_REP_WAIT_FLUSH as usize];
            AtomicU64::from_ptr(flushed.cast()).load(Ordering::Acquire)
        }),
        (false, WaitForStandby::On) => Confirmed::NoneNamed,
        (false, _) => Confirmed::NotNeeded,
    }
}

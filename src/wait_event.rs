//! What our processes wait for, as `pg_stat_activity.wait_event` shows it: names of our own from PostgreSQL 17 on, `Extension`
//! before (`WaitEventExtensionNew`, utils/activity/wait_event.c).

use pgrx::pg_sys;

/// A reason to sleep.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WaitEvent {
    /// The sender: for WAL with captured rows, and for what Kafka answers.
    SenderMain,
    /// A worker that may not or need not go on yet: for a setting, an order, or a time.
    Pause,
    /// Until Kafka has what is asked for.
    Sent,
}

impl WaitEvent {
    /// As PostgreSQL wants it in its calls. On the main thread of a process with shared memory only.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    pub(crate) fn info(self) -> u32 {
        pg_sys::PG_WAIT_EXTENSION
    }

    /// As PostgreSQL wants it in its calls. On the main thread of a process with shared memory only.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    pub fn info(self) -> u32 {
        use std::cell::Cell;

        thread_local! {
            static KNOWN: Cell<[u32; 3]> = const { Cell::new([0; 3]) };
        }
        let mut known = KNOWN.get();
        if known[self as usize] == 0 {
            let name = match self {
                WaitEvent::SenderMain => c"PgCdcSenderMain",
                WaitEvent::Pause => c"PgCdcPause",
                WaitEvent::Sent => c"PgCdcSent",
            };
            // SAFETY: on the main thread, as the caller promises; the name is constant, and one that is known already gets the
            // same number again.
            known[self as usize] = unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) };
            KNOWN.set(known);
        }
        known[self as usize]
    }
}

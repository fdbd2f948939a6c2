//! How the main thread sleeps: until its latch is set, the board calls, the time is over, or the postmaster is gone.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use shipper::board::Board;

use crate::wait_event::WaitEvent;

/// The latch and the board's descriptor in one set of the kernel's, made once: a set per sleep costs more than the
/// sleep (`WaitEventSet`, storage/ipc/latch.c).
pub(crate) struct WakeSet {
    set: *mut pg_sys::WaitEventSet,
    board: Arc<Board>,
}

impl WakeSet {
    pub(crate) fn new(board: Arc<Board>) -> WakeSet {
        const EVENTS: i32 = 3;
        // SAFETY: on the main thread; latch and descriptor outlive the set, which lives as long as this value.
        let set = unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, EVENTS);
            #[cfg(not(any(feature = "pg15", feature = "pg16")))]
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), EVENTS);
            let add = |event: u32, fd: i32, latch: *mut pg_sys::Latch| {
                pg_sys::AddWaitEventToSet(set, event, fd, latch, std::ptr::null_mut());
            };
            add(
                pg_sys::WL_LATCH_SET,
                pg_sys::PGINVALID_SOCKET,
                pg_sys::MyLatch,
            );
            add(
                pg_sys::WL_EXIT_ON_PM_DEATH,
                pg_sys::PGINVALID_SOCKET,
                std::ptr::null_mut(),
            );
            add(
                pg_sys::WL_SOCKET_READABLE,
                board.main_wake().raw().as_raw_fd(),
                std::ptr::null_mut(),
            );
            set
        };
        WakeSet { set, board }
    }

    /// Sleeps until something happens, at most `timeout`; interruptible.
    pub(crate) fn sleep(&self, timeout: Duration) {
        // SAFETY: the set is live; one event is enough, for everything is looked at afterwards.
        unsafe {
            let mut event: pg_sys::WaitEvent = std::mem::zeroed();
            let happened = pg_sys::WaitEventSetWait(
                self.set,
                timeout.as_millis() as i64,
                &mut event,
                1,
                WaitEvent::SenderMain.info(),
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
            if happened > 0 && event.events & pg_sys::WL_SOCKET_READABLE != 0 {
                self.board.main_wake().drain();
            }
        }
        interrupts();
    }
}

impl Drop for WakeSet {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once.
        unsafe { pg_sys::FreeWaitEventSet(self.set) };
    }
}

/// Sleeps until the latch is set, where there is no board; interruptible.
pub(crate) fn sleep(timeout: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: this process's own latch.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            timeout.as_millis() as i64,
            WaitEvent::Pause.info(),
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    interrupts();
}

/// Sleeps for the whole time, however often the latch is set; interruptible.
pub(crate) fn pause(time: Duration) {
    let start = Instant::now();
    while let Some(left) = time
        .checked_sub(start.elapsed())
        .filter(|left| !left.is_zero())
    {
        sleep(left.max(Duration::from_millis(1)));
    }
}

/// Ends the process if it was asked to (FATAL, through the exit callbacks).
pub(crate) fn interrupts() {
    pgrx::check_for_interrupts!();
}

/// Reads the configuration again after SIGHUP.
pub(crate) fn reload_if_asked() -> bool {
    // SAFETY: a flag of the signal handler, on the main thread.
    unsafe {
        if pg_sys::ConfigReloadPending == 0 {
            return false;
        }
        pg_sys::ConfigReloadPending = 0;
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}

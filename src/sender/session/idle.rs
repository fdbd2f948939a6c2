//! What a session does when everything is read.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgrx::pg_sys;
use shipper::files::local_position::LocalPosition;
use shipper::progress::Progress;

use crate::sender::main_thread::{IDLE_TICK, TICK};
use crate::sender::session::Session;
use crate::sender::session::reading::Reading;
use crate::sender::wal::reader::flushed;

/// The restart point is recorded when this much WAL without our changes has gone by.
pub(super) const RECORD_EVERY_BYTES: u64 = 16 * 1024 * 1024;
/// A commit that finds this much more WAL wakes the sender, though nothing of it is captured.
const LOOK_EVERY_BYTES: u64 = RECORD_EVERY_BYTES / 2;
/// Events after which an idle sender gives memory back to the system.
const TRIM_EVERY_EVENTS: u64 = 20_000;
/// How often it is looked whether a standby has confirmed more: soon at first, then more rarely.
const STANDBY_LOOK_MIN: Duration = Duration::from_millis(2);
const STANDBY_LOOK_MAX: Duration = Duration::from_millis(100);

impl Session<'_> {
    /// All that was flushed up to `read_to_lsn` is read: flush what was announced, record how far reading is, and sleep.
    pub(super) fn idle(&mut self, reading: &Reading, read_to_lsn: u64) {
        let shared = self.sender.shared;
        self.record_progress(reading);
        self.give_memory_back();
        if self.board.is_gathering() {
            // Nobody takes more work now: commits need not wake this thread, the Kafka thread will.
            self.wake_set.sleep(TICK);
            return;
        }
        if let Some((since, _)) = self.withheld {
            // Nothing tells of a standby's confirmation.
            self.wake_set
                .sleep((since.elapsed() / 10).clamp(STANDBY_LOOK_MIN, STANDBY_LOOK_MAX));
            return;
        }
        shared.listen(true);
        // From here on every commit wakes this thread; what came before is seen now.
        let wanted_lsn = shared.wake_lsn.load(Ordering::SeqCst);
        let (_, flush_lsn) = flushed();
        if wanted_lsn > flush_lsn {
            // An asynchronous commit: the WAL writer would take its time.
            // SAFETY: the WAL up to there was inserted by whoever announced it.
            unsafe { pg_sys::XLogFlush(wanted_lsn) };
        } else if flush_lsn == read_to_lsn {
            // Flushed meanwhile by others: the next commit announces itself, and the tick is the net below.
            let is_quiet =
                flush_lsn == self.quiet_lsn && reading.assembly.prepared_transactions() == 0;
            self.quiet_lsn = flush_lsn;
            let look_lsn = flush_lsn + LOOK_EVERY_BYTES;
            shared.look_lsn.store(look_lsn, Ordering::Relaxed);
            self.wake_set.sleep(if is_quiet { IDLE_TICK } else { TICK });
        }
        shared.listen(false);
    }

    /// After a load, the allocator keeps what the queues needed: an idle sender is small again.
    fn give_memory_back(&mut self) {
        let events = self
            .board
            .with_facts(|facts| match facts.unacknowledged_events {
                0 => facts.events,
                _ => self.trimmed_events,
            });
        if events - self.trimmed_events >= TRIM_EVERY_EVENTS {
            self.trimmed_events = events;
            // SAFETY: a plain call of the C library, which other threads may use at the same time.
            #[cfg(target_env = "gnu")]
            unsafe {
                libc::malloc_trim(0);
            }
        }
    }

    /// Records the restart point where much WAL without our changes has gone by, so that the slot can follow.
    fn record_progress(&mut self, reading: &Reading) {
        let restart_lsn = reading.restart_lsn();
        if restart_lsn < self.recorded_restart_lsn + RECORD_EVERY_BYTES {
            return;
        }
        let (all_acknowledged, acknowledged_lsn, waits, durable) = self.board.with_facts(|facts| {
            (
                facts.acknowledged == self.sent,
                facts.acknowledged_lsn.0,
                facts.trouble.is_some(),
                facts.durable.clone(),
            )
        });
        if !all_acknowledged {
            return;
        }
        self.recorded_restart_lsn = restart_lsn;
        self.progresses.offer(Progress {
            timeline: reading.timeline,
            restart_lsn,
            done: None,
            forget: Vec::new(),
        });
        // Kafka cannot take it down now. That there is nothing to send up to here is as well known on this server; unless the
        // position in Kafka is older than what is there: only a newer one says where the topics end.
        if let Some(durable) = durable
            && waits
            && acknowledged_lsn <= durable.commit_lsn
        {
            self.remember(LocalPosition {
                restart_lsn,
                ..durable.to_local()
            });
        }
    }
}

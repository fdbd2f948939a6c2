//! Reads the WAL and hands what was committed on, until something ends the session.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use change::position::lsn_text;
use change::wal::assembly::Outcome;
use shipper::files::orders::Hold;
use shipper::progress::Progress;
use shipper::trouble::{self, incomplete};

use crate::sender::main_thread::End;
use crate::sender::session::reading::Reading;
use crate::sender::session::{Interrupted, Session};
use crate::sender::wal::reader::{WalError, WalReader, flushed};
use crate::sender::wal::standby::{self, Confirmed};
use crate::shared::State;

/// Records taken in before the latch and the board are looked at again; others are passed over in between.
const RECORDS_PER_ROUND: usize = 1_000;
/// How long a session that is to end waits for what is on its way: what is not acknowledged by then is sent again.
pub(super) const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

impl Session<'_> {
    /// Until something ends it.
    pub(super) fn stream(&mut self, reading: &mut Reading) -> End {
        self.sender.obey();
        loop {
            let (_, flush_lsn) = flushed();
            self.limit(&mut reading.reader, flush_lsn);
            let stopping =
                self.orders_changed || self.sender.orders.wants_stop(reading.reader.position());
            let mut idle = stopping;
            if !stopping {
                match self.read_some(reading) {
                    Ok(is_at_end) => idle = is_at_end,
                    Err(interrupted) => return interrupted.end(),
                }
            }
            self.sender.rejections.tend();
            // What was read is done before anybody sleeps: cdc_wait may be waiting for just that.
            if let Some(end) = self.look_around(Some(reading)) {
                return end;
            }
            if stopping && self.has_ended(reading) {
                return End::Again;
            }
            if idle {
                self.idle(reading, flush_lsn);
            }
        }
    }

    /// Takes some records in; whether there are no more.
    fn read_some(&mut self, reading: &mut Reading) -> Result<bool, Interrupted> {
        for _ in 0..RECORDS_PER_ROUND {
            match reading.next() {
                Ok(Some(outcome)) => self.take_up(outcome, reading)?,
                Ok(None) => return Ok(true),
                Err(error) => match self.sender.orders.gap_at(error.lsn) {
                    // Somebody has accepted that it is gone; with it whatever was open there.
                    Some(gap) if error.missing => {
                        pgrx::log!(
                            "pg_cdc: sender goes on at {}, behind the accepted gap",
                            lsn_text(gap.to)
                        );
                        reading.skip_to(gap.to);
                        return Ok(false);
                    }
                    _ => return Err(Interrupted::End(self.unreadable(&error))),
                },
            }
        }
        Ok(false)
    }

    #[inline]
    fn take_up(&mut self, outcome: Outcome, reading: &mut Reading) -> Result<(), Interrupted> {
        match outcome {
            Outcome::Nothing => Ok(()),
            Outcome::Rejected(rejected) => {
                let rejected_messages = &self.sender.shared.rejected_messages;
                rejected_messages.fetch_add(1, Ordering::Relaxed);
                self.sender.rejections.tell(&rejected);
                Ok(())
            }
            Outcome::Committed(committed) if committed.lsn <= reading.done_lsn => Ok(()),
            Outcome::Committed(committed) => self.deliver(*committed, reading),
            Outcome::Incomplete {
                xid8, first_lsn, ..
            } if self.sender.orders.is_lost(first_lsn) => {
                pgrx::log!(
                    "pg_cdc: transaction {xid8} began in the accepted gap, at {}, and is not sent",
                    lsn_text(first_lsn)
                );
                Ok(())
            }
            Outcome::Incomplete {
                xid8,
                found,
                expected,
                ..
            } => Err(Interrupted::End(End::Stay(
                State::Halted,
                incomplete(xid8, u64::from(found), u64::from(expected)),
            ))),
        }
    }

    /// Lets the reader go as far as synchronous standbys are.
    fn limit(&mut self, reader: &mut WalReader, flush_lsn: u64) {
        let (limit_lsn, waiting_for) = match standby::confirmed() {
            Confirmed::NotNeeded => (u64::MAX, ""),
            Confirmed::UpTo(lsn) => (lsn, "a synchronous standby"),
            Confirmed::NoneNamed => (
                0,
                "synchronous_standby_names to be set, or cdc.wait_for_standby = auto",
            ),
        };
        reader.limit(limit_lsn);
        self.withheld = if limit_lsn < flush_lsn {
            let since = self.withheld.map_or_else(Instant::now, |(since, _)| since);
            Some((since, waiting_for))
        } else {
            None
        };
    }

    /// Whether everything that was taken on is acknowledged, and recorded so; or cannot be for too long.
    fn has_ended(&mut self, reading: &Reading) -> bool {
        let since = *self.ending_since.get_or_insert_with(Instant::now);
        let (all_acknowledged, durable) = self.board.with_facts(|facts| {
            let durable = facts.durable.as_ref().map_or(0, |durable| durable.number);
            (facts.acknowledged == self.sent, durable)
        });
        if all_acknowledged && self.last_progress.is_none() {
            self.last_progress = Some(self.progresses.offer(Progress {
                timeline: reading.timeline,
                restart_lsn: reading.restart_lsn(),
                done: None,
                forget: Vec::new(),
            }));
        }
        let done = self.last_progress.is_some_and(|last| durable >= last);
        if let Some(Hold::Drain { done: false, .. }) = self.sender.orders.hold {
            return done && self.sender.note_drained();
        }
        done || since.elapsed() > FINISH_TIMEOUT
    }

    pub(super) fn unreadable(&mut self, error: &WalError) -> End {
        if error.missing {
            self.sender.gap(error.lsn, &error.message)
        } else {
            End::Stay(State::Halted, trouble::damaged(error.lsn, &error.message))
        }
    }
}

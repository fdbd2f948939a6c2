//! Exactly once (`cdc.delivery = exactly_once`): events and position in one Kafka transaction.
//!
//! What the source commits is gathered into a Kafka transaction until there is nothing more to send for the moment. A large
//! transaction of the source is spread over several: the position then says how many of its events are there, and the
//! next session leaves these out. Any unclear result ends the producer and the session; the next one aborts what is open
//! and reads the position again (`docs/decisions/0018`).

use std::time::{Duration, Instant};

use change::event::snapshot_chunk::Judged;
use rdkafka::ClientConfig;

use super::broker::Broker;
use crate::position::record::RecordMaker;
use crate::position::write_error::WriteError;
use crate::progress::{Done, Progress};
use crate::session::Session;

/// A Kafka transaction is ended after this long, though there is more to send: readers see nothing of it before.
pub(super) const LONGEST: Duration = Duration::from_millis(500);
/// `transaction.timeout.ms`, if the file has none.
const TRANSACTION_TIMEOUT_MS: &str = "60000";

/// Makes a producer's configuration that of a transactional one.
pub(super) fn configure(config: &mut ClientConfig, session: &Session) {
    const TIMEOUT: &str = "transaction.timeout.ms";
    if !session.settings.has_property(TIMEOUT) {
        config.set(TIMEOUT, TRANSACTION_TIMEOUT_MS);
    }
    config
        .set("transactional.id", session.transactional_id())
        // What gaplessness is for, the transaction does.
        .remove("enable.gapless.guarantee");
    config
        // The end of a partition, and not the beginning of our own open transaction in it.
        .set("isolation.level", "read_uncommitted");
}

/// What is acknowledged, and true for good when the open transaction is committed.
pub(super) struct Acknowledged {
    /// Transactions of the source, counted since the session began.
    pub(super) count: u64,
    /// Where the newest one's commit record begins and ends.
    pub(super) lsn: (u64, u64),
    pub(super) progress: Progress,
    /// What was decided about chunks of snapshots among them.
    pub(super) judged: Vec<Judged>,
}

/// What the position has to say besides [`Acknowledged`].
pub(super) struct Reported {
    /// The transaction of the source that is there in part.
    pub(super) part: Option<Done>,
    /// Progress of those who only read, and its number.
    pub(super) offered: Option<Progress>,
    pub(super) number: u64,
}

/// The transactions of one producer.
pub(super) struct ExactlyOnce<'a> {
    records: RecordMaker<'a>,
    heartbeat: Duration,
    /// How long one may last while there is more to send.
    longest: Duration,
    /// Since when one is open.
    open: Option<Instant>,
    /// When the newest position was written.
    written_at: Instant,
    /// To be told when it is committed.
    acknowledged: Option<Acknowledged>,
}

impl<'a> ExactlyOnce<'a> {
    /// For a producer through which the position was taken over.
    pub(super) fn new(
        records: RecordMaker<'a>,
        heartbeat_ms: u64,
        longest: Duration,
    ) -> ExactlyOnce<'a> {
        ExactlyOnce {
            records,
            heartbeat: Duration::from_millis(heartbeat_ms),
            longest,
            open: None,
            written_at: Instant::now(),
            acknowledged: None,
        }
    }

    /// Of the positions that are written here.
    pub(super) fn epoch(&self) -> u64 {
        self.records.epoch()
    }

    /// Takes in what is acknowledged; what was before and is not committed yet is part of it.
    pub(super) fn take_in(&mut self, mut newer: Acknowledged) {
        if let Some(mut older) = self.acknowledged.take() {
            let done = older.progress.done;
            newer.progress.done = newer.progress.done.map(|newer| newer.after(done));
            older.judged.append(&mut newer.judged);
            newer.judged = older.judged;
        }
        self.acknowledged = Some(newer);
    }

    /// Begins one where none is open.
    #[inline]
    pub(super) fn begin(&mut self, broker: &mut impl Broker) -> Result<(), WriteError> {
        if self.open.is_none() {
            broker.begin_transaction()?;
            self.open = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether the open one has to end before the next event.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.open
            .is_some_and(|since| since.elapsed() >= self.longest)
    }

    /// Whether there is anything to commit, were there nothing more to send.
    pub(super) fn is_worth_it(&self) -> bool {
        self.open.is_some() || self.acknowledged.is_some() || self.idle_ms() == 0
    }

    /// Milliseconds until the position has to be written again, though nothing happens.
    pub(super) fn idle_ms(&self) -> i32 {
        let left = self.heartbeat.saturating_sub(self.written_at.elapsed());
        i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    }

    /// Milliseconds until the open one has to end.
    pub(super) fn open_ms(&self) -> i32 {
        let since = self.open.map_or(Duration::ZERO, |since| since.elapsed());
        let left = self.longest.saturating_sub(since);
        i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    }

    /// Writes the position into the transaction and commits it; everything else in it is acknowledged. Returns what is true
    /// for good with it.
    pub(super) fn commit(
        &mut self,
        broker: &mut impl Broker,
        reported: Reported,
    ) -> Result<Option<Acknowledged>, WriteError> {
        self.written_at = Instant::now();
        if let Some(progress) = self.progress(reported.part, reported.offered) {
            let prepared = self.records.prepare(&progress)?;
            self.begin(broker)?;
            broker.commit_transaction(&prepared)?;
            self.open = None;
            self.records.written(prepared, reported.number);
        }
        Ok(self.acknowledged.take())
    }

    /// All that is known, in one: restart points only ever rise.
    fn progress(&self, part: Option<Done>, offered: Option<Progress>) -> Option<Progress> {
        let acknowledged = self.acknowledged.as_ref().map(|newest| &newest.progress);
        let known = self.records.last_progress().into_iter();
        let newest = known
            .chain(offered)
            .chain(acknowledged.cloned())
            .reduce(|older, newer| Progress {
                timeline: newer.timeline,
                restart_lsn: newer.restart_lsn.max(older.restart_lsn),
                done: match newer.done {
                    Some(done) => Some(done.after(older.done)),
                    None => older.done,
                },
                forget: [older.forget, newer.forget].concat(),
            })?;
        Some(Progress {
            done: match part {
                Some(part) => Some(part.after(newest.done)),
                None => newest.done,
            },
            ..newest
        })
    }

    /// Ends what is open.
    pub(super) fn abort(&mut self, broker: &mut impl Broker) {
        if self.open.take().is_some() {
            broker.abort_transaction();
        }
    }
}

//! Exactly once (`cdc.delivery = exactly_once`): events and position in one Kafka transaction.
//!
//! What the source commits is gathered into a Kafka transaction until there is nothing more to send for the moment. A large
//! transaction of the source is spread over several: the position then says how many of its events are there, and the
//! next session leaves these out. Any unclear result ends the producer and the session; the next one aborts what is open
//! and reads the position again (`docs/decisions/0018`).

use std::time::{Duration, Instant};

use change::event::snapshot_chunk::Judged;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use super::board::EventFd;
use super::client::KafkaSettings;
use super::position::{Unwritten, Writer};
use super::progress::{Done, Progress};
use super::queue_wake::QueueWake;

/// A Kafka transaction is ended after this long, though there is more to send: readers see nothing of it before.
const LONGEST: Duration = Duration::from_millis(500);
/// `transaction.timeout.ms`, if the file has none.
const TRANSACTION_TIMEOUT_MS: &str = "60000";
/// A broker that does not answer ends the transaction by itself, after its timeout.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a producer's configuration that of a transactional one.
pub fn configure(config: &mut ClientConfig, settings: &KafkaSettings, transactional_id: String) {
    const TIMEOUT: &str = "transaction.timeout.ms";
    if !settings.properties.iter().any(|(name, _)| name == TIMEOUT) {
        config.set(TIMEOUT, TRANSACTION_TIMEOUT_MS);
    }
    config
        .set("transactional.id", transactional_id)
        // What gaplessness is for, the transaction does.
        .remove("enable.gapless.guarantee");
    config
        // The end of a partition, and not the beginning of our own open transaction in it.
        .set("isolation.level", "read_uncommitted");
}

/// What is acknowledged, and true for good when the open transaction is committed.
pub struct Finished {
    /// Transactions of the source, counted since the session began.
    pub count: u64,
    /// Where the newest one's commit record begins and ends.
    pub lsn: (u64, u64),
    pub progress: Progress,
}

/// What the position has to say besides [`Finished`].
pub struct Told {
    /// The transaction of the source that is there in part.
    pub part: Option<Done>,
    /// Progress of those who only read, and its number.
    pub offered: Option<Progress>,
    pub number: u64,
    /// Tells the record's delivery report from those of events.
    pub opaque: usize,
}

/// The transactions of one producer.
pub struct ExactlyOnce<'a> {
    writer: Writer<'a>,
    heartbeat: Duration,
    /// Since when one is open.
    open: Option<Instant>,
    /// The newest position, and when it was written.
    written_at: Instant,
    /// To be told when it is committed.
    pub finished: Option<Finished>,
    pub judged: Vec<Judged>,
}

impl<'a> ExactlyOnce<'a> {
    /// For a producer through which the position was taken over.
    pub fn new(writer: Writer<'a>, heartbeat_ms: u64) -> ExactlyOnce<'a> {
        ExactlyOnce {
            writer,
            heartbeat: Duration::from_millis(heartbeat_ms),
            open: None,
            written_at: Instant::now(),
            finished: None,
            judged: Vec::new(),
        }
    }

    /// Takes in what is acknowledged; what was before and is not committed yet is part of it.
    pub fn has_finished(&mut self, mut newer: Finished) {
        let older = self.finished.take();
        let older = older.and_then(|older| older.progress.done);
        newer.progress.done = newer.progress.done.map(|done| done.after(older));
        self.finished = Some(newer);
    }

    /// Begins one where none is open.
    pub fn begin<C: ProducerContext + 'static>(
        &mut self,
        producer: &BaseProducer<C>,
    ) -> Result<(), Unwritten> {
        if self.open.is_none() {
            producer
                .begin_transaction()
                .map_err(|error| self.writer.trouble(&error, "begin_transaction"))?;
            self.open = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether the open one has to end before the next event.
    pub fn is_due(&self) -> bool {
        self.open.is_some_and(|since| since.elapsed() >= LONGEST)
    }

    /// Whether there is anything to commit, were there nothing more to send.
    pub fn is_worth_it(&self) -> bool {
        self.open.is_some() || self.finished.is_some() || self.idle_ms() == 0
    }

    /// Milliseconds until the position has to be written again, though nothing happens.
    pub fn idle_ms(&self) -> i32 {
        let left = self.heartbeat.saturating_sub(self.written_at.elapsed());
        i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    }

    /// Milliseconds until the open one has to end.
    pub fn open_ms(&self) -> i32 {
        let since = self.open.map_or(Duration::ZERO, |since| since.elapsed());
        let left = LONGEST.saturating_sub(since);
        i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    }

    /// Writes the position into the transaction and commits it; everything else in it is acknowledged. `queue` and `wake`
    /// are the producer's.
    pub fn commit<C: ProducerContext<DeliveryOpaque = usize> + 'static>(
        &mut self,
        producer: &BaseProducer<C>,
        queue: &QueueWake,
        wake: &EventFd,
        told: Told,
    ) -> Result<(), Unwritten> {
        self.written_at = Instant::now();
        let Some(progress) = self.progress(told.part, told.offered) else {
            return Ok(());
        };
        let prepared = self.writer.prepared(&progress)?;
        self.begin(producer)?;
        self.writer
            .commit(producer, queue, wake, &prepared, told.opaque)?;
        self.open = None;
        self.writer.written(prepared, told.number);
        Ok(())
    }

    /// All that is known, in one: restart points only ever rise.
    fn progress(&self, part: Option<Done>, offered: Option<Progress>) -> Option<Progress> {
        let finished = self.finished.as_ref().map(|finished| &finished.progress);
        let known = self.writer.last_progress().into_iter();
        let newest = known
            .chain(offered)
            .chain(finished.cloned())
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

    /// Ends the session with what came of a call.
    pub fn fail(&self, unwritten: Unwritten) {
        self.writer.fail(unwritten);
    }

    /// Ends what is open, so that readers need not wait for the broker to do so.
    pub fn abort<C: ProducerContext + 'static>(&mut self, producer: &BaseProducer<C>) {
        if self.open.take().is_some() {
            // The next sender's producer ends it too.
            let _aborted = producer.abort_transaction(ABORT_TIMEOUT);
        }
    }
}

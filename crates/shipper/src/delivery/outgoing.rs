//! Produces records, serves their reports, and says what they mean: what is acknowledged, or why the session is over.

use std::time::{Duration, Instant};

use change::code::Code;
use change::event::commit::Commit;
use change::event::record::{ControlEvent, Event};
use change::event::snapshot_chunk::Judged;
use change::trouble::Trouble;
use rdkafka::error::RDKafkaErrorCode;

use super::broker::Broker;
use super::exactly_once::{Acknowledged, ExactlyOnce, Reported};
use super::failed_delivery::{FailedDelivery, TopicLimit, event_id};
use super::in_flight::deliveries::{Deliveries, Finished, SharedDeliveries, lock};
use super::in_flight::open_topics::{OpenTopic, OpenTopics};
use super::in_flight::stall_watch::{Stall, StallWatch};
use super::in_flight::tag::DeliveryTag;
use super::stop::Stop;
use crate::host::topic_counters::TopicCounter;
use crate::position::write_error::{WriteError, is_fenced};
use crate::progress::Progress;
use crate::session::Session;
use crate::trouble::{Failure, incomplete};
use crate::work::Beginning;

/// The thread looks around at least this often while something is on its way, though nothing woke it.
const BUSY_MS: i32 = 1000;
/// And this often while nothing is.
const IDLE_MS: i32 = 60_000;
/// A failed producer's delivery reports come soon.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const REPORT_MS: i32 = 50;

/// One producer's records, and the transactions of the source that they belong to.
pub(super) struct Outgoing<'a, B> {
    session: &'a Session,
    broker: B,
    deliveries: SharedDeliveries,
    topics: OpenTopics,
    /// Only with `cdc.delivery = exactly_once`.
    exact: Option<ExactlyOnce<'a>>,
    stall: StallWatch,
    /// The transaction at hand.
    commit: Option<Commit>,
    /// Transactions begun and acknowledged in this session.
    begun: u64,
    acknowledged: u64,
    /// The newest event of the newest transaction.
    sequence: u64,
    /// Events produced, tombstones not counted, and the bytes of their values.
    events: u64,
    bytes: u64,
}

impl<'a, B: Broker> Outgoing<'a, B> {
    /// For a new producer, whose reports go to `deliveries`.
    pub(super) fn new(
        session: &'a Session,
        broker: B,
        deliveries: SharedDeliveries,
        exact: Option<ExactlyOnce<'a>>,
    ) -> Outgoing<'a, B> {
        Outgoing {
            session,
            broker,
            deliveries,
            topics: OpenTopics::default(),
            exact,
            stall: StallWatch::new(Instant::now()),
            commit: None,
            begun: 0,
            acknowledged: 0,
            sequence: 0,
            events: 0,
            bytes: 0,
        }
    }

    pub(super) fn session(&self) -> &'a Session {
        self.session
    }

    pub(super) fn broker(&mut self) -> &mut B {
        &mut self.broker
    }

    pub(super) fn topics(&mut self) -> &mut OpenTopics {
        &mut self.topics
    }

    /// The commit record of the transaction at hand, 0 if there is none.
    #[inline]
    pub(super) fn commit_lsn(&self) -> u64 {
        self.commit.map_or(0, |commit| commit.lsn)
    }

    /// Its database, 0 if there is none.
    pub(super) fn database(&self) -> u32 {
        self.commit.map_or(0, |commit| commit.database_oid)
    }

    pub(super) fn is_over(&self) -> bool {
        self.session.is_over()
    }

    /// Whether a partition is busy, and how many records are on their way.
    pub(super) fn load(&self) -> (bool, u64) {
        let deliveries = lock(&self.deliveries);
        (deliveries.is_busy(), deliveries.unacknowledged())
    }

    /// Ends the session.
    pub(super) fn end_with(&self, failure: Failure) -> Stop {
        self.session.board.fail(failure);
        Stop::Over
    }

    /// Serves once, then sleeps until something happens.
    pub(super) fn serve_and_wait(&mut self) -> Result<(), Stop> {
        self.serve()?;
        self.broker.wait(BUSY_MS);
        Ok(())
    }

    /// Sleeps until an answer comes.
    pub(super) fn wait_for_answer(&mut self, timeout_ms: Option<i32>) {
        self.broker.wait(timeout_ms.unwrap_or(BUSY_MS));
    }

    /// Sleeps until there is work, a delivery report, something to commit, or the end.
    pub(super) fn wait_for_work(&mut self) {
        let is_idle = lock(&self.deliveries).unacknowledged() == 0;
        let timeout_ms = if is_idle { IDLE_MS } else { BUSY_MS };
        let own_ms = match &self.exact {
            None => timeout_ms,
            Some(exact) if self.is_in_part() => exact.open_ms(),
            Some(exact) => exact.idle_ms(),
        };
        self.broker.wait(timeout_ms.min(own_ms));
    }

    /// A transaction begins.
    pub(super) fn begin(&mut self, beginning: &Beginning) {
        self.begun += 1;
        self.commit = Some(beginning.commit);
        self.sequence = 0;
        lock(&self.deliveries).begin(beginning);
    }

    /// All its events, so many, are produced.
    pub(super) fn end(&mut self, found: u64, judged: Option<Judged>) -> Result<(), Stop> {
        let ended = lock(&self.deliveries).end(found, judged);
        ended.map_err(|wrong| {
            let trouble = incomplete(wrong.xid8, wrong.found, wrong.expected);
            self.end_with(Failure::Halt(trouble))
        })
    }

    /// Records of the event with this number come.
    #[inline]
    pub(super) fn begin_event(&mut self, sequence: u64) -> Result<(), Stop> {
        if sequence != self.sequence {
            if self.exact.as_ref().is_some_and(ExactlyOnce::is_due) {
                self.commit()?;
            }
            self.sequence = sequence;
        }
        Ok(())
    }

    /// The event with this number is in Kafka from an earlier session.
    pub(super) fn leave_out_event(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Adds a topic that the broker has opened; returns its number.
    pub(super) fn add_topic(
        &mut self,
        topic: OpenTopic,
        counter: Option<&'static TopicCounter>,
    ) -> usize {
        lock(&self.deliveries).add_topic(topic.partitions, counter);
        let index = self.topics.add(topic);
        let count = self.topics.count() as u32;
        self.session.board.with_facts(|facts| facts.topics = count);
        index
    }

    /// A control event about a topic was produced.
    pub(super) fn note_control(&mut self, topic: &str, control: ControlEvent<'_>) {
        if let Some(index) = self.topics.index_of(topic) {
            self.topics.set_control(index, control);
            lock(&self.deliveries).mark_changed(index);
        }
    }

    /// Produces a record of the transaction at hand.
    #[inline]
    pub(super) fn produce(
        &mut self,
        event: &Event<'_>,
        topic: usize,
        partition: i32,
    ) -> Result<(), Stop> {
        if let Some(exact) = &mut self.exact
            && let Err(error) = exact.begin(&mut self.broker)
        {
            return Err(self.end_exact(error));
        }
        let value_bytes = event.value.map_or(0, <[u8]>::len);
        let bytes = event.key.map_or(0, <[u8]>::len) + value_bytes;
        while !self.count_in(topic, partition, bytes) {
            self.serve()?;
            // These reports may have been the last ones: then nothing would wake this thread.
            if self.count_in(topic, partition, bytes) {
                break;
            }
            self.broker.wait(BUSY_MS);
        }
        let tag = DeliveryTag {
            transaction: self.begun - 1,
            topic,
            counts: event.value.is_some(),
        };
        loop {
            match self.broker.produce(event, topic, partition, tag.to_word()) {
                Ok(()) => break,
                Err(RDKafkaErrorCode::QueueFull) => {
                    let before = self.broker.in_flight_count();
                    self.serve()?;
                    if self.broker.in_flight_count() >= before {
                        self.broker.wait(BUSY_MS);
                    }
                }
                Err(code) => return Err(self.refused(event, topic, code)),
            }
        }
        self.events += u64::from(event.value.is_some());
        self.bytes += value_bytes as u64;
        Ok(())
    }

    /// Half of the sender's memory is for records on their way.
    #[inline]
    fn count_in(&mut self, topic: usize, partition: i32, bytes: usize) -> bool {
        let limit_bytes = self.session.settings.memory_bytes / 2;
        lock(&self.deliveries).count_in(topic, partition, bytes, limit_bytes)
    }

    /// The client does not take a record.
    fn refused(&mut self, event: &Event<'_>, topic: usize, code: RDKafkaErrorCode) -> Stop {
        let is_late = matches!(
            code,
            RDKafkaErrorCode::GaplessGuarantee | RDKafkaErrorCode::Fatal
        );
        if is_late && self.learns_why() {
            return Stop::Over;
        }
        self.fail_with(&FailedDelivery {
            code,
            message: format!("the record was refused: {code}"),
            id: event_id(event),
            value_bytes: event.value.map_or(0, <[u8]>::len),
            topic,
            commit_lsn: self.commit_lsn(),
            database: self.database(),
        });
        Stop::Over
    }

    /// The producer has failed: the report of the record that it failed with says why. Whether that came.
    fn learns_why(&mut self) -> bool {
        let start = Instant::now();
        while !self.is_over() && start.elapsed() < REPORT_TIMEOUT {
            self.broker.wait(REPORT_MS);
            let _over = self.serve();
        }
        self.is_over()
    }

    /// Serves delivery reports, and passes on what they mean. An error if the session is over.
    pub(super) fn serve(&mut self) -> Result<(), Stop> {
        let now = self.broker.now();
        lock(&self.deliveries).set_time(now);
        self.broker.serve();
        self.look_up_unknown_offsets();
        self.ask_why_nothing_moves(now);
        let (failure, finished, unacknowledged, oldest_us) = {
            let mut deliveries = lock(&self.deliveries);
            let failure = deliveries.take_failure();
            let finished = match failure {
                None => deliveries.take_finished(),
                Some(_) => None,
            };
            let finished = finished.map(|finished| self.acknowledged(finished, &deliveries));
            let oldest_us = deliveries.oldest_us();
            (failure, finished, deliveries.unacknowledged(), oldest_us)
        };
        if let Some(failed) = failure {
            self.fail_with(&failed);
            return Err(Stop::Over);
        }
        let (events, bytes) = (self.events, self.bytes);
        self.session.board.with_facts(|facts| {
            (facts.events, facts.bytes) = (events, bytes);
            facts.unacknowledged_events = unacknowledged;
            facts.oldest_unacknowledged_us = oldest_us;
        });
        if let Some(finished) = finished {
            match &mut self.exact {
                Some(exact) => exact.take_in(finished),
                None => {
                    let progress = self.announce(finished);
                    self.session.progresses.offer(progress);
                }
            }
        }
        match self.is_over() {
            true => Err(Stop::Over),
            false => Ok(()),
        }
    }

    fn acknowledged(&self, finished: Finished, deliveries: &Deliveries) -> Acknowledged {
        let newest = &finished.newest;
        let done = self.topics.done(
            newest,
            &finished.changed,
            deliveries,
            newest.commit.event_count,
        );
        Acknowledged {
            count: finished.count,
            lsn: (newest.commit.lsn, newest.end_lsn),
            progress: Progress {
                timeline: newest.commit.timeline,
                restart_lsn: newest.restart_lsn,
                forget: Vec::new(),
                done: Some(done),
            },
            judged: finished.judged,
        }
    }

    /// Says what is in Kafka for good; returns the progress that this is.
    fn announce(&mut self, acknowledged: Acknowledged) -> Progress {
        for judged in &acknowledged.judged {
            self.session.host.snapshots.tell(*judged);
        }
        let newly = acknowledged.count - self.acknowledged;
        self.acknowledged = acknowledged.count;
        self.session.board.tell(|facts| {
            facts.acknowledged = acknowledged.count;
            facts.acknowledged_lsn = acknowledged.lsn;
            facts.transactions += newly;
            facts.went_through();
        });
        acknowledged.progress
    }

    /// Whether the newest transaction has events in Kafka and is not there whole.
    fn is_in_part(&self) -> bool {
        self.sequence > 0 && lock(&self.deliveries).has_in_flight()
    }

    /// Whether the moment has come to end the Kafka transaction that is open, or to write a position alone, were there
    /// nothing more to send.
    pub(super) fn may_commit(&self) -> bool {
        self.exact
            .as_ref()
            .is_some_and(|exact| match self.is_in_part() {
                true => exact.is_due(),
                false => exact.is_worth_it() || !self.session.progresses.is_empty(),
            })
    }

    /// Ends the Kafka transaction that is open, or one for the position alone, when everything in it is acknowledged.
    pub(super) fn commit(&mut self) -> Result<(), Stop> {
        loop {
            self.serve()?;
            if lock(&self.deliveries).unacknowledged() == 0 {
                break;
            }
            self.broker.wait(BUSY_MS);
        }
        let part = match self.is_in_part() {
            true => {
                let mut deliveries = lock(&self.deliveries);
                let part = deliveries.take_part();
                part.map(|(newest, changed)| {
                    self.topics
                        .done(&newest, &changed, &deliveries, self.sequence)
                })
            }
            false => None,
        };
        let (number, offered) = self.session.progresses.take();
        let Some(exact) = &mut self.exact else {
            return Ok(());
        };
        let reported = Reported {
            part,
            offered,
            number,
        };
        match exact.commit(&mut self.broker, reported) {
            Ok(acknowledged) => {
                if let Some(acknowledged) = acknowledged {
                    self.announce(acknowledged);
                }
                Ok(())
            }
            Err(error) => Err(self.end_exact(error)),
        }
    }

    /// A Kafka transaction came to nothing, or nobody knows.
    fn end_exact(&self, error: WriteError) -> Stop {
        let epoch = self.exact.as_ref().map_or(0, ExactlyOnce::epoch);
        self.end_with(self.broker.failure_of(error, epoch))
    }

    /// Kafka may refuse what the client goes on trying: then the state must say why nothing moves.
    fn ask_why_nothing_moves(&mut self, now: Instant) {
        let (delivered, unacknowledged) = {
            let deliveries = lock(&self.deliveries);
            (deliveries.delivered(), deliveries.unacknowledged())
        };
        match self.stall.look(delivered, unacknowledged, now) {
            Stall::No => {}
            Stall::IsOver => self.session.board.tell(|facts| facts.stall = None),
            Stall::AskWhy => {
                let Some(topic) = lock(&self.deliveries).topic_on_its_way() else {
                    return;
                };
                if let Some(trouble) = self.broker.why_stalled(self.topics.name(topic)) {
                    self.stall.was_told();
                    self.session.board.tell(|facts| facts.stall = Some(trouble));
                }
            }
        }
    }

    /// A record that the broker had already is acknowledged without an offset: the end of its partition is beyond it.
    fn look_up_unknown_offsets(&mut self) {
        let unknown = lock(&self.deliveries).take_unknown_offsets();
        for (topic, partition) in unknown {
            let name = self.topics.name(topic);
            match self.broker.end_of(name, partition) {
                Ok(end) => lock(&self.deliveries).learn_end(topic, partition, end),
                Err(error) => self.session.board.fail(Failure::Rewind(Trouble::new(
                    Code::BrokersUnreachable,
                    format!("the end of \"{name}\" [{partition}] cannot be read: {error}"),
                    "Nothing: the sender starts again at its position.",
                ))),
            }
        }
    }

    fn fail_with(&mut self, failed: &FailedDelivery) {
        if self.exact.is_some() {
            // Records that were not sent yet are purged for it, and say no more than that.
            if is_fenced(self.broker.fatal_error().unwrap_or(failed.code)) {
                self.end_exact(WriteError::Fenced);
                return;
            }
        }
        let topic = self.topics.get(failed.topic);
        let unknown = TopicLimit {
            max_record_bytes: 0,
            is_unknown: false,
        };
        let name = self.topics.name(failed.topic);
        let failure = failed.consequence(
            (name, topic.map_or(unknown, |topic| topic.limit)),
            &self.session.settings,
            self.session.max_batch_bytes,
            || {
                let limits = self.broker.limits(name);
                limits.ok().map(|limits| limits.max_message_bytes)
            },
        );
        self.session.board.fail(failure);
    }

    /// Ends what is open.
    pub(super) fn close(&mut self) {
        if let Some(exact) = &mut self.exact {
            exact.abort(&mut self.broker);
        }
    }
}

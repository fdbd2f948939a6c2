//! The sender: one session after the other, until everything is in Kafka and recorded.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use change::event::headers::Headers;
use change::event::record::{Destination, Event, Stage};
use change::mac_key::MacKey;

use super::chance::Chance;
use super::client::Client;
use super::cluster::Cluster;
use super::promises::Promises;
use super::source::{ModelSource, topic_name};
use crate::board::Board;
use crate::delivery::broker::Broker;
use crate::delivery::exactly_once::ExactlyOnce;
use crate::delivery::in_flight::deliveries::Deliveries;
use crate::delivery::outgoing::Outgoing;
use crate::delivery::routing::Router;
use crate::delivery::stop::Stop;
use crate::files::local_position::LocalPosition;
use crate::host::Host;
use crate::host::snapshot_slots::Slots;
use crate::host::topic_counters::TopicCounters;
use crate::kafka::settings::KafkaSettings;
use crate::position::record::RecordMaker;
use crate::position::take_over::claim;
use crate::progress::{Progress, Progresses};
use crate::session::{Owner, Session};
use crate::starting_point::{Server, StartingPoint};
use crate::trouble::Failure;
use crate::work::Known;

/// Sessions after which nothing more goes wrong, for chance is used up.
const MOST_SESSIONS: usize = 400;
/// Steps in which an idle session must come to an end.
const MOST_STEPS: usize = 10_000;

static HOST: LazyLock<Host> = LazyLock::new(|| {
    // SAFETY: zero bytes are an empty table, and free slots.
    let (counters, slots) = unsafe {
        let counters: Box<TopicCounters> = Box::new_zeroed().assume_init();
        let slots: Box<Slots> = Box::new_zeroed().assume_init();
        (counters, slots)
    };
    static SKIPPED: AtomicU64 = AtomicU64::new(0);
    Host {
        topic_counters: Box::leak(counters),
        snapshots: Box::leak(slots),
        skipped_events: &SKIPPED,
    }
});

/// The position of deliveries at least once: written by a producer of its own.
struct PositionWriter<'a> {
    records: RecordMaker<'a>,
    /// What could not be written yet, and its number.
    unwritten: Option<(u64, Progress)>,
}

pub(super) struct Sender {
    source: ModelSource,
    exactly_once: bool,
    chance: Chance,
    cluster: Rc<RefCell<Cluster>>,
    remembered: Option<LocalPosition>,
}

/// How a session ended.
enum End {
    /// Everything is recorded.
    Done,
    Again,
}

impl Sender {
    pub(super) fn new(source: ModelSource, exactly_once: bool, chance: Chance) -> Sender {
        let promises = Promises {
            owed: source.owed(),
            once: exactly_once,
        };
        Sender {
            source,
            exactly_once,
            chance,
            cluster: Rc::new(RefCell::new(Cluster::new(promises))),
            remembered: None,
        }
    }

    pub(super) fn run(mut self) {
        for _ in 0..MOST_SESSIONS {
            if let End::Done = self.session() {
                return self.cluster.borrow().check_end();
            }
        }
        panic!("no session came to its end");
    }

    fn make_session(&self) -> Arc<Session> {
        let board = Arc::new(Board::new().expect("an eventfd"));
        // Little memory holds records back until others are acknowledged.
        let memory_bytes = [1 << 20, 80][self.chance.below(2)];
        Arc::new(Session {
            number: 1,
            settings: KafkaSettings {
                brokers: String::new(),
                source_name: "pg".to_owned(),
                properties: Vec::new(),
                create_topics: true,
                topic_timeout: None,
                partitions: self.source.partitions,
                replication_factor: 3,
                retention_ms: -1,
                tombstones: false,
                truncates: false,
                exactly_once: self.exactly_once,
                compression: "none",
                stubs: true,
                max_event_bytes: 1_000_000,
                memory_bytes,
                heartbeat_ms: 10_000,
            },
            max_batch_bytes: 1_000_000,
            owner: Owner {
                source_id: "source".to_owned(),
                generation: 1,
                node: "node".to_owned(),
                timeline_start: 0,
                remembered: self.remembered.clone(),
            },
            key: MacKey::derive("test", b"secret"),
            progresses: Arc::new(Progresses::new(Arc::clone(&board), self.exactly_once)),
            board,
            host: *HOST,
        })
    }

    fn session(&mut self) -> End {
        let session = self.make_session();
        let deliveries = Arc::new(Mutex::new(Deliveries::new(Instant::now())));
        let partitions = self.source.partitions;
        let (cluster, chance) = (Rc::clone(&self.cluster), self.chance.clone());
        let client = Client::new(&session, &cluster, &chance, &deliveries, partitions);
        let found = cluster.borrow().found();
        let claim = claim(&session, "", &found).unwrap_or_else(|_| panic!("a position is lost"));
        let records = RecordMaker::new(&session, String::new(), &claim);
        assert!(
            found.own.iter().all(|own| own.epoch < claim.epoch),
            "an earlier sender had this epoch"
        );
        let server = Server {
            source_id: "source",
            generation: 1,
            timeline: 1,
            flush_lsn: self.source.end_lsn(),
            slot_lsn: 0,
            remembered: self.remembered.as_ref(),
        };
        let start = StartingPoint::after(claim.newest.as_ref(), &server);
        let start = start.expect("a position of this server");
        let (exact, mut position) = match self.exactly_once {
            true => {
                // Parts of transactions are committed after each event, or only whole ones are.
                let longest = [Duration::MAX, Duration::ZERO][chance.below(2)];
                let heartbeat_ms = session.settings.heartbeat_ms;
                (Some(ExactlyOnce::new(records, heartbeat_ms, longest)), None)
            }
            false => (
                None,
                Some(PositionWriter {
                    records,
                    unwritten: None,
                }),
            ),
        };
        let mut router = Router::new(Outgoing::new(&session, client, deliveries, exact));
        router.know(Known {
            ends: claim.newest.map(|newest| newest.ends).unwrap_or_default(),
            part: start.part,
            ..Known::default()
        });
        session.progresses.offer(Progress {
            timeline: 1,
            restart_lsn: start.start_lsn,
            done: None,
            forget: Vec::new(),
        });
        let sent = self.send_all(&session, &start, &mut router, &mut position);
        let end = sent.and_then(|count| self.finish(&session, count, &mut router, &mut position));
        if end.is_err() {
            // Whatever is on its way when the producer ends may arrive later.
            router.out().broker().leave_late();
            router.out().close();
        }
        match end {
            Ok(()) => End::Done,
            Err(Stop::Over) => {
                let failure = session.board.with_facts(|facts| facts.failure.take());
                assert!(
                    matches!(failure, None | Some(Failure::Rewind(_))),
                    "{failure:?}"
                );
                End::Again
            }
            Err(stop) => panic!("{stop:?}"),
        }
    }

    /// Sends what is not in Kafka yet; returns how many transactions that are.
    fn send_all<'s>(
        &mut self,
        session: &'s Session,
        start: &StartingPoint,
        router: &mut Router<'s, Client>,
        position: &mut Option<PositionWriter<'s>>,
    ) -> Result<u64, Stop> {
        let mut count = 0;
        for index in 0..self.source.count() {
            if self.source.commit_lsn(index) <= start.done_lsn {
                continue;
            }
            assert!(
                self.source.first_lsn(index) >= start.start_lsn,
                "transaction {index} began before {}",
                start.start_lsn
            );
            count += 1;
            let beginning = self.source.beginning(index);
            router.begin(&beginning);
            let changes = self.source.changes(index).to_vec();
            for (sequence, change) in (1..).zip(&changes) {
                let mut value = beginning.commit.lsn.to_be_bytes().to_vec();
                value.extend(u64::to_be_bytes(sequence));
                router.send(&Event {
                    sequence,
                    topic: &topic_name(change.topic),
                    destination: Destination::Topic,
                    key: Some(&[change.key]),
                    value: Some(&value),
                    headers: &Headers::default(),
                    can_shrink: false,
                    stage: Stage::Sent,
                })?;
                self.meanwhile(session, router, position)?;
            }
            router.end(changes.len() as u64, None)?;
            if self.chance.below(4) == 3 {
                self.rest(router)?;
            }
            self.meanwhile(session, router, position)?;
        }
        Ok(count)
    }

    /// Everything is acknowledged, then nothing happens for long.
    fn rest(&self, router: &mut Router<'_, Client>) -> Result<(), Stop> {
        let out = router.out();
        out.serve()?;
        while out.broker().in_flight_count() > 0 {
            out.broker().step();
            out.serve()?;
        }
        out.broker().let_time_pass();
        // As before any work is taken.
        out.serve()
    }

    /// What the other threads do, and the Kafka thread between two items of work.
    fn meanwhile<'s>(
        &mut self,
        session: &'s Session,
        router: &mut Router<'s, Client>,
        position: &mut Option<PositionWriter<'s>>,
    ) -> Result<(), Stop> {
        match self.chance.below(8) {
            0..3 => return Ok(()),
            3 => router.out().broker().step(),
            4 | 5 => router.out().serve()?,
            6 | 7 if router.out().may_commit() => router.out().commit()?,
            _ => {}
        }
        if let Some(writer) = position {
            self.write_position(session, writer)?;
        }
        self.remember(session);
        Ok(())
    }

    /// The position thread has its turn.
    fn write_position<'s>(
        &mut self,
        session: &'s Session,
        writer: &mut PositionWriter<'s>,
    ) -> Result<(), Stop> {
        if session.is_over() {
            return Err(Stop::Over);
        }
        let next = writer.unwritten.take().or_else(|| {
            let (number, progress) = session.progresses.take();
            progress.map(|progress| (number, progress))
        });
        let Some((number, progress)) = next else {
            return Ok(());
        };
        let prepared = writer.records.prepare(&progress);
        let prepared = prepared.unwrap_or_else(|error| panic!("{error:?}"));
        let outcome = self.chance.below(4);
        if outcome < 3 {
            let mut cluster = self.cluster.borrow_mut();
            assert!(cluster.commit(session, 0, &prepared));
        }
        match outcome {
            0 | 1 => writer.records.written(prepared, number),
            // Whether it is there or not, it is written once more.
            _ => writer.unwritten = Some((number, progress)),
        }
        Ok(())
    }

    /// The server's own file is written, now and then.
    fn remember(&mut self, session: &Session) {
        if session.is_over() || self.chance.below(3) != 0 {
            return;
        }
        let durable = session.board.with_facts(|facts| facts.durable.clone());
        if let Some(durable) = durable {
            self.remembered = Some(durable.to_local());
        }
    }

    /// Until everything that was sent is acknowledged, and recorded.
    fn finish<'s>(
        &mut self,
        session: &'s Session,
        count: u64,
        router: &mut Router<'s, Client>,
        position: &mut Option<PositionWriter<'s>>,
    ) -> Result<(), Stop> {
        let last = self.source.commit_lsn(self.source.count() - 1);
        for _ in 0..MOST_STEPS {
            router.out().serve()?;
            if router.out().may_commit() {
                router.out().commit()?;
            }
            if let Some(writer) = position {
                self.write_position(session, writer)?;
            }
            let (acknowledged, durable) = session
                .board
                .with_facts(|facts| (facts.acknowledged, facts.durable.clone()));
            let is_recorded = durable.is_some_and(|durable| durable.commit_lsn == last);
            if acknowledged == count && is_recorded {
                return Ok(());
            }
            router.out().broker().step();
        }
        panic!("{count} transactions were sent, and never came to an end");
    }
}

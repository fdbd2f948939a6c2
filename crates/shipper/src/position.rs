//! The position in Kafka: who takes it over, what is found there, and the records that say how far events are
//! acknowledged.
//!
//! It lives beside the events, in a compacted topic of the source's own, and is written through a transactional producer:
//! a sender that was replaced is fenced, and stays down. Any unclear result of a transactional call ends the producer; a
//! new one fences what may still be on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::hex::hex;
use change::mac_key::MacKey;
use change::position::{Ends, Events, FORMAT, Key, Parts, Position, Record, lsn_text};
use change::value::datetime::EPOCH_US;
use rdkafka::bindings::rd_kafka_t;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::board::{Board, Durable, EventFd, Failure, Trouble};
use super::client::{KafkaSettings, Reporter, refused_configuration, trouble_of};
use super::host::Host;
use super::kafka::unix_us;
use super::local_position::LocalPosition;
use super::progress::Progress;
use super::queue_wake::QueueWake;
use super::session::Session;
use super::topics::{self, Design, Use};

/// A record with every partition is written at least this often, if anything was; for each of its parts, if it has several.
const FULL_EVERY: Duration = Duration::from_secs(5);
/// What the topics take in one record: a broker takes 1 MB by default.
const PART_BYTES: usize = 400_000;
/// For the names of all topics.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// For one call about a transaction.
const TRANSACTION_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The end of a session is looked for so often while an acknowledgement does not come.
const ACKNOWLEDGEMENT_MS: i32 = 1000;
const RETRY: Duration = Duration::from_millis(500);
/// Offsets that are read at first from the end of the topic.
const FIRST_WINDOW: i64 = 2_000;
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(10);
/// Segments of the position topic are small, so that compaction keeps it small and starting is fast.
const SEGMENT_BYTES: u32 = 16 * 1024 * 1024;

/// Who writes the position.
#[derive(Debug, Clone)]
pub struct Owner {
    pub source_id: String,
    pub generation: u16,
    pub node: String,
    /// Where the server's timeline began.
    pub timeline_start: u64,
    /// What the server remembers of the position.
    pub remembered: Option<LocalPosition>,
}

/// The position of one sender, and how it is kept in Kafka. Producers are the caller's.
pub struct Writer<'a> {
    settings: &'a KafkaSettings,
    owner: &'a Owner,
    key: &'a MacKey,
    board: &'a Arc<Board>,
    host: Host,
    topic: String,
    cluster_id: String,
    epoch: u64,
    /// The newest position, but for the ends.
    last: Option<Position>,
    /// Of every partition, as far as they are known now: the newest position has them, or the next one.
    ends: BTreeMap<String, Ends>,
    /// Topics whose ends changed since the last full record.
    changed: BTreeSet<String>,
    /// Topics were forgotten since then: no other record can say so.
    forgot: bool,
    /// When the last full record was written, its LSN, and how many parts it had.
    last_full: Option<(Instant, u64, u32)>,
}

/// A client that only reports its troubles.
pub struct Context(Reporter);

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Reporter::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.generate_oauth_token(config)
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    // A record that could not be delivered fails its transaction: reported there.
    fn delivery(&self, _result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

/// Why writing did not work out.
pub enum Unwritten {
    Again(Trouble),
    Never(Trouble),
    /// This producer is not the newest one of its id. Whose that is, the positions tell.
    Fenced,
    /// Another sender took over.
    Replaced(Trouble),
}

/// Whether a broker has said that a producer is not the newest one of its id.
pub fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch
    )
}

/// A position that is ready to be sent.
pub struct Prepared {
    /// Keys and values of its records.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
    /// But for the ends.
    position: Position,
    is_full: bool,
}

/// What the position topic holds.
struct Found {
    own: Vec<Position>,
    /// Source id and node of another source that writes there.
    stranger: Option<(String, String)>,
}

impl<'a> Writer<'a> {
    pub fn new(session: &'a Session) -> Writer<'a> {
        let settings = &session.settings;
        Writer {
            settings,
            owner: &session.owner,
            key: &session.key,
            board: &session.board,
            host: session.host,
            topic: format!("{}.cdc_positions", settings.source_name),
            cluster_id: String::new(),
            epoch: 0,
            last: None,
            ends: BTreeMap::new(),
            changed: BTreeSet::new(),
            forgot: false,
            last_full: None,
        }
    }

    pub fn context(&self) -> Context {
        Context(Reporter::new(self.settings, self.board))
    }

    /// What an error of a client means for the position.
    pub fn trouble(&self, error: &KafkaError, what: &str) -> Unwritten {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        if matches!(
            error,
            KafkaError::ClientCreation(_) | KafkaError::ClientConfig(..)
        ) {
            return Unwritten::Never(refused_configuration(error));
        }
        if is_fenced(code) {
            return Unwritten::Fenced;
        }
        let brokers = &self.settings.brokers;
        let mut trouble = trouble_of(code, brokers, &format!("{what}: {error}"));
        if code == RDKafkaErrorCode::TransactionalIdAuthorizationFailed {
            let rights = ["Describe", "Write"];
            trouble.remedy = topics::acl_command(
                brokers,
                &rights,
                "transactional-id",
                &self.transactional_id(),
            );
        }
        Unwritten::Again(trouble)
    }

    pub fn transactional_id(&self) -> String {
        format!("pg_cdc.{}", self.settings.source_name)
    }

    /// Shows the trouble and waits a moment; false if the session is over.
    pub fn wait_out(&self, unwritten: Unwritten) -> bool {
        let trouble = match self.cause(unwritten) {
            Unwritten::Never(trouble) => {
                self.board.fail(Failure::Halt(trouble));
                return false;
            }
            Unwritten::Replaced(trouble) => {
                self.board.fail(Failure::Fenced(trouble));
                return false;
            }
            Unwritten::Again(trouble) => trouble,
            // Nobody took over: brokers end a transaction that lasts too long in the same way.
            Unwritten::Fenced => return !self.is_over(),
        };
        self.board.set_trouble(Some(trouble));
        let start = Instant::now();
        while start.elapsed() < RETRY && !self.is_over() {
            self.board
                .sleep_while(RETRY - start.elapsed().min(RETRY), || true);
        }
        !self.is_over()
    }

    /// Ends the session with what came of writing: the next one starts at the position.
    pub fn fail(&self, unwritten: Unwritten) {
        self.board.fail(match self.cause(unwritten) {
            Unwritten::Never(trouble) => Failure::Halt(trouble),
            Unwritten::Replaced(trouble) => Failure::Fenced(trouble),
            Unwritten::Again(trouble) => Failure::Rewind(trouble),
            Unwritten::Fenced => Failure::Rewind(Trouble {
                code: "CDC0310",
                message: "Kafka ended a transaction that took too long".to_owned(),
                remedy: "Nothing, if it does not come again: the sender starts again at its position. Else raise transaction.timeout.ms in the file of cdc.kafka_config_file.".to_owned(),
            }),
        });
    }

    /// Tells a sender that was replaced from one whose transaction a broker has ended: only the first finds the position
    /// of a newer one.
    fn cause(&self, unwritten: Unwritten) -> Unwritten {
        let Unwritten::Fenced = unwritten else {
            return unwritten;
        };
        loop {
            match self.read_positions() {
                Ok(found) if found.own.iter().any(|own| own.epoch > self.epoch) => {
                    return Unwritten::Replaced(Trouble {
                        code: "CDC0404",
                        message: format!("fenced: another sender writes the positions of source \"{}\"", self.settings.source_name),
                        remedy: "If this server is the one that should ship, stop the other one, then SELECT pg_reload_conf() here.".to_owned(),
                    });
                }
                Ok(_) => return Unwritten::Fenced,
                // Until that is known nobody may be fenced in turn.
                Err(again) => {
                    if !self.wait_out(again) {
                        return Unwritten::Fenced;
                    }
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.board.stopping() || self.board.has_failed()
    }

    /// Makes the topic where it is missing. Looks whether the name is another source's, which must not be fenced; then
    /// fences earlier senders of this one, and reads what they left, to the end: in this order nothing can come between.
    /// The epoch of this sender and what it found stand on the board afterwards.
    pub fn take_over<C: ProducerContext + 'static>(
        &mut self,
        producer: &BaseProducer<C>,
    ) -> Result<(), Unwritten> {
        self.prepare(producer)?;
        if let Some((source, node)) = self.read_positions()?.stranger {
            return Err(Unwritten::Never(Trouble {
                code: "CDC0406",
                message: format!(
                    "source name \"{}\" is taken: topic \"{}\" holds positions of source {source} on \"{node}\", this is source {}",
                    self.settings.source_name, self.topic, self.owner.source_id
                ),
                remedy: "Give one of the two servers another cdc.source_name and restart it."
                    .to_owned(),
            }));
        }
        self.fence(producer)?;
        let found = self.read_positions()?.own;
        let newest = newest(&found);
        let remembered = self.owner.remembered.as_ref();
        if let Some(why) = remembered.and_then(|known| self.lost(known, newest.as_ref())) {
            return Err(Unwritten::Never(Trouble {
                code: "CDC0405",
                message: format!("position topic \"{}\" {why}", self.topic),
                remedy: format!(
                    "Correct cdc.brokers, or restore the topic. If Kafka has really lost it, SELECT cdc_adopt('{}') and repair with cdc_snapshot().",
                    self.owner.source_id
                ),
            }));
        }
        self.epoch = found
            .iter()
            .map(|position| position.epoch)
            .chain(remembered.map(|known| known.epoch))
            .max()
            .unwrap_or(0)
            + 1;
        self.ends = newest
            .as_ref()
            .map(|newest| newest.ends.clone())
            .unwrap_or_default();
        self.last = newest.clone().map(|newest| Position {
            ends: BTreeMap::new(),
            ..newest
        });
        self.forget_deleted(producer);
        let epoch = self.epoch;
        self.board.tell(|facts| {
            facts.went_through();
            facts.start = Some((newest.map(Box::new), epoch));
        });
        Ok(())
    }

    /// Forgets topics whose tables are not tracked any more and which somebody has deleted: else they would be in positions for
    /// ever.
    fn forget_deleted<C: ProducerContext + 'static>(&mut self, producer: &BaseProducer<C>) {
        if !self.ends.values().any(|ends| ends.untracked) {
            return;
        }
        // What is not known now, the next sender finds out.
        let Ok(metadata) = producer.client().fetch_metadata(None, METADATA_TIMEOUT) else {
            return;
        };
        let there: BTreeSet<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
        let counters = self.host.topic_counters;
        self.ends.retain(|topic, ends| {
            let keep = !ends.untracked || there.contains(topic.as_str());
            self.forgot |= !keep;
            if !keep && let Some(counter) = counters.claim(topic) {
                counter.belongs_to(0);
            }
            keep
        });
    }

    /// Why Kafka cannot be the one that the position was written to: it never has less than what is remembered.
    fn lost(&self, known: &LocalPosition, newest: Option<&Position>) -> Option<String> {
        let is_another = ![&known.cluster_id, &self.cluster_id]
            .iter()
            .any(|id| id.is_empty())
            && known.cluster_id != self.cluster_id;
        match newest {
            _ if is_another => Some(format!(
                "is in cluster {}, the position was in cluster {}",
                self.cluster_id, known.cluster_id
            )),
            None if !known.was_recorded() => None,
            None => Some(format!(
                "has no position, though {} was recorded there",
                lsn_text(known.commit_lsn)
            )),
            Some(newest) if newest.rank() < known.rank() => Some(format!(
                "has gone back: its newest position is {} of epoch {}, {} of epoch {} was recorded there",
                lsn_text(newest.commit_lsn),
                newest.epoch,
                lsn_text(known.commit_lsn),
                known.epoch
            )),
            Some(_) => None,
        }
    }

    /// Makes the topic where it is missing. Fences nobody yet.
    pub fn prepare<C: ProducerContext + 'static>(
        &mut self,
        producer: &BaseProducer<C>,
    ) -> Result<(), Unwritten> {
        let handle = producer.client().native_ptr();
        let design = Design {
            usage: Use::Positions,
            create: self.settings.create_topics,
            partitions: 1,
            replication_factor: self.settings.replication_factor,
            configs: vec![
                (c"cleanup.policy", "compact".to_owned()),
                (c"segment.bytes", SEGMENT_BYTES.to_string()),
                (c"min.cleanable.dirty.ratio", "0.1".to_owned()),
            ],
        };
        // librdkafka asks for the first token.
        producer.poll(Duration::ZERO);
        // SAFETY: the producer's handle is live.
        unsafe { topics::ensure(handle, &self.topic, &design) }.map_err(|error| {
            Unwritten::Again(topics::trouble(
                &error,
                &self.settings.brokers,
                &self.topic,
                &design,
            ))
        })?;
        // SAFETY: the handle is live; the text is librdkafka's own until it is freed here.
        self.cluster_id = unsafe {
            let id = rdkafka::bindings::rd_kafka_clusterid(handle, 5000);
            if id.is_null() {
                String::new()
            } else {
                let text = std::ffi::CStr::from_ptr(id).to_string_lossy().into_owned();
                rdkafka::bindings::rd_kafka_mem_free(handle, id.cast());
                text
            }
        };
        self.refuse_deletion(handle, &design)
    }

    /// A topic that deletes by age would lose the position of a source that rests for long.
    fn refuse_deletion(&self, handle: *mut rd_kafka_t, design: &Design) -> Result<(), Unwritten> {
        // SAFETY: the producer's handle is live.
        let policy = unsafe { topics::settings(handle, &self.topic, ["cleanup.policy"]) };
        let policy = policy.map(|[policy]| policy);
        match policy {
            Ok(policy) if policy != "compact" => Err(Unwritten::Again(Trouble {
                code: "CDC0405",
                message: format!(
                    "topic \"{}\" has cleanup.policy={policy}: it would lose the position",
                    self.topic
                ),
                remedy: format!(
                    "Set cleanup.policy=compact with kafka-configs.sh. Its settings are those of: {}",
                    topics::command(&self.settings.brokers, &self.topic, design)
                ),
            })),
            // Who may not look is not stopped for it.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Initialises the transactional id: every earlier producer of it is fenced from here on.
    pub fn fence<C: ProducerContext + 'static>(
        &self,
        producer: &BaseProducer<C>,
    ) -> Result<(), Unwritten> {
        producer
            .init_transactions(TRANSACTION_CALL_TIMEOUT)
            .map_err(|error| self.trouble(&error, "init_transactions"))
    }

    /// The newest records of the topic, back to a full one of this source: most of it is older than that.
    fn read_positions(&self) -> Result<Found, Unwritten> {
        let mut config = self.settings.base("position-reader");
        config
            .set("group.id", format!("pg_cdc.{}", self.settings.source_name))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        let consumer: BaseConsumer<Context> = config
            .create_with_context(self.context())
            .map_err(|error| self.trouble(&error, "reading positions"))?;
        // librdkafka asks for the first token.
        consumer.poll(Duration::ZERO);
        let (low, high) = consumer
            .fetch_watermarks(&self.topic, 0, WATERMARKS_TIMEOUT)
            .map_err(|error| self.trouble(&error, "the end of the positions"))?;
        let mut window = FIRST_WINDOW;
        loop {
            let from = (high - window).max(low);
            let found = self.read_positions_from(&consumer, from)?;
            let has_full = found.own.iter().any(|own| own.record == Record::Full);
            if has_full || found.stranger.is_some() || from == low || self.is_over() {
                return Ok(found);
            }
            window *= 8;
        }
    }

    /// Every position record from an offset on that this server's key opens, and whose it is otherwise.
    fn read_positions_from(
        &self,
        consumer: &BaseConsumer<Context>,
        from: i64,
    ) -> Result<Found, Unwritten> {
        let wrap = |error: KafkaError| self.trouble(&error, "reading positions");
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&self.topic, 0, Offset::Offset(from))
            .map_err(wrap)?;
        consumer.assign(&assignment).map_err(wrap)?;
        let mut positions: Vec<Position> = Vec::new();
        let mut parts = Parts::default();
        // By key: compaction forgets a record in whose place there is none.
        let mut strangers = BTreeMap::new();
        let start = Instant::now();
        loop {
            if self.is_over() {
                return Ok(Found {
                    own: positions,
                    stranger: strangers.into_values().next(),
                });
            }
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let record = message.key().unwrap_or_default();
                    let Some(bytes) = message.payload() else {
                        strangers.remove(record);
                        continue;
                    };
                    match Position::open(bytes, self.key) {
                        Some(position) if position.source == self.owner.source_id => positions.extend(parts.take(position)),
                        _ => match serde_json::from_slice::<Position>(bytes) {
                            Ok(other) if other.source != self.owner.source_id => {
                                strangers.insert(record.to_vec(), (other.source, other.node));
                            }
                            _ => self.board.log(format!(
                                "pg_cdc: record at offset {} of topic \"{}\" is not a position of this source and is ignored",
                                message.offset(),
                                self.topic
                            )),
                        },
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    return Ok(Found {
                        own: positions,
                        stranger: strangers.into_values().next(),
                    });
                }
                // The partition is assigned: the group is a name only.
                Some(Err(error))
                    if error.rdkafka_error_code()
                        == Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {}
                Some(Err(error)) => return Err(wrap(error)),
                None if start.elapsed() > Duration::from_secs(60) => {
                    return Err(Unwritten::Again(trouble_of(
                        RDKafkaErrorCode::OperationTimedOut,
                        &self.settings.brokers,
                        "reading positions takes too long",
                    )));
                }
                None => {}
            }
            // Of all that was ever written only the newest full and the newest of the others matter.
            if positions.len() > 10_000 {
                let kept = newest(&positions);
                let epoch = positions
                    .iter()
                    .map(|position| position.epoch)
                    .max()
                    .unwrap_or(0);
                positions = kept
                    .into_iter()
                    .map(|position| Position { epoch, ..position })
                    .collect();
            }
        }
    }

    /// Sends a position in the open transaction, and commits when it is acknowledged. `queue` and `wake` are the producer's.
    pub fn commit<C: ProducerContext + 'static>(
        &self,
        producer: &BaseProducer<C>,
        queue: &QueueWake,
        wake: &EventFd,
        prepared: &Prepared,
        opaque: C::DeliveryOpaque,
    ) -> Result<(), Unwritten>
    where
        C::DeliveryOpaque: Copy,
    {
        for (key, value) in &prepared.records {
            let record = BaseRecord::with_opaque_to(&self.topic, opaque)
                .partition(0)
                .key(key)
                .payload(value);
            producer
                .send(record)
                .map_err(|(error, _)| self.trouble(&error, "position record"))?;
        }
        // What `commit_transaction` does about it itself takes a tenth of a second at least (`BaseProducer::flush`).
        let start = Instant::now();
        loop {
            queue.serve(producer);
            let is_late = start.elapsed() > TRANSACTION_CALL_TIMEOUT || self.is_over();
            if producer.in_flight_count() == 0 || is_late {
                break;
            }
            wake.wait(ACKNOWLEDGEMENT_MS);
        }
        // -1 would wait as long as the broker's own limit does.
        producer
            .commit_transaction(TRANSACTION_CALL_TIMEOUT)
            .map_err(|error| self.trouble(&error, "commit_transaction"))
    }

    /// The progress of a sender that has nothing new to tell.
    pub fn last_progress(&self) -> Option<Progress> {
        let last = self.last.as_ref()?;
        Some(Progress {
            timeline: last.timeline,
            restart_lsn: last.restart_lsn,
            done: None,
            forget: Vec::new(),
        })
    }

    /// The records that say so much.
    pub fn prepared(&mut self, progress: &Progress) -> Result<Prepared, Unwritten> {
        self.take_ends(progress);
        let position = self.position(progress);
        let full = self
            .last_full
            .filter(|(at, _, parts)| at.elapsed() < FULL_EVERY * (*parts).max(1) && !self.forgot);
        let record = match full {
            None => Position {
                ends: self.ends.clone(),
                ..position.clone()
            },
            // With only those ends that changed since the last full record.
            Some((_, full_lsn, _)) => Position {
                record: Record::Tip,
                full: Some(full_lsn),
                ends: self
                    .changed
                    .iter()
                    .filter_map(|topic| Some((topic.clone(), self.ends.get(topic)?.clone())))
                    .collect(),
                ..position.clone()
            },
        };
        let sealed = record.split(PART_BYTES).into_iter().map(|part| {
            let key = Key {
                record: part.record,
                source: part.source.clone(),
                part: part.part.map_or(0, |part| part.number),
            };
            Ok((serde_json::to_vec(&key)?, part.seal(self.key)?))
        });
        let records = sealed.collect::<Result<Vec<_>, serde_json::Error>>();
        let records = records.map_err(|error| {
            Unwritten::Never(Trouble {
                code: "CDC0405",
                message: format!("the position cannot be written as JSON: {error}"),
                remedy: "Report this.".to_owned(),
            })
        })?;
        Ok(Prepared {
            records,
            position,
            is_full: full.is_none(),
        })
    }

    /// The record is in Kafka for good; `number` is that of the newest progress in it.
    pub fn written(&mut self, prepared: Prepared, number: u64) {
        let Prepared {
            position,
            is_full,
            records,
        } = prepared;
        let durable = Durable {
            number,
            cluster_id: self.cluster_id.clone(),
            epoch: position.epoch,
            timeline: position.timeline,
            commit_lsn: position.complete_lsn(),
            restart_lsn: position.restart_lsn,
        };
        if is_full {
            self.last_full = Some((Instant::now(), position.commit_lsn, records.len() as u32));
            self.changed.clear();
            self.forgot = false;
        }
        self.last = Some(position);
        self.board.tell(|facts| {
            facts.durable = Some(durable);
            facts.went_through();
        });
    }

    /// Takes in the ends after `progress`: they only ever rise. Should the position not be written, they are taken in once more.
    fn take_ends(&mut self, progress: &Progress) {
        for topic in &progress.forget {
            self.forgot |= self.ends.remove(topic).is_some();
            self.changed.remove(topic);
        }
        let done = progress.done.as_ref();
        for (topic, newer) in done.iter().flat_map(|done| &done.ends) {
            match self.ends.get_mut(topic).filter(|known| {
                known.topic_id == newer.topic_id && known.partitions == newer.partitions
            }) {
                Some(known) => {
                    known
                        .end
                        .iter_mut()
                        .zip(&newer.end)
                        .for_each(|(end, newer)| *end = (*end).max(*newer));
                    (known.database, known.untracked) = (newer.database, newer.untracked);
                }
                None => {
                    self.ends.insert(topic.clone(), newer.clone());
                }
            }
            if !self.changed.contains(topic) {
                self.changed.insert(topic.clone());
            }
        }
    }

    /// The position after `progress`, but for the ends: the effective time only ever rises.
    fn position(&self, progress: &Progress) -> Position {
        let last = self.last.as_ref();
        let done = progress.done.as_ref();
        let asides = self.board.read(|facts| Arc::clone(&facts.asides));
        let (commit_lsn, nonce, events, commit_ts_us) = match (done, last) {
            (Some(done), _) => (
                done.commit_lsn,
                hex(&done.nonce),
                done.events,
                done.commit_us + EPOCH_US,
            ),
            (None, Some(last)) => (
                last.commit_lsn,
                last.nonce.clone(),
                last.events,
                last.effective_ts_us,
            ),
            (None, None) => (0, String::new(), Events::default(), 0),
        };
        Position {
            format: FORMAT,
            record: Record::Full,
            source: self.owner.source_id.clone(),
            name: self.settings.source_name.clone(),
            generation: self.owner.generation,
            epoch: self.epoch,
            timeline: progress.timeline,
            timeline_start: self.owner.timeline_start,
            commit_lsn,
            restart_lsn: progress.restart_lsn,
            nonce,
            events,
            effective_ts_us: last
                .map_or(commit_ts_us, |last| last.effective_ts_us.max(commit_ts_us)),
            sent_ts_us: unix_us(),
            heartbeat_ms: self.settings.heartbeat_ms,
            node: self.owner.node.clone(),
            cluster_id: self.cluster_id.clone(),
            ends: BTreeMap::new(),
            aside: asides.as_ref().clone(),
            part: None,
            full: None,
            mac: String::new(),
        }
    }
}

/// The newest position, with the ends of the full record that it adds to.
fn newest(positions: &[Position]) -> Option<Position> {
    let newest = positions
        .iter()
        .max_by_key(|position| position.progress())?;
    let full = positions
        .iter()
        .filter(|position| position.record == Record::Full)
        .max_by_key(|position| position.progress());
    let mut ends = full.map(|full| full.ends.clone()).unwrap_or_default();
    ends.extend(newest.ends.clone());
    Some(Position {
        record: Record::Full,
        ends,
        full: None,
        ..newest.clone()
    })
}

//! The position thread: finds the position at the start, and writes it from then on.
//!
//! The position lives in Kafka beside the events, in a compacted topic of the source's own, and is written through a
//! transactional producer: a sender that was replaced is fenced, and stays down. Any unclear result of a transactional
//! call ends the producer; a new one fences what may still be on its way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use change::chunk::MacKey;
use change::datetime::EPOCH_US;
use change::hex::hex;
use change::position::{Ends, Events, FORMAT, Key, Position, Record, lsn_text};
use rdkafka::bindings::rd_kafka_t;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::board::{Board, Durable, Failure, Trouble};
use super::client::{KafkaSettings, Reporter, refused_configuration, trouble_of};
use super::kafka::unix_us;
use super::local_position::LocalPosition;
use super::topics::{self, Design, Use};

/// Positions are not written more often than this while transactions follow each other.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// A record with every partition is written at least this often, if anything was.
const FULL_EVERY: Duration = Duration::from_secs(5);
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);
/// Where there are tokens an idle producer is polled so often: that is how librdkafka asks for new ones.
const POLL: Duration = Duration::from_secs(1);
/// Offsets that are read at first from the end of the topic.
const FIRST_WINDOW: i64 = 2_000;
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(10);
/// Segments of the position topic are small, so that compaction keeps it small and starting is fast.
const SEGMENT_BYTES: u32 = 16 * 1024 * 1024;

/// How far events are acknowledged. `done` is none where only the restart point moved.
#[derive(Debug, Clone)]
pub struct Progress {
    pub timeline: u32,
    pub restart_lsn: u64,
    pub done: Option<Done>,
    /// Topics whose ends are not ours any more: given up by order.
    pub forget: Vec<String>,
}

/// The newest transaction whose events are all acknowledged, and where the topics ended then.
#[derive(Debug, Clone)]
pub struct Done {
    pub commit_lsn: u64,
    pub nonce: [u8; 16],
    pub events: u64,
    /// Microseconds since 2000-01-01.
    pub commit_us: i64,
    pub ends: BTreeMap<String, Ends>,
}

/// The newest progress, waiting to be written: older ones are of no interest.
pub struct Progresses {
    newest: Mutex<Numbered>,
    board: Arc<Board>,
}

#[derive(Default)]
struct Numbered {
    /// Of the newest progress that was ever offered.
    number: u64,
    progress: Option<Progress>,
}

impl Progresses {
    pub fn new(board: Arc<Board>) -> Progresses {
        Progresses {
            newest: Mutex::default(),
            board,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a newer progress; its number is in [`super::board::Durable`] once it is written, or one after it.
    pub fn offer(&self, progress: Progress) -> u64 {
        let mut newest = self.lock();
        newest.number += 1;
        let number = newest.number;
        let (older, mut forget) = match newest.progress.take() {
            Some(older) => (older.done, older.forget),
            None => Default::default(),
        };
        forget.extend(progress.forget);
        newest.progress = Some(Progress {
            done: progress.done.or(older),
            forget,
            ..progress
        });
        drop(newest);
        self.board.tell(|_| {});
        number
    }

    fn take(&self) -> (u64, Option<Progress>) {
        let mut newest = self.lock();
        (newest.number, newest.progress.take())
    }

    fn is_empty(&self) -> bool {
        self.lock().progress.is_none()
    }
}

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

/// Runs until the board says stop or the session fails.
pub fn run(
    settings: &KafkaSettings,
    owner: &Owner,
    key: &MacKey,
    board: &Arc<Board>,
    progresses: &Progresses,
) {
    let mut writer = Writer {
        settings,
        owner,
        key,
        board,
        topic: format!("{}.cdc_positions", settings.source_name),
        producer: None,
        cluster_id: String::new(),
        epoch: 0,
        last: None,
        last_full: None,
    };
    let found = loop {
        match writer.take_over() {
            Ok(found) => break found,
            Err(trouble) => {
                if !writer.wait_out(trouble) {
                    return;
                }
            }
        }
    };
    let epoch = writer.epoch;
    writer.last.clone_from(&found);
    board.tell(|facts| {
        facts.went_through();
        facts.start = Some((found.map(Box::new), epoch));
    });
    writer.serve(progresses);
}

struct Writer<'a> {
    settings: &'a KafkaSettings,
    owner: &'a Owner,
    key: &'a MacKey,
    board: &'a Arc<Board>,
    topic: String,
    producer: Option<BaseProducer<Context>>,
    cluster_id: String,
    epoch: u64,
    /// The newest position, with every partition's end.
    last: Option<Position>,
    /// When the last full record was written, its LSN, and its ends.
    last_full: Option<(Instant, u64, BTreeMap<String, Ends>)>,
}

struct Context(Reporter);

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
enum Unwritten {
    Again(Trouble),
    Never(Trouble),
    Fenced(Trouble),
}

/// What the position topic holds.
struct Found {
    own: Vec<Position>,
    /// Source id and node of another source that writes there.
    stranger: Option<(String, String)>,
}

impl Writer<'_> {
    fn context(&self) -> Context {
        Context(Reporter::new(self.settings, self.board))
    }

    fn trouble(&self, error: &KafkaError, what: &str) -> Unwritten {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        if matches!(
            error,
            KafkaError::ClientCreation(_) | KafkaError::ClientConfig(..)
        ) {
            return Unwritten::Never(refused_configuration(error));
        }
        if matches!(
            code,
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
        ) {
            return Unwritten::Fenced(Trouble {
                code: "CDC0404",
                message: format!("fenced: another sender writes the positions of source \"{}\"", self.settings.source_name),
                remedy: "If this server is the one that should ship, stop the other one, then SELECT pg_reload_conf() here.".to_owned(),
            });
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

    fn transactional_id(&self) -> String {
        format!("pg_cdc.{}", self.settings.source_name)
    }

    /// Shows the trouble and waits a moment; false if the session is over.
    fn wait_out(&self, unwritten: Unwritten) -> bool {
        match unwritten {
            Unwritten::Never(trouble) => {
                self.board.fail(Failure::Halt(trouble));
                return false;
            }
            Unwritten::Fenced(trouble) => {
                self.board.fail(Failure::Fenced(trouble));
                return false;
            }
            Unwritten::Again(trouble) => self.board.set_trouble(Some(trouble)),
        }
        let start = Instant::now();
        while start.elapsed() < RETRY && !self.is_over() {
            self.board
                .sleep_while(RETRY - start.elapsed().min(RETRY), || true);
        }
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        self.board.stopping() || self.board.has_failed()
    }

    /// Looks whether the name is another source's, which must not be fenced; then fences earlier senders of this one,
    /// and reads what they left, to the end: in this order nothing can come in between.
    fn take_over(&mut self) -> Result<Option<Position>, Unwritten> {
        self.connect()?;
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
        self.fence()?;
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
        Ok(newest)
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

    /// Makes a producer, and the topic where it is missing. Fences nobody yet.
    fn connect(&mut self) -> Result<(), Unwritten> {
        self.producer = None;
        let mut config = self.settings.base("position");
        config
            .set("transactional.id", self.transactional_id())
            .set(
                "transaction.timeout.ms",
                TRANSACTION_TIMEOUT.as_millis().to_string(),
            )
            .set("linger.ms", "0");
        let producer: BaseProducer<Context> = config
            .create_with_context(self.context())
            .map_err(|error| self.trouble(&error, "position producer"))?;
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
        self.refuse_deletion(handle, &design)?;
        self.producer = Some(producer);
        Ok(())
    }

    /// A topic that deletes by age would lose the position of a source that rests for long.
    fn refuse_deletion(&self, handle: *mut rd_kafka_t, design: &Design) -> Result<(), Unwritten> {
        // SAFETY: the producer's handle is live.
        let policy = unsafe { topics::setting(handle, &self.topic, "cleanup.policy") };
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
    fn fence(&self) -> Result<(), Unwritten> {
        match &self.producer {
            Some(producer) => producer
                .init_transactions(TRANSACTION_TIMEOUT)
                .map_err(|error| self.trouble(&error, "init_transactions")),
            None => Ok(()),
        }
    }

    /// The newest records of the topic, back to a full one of this source: most of it is older than that.
    fn read_positions(&self) -> Result<Found, Unwritten> {
        let (low, high) = match &self.producer {
            Some(producer) => producer
                .client()
                .fetch_watermarks(&self.topic, 0, WATERMARKS_TIMEOUT)
                .map_err(|error| self.trouble(&error, "the end of the positions"))?,
            None => (0, 0),
        };
        let mut window = FIRST_WINDOW;
        loop {
            let from = (high - window).max(low);
            let found = self.read_positions_from(from)?;
            let has_full = found.own.iter().any(|own| own.record == Record::Full);
            if has_full || found.stranger.is_some() || from == low || self.is_over() {
                return Ok(found);
            }
            window *= 8;
        }
    }

    /// Every position record from an offset on that this server's key opens, and whose it is otherwise.
    fn read_positions_from(&self, from: i64) -> Result<Found, Unwritten> {
        let wrap = |error: KafkaError| self.trouble(&error, "reading positions");
        let mut config = self.settings.base("position-reader");
        config
            .set("group.id", format!("pg_cdc.{}", self.settings.source_name))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        let consumer: BaseConsumer<Context> =
            config.create_with_context(self.context()).map_err(wrap)?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&self.topic, 0, Offset::Offset(from))
            .map_err(wrap)?;
        consumer.assign(&assignment).map_err(wrap)?;
        let mut positions: Vec<Position> = Vec::new();
        let mut stranger = None;
        let start = Instant::now();
        loop {
            if self.is_over() {
                return Ok(Found {
                    own: positions,
                    stranger,
                });
            }
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let Some(bytes) = message.payload() else {
                        continue;
                    };
                    match Position::open(bytes, self.key) {
                        Some(position) if position.source == self.owner.source_id => positions.push(position),
                        _ => match serde_json::from_slice::<Position>(bytes) {
                            Ok(other) if other.source != self.owner.source_id => stranger = Some((other.source, other.node)),
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
                        stranger,
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

    /// Writes what the mailbox holds, as often as sensible, and a heartbeat where nothing happens.
    fn serve(&mut self, progresses: &Progresses) {
        let heartbeat = Duration::from_millis(self.settings.heartbeat_ms);
        let longest = match self.settings.uses_tokens() {
            true => POLL,
            false => heartbeat,
        };
        let mut last_write: Option<Instant> = None;
        while !self.is_over() {
            let due = last_write.is_some_and(|at| at.elapsed() >= heartbeat);
            if progresses.is_empty() && !due {
                let left =
                    last_write.map_or(heartbeat, |at| heartbeat.saturating_sub(at.elapsed()));
                let left = left.min(longest);
                self.board.sleep_while(left, || progresses.is_empty());
                if let Some(producer) = &self.producer {
                    producer.poll(Duration::ZERO);
                }
                last_write.get_or_insert_with(Instant::now);
                continue;
            }
            if let Some(wait) = last_write.and_then(|at| MIN_INTERVAL.checked_sub(at.elapsed())) {
                std::thread::sleep(wait);
            }
            let (number, progress) = progresses.take();
            let Some(progress) = progress.or_else(|| self.last_progress()) else {
                last_write = Some(Instant::now());
                continue;
            };
            last_write = Some(Instant::now());
            while let Err(unwritten) = self.write(&progress) {
                // Whatever the broker has seen of it: a new producer ends the old one's transaction first.
                self.producer = None;
                if !self.wait_out(unwritten) {
                    return;
                }
            }
            let durable = self.last.as_ref().map(|position| Durable {
                number,
                cluster_id: self.cluster_id.clone(),
                epoch: position.epoch,
                timeline: position.timeline,
                commit_lsn: position.commit_lsn,
                restart_lsn: position.restart_lsn,
            });
            self.board.tell(|facts| {
                facts.durable = durable;
                facts.went_through();
            });
        }
    }

    fn last_progress(&self) -> Option<Progress> {
        let last = self.last.as_ref()?;
        Some(Progress {
            timeline: last.timeline,
            restart_lsn: last.restart_lsn,
            done: None,
            forget: Vec::new(),
        })
    }

    fn write(&mut self, progress: &Progress) -> Result<(), Unwritten> {
        if self.producer.is_none() {
            self.connect()?;
            self.fence()?;
        }
        let position = self.position(progress);
        let full_due = self.last_full.as_ref().is_none_or(|(at, _, ends)| {
            at.elapsed() >= FULL_EVERY || ends.len() != position.ends.len()
        });
        let record = if full_due {
            position.clone()
        } else {
            self.tip(position.clone())
        };
        let record_key = Key {
            record: record.record,
            source: record.source.clone(),
        };
        let sealed = record
            .seal(self.key)
            .and_then(|value| Ok((serde_json::to_vec(&record_key)?, value)));
        let (key, value) = sealed.map_err(|error| {
            Unwritten::Never(Trouble {
                code: "CDC0405",
                message: format!("the position cannot be written as JSON: {error}"),
                remedy: "Report this.".to_owned(),
            })
        })?;
        let Some(producer) = &self.producer else {
            return Ok(());
        };
        let wrap = |error: KafkaError, what: &str| self.trouble(&error, what);
        producer
            .begin_transaction()
            .map_err(|error| wrap(error, "begin_transaction"))?;
        producer
            .send(
                BaseRecord::to(&self.topic)
                    .partition(0)
                    .key(&key)
                    .payload(&value),
            )
            .map_err(|(error, _)| wrap(error, "position record"))?;
        // Commits only after the record is acknowledged; -1 would wait as long as the broker's own limit does.
        producer
            .commit_transaction(TRANSACTION_TIMEOUT)
            .map_err(|error| wrap(error, "commit_transaction"))?;
        if full_due {
            self.last_full = Some((Instant::now(), position.commit_lsn, position.ends.clone()));
        }
        self.last = Some(position);
        Ok(())
    }

    /// The full position after `progress`: ends only ever rise, and so does the effective time.
    fn position(&self, progress: &Progress) -> Position {
        let last = self.last.as_ref();
        let mut ends = last.map(|last| last.ends.clone()).unwrap_or_default();
        ends.retain(|topic, _| !progress.forget.contains(topic));
        let done = progress.done.as_ref();
        for (topic, newer) in done.iter().flat_map(|done| &done.ends) {
            match ends.get_mut(topic).filter(|known| {
                known.topic_id == newer.topic_id && known.partitions == newer.partitions
            }) {
                Some(known) => known
                    .end
                    .iter_mut()
                    .zip(&newer.end)
                    .for_each(|(end, newer)| *end = (*end).max(*newer)),
                None => {
                    ends.insert(topic.clone(), newer.clone());
                }
            }
        }
        let (commit_lsn, nonce, events, commit_ts_us) = match (done, last) {
            (Some(done), _) => {
                let events = Events {
                    done: done.events,
                    of: done.events,
                };
                (
                    done.commit_lsn,
                    hex(&done.nonce),
                    events,
                    done.commit_us + EPOCH_US,
                )
            }
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
            ends,
            full: None,
            mac: String::new(),
        }
    }

    /// The same position with only those ends that changed since the last full record.
    fn tip(&self, mut position: Position) -> Position {
        if let Some((_, full_lsn, full_ends)) = &self.last_full {
            position.record = Record::Tip;
            position.full = Some(*full_lsn);
            position
                .ends
                .retain(|topic, ends| full_ends.get(topic) != Some(ends));
        }
        position
    }
}

/// The newest position, with the ends of the full record that it adds to.
fn newest(positions: &[Position]) -> Option<Position> {
    let newest = positions.iter().max_by_key(|position| position.rank())?;
    let full = positions
        .iter()
        .filter(|position| position.record == Record::Full)
        .max_by_key(|position| position.rank());
    let mut ends = full.map(|full| full.ends.clone()).unwrap_or_default();
    ends.extend(newest.ends.clone());
    Some(Position {
        record: Record::Full,
        ends,
        full: None,
        ..newest.clone()
    })
}

//! The Kafka thread: decompresses, renders, produces, and counts acknowledgements. No PostgreSQL call ever.
//!
//! One idempotent, gapless (or transactional: `exactly_once`) producer; any failed delivery ends it, and the session with it: the next one starts again
//! at the position. Records go out at once while few are on their way; else they gather until something comes back, so
//! that requests grow with the load instead of their number (`docs/decisions/0006`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{CString, c_void};
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use change::event::commit::Commit;
use change::event::record::{Audience, Event, Sent, Stage};
use change::event::render_options::RenderOptions;
use change::event::renderer::Renderer;
use change::event::snapshot_chunk::Judged;
use change::partition::partition_of;
use change::position::{Ends, Events};
use change::wal::body::Body;
use change::wal::message;
use change::wal::message::MessageError;
use change::wire::WireError;
use crossbeam_channel::{Receiver, TryRecvError};
use rdkafka::bindings as rd;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::util::Timeout;

use super::aside;
use super::board::{Board, Failure, Trouble, incomplete};
use super::client::{KafkaSettings, Reporter, refused_configuration, trouble_of};
use super::exactly_once::{self, ExactlyOnce, Finished, Told};
use super::host::Host;
use super::orders::{Aside, Skip};
use super::position::{Unwritten, Writer, is_fenced};
use super::progress::{Done, Progress, Progresses};
use super::queue_wake::QueueWake;
use super::session::Session;
use super::stall;
use super::topic_counters::{Safety, SafetySettings, TopicCounter};
use super::topics::{self, Described, Design, Limits, Use};

/// Work for the thread, in commit order: what is known of the topics, then for each transaction a beginning, rows, an end.
pub enum Work {
    Known(Box<Known>),
    Begin(Box<Beginning>),
    /// A sealed chunk, its MAC checked.
    Chunk(Vec<u8>),
    /// A decompressed body.
    Body(Vec<u8>),
    End,
}

/// What is known of topics before the first event.
#[derive(Default)]
pub struct Known {
    /// As the position has them.
    pub ends: BTreeMap<String, Ends>,
    /// Events that are given up.
    pub skips: Vec<Skip>,
    /// Topics that are put aside.
    pub asides: Vec<Aside>,
    /// What records may have at most in topics that do not tell, in bytes: they have refused larger ones.
    pub smaller_in: BTreeMap<String, usize>,
    /// A transaction that is in Kafka in part: where it committed, and how many of its events are there.
    pub part: Option<(u64, u64)>,
}

/// What is known of a transaction before its rows.
pub struct Beginning {
    pub commit: Commit,
    pub end_lsn: u64,
    pub restart_lsn: u64,
}

/// With so many records of a partition on their way, librdkafka sends it nothing more until an answer came
/// (RD_KAFKA_IDEMP_MAX_INFLIGHT, compared with the number of records in rdkafka_broker.c), and burns a core meanwhile.
const BUSY_RECORDS: u32 = 5;
/// With so many records on their way, new ones do not wait for a busy partition: requests are large anyway.
const LARGE_LOAD_RECORDS: u64 = 5000;
/// Bursts do not follow each other faster than this once a partition was busy: fewer requests, fewer wake-ups.
const GATHER: Duration = Duration::from_millis(2);
/// How long librdkafka waits for more before it sends a request: its thread would else send the first record of every
/// burst alone, and spin while the others wait for the answer.
const LINGER_MS: &str = "0.5";
/// Items taken from the channel before delivery reports are served again.
const ITEMS_PER_ROUND: usize = 512;
/// librdkafka writes the length of a batch into four bytes of seven bits (rd_kafka_buf_write_arraycnt_pos): what is longer
/// reaches the broker broken, again and again. A record must stay below, with its key and headers.
pub const MAX_RECORD_BYTES: usize = 268_000_000;
/// What is taken to be the limit of a topic that does not tell it and has refused an event: brokers take 1 MB by default.
const UNTOLD_BYTES: usize = 1_000_000;
/// An event that is not sent need not be rendered whole.
const UNSENT_ROOM: Sent = Sent::Room {
    limit_bytes: 1024 * 1024,
    stubs: true,
};
/// Room for what a batch has besides keys, values and headers.
const BATCH_OVERHEAD_BYTES: usize = 512;
/// A buffer that one large row made larger is given back to this.
const KEPT_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// For the ends of a partition.
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a topic's settings are asked for again.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// The thread looks around at least this often while something is on its way, though nothing woke it.
const BUSY_MS: i32 = 1000;
/// And this often while nothing is.
const IDLE_MS: i32 = 60_000;
/// After a change a leader learns from its followers how far the partition is acknowledged.
const LEADER_LEARNS: Duration = Duration::from_secs(5);
/// A failed producer's delivery reports come soon.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const REPORT_MS: i32 = 50;
/// Without an acknowledgement for this long, Kafka is asked why.
const STALL: Duration = Duration::from_secs(3);

/// A transaction that is produced and not yet acknowledged.
struct InFlight {
    unacknowledged: u64,
    complete: bool,
    /// The snapshot's chunk that it is, and what was decided about it.
    judged: Option<Judged>,
    commit: Commit,
    end_lsn: u64,
    restart_lsn: u64,
}

/// A broker that has no state of a producer for a partition takes whatever sequence comes first. Were the first request
/// refused (a new partition has no leader yet) and the second one taken, the retried first one would pass for a
/// duplicate and be lost. So the first record goes alone, until it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acquaintance {
    None,
    FirstSent,
    Acknowledged,
}

#[derive(Debug, Clone)]
struct Partition {
    /// Last acknowledged offset + 1.
    end: i64,
    /// Records on their way.
    unacknowledged: u32,
    acquaintance: Acquaintance,
}

/// A record that the client or the broker refused.
struct Undelivered {
    code: RDKafkaErrorCode,
    message: String,
    /// The event's id, as its header has it.
    id: String,
    value_bytes: usize,
    topic: usize,
    /// Commit record of its transaction, and the database; 0 if that is not known.
    commit_lsn: u64,
    database: u32,
}

/// Delivery reports end here, on the thread that polls.
#[derive(Default)]
struct Deliveries {
    /// Number of the first transaction in `in_flight`, counted since the session began.
    first: u64,
    in_flight: VecDeque<InFlight>,
    unacknowledged: u64,
    /// Acknowledged so far.
    delivered: u64,
    /// Keys and values of these records.
    unacknowledged_bytes: usize,
    failure: Option<Undelivered>,
    /// By topic and number.
    partitions: Vec<Vec<Partition>>,
    /// Topics with acknowledgements of which no progress tells yet, and by topic whether it is one of them.
    changed: Vec<usize>,
    is_changed: Vec<bool>,
    /// By topic, in shared memory.
    counters: Vec<Option<&'static TopicCounter>>,
    /// How many of them have [`BUSY_RECORDS`] or more on their way.
    busy_partitions: u32,
    /// Partitions whose record was acknowledged without an offset (a duplicate that the broker had already).
    offset_unknown: Vec<(usize, i32)>,
}

struct Context {
    reporter: Reporter,
    deliveries: Mutex<Deliveries>,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Reporter::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reporter.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.reporter.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(error, reason);
    }

    fn generate_oauth_token(
        &self,
        config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.reporter.generate_oauth_token(config)
    }
}

/// What a record belongs to, in the one word that librdkafka carries along.
#[derive(Debug, Clone, Copy)]
struct Belongs {
    transaction: u64,
    topic: usize,
    /// It is an event, and not a tombstone or a copy in a further partition.
    counts: bool,
}

/// No record of an event, but the position in its transaction.
const POSITION_WORD: usize = usize::MAX;

impl Belongs {
    /// The transaction's number has 31 bits in it: they tell transactions that are on their way from each other.
    const TRANSACTION: u64 = (1 << 31) - 1;

    fn to_word(self) -> usize {
        ((self.transaction & Self::TRANSACTION) << 33) as usize
            | usize::from(self.counts) << 32
            | self.topic
    }

    fn of_word(word: usize) -> Belongs {
        Belongs {
            transaction: (word >> 33) as u64,
            topic: word & 0xffff_ffff,
            counts: word >> 32 & 1 == 1,
        }
    }

    /// Its place among those on their way, of which `first` is the oldest.
    fn place(self, first: u64) -> usize {
        (self.transaction.wrapping_sub(first) & Self::TRANSACTION) as usize
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        // Its failure is its transaction's.
        if opaque == POSITION_WORD {
            return;
        }
        let belongs = Belongs::of_word(opaque);
        let Belongs { topic, counts, .. } = belongs;
        let mut deliveries = lock(&self.deliveries);
        let deliveries = &mut *deliveries;
        deliveries.unacknowledged -= 1;
        let message: &BorrowedMessage<'_> = match result {
            Ok(message) => message,
            Err((_, message)) => message,
        };
        deliveries.unacknowledged_bytes -= message.payload_len() + message.key_len();
        let place = belongs.place(deliveries.first);
        match result {
            Ok(message) => {
                deliveries.delivered += 1;
                if let Some(in_flight) = deliveries.in_flight.get_mut(place) {
                    in_flight.unacknowledged -= 1;
                    if counts && let Some(Some(counter)) = deliveries.counters.get(topic) {
                        counter.count(message.payload_len(), in_flight.commit.commit_us);
                    }
                }
                let (number, offset) = (message.partition(), message.offset());
                let Some(partition) = deliveries
                    .partitions
                    .get_mut(topic)
                    .and_then(|partitions| partitions.get_mut(number as usize))
                else {
                    return;
                };
                if !std::mem::replace(&mut deliveries.is_changed[topic], true) {
                    deliveries.changed.push(topic);
                }
                partition.acquaintance = Acquaintance::Acknowledged;
                partition.unacknowledged -= 1;
                if partition.unacknowledged == BUSY_RECORDS - 1 {
                    deliveries.busy_partitions -= 1;
                }
                if offset >= 0 {
                    partition.end = partition.end.max(offset + 1);
                } else {
                    deliveries.offset_unknown.push((topic, number));
                }
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let commit = deliveries.in_flight.get(place).map(|of| of.commit);
                deliveries.failure.get_or_insert_with(|| Undelivered {
                    commit_lsn: commit.map_or(0, |commit| commit.lsn),
                    database: commit.map_or(0, |commit| commit.database_oid),
                    code,
                    message: error.to_string(),
                    id: header(message, "cdc.id"),
                    value_bytes: message.payload_len(),
                    topic,
                });
            }
        }
    }
}

/// A header's text, empty if it is not there.
fn header(message: &BorrowedMessage<'_>, name: &str) -> String {
    let value = message
        .headers()
        .and_then(|headers| headers.iter().find(|header| header.key == name)?.value);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

fn lock(deliveries: &Mutex<Deliveries>) -> std::sync::MutexGuard<'_, Deliveries> {
    deliveries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A topic in use.
struct Topic {
    handle: *mut rd::rd_kafka_topic_t,
    name: String,
    topic_id: String,
    partitions: i32,
    /// What it takes, keys and headers included; only where events can be made smaller.
    max_record_bytes: usize,
    /// It does not tell what it takes.
    is_unknown: bool,
    /// Oid of the database that writes to it.
    database: u32,
    /// Its newest definition said that it is the last.
    untracked: bool,
}

/// What is not sent of a topic.
#[derive(Debug, Clone, Copy, Default)]
struct Withheld {
    /// What committed up to here is given up.
    up_to: u64,
    /// From this commit on it is put aside.
    from: Option<u64>,
}

impl Withheld {
    /// Whether events of the transaction that committed at `commit_lsn` are not to go into the topic: by `cdc_skip_topic`, or because it
    /// is put aside.
    fn has(self, commit_lsn: u64) -> bool {
        commit_lsn <= self.up_to || self.from.is_some_and(|from| commit_lsn >= from)
    }
}

/// Why rendering or producing stopped.
enum Stop {
    /// The session failed, or was asked to end.
    Over,
    Undecodable(String),
    OutOfMemory,
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        match error {
            WireError::OutOfMemory => Stop::OutOfMemory,
            error => Stop::Undecodable(error.to_string()),
        }
    }
}

impl From<MessageError> for Stop {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::OutOfMemory => Stop::OutOfMemory,
            error => Stop::Undecodable(error.to_string()),
        }
    }
}

/// Runs until the board says stop or the session fails.
pub fn run(session: &Session, work: &Receiver<Work>) {
    let Session {
        settings, board, ..
    } = session;
    let mut writer = settings.exactly_once.then(|| Writer::new(session));
    let mut config = settings.base("events");
    let mut properties = vec![
        ("compression.type", "lz4".to_owned()),
        ("linger.ms", LINGER_MS.to_owned()),
        ("batch.num.messages", "100000".to_owned()),
        ("message.max.bytes", MAX_RECORD_BYTES.to_string()),
        ("queue.buffering.max.messages", "1000000".to_owned()),
        ("statistics.interval.ms", "2000".to_owned()),
    ];
    // What the file sets wins over these, but not over what the promises rest on.
    properties.retain(|(name, _)| !settings.properties.iter().any(|(given, _)| given == name));
    for (name, value) in properties {
        config.set(name, value);
    }
    config
        // Bounded by `count_in`, which lets one event pass that is larger than the bound.
        .set("queue.buffering.max.kbytes", "2097151")
        .set("enable.idempotence", "true")
        .set("enable.gapless.guarantee", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0")
        .set("batch.size", session.max_batch_bytes.to_string());
    if let Some(writer) = &writer {
        exactly_once::configure(&mut config, settings, writer.transactional_id());
    }
    let connect = || -> Result<BaseProducer<Context>, KafkaError> {
        config.create_with_context(Context {
            reporter: Reporter::new(settings, board),
            deliveries: Mutex::default(),
        })
    };
    let producer = loop {
        let producer = match connect() {
            Ok(producer) => producer,
            Err(error) => return board.fail(Failure::Halt(refused_configuration(&error))),
        };
        let Some(writer) = &mut writer else {
            break producer;
        };
        // librdkafka asks for the first token.
        producer.poll(Timeout::After(Duration::ZERO));
        match writer.take_over(&producer) {
            Ok(()) => break producer,
            Err(unwritten) => {
                drop(producer);
                if !writer.wait_out(unwritten) {
                    return;
                }
            }
        }
    };
    // A delivery report makes the same descriptor readable that new work does.
    let queue = QueueWake::enable(&producer, &board.kafka_wake);
    let mut shipper = Shipper {
        settings,
        board,
        host: session.host,
        progresses: &session.progresses,
        producer: &producer,
        exact: writer.map(|writer| ExactlyOnce::new(writer, settings.heartbeat_ms)),
        queue: &queue,
        known: Known::default(),
        withheld: Rc::default(),
        commit: None,
        topics: Vec::new(),
        topic_indexes: HashMap::new(),
        renderer: None,
        session: session.number,
        max_batch_bytes: session.max_batch_bytes,
        body: Vec::new(),
        arguments: Vec::new(),
        taken_at: None,
        crowded: false,
        begun: 0,
        sequence: 0,
        left_out: 0,
        acknowledged: 0,
        moved: (0, Instant::now()),
        is_stalled: false,
        events: 0,
        bytes: 0,
    };
    shipper.run(work);
    shipper.close();
    drop(queue);
    producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    drop(producer);
}

struct Shipper<'a> {
    settings: &'a KafkaSettings,
    board: &'a Arc<Board>,
    host: Host,
    progresses: &'a Progresses,
    producer: &'a BaseProducer<Context>,
    /// Only with `cdc.delivery = exactly_once`.
    exact: Option<ExactlyOnce<'a>>,
    queue: &'a QueueWake,
    known: Known,
    /// By topic, what is not to be sent of it. Shared with whoever renders.
    withheld: Rc<HashMap<String, Withheld>>,
    /// The transaction at hand.
    commit: Option<Commit>,
    topics: Vec<Topic>,
    topic_indexes: HashMap<String, usize>,
    renderer: Option<Renderer>,
    /// The sender's session, as chunks of snapshots name it.
    session: u64,
    max_batch_bytes: usize,
    body: Vec<u8>,
    arguments: Vec<rd::rd_kafka_vu_t>,
    /// When work was last taken from the channel; none if there was no more.
    taken_at: Option<Instant>,
    /// That work made a partition busy.
    crowded: bool,
    /// Transactions begun and acknowledged in this session.
    begun: u64,
    /// The newest event of the newest transaction, and up to which one they are in Kafka from an earlier session.
    sequence: u64,
    left_out: u64,
    acknowledged: u64,
    /// Records acknowledged when that was last looked at, and when they became more or none was on its way.
    moved: (u64, Instant),
    /// It was said that nothing moves.
    is_stalled: bool,
    /// Events produced, tombstones not counted, and the bytes of their values.
    events: u64,
    bytes: u64,
}

impl Shipper<'_> {
    fn deliveries(&self) -> std::sync::MutexGuard<'_, Deliveries> {
        lock(&self.producer.context().deliveries)
    }

    fn run(&mut self, work: &Receiver<Work>) {
        loop {
            self.serve();
            if self.is_over() {
                return;
            }
            if let Some(timeout_ms) = self.gathers_for_ms() {
                self.board.gathering(true);
                self.board.kafka_wake.wait(timeout_ms);
                continue;
            }
            self.board.gathering(false);
            match self.take_all(work) {
                Ok(true) => self.taken_at = Some(Instant::now()),
                Ok(false) => {
                    self.taken_at = None;
                    if let Some(renderer) = &mut self.renderer {
                        let host = self.host;
                        renderer.forget_snapshots(&|table| host.snapshots.is_snapshot(table));
                    }
                    if self.may_commit() {
                        if self.commit().is_err() {
                            return;
                        }
                    } else {
                        self.wait_for_work(work);
                    }
                }
                Err(Stop::Over) => return,
                Err(Stop::OutOfMemory) => {
                    return self.board.fail(Failure::Halt(aside::out_of_memory()));
                }
                Err(Stop::Undecodable(why)) => {
                    return self.board.fail(Failure::Halt(Trouble {
                        code: "CDC0402",
                        message: format!("a captured transaction cannot be decoded: {why}"),
                        remedy: "Install the version of pg_cdc that wrote it; report this if it is the same.".to_owned(),
                    }));
                }
            }
        }
    }

    /// How long new work stays in the channel, at most or until an answer comes, so that requests grow with the load.
    fn gathers_for_ms(&mut self) -> Option<i32> {
        let (busy, records) = {
            let deliveries = self.deliveries();
            (deliveries.busy_partitions > 0, deliveries.unacknowledged)
        };
        if records >= LARGE_LOAD_RECORDS {
            return None;
        }
        if busy {
            self.crowded = true;
            return Some(BUSY_MS);
        }
        let left = self
            .taken_at
            .filter(|_| self.crowded)
            .and_then(|at| GATHER.checked_sub(at.elapsed()));
        match left.map(|left| left.as_millis() as i32) {
            Some(left_ms) if left_ms > 0 => Some(left_ms),
            _ => {
                self.crowded = false;
                None
            }
        }
    }

    /// Sleeps until there is work, a delivery report, or the end.
    fn wait_for_work(&self, work: &Receiver<Work>) {
        self.board.work_wanted.ask();
        if work.is_empty() {
            let is_idle = self.deliveries().unacknowledged == 0;
            let timeout_ms = if is_idle { IDLE_MS } else { BUSY_MS };
            let own_ms = match &self.exact {
                None => timeout_ms,
                Some(exact) if self.is_in_part() => exact.open_ms(),
                Some(exact) => exact.idle_ms(),
            };
            self.board.kafka_wake.wait(timeout_ms.min(own_ms));
        }
        self.board.work_wanted.withdraw();
    }

    fn is_over(&self) -> bool {
        self.board.stopping() || self.board.has_failed()
    }

    /// Produces what is in the channel now, up to a round of it; whether there was anything.
    fn take_all(&mut self, work: &Receiver<Work>) -> Result<bool, Stop> {
        for taken in 0..ITEMS_PER_ROUND {
            match work.try_recv() {
                Ok(item) => {
                    self.produce(item)?;
                    self.board.room_made();
                    if self.is_over() {
                        return Err(Stop::Over);
                    }
                }
                Err(TryRecvError::Empty) => return Ok(taken > 0),
                Err(TryRecvError::Disconnected) => return Err(Stop::Over),
            }
        }
        Ok(true)
    }

    fn produce(&mut self, item: Work) -> Result<(), Stop> {
        match item {
            Work::Known(known) => {
                let withheld = Rc::make_mut(&mut self.withheld);
                for skip in &known.skips {
                    let withheld = withheld.entry(skip.topic.clone()).or_default();
                    withheld.up_to = withheld.up_to.max(skip.up_to);
                }
                for aside in &known.asides {
                    let withheld = withheld.entry(aside.topic.clone()).or_default();
                    withheld.from = Some(aside.from);
                }
                let counters = self.host.topic_counters;
                let mut topics = known.ends.iter();
                // Until there is no room for more.
                let _all = topics.all(|(topic, ends)| counters.claim_for(topic, ends.database));
                self.known = *known;
                Ok(())
            }
            Work::Begin(beginning) => {
                let commit = beginning.commit;
                match &mut self.renderer {
                    Some(renderer) => renderer.begin(commit),
                    None => {
                        let window_bytes = self.settings.memory_bytes / 4;
                        self.renderer = Some(Renderer::new(commit, window_bytes));
                    }
                }
                self.begun += 1;
                self.commit = Some(commit);
                self.sequence = 0;
                self.left_out = match self.known.part {
                    Some((lsn, done)) if lsn == commit.lsn => done,
                    _ => 0,
                };
                self.deliveries().in_flight.push_back(InFlight {
                    unacknowledged: 0,
                    complete: false,
                    judged: None,
                    commit,
                    end_lsn: beginning.end_lsn,
                    restart_lsn: beginning.restart_lsn,
                });
                Ok(())
            }
            Work::Chunk(bytes) => {
                let mut body = std::mem::take(&mut self.body);
                let opened = message::read(&bytes).and_then(|chunk| chunk.body_into(&mut body));
                let done = opened.map_err(Stop::from).and_then(|()| self.render(&body));
                body.clear();
                body.shrink_to(KEPT_BUFFER_BYTES);
                self.body = body;
                self.board
                    .queued_bytes
                    .fetch_sub(bytes.len(), Ordering::AcqRel);
                done
            }
            Work::Body(body) => {
                let done = self.render(&body);
                self.board
                    .queued_bytes
                    .fetch_sub(body.len(), Ordering::AcqRel);
                done
            }
            Work::End => {
                let expected = self.renderer.as_ref().map_or(0, Renderer::rendered);
                let judged = self.renderer.as_ref().and_then(Renderer::judged);
                let mut deliveries = self.deliveries();
                if let Some(last) = deliveries.in_flight.back_mut() {
                    if last.commit.event_count != expected {
                        let (xid8, event_count) = (last.commit.xid8, last.commit.event_count);
                        drop(deliveries);
                        self.board
                            .fail(Failure::Halt(incomplete(xid8, expected, event_count)));
                        return Err(Stop::Over);
                    }
                    last.complete = true;
                    last.judged = judged;
                }
                Ok(())
            }
        }
    }

    fn render(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let body = Body::parse(bytes)?;
        let Some(mut renderer) = self.renderer.take() else {
            return Err(Stop::Undecodable("rows before a beginning".to_owned()));
        };
        let transaction = self.begun - 1;
        let (withheld, commit_lsn) = (Rc::clone(&self.withheld), self.commit_lsn());
        let snapshots = self.host.snapshots;
        let circumstances = RenderOptions {
            sent_us: unix_us(),
            tombstones: self.settings.tombstones,
            session: self.session,
            is_snapshot: &|table| snapshots.is_snapshot(table),
            is_withheld: &|topic| {
                let withheld = withheld.get(topic);
                withheld.is_some_and(|withheld| withheld.has(commit_lsn))
            },
        };
        let done = renderer.render(&body, &circumstances, &mut |event| {
            self.send(event, transaction)
        });
        self.renderer = Some(renderer);
        done
    }

    fn send(&mut self, event: &Event<'_>, transaction: u64) -> Result<Sent, Stop> {
        if event.sequence <= self.left_out {
            self.sequence = event.sequence;
            return Ok(match event.stage {
                Stage::Asked => UNSENT_ROOM,
                Stage::Sent | Stage::Unsendable { .. } | Stage::PassedOver => Sent::Taken,
            });
        }
        if event.sequence != self.sequence {
            if self.exact.as_ref().is_some_and(ExactlyOnce::is_due) {
                self.commit()?;
            }
            self.sequence = event.sequence;
        }
        if !self.withheld.is_empty() && self.is_withheld(event.topic) {
            return Ok(self.withhold(event));
        }
        let index = match self.topic_indexes.get(event.topic) {
            Some(index) => *index,
            None => match self.open_topic(event.topic)? {
                Some(index) => index,
                None => return Ok(self.withhold(event)),
            },
        };
        let besides =
            event.headers.size_bytes() + event.key.map_or(0, <[u8]>::len) + BATCH_OVERHEAD_BYTES;
        let limit_bytes = self.topics[index].max_record_bytes.saturating_sub(besides);
        let bytes = match event.stage {
            Stage::Sent => event.value.map_or(0, <[u8]>::len),
            Stage::Unsendable { bytes } => bytes,
            // Withheld above.
            Stage::PassedOver => return Ok(Sent::Taken),
            Stage::Asked => {
                return Ok(Sent::Room {
                    limit_bytes,
                    stubs: self.settings.stubs,
                });
            }
        };
        if bytes > limit_bytes || matches!(event.stage, Stage::Unsendable { .. }) {
            if self.settings.stubs && event.can_shrink {
                return Ok(Sent::TooLarge { limit_bytes });
            }
            if self.settings.stubs || event.stage != Stage::Sent {
                self.refuse_event(event, index, bytes)?;
                return Ok(self.withhold(event));
            }
        }
        let partitions = self.topics[index].partitions;
        match event.audience {
            Audience::Key => {
                let partition = partition_of(event.key, partitions);
                self.send_to(event, index, partition, transaction, true)
            }
            Audience::EveryPartition => {
                self.topics[index].untracked = event.is_last;
                (0..partitions).try_for_each(|partition| {
                    self.send_to(event, index, partition, transaction, partition == 0)
                })
            }
        }?;
        Ok(Sent::Taken)
    }

    fn commit_lsn(&self) -> u64 {
        self.commit.map_or(0, |commit| commit.lsn)
    }

    /// Whether events of the transaction at hand are not to go into a topic.
    fn is_withheld(&self, topic: &str) -> bool {
        let withheld = self.withheld.get(topic);
        withheld.is_some_and(|withheld| withheld.has(self.commit_lsn()))
    }

    /// Counts an event that is not sent. It need not be rendered whole for that.
    fn withhold(&self, event: &Event<'_>) -> Sent {
        if event.stage == Stage::Asked {
            return UNSENT_ROOM;
        }
        if event.value.is_none() {
            return Sent::Taken;
        }
        let withheld = self.withheld.get(event.topic).copied().unwrap_or_default();
        if self.commit_lsn() <= withheld.up_to {
            self.host.skipped_events.fetch_add(1, Ordering::Relaxed);
        } else if let Some(counter) = self.host.topic_counters.claim(event.topic) {
            counter.count_aside();
        }
        Sent::Taken
    }

    /// Puts a topic aside: what it cannot take stops nobody else. Goes on when that is noted for good, before any position that
    /// is beyond it.
    fn put_aside(&mut self, topic: &str, trouble: Trouble) -> Result<(), Stop> {
        let (from, database) = self
            .commit
            .map_or((0, 0), |commit| (commit.lsn, commit.database_oid));
        let aside = aside::new(topic, from, database, trouble);
        self.board
            .tell(|facts| facts.aside_wanted = Some(Box::new(aside)));
        while !self.board.read(|facts| facts.asides.contains_key(topic)) {
            self.serve();
            if self.is_over() {
                return Err(Stop::Over);
            }
            self.board.kafka_wake.wait(BUSY_MS);
        }
        let withheld = Rc::make_mut(&mut self.withheld);
        withheld.entry(topic.to_owned()).or_default().from = Some(from);
        Ok(())
    }

    /// An event that its topic does not take, and that cannot become smaller.
    fn refuse_event(&mut self, event: &Event<'_>, index: usize, bytes: usize) -> Result<(), Stop> {
        let name = self.topics[index].name.clone();
        if self.settings.stubs {
            let trouble = aside::too_large(&id_of(event), bytes, &name);
            return self.put_aside(&name, trouble);
        }
        self.board
            .fail(Failure::Halt(too_large(&id_of(event), bytes, &name)));
        Err(Stop::Over)
    }

    fn send_to(
        &mut self,
        event: &Event<'_>,
        topic: usize,
        partition: i32,
        transaction: u64,
        first_copy: bool,
    ) -> Result<(), Stop> {
        // Kept from one record to the next: their number is the application's where it emits an event.
        let mut arguments = std::mem::take(&mut self.arguments);
        arguments.clear();
        let mut push = |kind, value| {
            arguments.push(rd::rd_kafka_vu_t {
                vtype: kind,
                u: value,
            });
        };
        use rd::rd_kafka_vtype_t as kind;
        let bytes = |bytes: Option<&[u8]>| rd::rd_kafka_vu_s__bindgen_ty_1 {
            mem: rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                ptr: bytes.map_or(ptr::null_mut(), |bytes| {
                    bytes.as_ptr().cast_mut().cast::<c_void>()
                }),
                size: bytes.map_or(0, <[u8]>::len),
            },
        };
        push(
            kind::RD_KAFKA_VTYPE_RKT,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                rkt: self.topics[topic].handle,
            },
        );
        push(
            kind::RD_KAFKA_VTYPE_PARTITION,
            rd::rd_kafka_vu_s__bindgen_ty_1 { i32_: partition },
        );
        push(
            kind::RD_KAFKA_VTYPE_MSGFLAGS,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                i: rd::RD_KAFKA_MSG_F_COPY,
            },
        );
        push(kind::RD_KAFKA_VTYPE_KEY, bytes(event.key));
        push(kind::RD_KAFKA_VTYPE_VALUE, bytes(event.value));
        let belongs = Belongs {
            transaction,
            topic,
            counts: first_copy && event.value.is_some(),
        };
        push(
            kind::RD_KAFKA_VTYPE_OPAQUE,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                ptr: belongs.to_word() as *mut c_void,
            },
        );
        for (name, value) in event.headers.iter() {
            let header = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
                name: name.as_ptr(),
                val: value.as_ptr().cast(),
                size: value.len() as isize,
            };
            push(
                kind::RD_KAFKA_VTYPE_HEADER,
                rd::rd_kafka_vu_s__bindgen_ty_1 { header },
            );
        }
        if let Some(exact) = &mut self.exact
            && let Err(unwritten) = exact.begin(self.producer)
        {
            exact.fail(unwritten);
            return Err(Stop::Over);
        }
        let bytes = event.key.map_or(0, <[u8]>::len) + event.value.map_or(0, <[u8]>::len);
        while !self.count_in(topic, partition, bytes) {
            self.serve();
            if self.is_over() {
                return Err(Stop::Over);
            }
            // These reports may have been the last ones: then nothing would wake this thread.
            if self.count_in(topic, partition, bytes) {
                break;
            }
            self.board.kafka_wake.wait(BUSY_MS);
        }
        loop {
            // SAFETY: every pointer outlives the call, which copies what it keeps.
            let code = unsafe {
                let error = rd::rd_kafka_produceva(
                    self.producer.client().native_ptr(),
                    arguments.as_ptr(),
                    arguments.len(),
                );
                let code = rd::rd_kafka_error_code(error);
                if !error.is_null() {
                    rd::rd_kafka_error_destroy(error);
                }
                code
            };
            match code {
                rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => break,
                rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL => {
                    let before = self.producer.in_flight_count();
                    self.serve();
                    if self.is_over() {
                        return Err(Stop::Over);
                    }
                    if self.producer.in_flight_count() >= before {
                        self.board.kafka_wake.wait(BUSY_MS);
                    }
                }
                code => {
                    let code = RDKafkaErrorCode::from(code);
                    let is_late = matches!(
                        code,
                        RDKafkaErrorCode::GaplessGuarantee | RDKafkaErrorCode::Fatal
                    );
                    if is_late && self.learns_why() {
                        return Err(Stop::Over);
                    }
                    self.fail_with(&Undelivered {
                        code,
                        message: format!("the record was refused: {code}"),
                        id: id_of(event),
                        value_bytes: event.value.map_or(0, <[u8]>::len),
                        topic,
                        commit_lsn: self.commit_lsn(),
                        database: self.commit.map_or(0, |commit| commit.database_oid),
                    });
                    return Err(Stop::Over);
                }
            }
        }
        self.arguments = arguments;
        self.events += u64::from(event.value.is_some());
        self.bytes += event.value.map_or(0, <[u8]>::len) as u64;
        Ok(())
    }

    /// The producer has failed: the report of the record that it failed with says why. Whether that came.
    fn learns_why(&mut self) -> bool {
        let start = Instant::now();
        while !self.is_over() && start.elapsed() < REPORT_TIMEOUT {
            self.board.kafka_wake.wait(REPORT_MS);
            self.serve();
        }
        self.is_over()
    }

    /// Counts a record as on its way; not while the partition's first one is, nor while memory is short.
    fn count_in(&mut self, topic: usize, number: i32, bytes: usize) -> bool {
        let limit = self.settings.memory_bytes / 2;
        let mut deliveries = self.deliveries();
        let deliveries = &mut *deliveries;
        if deliveries.unacknowledged_bytes > 0 && deliveries.unacknowledged_bytes + bytes > limit {
            return false;
        }
        let partition = &mut deliveries.partitions[topic][number as usize];
        match partition.acquaintance {
            Acquaintance::FirstSent => return false,
            Acquaintance::None => partition.acquaintance = Acquaintance::FirstSent,
            Acquaintance::Acknowledged => {}
        }
        partition.unacknowledged += 1;
        if partition.unacknowledged == BUSY_RECORDS {
            deliveries.busy_partitions += 1;
        }
        deliveries.unacknowledged += 1;
        deliveries.unacknowledged_bytes += bytes;
        if let Some(last) = deliveries.in_flight.back_mut() {
            last.unacknowledged += 1;
        }
        true
    }

    /// Makes sure that the topic is there, with its partitions and id known, before the first record goes to it; none if it is put
    /// aside.
    fn open_topic(&mut self, name: &str) -> Result<Option<usize>, Stop> {
        let settings = self.settings;
        if let Some(reason) = change::topic_name::refusal(name) {
            let trouble = aside::refused_name(name, &format!("as a topic of pg_cdc {reason}"));
            return self.put_aside(name, trouble).map(|()| None);
        }
        let known = self.known.ends.get(name).cloned();
        let design = Design {
            usage: Use::Events,
            // A topic that was there and is not is not made again in silence.
            create: settings.create_topics && known.is_none(),
            partitions: settings.partitions,
            replication_factor: settings.replication_factor,
            configs: vec![
                (c"cleanup.policy", "delete".to_owned()),
                (c"retention.ms", settings.retention_ms.to_string()),
                (
                    topics::MAX_MESSAGE_BYTES,
                    settings.max_event_bytes.to_string(),
                ),
            ],
        };
        let client = self.producer.client().native_ptr();
        let began = Instant::now();
        let described = loop {
            // SAFETY: the producer's handle is live.
            match unsafe { topics::ensure(client, name, &design) } {
                Ok(described) => break described,
                Err(error) if known.is_some() && error.is_missing() => {
                    return Err(self.refuse_topic(name, "is gone".to_owned()));
                }
                Err(error) if error.is_refused_name() => {
                    self.board.set_blocked(None);
                    let trouble = aside::refused_name(name, &error.message);
                    return self.put_aside(name, trouble).map(|()| None);
                }
                Err(error) => {
                    let trouble = topics::trouble(&error, &settings.brokers, name, &design);
                    let is_over = settings
                        .topic_timeout
                        .is_some_and(|timeout| began.elapsed() >= timeout);
                    if is_over && known.is_none() && error.is_of_topic() {
                        self.board.set_blocked(None);
                        let trouble = aside::unusable(name, trouble);
                        return self.put_aside(name, trouble).map(|()| None);
                    }
                    self.board.set_blocked(Some(trouble));
                }
            }
            self.serve();
            if self.is_over() {
                return Err(Stop::Over);
            }
            self.board.kafka_wake.wait(BUSY_MS);
        };
        self.board.set_blocked(None);
        if let Some(known) = &known {
            self.compare(name, known, &described)?;
        }
        let limits = self.limits(name)?;
        let max_record_bytes = match &limits {
            Some(limits) if settings.stubs => limits.max_message_bytes.min(MAX_RECORD_BYTES),
            None if settings.stubs => {
                let smaller = self.known.smaller_in.get(name);
                smaller.copied().unwrap_or(MAX_RECORD_BYTES)
            }
            _ => MAX_RECORD_BYTES,
        };
        let database = self.commit.map_or(0, |commit| commit.database_oid);
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the producer's handle is live; the topic's handle is destroyed by `close`.
        let handle = unsafe { rd::rd_kafka_topic_new(client, c_name.as_ptr(), ptr::null_mut()) };
        let index = self.topics.len();
        self.topics.push(Topic {
            handle,
            name: name.to_owned(),
            topic_id: described.topic_id,
            partitions: described.partitions,
            max_record_bytes,
            is_unknown: limits.is_none(),
            database,
            untracked: false,
        });
        self.topic_indexes.insert(name.to_owned(), index);
        {
            let new = Partition {
                end: 0,
                unacknowledged: 0,
                acquaintance: Acquaintance::None,
            };
            let partitions = vec![new; described.partitions as usize];
            let mut deliveries = self.deliveries();
            deliveries.partitions.push(partitions);
            deliveries.is_changed.push(false);
            let counter = self.host.topic_counters.claim(name);
            if let Some(counter) = counter {
                counter.belongs_to(database);
                let narrow = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
                counter.note(Safety {
                    replicas: narrow(described.replicas),
                    settings: limits.map(|limits| SafetySettings {
                        min_in_sync: narrow(limits.min_in_sync),
                        is_compacted: limits.is_compacted,
                        is_small: limits.max_message_bytes < settings.max_event_bytes,
                    }),
                });
            }
            deliveries.counters.push(counter);
        }
        self.board.read(|facts| facts.topics = index as u32 + 1);
        Ok(Some(index))
    }

    /// The topic's settings, none where they may not be read. A broker may not have heard of a new topic yet.
    fn limits(&mut self, name: &str) -> Result<Option<Limits>, Stop> {
        let began = Instant::now();
        loop {
            // SAFETY: the producer's handle is live.
            match unsafe { topics::limits(self.producer.client().native_ptr(), name) } {
                Ok(limits) => return Ok(Some(limits)),
                Err(error) if error.is_passing() && began.elapsed() < SETTINGS_TIMEOUT => {}
                Err(error) => {
                    let why = &error.message;
                    self.board.log(format!(
                        "pg_cdc: settings of topic \"{name}\" cannot be read: {why}"
                    ));
                    return Ok(None);
                }
            }
            self.serve();
            if self.is_over() {
                return Err(Stop::Over);
            }
            self.board.kafka_wake.wait(BUSY_MS);
        }
    }

    /// A topic is as the position has it, or the session fails: keys must not move, and what was acknowledged must be there.
    fn compare(&self, name: &str, known: &Ends, described: &Described) -> Result<(), Stop> {
        if described.topic_id != known.topic_id {
            return Err(self.refuse_topic(name, "was made anew".to_owned()));
        }
        if described.partitions != known.partitions {
            self.board.fail(Failure::Halt(Trouble {
                code: "CDC0306",
                message: format!(
                    "partitions of topic \"{name}\" changed from {} to {}",
                    known.partitions, described.partitions
                ),
                remedy: format!(
                    "Let readers reach its end, then SELECT cdc_skip_topic('{name}', sent_lsn, 'more partitions') FROM cdc_status(): keys move to other partitions."
                ),
            }));
            return Err(Stop::Over);
        }
        for (partition, end) in (0..).zip(&known.end) {
            let start = Instant::now();
            loop {
                let found =
                    self.producer
                        .client()
                        .fetch_watermarks(name, partition, WATERMARKS_TIMEOUT);
                match found {
                    Ok((_, high)) if high >= *end => break,
                    // A new leader may not know yet what its followers have.
                    Ok(_) if start.elapsed() < LEADER_LEARNS && !self.is_over() => {
                        self.board.kafka_wake.wait(REPORT_MS);
                    }
                    Ok((_, high)) => {
                        let why = format!(
                            "[{partition}] ends at {high}, events up to {end} were acknowledged"
                        );
                        return Err(self.refuse_topic(name, why));
                    }
                    Err(error) => {
                        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                        let reason = format!("the end of \"{name}\" [{partition}]: {error}");
                        let trouble = trouble_of(code, &self.settings.brokers, &reason);
                        self.board.fail(Failure::Rewind(trouble));
                        return Err(Stop::Over);
                    }
                }
            }
        }
        Ok(())
    }

    /// CDC0307: events that were acknowledged are not in the topic any more.
    fn refuse_topic(&self, name: &str, why: String) -> Stop {
        self.board.fail(Failure::Halt(Trouble {
            code: "CDC0307",
            message: format!("topic \"{name}\" {why}: events that it had are lost"),
            remedy: format!(
                "Restore it; or go on with what is there: SELECT cdc_skip_topic('{name}', sent_lsn, 'why') FROM cdc_status(), then cdc_snapshot() of its table."
            ),
        }));
        Stop::Over
    }

    /// Serves delivery reports, and passes on what they mean.
    fn serve(&mut self) {
        self.queue.serve(self.producer);
        self.look_up_unknown_offsets();
        self.ask_why_nothing_moves();
        let mut deliveries = self.deliveries();
        if let Some(undelivered) = deliveries.failure.take() {
            drop(deliveries);
            return self.fail_with(&undelivered);
        }
        let mut newest = None;
        let mut judged = Vec::new();
        while deliveries
            .in_flight
            .front()
            .is_some_and(|front| front.complete && front.unacknowledged == 0)
        {
            newest = deliveries.in_flight.pop_front();
            deliveries.first += 1;
            judged.extend(newest.as_ref().and_then(|done| done.judged));
        }
        let (events, bytes) = (self.events, self.bytes);
        let (count, unacknowledged) = (deliveries.first, deliveries.unacknowledged);
        let oldest_us = deliveries
            .in_flight
            .front()
            .map_or(0, |front| front.commit.commit_us);
        let changed = match newest {
            Some(_) => take_changed(&mut deliveries),
            None => Vec::new(),
        };
        let finished = newest.map(|done| Finished {
            count,
            lsn: (done.commit.lsn, done.end_lsn),
            progress: Progress {
                timeline: done.commit.timeline,
                restart_lsn: done.restart_lsn,
                forget: Vec::new(),
                done: Some(self.done(
                    &done,
                    &changed,
                    &deliveries.partitions,
                    done.commit.event_count,
                )),
            },
        });
        drop(deliveries);
        self.board.read(|facts| {
            (facts.events, facts.bytes) = (events, bytes);
            facts.unacknowledged_events = unacknowledged;
            facts.oldest_unacknowledged_us = oldest_us;
        });
        match &mut self.exact {
            Some(exact) => {
                exact.judged.extend(judged);
                if let Some(finished) = finished {
                    exact.has_finished(finished);
                }
            }
            None => {
                let progress = finished.map(|finished| self.announce(finished, &judged));
                if let Some(progress) = progress {
                    self.progresses.offer(progress);
                }
            }
        }
    }

    /// So many events of a transaction, and everything before it, are there; the changed topics end where they end now.
    fn done(
        &self,
        transaction: &InFlight,
        changed: &[usize],
        partitions: &[Vec<Partition>],
        events: u64,
    ) -> Done {
        let commit = &transaction.commit;
        let topics = changed
            .iter()
            .filter_map(|index| Some((self.topics.get(*index)?, partitions.get(*index)?)));
        let ends = topics.map(|(topic, partitions)| {
            let ends = Ends {
                topic_id: topic.topic_id.clone(),
                partitions: topic.partitions,
                end: partitions.iter().map(|partition| partition.end).collect(),
                database: topic.database,
                untracked: topic.untracked,
            };
            (topic.name.clone(), ends)
        });
        Done {
            commit_lsn: commit.lsn,
            nonce: commit.nonce,
            events: Events {
                done: events,
                of: commit.event_count,
            },
            commit_us: commit.commit_us,
            ends: ends.collect(),
        }
    }

    /// Says what is in Kafka for good; returns the progress that this is.
    fn announce(&mut self, finished: Finished, judged: &[Judged]) -> Progress {
        for judged in judged {
            self.host.snapshots.tell(*judged);
        }
        let newly = finished.count - self.acknowledged;
        self.acknowledged = finished.count;
        self.board.tell(|facts| {
            facts.acknowledged = finished.count;
            facts.acknowledged_lsn = finished.lsn;
            facts.transactions += newly;
            facts.went_through();
        });
        finished.progress
    }

    /// Whether the newest transaction has events in Kafka and is not there whole.
    fn is_in_part(&self) -> bool {
        self.sequence > 0 && !self.deliveries().in_flight.is_empty()
    }

    /// Whether the moment has come to end the Kafka transaction that is open, or to write a position alone.
    fn may_commit(&self) -> bool {
        self.exact
            .as_ref()
            .is_some_and(|exact| match self.is_in_part() {
                true => exact.is_due(),
                false => exact.is_worth_it() || !self.progresses.is_empty(),
            })
    }

    /// Ends the Kafka transaction that is open, or one for the position alone, when everything in it is acknowledged.
    fn commit(&mut self) -> Result<(), Stop> {
        loop {
            self.serve();
            if self.is_over() {
                return Err(Stop::Over);
            }
            if self.deliveries().unacknowledged == 0 {
                break;
            }
            self.board.kafka_wake.wait(BUSY_MS);
        }
        let part = {
            let mut deliveries = self.deliveries();
            let is_begun = self.sequence > 0 && !deliveries.in_flight.is_empty();
            let changed = match is_begun {
                true => take_changed(&mut deliveries),
                false => Vec::new(),
            };
            let newest = deliveries.in_flight.front().filter(|_| is_begun);
            newest.map(|newest| self.done(newest, &changed, &deliveries.partitions, self.sequence))
        };
        let (number, offered) = self.progresses.take();
        let Some(exact) = &mut self.exact else {
            return Ok(());
        };
        let (producer, queue, wake) = (self.producer, self.queue, &self.board.kafka_wake);
        let told = Told {
            part,
            offered,
            number,
            opaque: POSITION_WORD,
        };
        if let Err(unwritten) = exact.commit(producer, queue, wake, told) {
            exact.fail(unwritten);
            return Err(Stop::Over);
        }
        let judged = std::mem::take(&mut exact.judged);
        if let Some(finished) = exact.finished.take() {
            self.announce(finished, &judged);
        }
        Ok(())
    }

    /// Kafka may refuse what the client goes on trying: then the state must say why nothing moves.
    fn ask_why_nothing_moves(&mut self) {
        let (delivered, unacknowledged) = {
            let deliveries = self.deliveries();
            (deliveries.delivered, deliveries.unacknowledged)
        };
        if delivered != self.moved.0 || unacknowledged == 0 {
            self.moved = (delivered, Instant::now());
            if std::mem::take(&mut self.is_stalled) {
                self.board.tell(|facts| facts.stall = None);
            }
            return;
        }
        if self.moved.1.elapsed() < STALL {
            return;
        }
        self.moved.1 = Instant::now();
        let waiting = |partitions: &Vec<Partition>| {
            let mut partitions = partitions.iter();
            partitions.any(|partition| partition.unacknowledged > 0)
        };
        let Some(stalled) = self.deliveries().partitions.iter().position(waiting) else {
            return;
        };
        let name = &self.topics[stalled].name;
        let client = self.producer.client();
        if let Some(trouble) = stall::diagnose(client, name, &self.settings.brokers) {
            self.is_stalled = true;
            self.board.tell(|facts| facts.stall = Some(trouble));
        }
    }

    /// A record that the broker had already is acknowledged without an offset: the end of its partition is beyond it.
    fn look_up_unknown_offsets(&mut self) {
        let unknown = std::mem::take(&mut self.deliveries().offset_unknown);
        for (topic, partition) in unknown {
            let Some(name) = self.topics.get(topic).map(|topic| topic.name.clone()) else {
                continue;
            };
            match self
                .producer
                .client()
                .fetch_watermarks(&name, partition, WATERMARKS_TIMEOUT)
            {
                Ok((_, high)) => {
                    let mut deliveries = self.deliveries();
                    let deliveries = &mut *deliveries;
                    let end = &mut deliveries.partitions[topic][partition as usize].end;
                    *end = (*end).max(high);
                    if !std::mem::replace(&mut deliveries.is_changed[topic], true) {
                        deliveries.changed.push(topic);
                    }
                }
                Err(error) => self.board.fail(Failure::Rewind(Trouble {
                    code: "CDC0301",
                    message: format!("the end of \"{name}\" [{partition}] cannot be read: {error}"),
                    remedy: "Nothing: the sender starts again at its position.".to_owned(),
                })),
            }
        }
    }

    fn fail_with(&self, undelivered: &Undelivered) {
        let Undelivered {
            code,
            id,
            value_bytes,
            ..
        } = undelivered;
        let name = self
            .topics
            .get(undelivered.topic)
            .map_or("", |topic| topic.name.as_str());
        if let Some(exact) = &self.exact {
            // Records that were not sent yet are purged for it, and say no more than that.
            let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
            if is_fenced(fatal.unwrap_or(*code)) {
                return exact.fail(Unwritten::Fenced);
            }
        }
        let is_too_large = matches!(
            code,
            RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::MessageBatchTooLarge
        );
        // The limit is one of batches: an event may be refused for the company that it was in.
        if let Some(limit_bytes) = is_too_large.then(|| self.batch_limit(name)).flatten() {
            return self.board.fail(Failure::Smaller(limit_bytes));
        }
        if *code == RDKafkaErrorCode::InvalidRecord {
            let trouble = aside::refused_event(id, name, &undelivered.message);
            let (from, database) = (undelivered.commit_lsn, undelivered.database);
            let aside = Box::new(aside::new(name, from, database, trouble));
            return self.board.fail(Failure::Aside(aside));
        }
        self.board.fail(if is_too_large && self.settings.stubs {
            self.too_large_for_broker(undelivered, name)
        } else if is_too_large {
            Failure::Halt(too_large(id, *value_bytes, name))
        } else {
            Failure::Rewind(trouble_of(
                *code,
                &self.settings.brokers,
                &undelivered.message,
            ))
        });
    }

    /// A broker takes less than was thought: the topic's limit was lowered, or is not told, or nothing helps.
    fn too_large_for_broker(&self, undelivered: &Undelivered, name: &str) -> Failure {
        let trouble = aside::too_large(&undelivered.id, undelivered.value_bytes, name);
        let topic = self.topics.get(undelivered.topic);
        let thought = topic.map_or(0, |topic| topic.max_record_bytes);
        if topic.is_some_and(|topic| topic.is_unknown) && thought > UNTOLD_BYTES {
            return Failure::SmallerIn(name.to_owned(), UNTOLD_BYTES);
        }
        // SAFETY: the producer's handle is live.
        let limits = unsafe { topics::limits(self.producer.client().native_ptr(), name) };
        if limits.is_ok_and(|limits| limits.max_message_bytes < thought) {
            return Failure::Rewind(trouble);
        }
        let (from, database) = (undelivered.commit_lsn, undelivered.database);
        Failure::Aside(Box::new(aside::new(name, from, database, trouble)))
    }

    /// What batches may have at most for a topic, where they were larger until now.
    fn batch_limit(&self, name: &str) -> Option<usize> {
        // SAFETY: the producer's handle is live.
        let limits = unsafe { topics::limits(self.producer.client().native_ptr(), name) };
        let limit_bytes = limits.ok()?.max_message_bytes;
        let limit_bytes = limit_bytes.saturating_sub(BATCH_OVERHEAD_BYTES).max(1);
        (limit_bytes < self.max_batch_bytes).then_some(limit_bytes)
    }

    fn close(&mut self) {
        if let Some(exact) = &mut self.exact {
            exact.abort(self.producer);
        }
        for topic in self.topics.drain(..) {
            // SAFETY: made by `open_topic`, destroyed once, before its client.
            unsafe { rd::rd_kafka_topic_destroy(topic.handle) };
        }
    }
}

/// CDC0305 where nothing may be left out.
fn too_large(id: &str, value_bytes: usize, name: &str) -> Trouble {
    let id = if id.is_empty() { "" } else { &format!(" {id}") };
    Trouble {
        code: "CDC0305",
        message: format!("event{id} of {value_bytes} bytes is too large for topic \"{name}\""),
        remedy: if value_bytes < MAX_RECORD_BYTES {
            "Raise max.message.bytes of the topic, or set cdc.oversize = 'stub'; then SELECT pg_reload_conf()."
        } else {
            "Set cdc.oversize = 'stub', then SELECT pg_reload_conf(): no topic takes so much from this client."
        }
        .to_owned(),
    }
}

/// The event's id, as its header has it; empty where it is not rendered yet.
fn id_of(event: &Event<'_>) -> String {
    let mut headers = event.headers.iter().filter(|_| event.stage == Stage::Sent);
    let id = headers.find(|(name, _)| *name == c"cdc.id");
    String::from_utf8_lossy(id.map_or(b"", |(_, value)| value)).into_owned()
}

/// The topics with new ends, of which a progress is to tell.
fn take_changed(deliveries: &mut Deliveries) -> Vec<usize> {
    let changed = std::mem::take(&mut deliveries.changed);
    for topic in &changed {
        deliveries.is_changed[*topic] = false;
    }
    changed
}

/// Now, in microseconds since 1970.
pub fn unix_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}

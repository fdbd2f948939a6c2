//! The Kafka thread: decompresses, renders, produces, and counts acknowledgements. No PostgreSQL call ever.
//!
//! One idempotent, gapless producer; any failed delivery ends it, and the session with it: the next one starts again
//! at the position. Records go out at once while little is on its way; while much is, they gather until something
//! comes back, so that requests grow with the load instead of their number (an adaptive linger).

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_void};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use change::body::Body;
use change::chunk;
use change::envelope::{Audience, Commit, Event, Renderer};
use change::partition::partition_of;
use change::position::Ends;
use change::wire::WireError;
use crossbeam_channel::{Receiver, TryRecvError};
use rdkafka::bindings as rd;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::statistics::Statistics;
use rdkafka::util::Timeout;

use super::board::{Board, Failure, Trouble};
use super::client::{KafkaSettings, Reporter, refused_configuration, trouble_of};
use super::position::{Done, Progress, Progresses};
use super::topics::{self, Design};

/// Work for the thread, in commit order: a beginning, rows, an end.
pub enum Work {
    Begin(Box<Beginning>),
    /// A sealed chunk, its MAC checked.
    Chunk(Vec<u8>),
    /// A decompressed body.
    Body(Vec<u8>),
    End,
}

/// What is known of a transaction before its rows.
pub struct Beginning {
    pub commit: Commit,
    pub end_lsn: u64,
    pub restart_lsn: u64,
}

/// Transactions on their way before new ones gather: enough to keep the broker busy, few enough to let batches grow.
const EAGER_TRANSACTIONS: usize = 8;
/// Records on their way likewise.
const EAGER_RECORDS: u64 = 5000;
/// How long new records gather at most while others are on their way.
const GATHER: Duration = Duration::from_millis(2);
/// Items taken from the channel before delivery reports are served again.
const ITEMS_PER_ROUND: usize = 512;
/// The thread looks around at least this often, though nothing woke it.
const IDLE_MS: i32 = 1000;

/// A transaction that is produced and not yet acknowledged.
struct InFlight {
    unacknowledged: u64,
    complete: bool,
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

/// Delivery reports end here, on the thread that polls.
#[derive(Default)]
struct Deliveries {
    /// Number of the first transaction in `in_flight`, counted since the session began.
    first: u64,
    in_flight: VecDeque<InFlight>,
    unacknowledged: u64,
    /// Code, message, bytes of the value, topic.
    failure: Option<(RDKafkaErrorCode, String, usize, usize)>,
    /// Per topic and partition: last acknowledged offset + 1.
    ends: Vec<Vec<i64>>,
    /// Per topic and partition: how far this producer got to know it.
    acquaintances: Vec<Vec<Acquaintance>>,
    /// Partitions whose record was acknowledged without an offset (a duplicate that the broker had already).
    offset_unknown: Vec<(usize, i32)>,
}

struct Context {
    reporter: Reporter,
    deliveries: Mutex<Deliveries>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reporter.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.reporter.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(error, reason);
    }
}

/// Which transaction and topic a record belongs to, in the one word that librdkafka carries along.
fn opaque_of(transaction: u64, topic: usize) -> usize {
    (transaction as usize) << 16 | topic
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let (transaction, topic) = ((opaque >> 16) as u64, opaque & 0xffff);
        let mut deliveries = lock(&self.deliveries);
        let deliveries = &mut *deliveries;
        deliveries.unacknowledged -= 1;
        match result {
            Ok(message) => {
                if let Some(in_flight) = deliveries
                    .in_flight
                    .get_mut((transaction - deliveries.first) as usize)
                {
                    in_flight.unacknowledged -= 1;
                }
                let (partition, offset) = (message.partition(), message.offset());
                if let Some(acquaintance) = deliveries
                    .acquaintances
                    .get_mut(topic)
                    .and_then(|partitions| partitions.get_mut(partition as usize))
                {
                    *acquaintance = Acquaintance::Acknowledged;
                }
                match deliveries
                    .ends
                    .get_mut(topic)
                    .and_then(|ends| ends.get_mut(partition as usize))
                {
                    Some(end) if offset >= 0 => *end = (*end).max(offset + 1),
                    _ => deliveries.offset_unknown.push((topic, partition)),
                }
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                deliveries
                    .failure
                    .get_or_insert_with(|| (code, error.to_string(), message.payload_len(), topic));
            }
        }
    }
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
}

/// Why rendering or producing stopped.
enum Stop {
    /// The session failed, or was asked to end.
    Over,
    Undecodable(String),
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Stop::Undecodable(error.to_string())
    }
}

/// Runs until the board says stop or the session fails.
pub fn run(
    settings: &KafkaSettings,
    board: &Arc<Board>,
    work: &Receiver<Work>,
    progresses: &Progresses,
) {
    let mut config = settings.base("events");
    let mut properties = vec![
        ("compression.type", "lz4".to_owned()),
        ("linger.ms", "0".to_owned()),
        ("batch.size", "1000000".to_owned()),
        ("batch.num.messages", "100000".to_owned()),
        ("message.max.bytes", "1000000000".to_owned()),
        ("queue.buffering.max.messages", "1000000".to_owned()),
        ("statistics.interval.ms", "2000".to_owned()),
    ];
    // What the file sets wins over these, but not over what the promises rest on.
    properties.retain(|(name, _)| !settings.properties.iter().any(|(given, _)| given == name));
    for (name, value) in properties {
        config.set(name, value);
    }
    config
        .set(
            "queue.buffering.max.kbytes",
            (settings.memory_bytes / 2 / 1024).max(1024).to_string(),
        )
        .set("enable.idempotence", "true")
        .set("enable.gapless.guarantee", "true")
        .set("acks", "all")
        .set("message.timeout.ms", "0");
    let reporter = Reporter {
        board: Arc::clone(board),
        brokers: settings.brokers.clone(),
    };
    let context = Context {
        reporter,
        deliveries: Mutex::default(),
    };
    let producer: BaseProducer<Context> = match config.create_with_context(context) {
        Ok(producer) => producer,
        Err(error) => return board.fail(Failure::Halt(refused_configuration(&error))),
    };
    // A delivery report makes the same descriptor readable that new work does.
    let queue = QueueWake::enable(&producer, board);
    let mut shipper = Shipper {
        settings,
        board,
        progresses,
        producer: &producer,
        queue: queue.0,
        topics: Vec::new(),
        topic_indexes: HashMap::new(),
        renderer: None,
        body: Vec::new(),
        begun: 0,
        acknowledged: 0,
        events: 0,
        bytes: 0,
    };
    shipper.run(work);
    shipper.close();
    drop(queue);
    producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    drop(producer);
}

/// The main queue's wake-up, disabled before the descriptor can go away.
struct QueueWake(*mut rd::rd_kafka_queue_t);

impl QueueWake {
    fn enable(producer: &BaseProducer<Context>, board: &Board) -> QueueWake {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the client lives longer than this value; the payload is copied, eight bytes as an eventfd wants.
        unsafe {
            let queue = rd::rd_kafka_queue_get_main(producer.client().native_ptr());
            rd::rd_kafka_queue_io_event_enable(
                queue,
                board.kafka_wake.raw().as_raw_fd(),
                one.as_ptr().cast(),
                one.len(),
            );
            QueueWake(queue)
        }
    }
}

impl Drop for QueueWake {
    fn drop(&mut self) {
        // SAFETY: enabled above, disabled once.
        unsafe {
            rd::rd_kafka_queue_io_event_enable(self.0, -1, ptr::null(), 0);
            rd::rd_kafka_queue_destroy(self.0);
        }
    }
}

struct Shipper<'a> {
    settings: &'a KafkaSettings,
    board: &'a Arc<Board>,
    progresses: &'a Progresses,
    producer: &'a BaseProducer<Context>,
    queue: *mut rd::rd_kafka_queue_t,
    topics: Vec<Topic>,
    topic_indexes: HashMap<String, usize>,
    renderer: Option<Renderer>,
    body: Vec<u8>,
    /// Transactions begun and acknowledged in this session.
    begun: u64,
    acknowledged: u64,
    /// Events produced, tombstones not counted, and the bytes of their values.
    events: u64,
    bytes: u64,
}

impl Shipper<'_> {
    fn deliveries(&self) -> std::sync::MutexGuard<'_, Deliveries> {
        lock(&self.producer.context().deliveries)
    }

    fn run(&mut self, work: &Receiver<Work>) {
        let mut gathering_since: Option<std::time::Instant> = None;
        loop {
            self.serve();
            if self.is_over() {
                return;
            }
            let (transactions, records) = {
                let deliveries = self.deliveries();
                (deliveries.in_flight.len(), deliveries.unacknowledged)
            };
            let busy =
                transactions >= EAGER_TRANSACTIONS && records < EAGER_RECORDS && !work.is_empty();
            let gathered = gathering_since.is_some_and(|since| since.elapsed() >= GATHER);
            if busy && !gathered {
                gathering_since.get_or_insert_with(std::time::Instant::now);
                self.board.kafka_wake.wait(GATHER.as_millis() as i32);
                continue;
            }
            gathering_since = None;
            match self.take_all(work) {
                Ok(true) => {}
                Ok(false) => self.board.kafka_wake.wait(IDLE_MS),
                Err(Stop::Over) => return,
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

    fn is_over(&self) -> bool {
        self.board.stopping() || self.board.has_failed()
    }

    /// Produces what is in the channel now, up to a round of it; whether there was anything.
    fn take_all(&mut self, work: &Receiver<Work>) -> Result<bool, Stop> {
        for taken in 0..ITEMS_PER_ROUND {
            match work.try_recv() {
                Ok(item) => {
                    self.produce(item)?;
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
            Work::Begin(beginning) => {
                let commit = beginning.commit;
                match &mut self.renderer {
                    Some(renderer) => renderer.begin(commit),
                    None => self.renderer = Some(Renderer::new(commit)),
                }
                self.begun += 1;
                self.deliveries().in_flight.push_back(InFlight {
                    unacknowledged: 0,
                    complete: false,
                    commit,
                    end_lsn: beginning.end_lsn,
                    restart_lsn: beginning.restart_lsn,
                });
                Ok(())
            }
            Work::Chunk(bytes) => {
                let mut body = std::mem::take(&mut self.body);
                let opened = chunk::read(&bytes).and_then(|chunk| chunk.body_into(&mut body));
                let done = opened
                    .map_err(|error| Stop::Undecodable(error.to_string()))
                    .and_then(|()| self.render(&body));
                self.body = body;
                self.board
                    .queued_bytes
                    .fetch_sub(bytes.len(), Ordering::AcqRel);
                self.board.tell(|_| {});
                done
            }
            Work::Body(body) => {
                let done = self.render(&body);
                self.board
                    .queued_bytes
                    .fetch_sub(body.len(), Ordering::AcqRel);
                self.board.tell(|_| {});
                done
            }
            Work::End => {
                let expected = self.renderer.as_ref().map_or(0, Renderer::rendered);
                let mut deliveries = self.deliveries();
                if let Some(last) = deliveries.in_flight.back_mut() {
                    if last.commit.event_count != expected {
                        let (xid8, event_count) = (last.commit.xid8, last.commit.event_count);
                        drop(deliveries);
                        self.board.fail(Failure::Halt(super::worker::incomplete(
                            xid8,
                            expected,
                            event_count,
                        )));
                        return Err(Stop::Over);
                    }
                    last.complete = true;
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
        let tombstones = self.settings.tombstones;
        let done = renderer.render(&body, unix_us(), tombstones, &mut |event| {
            self.send(event, transaction)
        });
        self.renderer = Some(renderer);
        done
    }

    fn send(&mut self, event: &Event<'_>, transaction: u64) -> Result<(), Stop> {
        let index = match self.topic_indexes.get(event.topic) {
            Some(index) => *index,
            None => self.open_topic(event.topic)?,
        };
        let partitions = self.topics[index].partitions;
        match event.audience {
            Audience::Key => self.send_to(
                event,
                index,
                partition_of(event.key, partitions),
                transaction,
            ),
            Audience::EveryPartition => (0..partitions)
                .try_for_each(|partition| self.send_to(event, index, partition, transaction)),
        }
    }

    fn send_to(
        &mut self,
        event: &Event<'_>,
        topic: usize,
        partition: i32,
        transaction: u64,
    ) -> Result<(), Stop> {
        const FIXED: usize = 6;
        const MAX_HEADERS: usize = 12;
        // SAFETY: all-zero is the END tag with an empty union.
        let mut arguments: [rd::rd_kafka_vu_t; FIXED + MAX_HEADERS] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        let mut push = |kind, value| {
            arguments[count] = rd::rd_kafka_vu_t {
                vtype: kind,
                u: value,
            };
            count += 1;
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
        let opaque = opaque_of(transaction, topic);
        push(
            kind::RD_KAFKA_VTYPE_OPAQUE,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                ptr: opaque as *mut c_void,
            },
        );
        for (name, value) in event.headers.iter().take(MAX_HEADERS) {
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
        self.introduce(topic, partition)?;
        {
            let mut deliveries = self.deliveries();
            deliveries.unacknowledged += 1;
            if let Some(last) = deliveries.in_flight.back_mut() {
                last.unacknowledged += 1;
            }
        }
        loop {
            // SAFETY: every pointer outlives the call, which copies what it keeps.
            let code = unsafe {
                let error = rd::rd_kafka_produceva(
                    self.producer.client().native_ptr(),
                    arguments.as_ptr(),
                    count,
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
                    self.serve();
                    if self.is_over() {
                        return Err(Stop::Over);
                    }
                    self.board.kafka_wake.wait(100);
                }
                code => {
                    let value_bytes = event.value.map_or(0, <[u8]>::len);
                    self.fail_with(
                        code.into(),
                        "the record was refused".to_owned(),
                        value_bytes,
                        topic,
                    );
                    return Err(Stop::Over);
                }
            }
        }
        self.events += u64::from(event.value.is_some());
        self.bytes += event.value.map_or(0, <[u8]>::len) as u64;
        Ok(())
    }

    /// Waits while the partition's first record is on its way.
    fn introduce(&mut self, topic: usize, partition: i32) -> Result<(), Stop> {
        loop {
            {
                let mut deliveries = self.deliveries();
                let acquaintance = &mut deliveries.acquaintances[topic][partition as usize];
                match acquaintance {
                    Acquaintance::Acknowledged => return Ok(()),
                    Acquaintance::None => {
                        *acquaintance = Acquaintance::FirstSent;
                        return Ok(());
                    }
                    Acquaintance::FirstSent => {}
                }
            }
            self.serve();
            if self.is_over() {
                return Err(Stop::Over);
            }
            self.board.kafka_wake.wait(IDLE_MS);
        }
    }

    /// Makes sure that the topic is there, with its partitions and id known, before the first record goes to it.
    fn open_topic(&mut self, name: &str) -> Result<usize, Stop> {
        let settings = self.settings;
        let design = Design {
            partitions: settings.partitions,
            replication_factor: settings.replication_factor,
            configs: vec![
                (c"cleanup.policy", "delete".to_owned()),
                (c"retention.ms", settings.retention_ms.to_string()),
            ],
        };
        let client = self.producer.client().native_ptr();
        let described = loop {
            // SAFETY: the producer's handle is live.
            match unsafe { topics::ensure(client, name, settings.create_topics.then_some(&design)) }
            {
                Ok(described) => break described,
                Err(error) => {
                    let missing = error.code
                        == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
                    self.board.set_trouble(Some(if missing {
                        Trouble {
                            code: "CDC0304",
                            message: format!("topic \"{name}\" is missing"),
                            remedy: format!(
                                "Run {}",
                                topics::command(&settings.brokers, name, &design)
                            ),
                        }
                    } else {
                        trouble_of(
                            error.code.into(),
                            &settings.brokers,
                            &format!("topic \"{name}\": {}", error.message),
                        )
                    }));
                }
            }
            self.serve();
            if self.is_over() {
                return Err(Stop::Over);
            }
            self.board.kafka_wake.wait(IDLE_MS);
        };
        self.board.set_trouble(None);
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the producer's handle is live; the topic's handle is destroyed by `close`.
        let handle = unsafe { rd::rd_kafka_topic_new(client, c_name.as_ptr(), ptr::null_mut()) };
        let index = self.topics.len();
        self.topics.push(Topic {
            handle,
            name: name.to_owned(),
            topic_id: described.topic_id,
            partitions: described.partitions,
        });
        self.topic_indexes.insert(name.to_owned(), index);
        {
            let partitions = described.partitions as usize;
            let mut deliveries = self.deliveries();
            deliveries.ends.push(vec![0; partitions]);
            deliveries
                .acquaintances
                .push(vec![Acquaintance::None; partitions]);
        }
        self.board.read(|facts| facts.topics = index as u32 + 1);
        Ok(index)
    }

    /// Serves delivery reports, and passes on what they mean.
    fn serve(&mut self) {
        // To the last event: the descriptor is signalled only when the queue was empty before.
        // SAFETY: the queue lives as long as `self`.
        while unsafe { rd::rd_kafka_queue_length(self.queue) } > 0 {
            self.producer.poll(Timeout::After(Duration::ZERO));
        }
        self.look_up_unknown_offsets();
        let mut deliveries = self.deliveries();
        if let Some((code, message, value_bytes, topic)) = deliveries.failure.take() {
            drop(deliveries);
            return self.fail_with(code, message, value_bytes, topic);
        }
        let mut newest = None;
        while deliveries
            .in_flight
            .front()
            .is_some_and(|front| front.complete && front.unacknowledged == 0)
        {
            newest = deliveries.in_flight.pop_front();
            deliveries.first += 1;
        }
        let (first, unacknowledged) = (deliveries.first, deliveries.unacknowledged);
        let (events, bytes) = (self.events, self.bytes);
        let oldest_us = deliveries
            .in_flight
            .front()
            .map_or(0, |front| front.commit.commit_us);
        let Some(done) = newest else {
            drop(deliveries);
            self.board.read(|facts| {
                (facts.events, facts.bytes) = (events, bytes);
                facts.unacknowledged_events = unacknowledged;
                facts.oldest_unacknowledged_us = oldest_us;
            });
            return;
        };
        let ends = self
            .topics
            .iter()
            .zip(&deliveries.ends)
            .map(|(topic, end)| {
                let ends = Ends {
                    topic_id: topic.topic_id.clone(),
                    partitions: topic.partitions,
                    end: end.clone(),
                };
                (topic.name.clone(), ends)
            })
            .collect();
        drop(deliveries);
        let newly = first - self.acknowledged;
        self.acknowledged = first;
        self.board.tell(|facts| {
            facts.acknowledged = first;
            facts.acknowledged_lsn = (done.commit.lsn, done.end_lsn);
            facts.transactions += newly;
            (facts.events, facts.bytes) = (events, bytes);
            facts.unacknowledged_events = unacknowledged;
            facts.oldest_unacknowledged_us = oldest_us;
            facts.trouble = None;
        });
        self.progresses.offer(Progress {
            timeline: done.commit.timeline,
            restart_lsn: done.restart_lsn,
            done: Some(Done {
                commit_lsn: done.commit.lsn,
                nonce: done.commit.nonce,
                events: done.commit.event_count,
                commit_us: done.commit.commit_us,
                ends,
            }),
        });
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
                .fetch_watermarks(&name, partition, Duration::from_secs(10))
            {
                Ok((_, high)) => {
                    if let Some(end) = self.deliveries().ends[topic].get_mut(partition as usize) {
                        *end = (*end).max(high);
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

    fn fail_with(&self, code: RDKafkaErrorCode, message: String, value_bytes: usize, topic: usize) {
        let name = self
            .topics
            .get(topic)
            .map_or("", |topic| topic.name.as_str());
        self.board.fail(match code {
            RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => {
                Failure::Halt(Trouble {
                    code: "CDC0305",
                    message: format!(
                        "event of {value_bytes} bytes is too large for topic \"{name}\""
                    ),
                    remedy: "Raise max.message.bytes of the topic, then SELECT pg_reload_conf()."
                        .to_owned(),
                })
            }
            code => Failure::Rewind(trouble_of(code, &self.settings.brokers, &message)),
        });
    }

    fn close(&mut self) {
        for topic in self.topics.drain(..) {
            // SAFETY: made by `open_topic`, destroyed once, before its client.
            unsafe { rd::rd_kafka_topic_destroy(topic.handle) };
        }
    }
}

/// Now, in microseconds since 1970.
pub fn unix_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as i64)
}

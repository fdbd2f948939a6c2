//! Kafka, through librdkafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use change::event::headers::HeaderName;
use change::event::record::Event;
use change::trouble::Trouble;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer};

use super::broker::Broker;
use super::failed_delivery::FailedDelivery;
use super::in_flight::deliveries::{SharedDeliveries, lock};
use super::in_flight::tag::{DeliveryTag, POSITION_WORD};
use crate::board::Board;
use crate::kafka::context::{DeliveryReports, ReportingContext};
use crate::kafka::produce::{Arguments, Record, Topic};
use crate::kafka::queue_wake::QueueWake;
use crate::kafka::stall;
use crate::kafka::topics::create;
use crate::kafka::topics::describe::{self, Described, Limits};
use crate::kafka::topics::design::{Design, TopicError};
use crate::position::cause::cause;
use crate::position::record::Prepared;
use crate::position::transaction;
use crate::position::write_error::WriteError;
use crate::session::Session;
use crate::trouble::Failure;

/// For the ends of a partition.
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(10);
/// A broker that does not answer ends the transaction by itself, after its timeout.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The producer of events.
pub(super) type EventProducer = BaseProducer<ReportingContext<SharedDeliveries>>;

impl DeliveryReports for SharedDeliveries {
    type Opaque = usize;
    const SHOWS_BROKERS: bool = true;

    fn delivered(&self, result: &DeliveryResult<'_>, word: usize) {
        // Its failure is its transaction's.
        if word == POSITION_WORD {
            return;
        }
        let tag = DeliveryTag::of_word(word);
        let mut deliveries = lock(self);
        match result {
            Ok(message) => {
                let bytes = (bytes_of(message), message.payload_len());
                deliveries.acknowledged(tag, message.partition(), message.offset(), bytes);
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                deliveries.failed(tag, bytes_of(message), |commit| FailedDelivery {
                    code,
                    message: error.to_string(),
                    id: header(message, HeaderName::ID.as_str()),
                    value_bytes: message.payload_len(),
                    topic: tag.topic,
                    commit_lsn: commit.map_or(0, |commit| commit.lsn),
                    database: commit.map_or(0, |commit| commit.database_oid),
                });
            }
        }
    }
}

fn bytes_of(message: &BorrowedMessage<'_>) -> usize {
    message.payload_len() + message.key_len()
}

/// A header's text, empty if it is not there.
fn header(message: &BorrowedMessage<'_>, name: &str) -> String {
    let value = message
        .headers()
        .and_then(|headers| headers.iter().find(|header| header.key == name)?.value);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// One producer, and the topics that are open with it. A delivery report makes the same descriptor readable that new work
/// does.
pub(super) struct KafkaBroker<'a> {
    session: &'a Session,
    board: &'a Arc<Board>,
    producer: &'a EventProducer,
    queue: QueueWake,
    topics: Vec<Topic<'a>>,
    arguments: Arguments,
}

impl<'a> KafkaBroker<'a> {
    pub(super) fn new(session: &'a Session, producer: &'a EventProducer) -> KafkaBroker<'a> {
        KafkaBroker {
            session,
            board: &session.board,
            producer,
            queue: QueueWake::enable(producer, &session.board.kafka_wake),
            topics: Vec::new(),
            arguments: Arguments::default(),
        }
    }
}

impl Broker for KafkaBroker<'_> {
    fn serve(&mut self) {
        self.queue.serve(self.producer);
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&mut self, timeout_ms: i32) {
        self.board.kafka_wake.wait(timeout_ms);
    }

    fn ensure_topic(&self, name: &str, design: &Design) -> Result<Described, TopicError> {
        create::ensure(self.producer.client(), name, design)
    }

    fn limits(&self, name: &str) -> Result<Limits, TopicError> {
        describe::limits(self.producer.client(), name)
    }

    fn end_of(&self, name: &str, partition: i32) -> Result<i64, KafkaError> {
        let client = self.producer.client();
        let watermarks = client.fetch_watermarks(name, partition, WATERMARKS_TIMEOUT);
        watermarks.map(|(_, high)| high)
    }

    fn open_topic(&mut self, name: &str) {
        self.topics.push(Topic::new(self.producer, name));
    }

    #[inline]
    fn produce(
        &mut self,
        event: &Event<'_>,
        topic: usize,
        partition: i32,
        word: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        let record = Record {
            topic: &self.topics[topic],
            partition,
            key: event.key,
            value: event.value,
            opaque: word,
        };
        self.arguments
            .produce(self.producer, &record, event.headers.iter())
    }

    fn in_flight_count(&self) -> i32 {
        self.producer.in_flight_count()
    }

    fn fatal_error(&self) -> Option<RDKafkaErrorCode> {
        self.producer.client().fatal_error().map(|(code, _)| code)
    }

    fn why_stalled(&self, name: &str) -> Option<Trouble> {
        stall::diagnose(self.producer.client(), name, &self.session.settings.brokers)
    }

    fn begin_transaction(&mut self) -> Result<(), WriteError> {
        transaction::begin(self.session, self.producer)
    }

    fn commit_transaction(&mut self, position: &Prepared) -> Result<(), WriteError> {
        let wake = &self.board.kafka_wake;
        let (session, producer) = (self.session, self.producer);
        transaction::commit(
            session,
            producer,
            &self.queue,
            wake,
            position,
            POSITION_WORD,
        )
    }

    fn abort_transaction(&mut self) {
        // The next sender's producer ends it too.
        let _aborted = self.producer.abort_transaction(ABORT_TIMEOUT);
    }

    fn failure_of(&self, error: WriteError, epoch: u64) -> Failure {
        cause(self.session, epoch, error).into_failure()
    }
}

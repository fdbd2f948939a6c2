//! Reads the positions that Kafka has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use change::position::{Parts, Position, Record};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::take_over::{Found, newest};
use super::write_error::WriteError;
use crate::kafka::context::ReportingContext;
use crate::kafka::trouble_of::trouble_of;
use crate::session::Session;

/// Offsets that are read at first from the end of the topic.
const FIRST_WINDOW: i64 = 2_000;
const WATERMARKS_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Of all that was ever written only the newest full record and the newest of the others matter.
const MOST_KEPT: usize = 10_000;

type Reader = BaseConsumer<ReportingContext<()>>;

/// The newest records of the topic, back to a full one of this source: most of it is older than that.
pub(super) fn read(session: &Session) -> Result<Found, WriteError> {
    let mut config = session.settings.base("position-reader");
    config
        .set("group.id", session.transactional_id())
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error");
    let wrap = |error: KafkaError| WriteError::of(session, &error, "reading positions");
    let context = ReportingContext::new(&session.settings, &session.board, ());
    let consumer: Reader = config.create_with_context(context).map_err(wrap)?;
    // librdkafka asks for the first token.
    consumer.poll(Duration::ZERO);
    let (low, high) = consumer
        .fetch_watermarks(&session.position_topic(), 0, WATERMARKS_TIMEOUT)
        .map_err(|error| WriteError::of(session, &error, "the end of the positions"))?;
    let mut window = FIRST_WINDOW;
    loop {
        let from = (high - window).max(low);
        let found = read_from(session, &consumer, from)?;
        let has_full = found.own.iter().any(|own| own.record == Record::Full);
        if has_full || found.stranger.is_some() || from == low || session.is_over() {
            return Ok(found);
        }
        window *= 8;
    }
}

/// Every position record from an offset on that this server's key opens, and whose it is otherwise.
fn read_from(session: &Session, consumer: &Reader, from: i64) -> Result<Found, WriteError> {
    let wrap = |error: KafkaError| WriteError::of(session, &error, "reading positions");
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(&session.position_topic(), 0, Offset::Offset(from))
        .map_err(wrap)?;
    consumer.assign(&assignment).map_err(wrap)?;
    let mut sorted = Sorted::default();
    let start = Instant::now();
    while !session.is_over() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => sorted.take(session, &message),
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            // The partition is assigned: the group is a name only.
            Some(Err(error))
                if error.rdkafka_error_code()
                    == Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {}
            Some(Err(error)) => return Err(wrap(error)),
            None if start.elapsed() > READ_TIMEOUT => {
                return Err(WriteError::Again(trouble_of(
                    RDKafkaErrorCode::OperationTimedOut,
                    &session.settings.brokers,
                    "reading positions takes too long",
                )));
            }
            None => {}
        }
    }
    Ok(sorted.found())
}

/// Records, by whose they are.
#[derive(Default)]
struct Sorted {
    own: Vec<Position>,
    parts: Parts,
    /// By key: compaction forgets a record in whose place there is none.
    strangers: BTreeMap<Vec<u8>, (String, String)>,
}

impl Sorted {
    fn take(&mut self, session: &Session, message: &BorrowedMessage<'_>) {
        let key = message.key().unwrap_or_default();
        let Some(bytes) = message.payload() else {
            self.strangers.remove(key);
            return;
        };
        let source_id = &session.owner.source_id;
        match Position::open(bytes, &session.key) {
            Some(position) if position.source == *source_id => {
                self.own.extend(self.parts.take(position));
            }
            _ => match serde_json::from_slice::<Position>(bytes) {
                Ok(other) if other.source != *source_id => {
                    self.strangers
                        .insert(key.to_vec(), (other.source, other.node));
                }
                _ => session.board.log(format!(
                    "pg_cdc: record at offset {} of topic \"{}\" is not a position of this source and is ignored",
                    message.offset(),
                    session.position_topic()
                )),
            },
        }
        if self.own.len() > MOST_KEPT {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        let epoch = self.own.iter().map(|position| position.epoch).max();
        let epoch = epoch.unwrap_or(0);
        let kept = newest(&self.own).map(|position| Position { epoch, ..position });
        self.own = kept.into_iter().collect();
    }

    fn found(self) -> Found {
        Found {
            own: self.own,
            stranger: self.strangers.into_values().next(),
        }
    }
}

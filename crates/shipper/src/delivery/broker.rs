//! What delivering asks of Kafka. What it decides then does not depend on a broker, and is tried without one.

use std::time::Instant;

use change::event::record::Event;
use change::trouble::Trouble;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::kafka::topics::describe::{Described, Limits};
use crate::kafka::topics::design::{Design, TopicError};
use crate::position::record::Prepared;
use crate::position::write_error::WriteError;
use crate::trouble::Failure;

/// One producer, and what is asked of the brokers behind it. Reports of its records go to the deliveries that it was made
/// with, while it serves.
pub(super) trait Broker {
    /// Takes in everything that came back.
    fn serve(&mut self);

    /// The time, as it is for the brokers.
    fn now(&self) -> Instant;

    /// Sleeps until something came back, work came, or the session is to end; at most `timeout_ms`.
    fn wait(&mut self, timeout_ms: i32);

    /// Describes a topic; makes it first if it is missing and is to be made.
    fn ensure_topic(&self, name: &str, design: &Design) -> Result<Described, TopicError>;

    /// What a topic takes, and promises.
    fn limits(&self, name: &str) -> Result<Limits, TopicError>;

    /// The end of a partition: its last offset + 1.
    fn end_of(&self, name: &str, partition: i32) -> Result<i64, KafkaError>;

    /// Opens a topic for records. The first is number 0.
    fn open_topic(&mut self, name: &str);

    /// Gives the client a record, which it copies. `word` comes back with its report.
    fn produce(
        &mut self,
        event: &Event<'_>,
        topic: usize,
        partition: i32,
        word: usize,
    ) -> Result<(), RDKafkaErrorCode>;

    /// Records that the client has.
    fn in_flight_count(&self) -> i32;

    /// What the client cannot go on after.
    fn fatal_error(&self) -> Option<RDKafkaErrorCode>;

    /// Why records of a topic are not acknowledged, if anybody says so.
    fn why_stalled(&self, name: &str) -> Option<Trouble>;

    /// Begins a Kafka transaction.
    fn begin_transaction(&mut self) -> Result<(), WriteError>;

    /// Sends the position in the open transaction, and commits it.
    fn commit_transaction(&mut self, position: &Prepared) -> Result<(), WriteError>;

    /// Ends the open transaction, so that readers need not wait for the broker to do so.
    fn abort_transaction(&mut self);

    /// What a failed transaction of the writer with this epoch ends the session with.
    fn failure_of(&self, error: WriteError, epoch: u64) -> Failure;
}

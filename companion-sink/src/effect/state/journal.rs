//! Writes the state, each time whole or not at all. Whoever opens the journal of a sink shuts out all who had it before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use tokio::task::spawn_blocking;

use crate::effect::state::content::Change;
use crate::error::{Code, Result, kafka_failed};
use crate::kafka::client::configuration_error;

/// For one call to the broker.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A state that cannot be written for longer ends the run, which begins anew.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(200);

/// Writes the state of one sink.
#[derive(Clone)]
pub(crate) struct Journal {
    producer: Arc<BaseProducer<DefaultProducerContext>>,
    topic: Arc<str>,
    sink: Arc<str>,
}

impl Journal {
    /// Opens the journal of `sink` in `topic`.
    pub(crate) async fn open(client: &ClientConfig, topic: &str, sink: &str) -> Result<Journal> {
        let mut client = client.clone();
        client
            .set("transactional.id", topic)
            .set("transaction.timeout.ms", "60000")
            .set("linger.ms", "0")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "1000000000");
        let producer: BaseProducer = client
            .create()
            .map_err(|error| configuration_error(&error))?;
        let journal = Journal {
            producer: Arc::new(producer),
            topic: topic.into(),
            sink: sink.into(),
        };
        let opening = journal.clone();
        blocking(move || {
            let opened = opening.producer.init_transactions(CALL_TIMEOUT);
            opened.map_err(|error| opening.trouble("init_transactions", &error))
        })
        .await?;
        Ok(journal)
    }

    /// Writes changes, all or none of them.
    pub(crate) async fn write(&self, changes: Vec<Change>) -> Result<()> {
        let journal = self.clone();
        blocking(move || journal.write_now(&changes)).await
    }

    fn write_now(&self, changes: &[Change]) -> Result<()> {
        let began = Instant::now();
        loop {
            let Err(error) = self.try_write(changes) else {
                return Ok(());
            };
            let KafkaError::Transaction(cause) = &error else {
                return Err(self.trouble("writing", &error));
            };
            if cause.is_fatal() || began.elapsed() > WRITE_TIMEOUT {
                return Err(self.trouble("writing", &error));
            }
            let aborted = self.producer.abort_transaction(CALL_TIMEOUT);
            aborted.map_err(|error| self.trouble("abort_transaction", &error))?;
            std::thread::sleep(RETRY);
        }
    }

    fn try_write(&self, changes: &[Change]) -> std::result::Result<(), KafkaError> {
        self.producer.begin_transaction()?;
        for change in changes {
            let key = change.key_json();
            loop {
                let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic)
                    .partition(0)
                    .key(&key);
                record.payload = change.value.as_deref();
                match self.producer.send(record) {
                    Ok(()) => break,
                    Err((error, _)) if is_full(&error) => self.producer.poll(POLL),
                    Err((error, _)) => return Err(error),
                }
            }
        }
        // What `commit_transaction` does about it itself takes a tenth of a second at least.
        let began = Instant::now();
        while self.producer.in_flight_count() > 0 && began.elapsed() < CALL_TIMEOUT {
            self.producer.poll(POLL);
        }
        let began = Instant::now();
        loop {
            match self.producer.commit_transaction(CALL_TIMEOUT) {
                Err(KafkaError::Transaction(cause))
                    if cause.is_retriable() && began.elapsed() < WRITE_TIMEOUT => {}
                committed => return committed,
            }
        }
    }

    fn trouble(&self, doing: &str, error: &KafkaError) -> Trouble {
        let code = match error {
            KafkaError::Transaction(cause) => Some(cause.code()),
            other => other.rdkafka_error_code(),
        };
        match code {
            Some(
                RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch,
            ) => Trouble::new(
                Code::OtherInstance,
                format!("another instance of sink {} has taken over", self.sink),
                "Nothing to do: this one stands by.",
            ),
            Some(
                RDKafkaErrorCode::TransactionalIdAuthorizationFailed
                | RDKafkaErrorCode::TopicAuthorizationFailed,
            ) => Trouble::new(
                Code::TargetRefuses,
                format!("kafka: not allowed to write {}", self.topic),
                format!(
                    "Grant WRITE on the topic, and WRITE and DESCRIBE on the transactional id {}; then send SIGHUP.",
                    self.topic
                ),
            ),
            _ => kafka_failed(&format!("{doing} {}", self.topic), error),
        }
    }
}

fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

/// Does what waits for Kafka where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Trouble::new(
            Code::Unreachable,
            format!("kafka: {error}"),
            "It is tried again.",
        ))
    })
}

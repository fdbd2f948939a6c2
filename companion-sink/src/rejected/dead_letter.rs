//! Events that cannot be applied go to `<topic>.dlq`, unchanged, with headers that say why. The delivery is awaited
//! before the offset moves.

use crate::rejected::failure::{Failure, Stage};

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tokio::sync::{Mutex, OnceCell, oneshot, watch};

use crate::config::Loaded;
use crate::error::{Code, Result, kafka_failed};
use crate::kafka::client;
use crate::kafka::client::configuration_error;
use crate::kafka::discovery::Cluster;
use crate::kafka::record::Record;
use crate::rejected::origin;
use crate::timestamp;

/// The dead letters of all sinks.
pub(crate) struct DeadLetters {
    client: ClientConfig,
    retention: Duration,
    cluster: watch::Receiver<Cluster>,
    producer: OnceCell<ThreadedProducer<Delivery>>,
    topics: Mutex<HashSet<String>>,
    /// Since when lines are counted, and how many there were.
    told: std::sync::Mutex<(Instant, u32)>,
}

impl DeadLetters {
    /// Nothing is connected until the first dead letter.
    pub(crate) fn new(config: &Loaded, cluster: watch::Receiver<Cluster>) -> Self {
        let mut client = client::base(config);
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "30000")
            .set("message.max.bytes", "1000000000");
        DeadLetters {
            client,
            retention: config.dead_letters.retention,
            cluster,
            producer: OnceCell::new(),
            topics: Mutex::new(HashSet::new()),
            told: std::sync::Mutex::new((Instant::now(), 0)),
        }
    }

    /// Whether one more line fits into the log: whoever may write a topic must not fill the disk with it. The letters have all.
    fn may_tell(&self) -> bool {
        const LINES_MAX: u32 = 100;
        const WITHIN: Duration = Duration::from_secs(60);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.elapsed() > WITHIN {
            *told = (Instant::now(), 0);
        }
        told.1 += 1;
        if told.1 == LINES_MAX {
            tracing::warn!(
                "many events are refused: the next ones are in the dead letters only, for a minute"
            );
        }
        told.1 < LINES_MAX
    }

    /// Sends `letters` of `sink` and waits until Kafka has them all. One that is too large for its topic goes without its value,
    /// which the sink's state has.
    pub(crate) async fn send(&self, sink: &str, letters: &[(&Record, &Failure)]) -> Result<()> {
        let mut deliveries = Vec::with_capacity(letters.len());
        for (record, failure) in letters {
            let topic = format!("{}.dlq", record.topic);
            self.ensure_topic(&topic, record).await?;
            if self.may_tell() {
                tracing::warn!(
                    sink, code = %failure.code, reason = &*failure.reason, event = record.event_id(),
                    topic = &*record.topic, partition = record.partition, offset = record.offset,
                    "refused: {}", origin::shown(&failure.message)
                );
            }
            let letter = Letter {
                sink,
                topic,
                record,
                failure,
            };
            let delivery = self.produce(&letter, record.value()).await?;
            deliveries.push((letter, delivery));
        }
        let mut too_large = Vec::new();
        for (letter, delivery) in deliveries {
            if !is_delivered(delivery).await? {
                too_large.push(letter);
            }
        }
        for letter in too_large {
            // Perhaps it was only too much together with others.
            let alone = self.produce(&letter, letter.record.value()).await?;
            if !is_delivered(alone).await? {
                let without_value = self.produce(&letter, None).await?;
                if !is_delivered(without_value).await? {
                    return Err(kafka_failed("sending a dead letter", &TOO_LARGE));
                }
            }
        }
        Ok(())
    }

    async fn produce(&self, letter: &Letter<'_>, value: Option<&[u8]>) -> Result<Delivered> {
        let producer = self
            .producer
            .get_or_try_init(|| async { self.client.create_with_context(Delivery) })
            .await
            .map_err(|error| configuration_error(&error))?;
        let (done, delivery) = oneshot::channel();
        let record = letter.record;
        let is_stored = value.is_none() && record.value().is_some();
        let mut message =
            BaseRecord::<[u8], [u8], _>::with_opaque_to(&letter.topic, Box::new(done))
                .partition(record.partition)
                .headers(headers(letter, is_stored));
        message.key = record.key();
        message.payload = value;
        if let Err((error, message)) = producer.send(message) {
            // As if the broker had said so; the waiting side is here.
            let _ = message.delivery_opaque.send(Err(error));
        }
        Ok(delivery)
    }

    /// Makes the topic with the partitions of the event's own topic, once.
    async fn ensure_topic(&self, topic: &str, record: &Record) -> Result<()> {
        let mut known = self.topics.lock().await;
        if known.contains(topic) {
            return Ok(());
        }
        let partitions = {
            let cluster = self.cluster.borrow();
            let topics = cluster.topics.as_ref();
            topics.and_then(|topics| topics.get(&*record.topic).copied())
        };
        let partitions = partitions.unwrap_or((record.partition + 1).max(1));
        let retention_ms = self.retention.as_millis().to_string();
        let admin: AdminClient<DefaultClientContext> = self
            .client
            .create()
            .map_err(|error| configuration_error(&error))?;
        let new_topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1))
            .set("retention.ms", &retention_ms)
            // The event and its error headers: what the event's own topic took must fit.
            .set("max.message.bytes", "1000000000");
        let results = admin
            .create_topics(&[new_topic], &AdminOptions::new())
            .await
            .map_err(|error| kafka_failed(&format!("making topic {topic}"), &error))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((
                    _,
                    RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed,
                )) => {
                    return Err(Trouble::new(
                        Code::TargetRefuses,
                        format!("kafka: not allowed to make topic {topic}"),
                        format!(
                            "Make the topic with {partitions} partitions, or grant CREATE on it; then send SIGHUP."
                        ),
                    ));
                }
                Err((_, code)) => {
                    return Err(kafka_failed(
                        &format!("making topic {topic}"),
                        &KafkaError::AdminOp(code),
                    ));
                }
            }
        }
        known.insert(topic.to_owned());
        Ok(())
    }
}

/// An event for the dead letters.
struct Letter<'l> {
    sink: &'l str,
    topic: String,
    record: &'l Record,
    failure: &'l Failure,
}

/// What became of a letter, once it is known.
type Delivered = oneshot::Receiver<std::result::Result<(), KafkaError>>;

const TOO_LARGE: KafkaError = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);

/// Whether Kafka has a letter; not if it, or the batch that it was in, is too large for its topic.
async fn is_delivered(delivery: Delivered) -> Result<bool> {
    match delivery.await.unwrap_or(Err(KafkaError::Canceled)) {
        Ok(()) => Ok(true),
        Err(error) if error == TOO_LARGE => Ok(false),
        Err(error) => Err(kafka_failed("sending a dead letter", &error)),
    }
}

/// The event's own headers, then Kafka Connect's and ours; those of an earlier failure are replaced.
fn headers(letter: &Letter<'_>, is_stored: bool) -> OwnedHeaders {
    let Letter {
        sink,
        record,
        failure,
        ..
    } = *letter;
    let mut headers = OwnedHeaders::new();
    for (name, value) in record.headers() {
        if !name.starts_with("__connect.errors.") && !name.starts_with("cdc.dlq.") {
            headers = headers.insert(Header { key: name, value });
        }
    }
    let stage = match failure.stage {
        Stage::ValueConverter => "VALUE_CONVERTER",
        Stage::Transformation => "TRANSFORMATION",
        Stage::TaskPut => "TASK_PUT",
    };
    let now = timestamp::rfc3339(timestamp::now_us());
    let ours = [
        ("__connect.errors.topic", record.topic.to_string()),
        ("__connect.errors.partition", record.partition.to_string()),
        ("__connect.errors.offset", record.offset.to_string()),
        ("__connect.errors.connector.name", "companion-sink".into()),
        ("__connect.errors.task.id", sink.into()),
        ("__connect.errors.stage", stage.into()),
        ("__connect.errors.class.name", "companion-sink".into()),
        (
            "__connect.errors.exception.class.name",
            failure.code.to_string(),
        ),
        (
            "__connect.errors.exception.message",
            failure.message.clone(),
        ),
        ("__connect.errors.exception.stacktrace", String::new()),
        ("cdc.dlq.code", failure.code.to_string()),
        ("cdc.dlq.reason", failure.reason.to_string()),
        ("cdc.dlq.sink", sink.into()),
        ("cdc.dlq.attempts", "1".into()),
        ("cdc.dlq.first_failed", now.clone()),
        ("cdc.dlq.last_failed", now),
    ];
    let stored = is_stored.then(|| ("cdc.dlq.stored", "true".to_owned()));
    for (name, value) in ours.iter().chain(&stored) {
        headers = headers.insert(Header {
            key: name,
            value: Some(value.as_bytes()),
        });
    }
    headers
}

struct Delivery;

impl ClientContext for Delivery {}

impl ProducerContext for Delivery {
    type DeliveryOpaque = Box<oneshot::Sender<std::result::Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, done: Self::DeliveryOpaque) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        // The waiting side is gone only when the sink stops: the event is then sent again.
        let _ = done.send(result);
    }
}

//! The changelog: the store's content as a compacted topic of one partition. A batch is one transaction of Kafka there, before
//! it is one of the store; a restored store is what the newest record of each key says.
//!
//! One partition, for one instance writes, in one order, and one store reads: more would be neither faster nor needed.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use crate::config::Loaded;
use crate::error::{Code, Result, kafka_failed};
use crate::kafka::client;
use crate::kafka::client::configuration_error;
use crate::statistics::kept::store::Written;

/// What was deleted is told for so long, to who reads from the middle.
pub(crate) const TOMBSTONES: Duration = Duration::from_secs(7 * 86_400);
const TIMEOUT: Duration = Duration::from_secs(60);
/// Until it is seen that everything is sent.
const SENT_PAUSE: Duration = Duration::from_millis(1);

/// How the changelog of a sink is reached.
#[derive(Debug, Clone)]
pub(crate) struct ChangelogPlace {
    /// The topic, `<name>.<sink>.changelog`.
    pub(crate) topic: String,
    /// The transactional id, and the beginning of the group's name: `<name>.<sink>`.
    pub(crate) writer: String,
    /// What every client has.
    pub(crate) client: ClientConfig,
    /// A consumer that sees whole transactions only.
    pub(crate) reader: ClientConfig,
}

/// Who writes the changelog. Another writer that comes later ends this one.
pub(crate) struct Changelog {
    topic: String,
    producer: ThreadedProducer<Deliveries>,
}

/// The highest offset that Kafka has told of.
struct Deliveries(AtomicI64);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // A failure is the transaction's.
        if let Ok(message) = result {
            self.0.fetch_max(message.offset(), Ordering::Relaxed);
        }
    }
}

impl ChangelogPlace {
    /// That of a sink.
    pub(crate) fn new(config: &Loaded, sink: &str) -> ChangelogPlace {
        /// Fetched ahead where it is read.
        const MEMORY_BYTES: u64 = 64 << 20;
        let writer = format!("{}.{sink}", config.name);
        let mut reader = client::consumer(config, &format!("{writer}.restore"), MEMORY_BYTES);
        reader
            .set("statistics.interval.ms", "0")
            .set("enable.partition.eof", "true");
        ChangelogPlace {
            topic: format!("{writer}.changelog"),
            client: client::base(config),
            reader,
            writer,
        }
    }

    /// Makes the topic if it is not there.
    pub(crate) async fn ensure_topic(&self) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self
            .client
            .create()
            .map_err(|error| configuration_error(&error))?;
        let tombstones_ms = TOMBSTONES.as_millis().to_string();
        let topic = NewTopic::new(&self.topic, 1, TopicReplication::Fixed(-1))
            .set("cleanup.policy", "compact")
            .set("delete.retention.ms", &tombstones_ms);
        let doing = format!("making topic {}", self.topic);
        let results = admin
            .create_topics(&[topic], &AdminOptions::new())
            .await
            .map_err(|error| kafka_failed(&doing, &error))?;
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
                        format!("kafka: not allowed to make topic {}", self.topic),
                        "Make it with one partition and cleanup.policy=compact, or grant CREATE on it; then send SIGHUP.",
                    ));
                }
                Err((_, code)) => return Err(kafka_failed(&doing, &KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }
}

impl Changelog {
    /// Becomes the only writer: what another one had open is undone, and it can write no more.
    pub(crate) fn open(place: &ChangelogPlace) -> Result<Changelog> {
        let mut client = place.client.clone();
        client
            .set("transactional.id", &place.writer)
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "262144");
        let producer: ThreadedProducer<Deliveries> = client
            .create_with_context(Deliveries(AtomicI64::new(-1)))
            .map_err(|error| configuration_error(&error))?;
        let failed = |error| fenced_or_failed("becoming the writer of the figures", &error);
        producer.init_transactions(TIMEOUT).map_err(failed)?;
        Ok(Changelog {
            topic: place.topic.clone(),
            producer,
        })
    }

    /// Writes what a batch changes, as one transaction; the offset that comes next in the changelog. After an error it is not
    /// known whether it is there: the writer is opened anew, and the changelog read.
    pub(crate) fn write(&mut self, written: &Written) -> Result<Option<i64>> {
        if written.is_empty() {
            return Ok(None);
        }
        let failed = |error| fenced_or_failed("writing the changelog", &error);
        self.producer.begin_transaction().map_err(failed)?;
        for (key, value) in written {
            let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic)
                .partition(0)
                .key(key);
            record.payload = value.as_deref();
            while let Err((error, back)) = self.producer.send(record) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(failed(error));
                }
                record = back;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // What `commit_transaction` does about it itself takes a tenth of a second at least.
        let began = Instant::now();
        while self.producer.in_flight_count() > 0 && began.elapsed() < TIMEOUT {
            std::thread::sleep(SENT_PAUSE);
        }
        self.producer.commit_transaction(TIMEOUT).map_err(failed)?;
        let highest = self.producer.context().0.load(Ordering::Relaxed);
        Ok(Some(highest + 1))
    }
}

/// Another writer came, or Kafka is not there.
fn fenced_or_failed(doing: &str, error: &KafkaError) -> Trouble {
    let is_fenced = matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
        )
    );
    match is_fenced {
        true => Trouble::new(
            Code::OtherInstance,
            "another instance writes the figures now",
            "Nothing to do: this one stands by.",
        ),
        false => kafka_failed(doing, error),
    }
}

//! The two topics of a sink of effects: its state, and the orders of people.

use std::thread;
use std::time::{Duration, Instant};

use change::topic_name;
use change::trouble::Trouble;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::effect::state::content::EffectState;
use crate::error::{Code, Result, kafka_failed};
use crate::kafka::client::{Silent, configuration_error, is_missing};

/// Segments of the state are small, so that compaction keeps it small and starting is fast.
const SEGMENT_BYTES: &str = "16777216";
/// An event with its headers: what its own topic took must fit.
const RECORD_BYTES_MAX: &str = "1000000000";
/// An order that nobody carried out by then is of no use.
const ORDERS_RETENTION_MS: &str = "604800000";
const TIMEOUT: Duration = Duration::from_secs(10);
const LEADER_WAIT: Duration = Duration::from_secs(5);
const LEADER_RETRY: Duration = Duration::from_millis(100);

/// The names of the topics of a sink.
#[derive(Debug, Clone)]
pub(crate) struct EffectTopics {
    /// The state.
    pub(crate) state: String,
    /// The orders.
    pub(crate) orders: String,
}

impl EffectTopics {
    /// Those of `sink` of the companion-sink `name`.
    pub(crate) fn of(name: &str, sink: &str) -> EffectTopics {
        EffectTopics {
            state: topic_name::effects(name, sink),
            orders: topic_name::effect_orders(name, sink),
        }
    }

    /// Makes them where they are missing.
    pub(crate) async fn make(&self, client: &ClientConfig) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = client
            .create()
            .map_err(|error| configuration_error(&error))?;
        let topic = |name| NewTopic::new(name, 1, TopicReplication::Fixed(-1));
        let state = topic(&self.state)
            .set("cleanup.policy", "compact")
            .set("segment.bytes", SEGMENT_BYTES)
            .set("max.message.bytes", RECORD_BYTES_MAX);
        let orders = topic(&self.orders)
            .set("cleanup.policy", "delete")
            .set("retention.ms", ORDERS_RETENTION_MS);
        let (topics, options) = ([state, orders], AdminOptions::new());
        let made = admin.create_topics(&topics, &options).await;
        let made = made.map_err(|error| kafka_failed("making topics", &error))?;
        for result in made {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((
                    topic,
                    RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed,
                )) => {
                    return Err(Trouble::new(
                        Code::TargetRefuses,
                        format!("kafka: not allowed to make topic {topic}"),
                        format!(
                            "Make {} with one partition and cleanup.policy=compact, and {} with one, or grant CREATE on them; then send SIGHUP.",
                            self.state, self.orders
                        ),
                    ));
                }
                Err((topic, code)) => {
                    let doing = format!("making topic {topic}");
                    return Err(kafka_failed(&doing, &KafkaError::AdminOp(code)));
                }
            }
        }
        Ok(())
    }
}

/// Reads the state up to its present end; none where there is no such topic. Blocks.
pub(crate) fn read_state(client: &ClientConfig, topic: &str) -> Result<Option<EffectState>> {
    let failed = |error: &KafkaError| kafka_failed(&format!("reading {topic}"), error);
    let mut client = client.clone();
    client
        .set("enable.partition.eof", "true")
        .set("statistics.interval.ms", "0");
    let consumer: BaseConsumer<Silent> = client
        .create_with_context(Silent)
        .map_err(|error| configuration_error(&error))?;
    let (low, high) = match bounds(&consumer, topic) {
        Ok(bounds) => bounds,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let mut state = EffectState::default();
    if low >= high {
        return Ok(Some(state));
    }
    let mut assignment = TopicPartitionList::new();
    let assigned = assignment.add_partition_offset(topic, 0, Offset::Offset(low));
    let assigned = assigned.and_then(|()| consumer.assign(&assignment));
    assigned.map_err(|error| failed(&error))?;
    loop {
        match consumer.poll(TIMEOUT) {
            // The end comes as an event of its own, also behind markers of transactions.
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Some(state)),
            Some(Err(error)) => return Err(failed(&error)),
            Some(Ok(message)) => {
                let key = message.key().unwrap_or_default();
                let taken = state.take(key, message.payload());
                taken.map_err(|why| not_ours(topic, message.offset(), &why))?;
            }
            None => {
                return Err(failed(&KafkaError::Global(
                    RDKafkaErrorCode::OperationTimedOut,
                )));
            }
        }
    }
}

/// Where a topic begins and ends. One that was just made may have no leader yet.
fn bounds(consumer: &BaseConsumer<Silent>, topic: &str) -> KafkaResult<(i64, i64)> {
    let began = Instant::now();
    loop {
        let bounds = consumer.fetch_watermarks(topic, 0, TIMEOUT);
        let code = bounds
            .as_ref()
            .err()
            .and_then(KafkaError::rdkafka_error_code);
        let has_no_leader = matches!(
            code,
            Some(RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable)
        );
        if !has_no_leader || began.elapsed() > LEADER_WAIT {
            return bounds;
        }
        thread::sleep(LEADER_RETRY);
    }
}

fn not_ours(topic: &str, offset: i64, why: &str) -> Trouble {
    Trouble::new(
        Code::TargetRefuses,
        format!("kafka: topic {topic}, offset {offset}: a record is none of this version: {why}"),
        "Run the version of companion-sink that wrote it, or let nobody else write the topic; then send SIGHUP.",
    )
}

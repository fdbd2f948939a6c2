//! The two topics, and the clients of Kafka that all need.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// What Kafka may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One of the two. A partition of one belongs to that of the same number of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// Accounts by id; a tombstone deletes one.
    Account,
    /// Events by `<account>/<id>`, in the partition of the account; kept for 30 days.
    Event,
}

impl Topic {
    pub(crate) const ALL: [Topic; 2] = [Topic::Account, Topic::Event];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Topic::Account => "account",
            Topic::Event => "event",
        }
    }

    /// How it is made where it is not there. What was deleted is gone two days later: a day until the log is compacted, and a day
    /// until the tombstone goes, too.
    fn settings(self) -> &'static [(&'static str, &'static str)] {
        const DAY_MS: &str = "86400000";
        const ALL: [(&str, &str); 3] = [
            ("segment.ms", DAY_MS),
            ("max.compaction.lag.ms", DAY_MS),
            ("delete.retention.ms", DAY_MS),
        ];
        match self {
            Topic::Account => &[("cleanup.policy", "compact"), ALL[0], ALL[1], ALL[2]],
            Topic::Event => &[
                ("cleanup.policy", "compact,delete"),
                ("retention.ms", "2592000000"),
                ALL[0],
                ALL[1],
                ALL[2],
            ],
        }
    }
}

/// How the topics are reached.
pub(crate) struct Topics {
    /// What every client has.
    pub(crate) client: ClientConfig,
    /// A client that only asks.
    pub(crate) asking: BaseConsumer<Silent>,
    /// How many each of the two has.
    pub(crate) partitions: i32,
    /// How long a tombstone stays. A store that is older may have missed one.
    pub(crate) tombstones: Duration,
}

/// Of a client that says nothing of errors that its calls return.
pub(crate) struct Silent;

impl ClientContext for Silent {
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Silent {}

impl Topics {
    /// Makes the topics that are not there.
    pub(crate) async fn open(brokers: &str, partitions: i32) -> Result<Topics> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", brokers);
        client.set("allow.auto.create.topics", "false");
        client.set("socket.timeout.ms", "10000");
        client.set_log_level(RDKafkaLogLevel::Critical);
        let admin: AdminClient<DefaultClientContext> = client.create()?;
        let new = Topic::ALL.map(|topic| {
            let new = NewTopic::new(topic.name(), partitions, TopicReplication::Fixed(-1));
            let settings = topic.settings().iter();
            settings.fold(new, |new, (name, value)| new.set(name, value))
        });
        for made in admin.create_topics(&new, &AdminOptions::new()).await? {
            match made {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(format!("topic {topic}: {code}").into()),
            }
        }
        let asking: BaseConsumer<Silent> = client.create_with_context(Silent)?;
        let [accounts, events] = [
            partitions_of(&asking, Topic::Account)?,
            partitions_of(&asking, Topic::Event)?,
        ];
        if accounts != events {
            return Err(format!("account has {accounts} partitions, event has {events}").into());
        }
        Ok(Topics {
            tombstones: tombstones(&admin).await?,
            client,
            asking,
            partitions: accounts,
        })
    }

    /// The partition of an account. Every writer of the topics has to take the same.
    pub(crate) fn partition_of(&self, account: &str) -> i32 {
        // FNV-1a.
        let hash = account.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        (hash % self.partitions.unsigned_abs()).cast_signed()
    }

    /// The first offset that a partition has, and the one that comes next.
    pub(crate) fn ends(&self, topic: Topic, partition: i32) -> Result<(u64, u64)> {
        let ends = self
            .asking
            .fetch_watermarks(topic.name(), partition, TIMEOUT)?;
        Ok((ends.0.try_into()?, ends.1.try_into()?))
    }
}

/// How many a topic has, as soon as the brokers know of it.
fn partitions_of(asking: &BaseConsumer<Silent>, topic: Topic) -> Result<i32> {
    let start = std::time::Instant::now();
    loop {
        let found = asking.fetch_metadata(Some(topic.name()), TIMEOUT)?;
        let count = found.topics().first().map_or(0, |t| t.partitions().len());
        match count {
            0 if start.elapsed() > TIMEOUT => return Err("a topic has no partitions".into()),
            0 => std::thread::sleep(Duration::from_millis(20)),
            count => return Ok(count.try_into()?),
        }
    }
}

/// The shorter time of the two topics.
async fn tombstones(admin: &AdminClient<DefaultClientContext>) -> Result<Duration> {
    let topics = Topic::ALL.map(|topic| ResourceSpecifier::Topic(topic.name()));
    let mut shortest = Duration::MAX;
    for topic in admin
        .describe_configs(&topics, &AdminOptions::new())
        .await?
    {
        let topic = topic?;
        let ms = topic
            .get("delete.retention.ms")
            .and_then(|entry| entry.value.as_deref());
        let ms = ms.ok_or("delete.retention.ms of a topic is not known")?;
        shortest = shortest.min(Duration::from_millis(ms.parse()?));
    }
    Ok(shortest)
}

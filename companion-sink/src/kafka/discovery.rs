//! Which topics there are and how many partitions they have, asked anew twice a second, so that a new table is
//! followed within a second. librdkafka's own refresh takes minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use tokio::sync::watch;

use crate::config::Config;
use crate::error::{Error, Result, log};
use crate::kafka::client;

const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(5);
const REPEAT_WARNING: Duration = Duration::from_secs(30);

/// The topics with their numbers of partitions.
pub type Topics = BTreeMap<String, i32>;

/// What is known of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// The topics; `None` until Kafka has answered once.
    pub topics: Option<Arc<Topics>>,
    /// Why Kafka cannot be asked at present.
    pub error: Option<Error>,
}

/// Asks Kafka about its topics, and where their partitions begin and end.
pub struct Discovery {
    client: Arc<BaseConsumer>,
    cluster: watch::Receiver<Cluster>,
}

impl Discovery {
    /// Starts asking, on a thread of its own, until the last receiver and this are gone.
    pub fn start(config: &Config) -> Result<Discovery> {
        let client = Arc::new(client::asking(config)?);
        let (sender, cluster) = watch::channel(Cluster::default());
        let asking = Arc::clone(&client);
        thread::Builder::new()
            .name("discovery".into())
            .spawn(move || ask_forever(&asking, &sender))
            .map_err(|error| {
                Error::configuration(error.to_string(), "Raise the limit of threads.")
            })?;
        Ok(Discovery { client, cluster })
    }

    /// What is known of the cluster, and its changes.
    pub fn cluster(&self) -> watch::Receiver<Cluster> {
        self.cluster.clone()
    }

    /// The first offset and the end of a partition. Waits for Kafka.
    pub async fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let client = Arc::clone(&self.client);
        let name = topic.to_owned();
        let answer =
            tokio::task::spawn_blocking(move || client.fetch_watermarks(&name, partition, TIMEOUT));
        match answer.await {
            Ok(Ok(bounds)) => Ok(bounds),
            Ok(Err(error)) => Err(Error::kafka(
                &format!("where {topic}-{partition} begins"),
                &error,
            )),
            Err(error) => Err(Error::new(
                crate::error::Code::Unreachable,
                format!("kafka: {error}"),
                "It is tried again.",
            )),
        }
    }
}

/// The topics, asked once.
pub fn topics(client: &BaseConsumer) -> Result<Topics> {
    let metadata = client
        .fetch_metadata(None, TIMEOUT)
        .map_err(|error| Error::kafka("which topics there are", &error))?;
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none())
        .map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32))
        .collect())
}

/// A client cannot be made: the properties are wrong. librdkafka's text may hold a value, and what it does not know as a name may
/// be a piece of one.
pub fn configuration_error(error: &KafkaError) -> Error {
    let what = match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => {
            "[kafka] config_file has a property that librdkafka does not know".to_owned()
        }
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("librdkafka refuses the value of property {name}")
        }
        other => other.to_string(),
    };
    Error::configuration(
        format!("kafka: {what}"),
        "Correct [kafka] brokers, or the property in [kafka] config_file.",
    )
}

fn ask_forever(client: &BaseConsumer, sender: &watch::Sender<Cluster>) {
    let mut warned: Option<Instant> = None;
    while !sender.is_closed() {
        match topics(client) {
            Ok(topics) => {
                if warned.take().is_some() {
                    tracing::info!("kafka answers again");
                }
                sender.send_if_modified(|cluster| {
                    let same = cluster.error.is_none()
                        && cluster
                            .topics
                            .as_deref()
                            .is_some_and(|known| *known == topics);
                    if !same {
                        cluster.topics = Some(Arc::new(topics));
                        cluster.error = None;
                    }
                    !same
                });
                thread::sleep(INTERVAL);
            }
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() > REPEAT_WARNING) {
                    log(&error, "");
                    warned = Some(Instant::now());
                }
                sender.send_modify(|cluster| cluster.error = Some(error));
                thread::sleep(INTERVAL);
            }
        }
    }
}

/// Whether a sink with these patterns follows `topic`: `*` stands for any text; dead letters and positions never.
pub fn follows(patterns: &[String], topic: &str) -> bool {
    !topic.ends_with(".dlq")
        && !topic.ends_with(".cdc_positions")
        && !topic.starts_with("__")
        && patterns.iter().any(|pattern| matches(pattern, topic))
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        let yes = [
            ("a.b", "a.b"),
            ("a.*", "a.b.c"),
            ("*", "x"),
            ("*.c", "a.b.c"),
            ("a*b*c", "aXbYbc"),
            ("a*", "a"),
        ];
        let no = [
            ("a.b", "a.bc"),
            ("a.*", "b.a.c"),
            ("*.c", "a.cd"),
            ("a*b*c", "acb"),
            ("ab*ba", "aba"),
        ];
        for (pattern, topic) in yes {
            assert!(matches(pattern, topic), "{pattern} {topic}");
        }
        for (pattern, topic) in no {
            assert!(!matches(pattern, topic), "{pattern} {topic}");
        }
    }

    #[test]
    fn no_value_of_a_property_is_told() {
        for (name, value) in [
            ("sasl.pasword", "hunter2"),
            ("hunter2", "x"),
            ("security.protocol", "hunter2"),
            ("socket.timeout.ms", "hunter2"),
        ] {
            let mut client = rdkafka::ClientConfig::new();
            let made: std::result::Result<BaseConsumer, KafkaError> =
                client.set(name, value).create();
            let error = configuration_error(&made.err().unwrap());
            let told = format!("{error} {} {error:?}", error.hint);
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn our_own_topics_are_left_alone() {
        let all = ["*".to_owned()];
        assert!(follows(&all, "shop.public.t"));
        for topic in [
            "shop.public.t.dlq",
            "pg.cdc_positions",
            "__consumer_offsets",
        ] {
            assert!(!follows(&all, topic), "{topic}");
        }
    }
}

//! Which topics there are and how many partitions they have, asked anew twice a second, so that a new table is
//! followed within a second. librdkafka's own refresh takes minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use change::trouble::Trouble;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use tokio::sync::watch;

use crate::config::Loaded;
use crate::error::{Result, kafka_failed, log, misconfigured};
use crate::kafka::client;

const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(5);
const REPEAT_WARNING: Duration = Duration::from_secs(30);

/// The topics with their numbers of partitions.
pub(crate) type Topics = BTreeMap<String, i32>;

/// What is known of the cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    /// The topics; `None` until Kafka has answered once.
    pub(crate) topics: Option<Arc<Topics>>,
    /// Why Kafka cannot be asked at present.
    pub(crate) error: Option<Trouble>,
}

/// Asks Kafka about its topics, and where their partitions begin and end.
pub(crate) struct Discovery {
    client: Arc<BaseConsumer>,
    cluster: watch::Receiver<Cluster>,
}

impl Discovery {
    /// Starts asking, on a thread of its own, until the last receiver and this are gone.
    pub(crate) fn start(config: &Loaded) -> Result<Discovery> {
        let client = Arc::new(client::asking(config)?);
        let (sender, cluster) = watch::channel(Cluster::default());
        let asking = Arc::clone(&client);
        thread::Builder::new()
            .name("discovery".into())
            .spawn(move || ask_forever(&asking, &sender))
            .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))?;
        Ok(Discovery { client, cluster })
    }

    /// What is known of the cluster, and its changes.
    pub(crate) fn cluster(&self) -> watch::Receiver<Cluster> {
        self.cluster.clone()
    }

    /// The first offset and the end of a partition. Waits for Kafka.
    pub(crate) async fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        let client = Arc::clone(&self.client);
        let name = topic.to_owned();
        let answer =
            tokio::task::spawn_blocking(move || client.fetch_watermarks(&name, partition, TIMEOUT));
        match answer.await {
            Ok(Ok(bounds)) => Ok(bounds),
            Ok(Err(error)) => Err(kafka_failed(
                &format!("where {topic}-{partition} begins"),
                &error,
            )),
            Err(error) => Err(Trouble::new(
                crate::error::Code::Unreachable,
                format!("kafka: {error}"),
                "It is tried again.",
            )),
        }
    }
}

/// The topics, asked once.
pub(crate) fn topics<C: ConsumerContext>(client: &BaseConsumer<C>) -> Result<Topics> {
    let metadata = client
        .fetch_metadata(None, TIMEOUT)
        .map_err(|error| kafka_failed("which topics there are", &error))?;
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none())
        .map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32))
        .collect())
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

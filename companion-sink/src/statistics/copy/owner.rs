//! Which instance counts: the one that has the changelog's partition in a consumer group of its own. The others stand by, and one
//! of them has it soon after the first is gone. That the first one writes no more, its transactional id makes sure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::{Result, misconfigured};
use crate::kafka::client::configuration_error;
use crate::statistics::copy::changelog::ChangelogPlace;

const POLL: Duration = Duration::from_millis(100);
/// An instance that was killed is missed after this. Brokers allow no less by default.
const SESSION_MS: &str = "6000";
const HEARTBEAT_MS: &str = "1500";
/// What leaves the group is told within this, if Kafka is there.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Takes part in who counts, for as long as it lives.
pub(crate) struct Ownership {
    mine: watch::Receiver<bool>,
    stop: Arc<AtomicBool>,
    left: Mutex<mpsc::Receiver<()>>,
}

struct Assignments(watch::Sender<bool>);

impl ClientContext for Assignments {
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Assignments {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if matches!(rebalance, Rebalance::Revoke(_) | Rebalance::Error(_)) {
            self.0.send_replace(false);
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(partitions) = rebalance else {
            return;
        };
        if partitions.count() > 0 {
            // Nothing is read here.
            if let Err(error) = consumer.pause(partitions) {
                tracing::debug!(%error, "the partition is read in vain");
            }
            self.0.send_replace(true);
        }
    }
}

impl Ownership {
    /// Takes part from now on.
    pub(crate) fn start(place: &ChangelogPlace) -> Result<Ownership> {
        let mut client = place.client.clone();
        client
            .set("group.id", format!("{}.owner", place.writer))
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "latest")
            .set("queued.max.messages.kbytes", "64")
            .set("session.timeout.ms", SESSION_MS)
            .set("heartbeat.interval.ms", HEARTBEAT_MS)
            // Who has it keeps it when another one comes.
            .set("partition.assignment.strategy", "cooperative-sticky");
        let (sender, mine) = watch::channel(false);
        let consumer: BaseConsumer<Assignments> = client
            .create_with_context(Assignments(sender))
            .map_err(|error| configuration_error(&error))?;
        consumer
            .subscribe(&[&place.topic])
            .map_err(|error| configuration_error(&error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (gone, left) = mpsc::channel();
        thread::Builder::new()
            .name("owner".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Some(Err(error)) = consumer.poll(POLL) {
                        tracing::debug!(%error, "who counts is asked again");
                    }
                }
                drop(consumer);
                drop(gone);
            })
            .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))?;
        let left = Mutex::new(left);
        Ok(Ownership { mine, stop, left })
    }

    /// Whether this instance counts.
    pub(crate) fn is_mine(&self) -> bool {
        *self.mine.borrow()
    }

    /// Waits for it to become so; whether it has.
    pub(crate) async fn wait(&mut self, at_most: Duration) -> bool {
        matches!(
            timeout(at_most, self.mine.wait_for(|mine| *mine)).await,
            Ok(Ok(_))
        )
    }

    /// Waits until it is not so any more.
    pub(crate) async fn lost(mut mine: watch::Receiver<bool>) {
        // A sender that is gone means the same.
        let _ = mine.wait_for(|mine| !*mine).await;
    }

    /// Whether it is so, to be waited for.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.mine.clone()
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The others need not wait for the session's end; where Kafka is away, they do.
        let left = self.left.get_mut();
        let left = left.unwrap_or_else(PoisonError::into_inner);
        let _ = left.recv_timeout(LEAVE_MAX);
    }
}

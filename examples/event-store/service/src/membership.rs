//! Taking part in the group that shares the partitions. Its records are not read here: each partition reads its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;

use crate::owners::Owners;
use crate::partition::Partitions;
use crate::topics::{Result, Topic};

const POLL: Duration = Duration::from_millis(100);

/// Takes part until it is left.
pub(crate) struct Membership {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    partitions: Arc<Partitions>,
    leaves: AtomicBool,
}

struct Assignments(Arc<Shared>);

impl ClientContext for Assignments {
    fn error(&self, error: KafkaError, _: &str) {
        eprintln!("the group: {error}");
    }
}

impl ConsumerContext for Assignments {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(revoked) = rebalance {
            for partition in revoked.elements() {
                let keep_store = self.0.leaves.load(Ordering::Relaxed);
                self.0.partitions.close(partition.partition(), keep_store);
            }
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(assigned) = rebalance else {
            return;
        };
        if let Err(error) = consumer.pause(assigned) {
            eprintln!("the group: {error}; records are read in vain");
        }
        for partition in assigned.elements() {
            if let Err(error) = self.0.partitions.open(partition.partition()) {
                eprintln!("partition {}: {error}", partition.partition());
            }
        }
    }
}

impl Membership {
    /// Joins the group.
    pub(crate) fn join(owners: &Owners, partitions: Arc<Partitions>) -> Result<Membership> {
        let mut client = owners.topics.client.clone();
        client
            .set("group.id", &owners.group)
            .set("client.id", &owners.me)
            .set("enable.auto.commit", "false")
            // One that was killed is missed after six seconds; brokers allow no less by default.
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1500")
            // Who has a partition goes on while others join, and keeps most of what it has.
            .set("partition.assignment.strategy", "cooperative-sticky");
        let shared = Arc::new(Shared {
            partitions,
            leaves: AtomicBool::new(false),
        });
        let consumer: BaseConsumer<Assignments> =
            client.create_with_context(Assignments(Arc::clone(&shared)))?;
        consumer.subscribe(&[Topic::Account.name()])?;
        let polled = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("group".into())
            .spawn(move || {
                while !polled.leaves.load(Ordering::Relaxed) {
                    if let Some(Err(error)) = consumer.poll(POLL) {
                        eprintln!("the group: {error}");
                    }
                }
            })?;
        Ok(Membership { shared, thread })
    }

    /// Leaves it, so that others take over at once.
    pub(crate) fn leave(self) {
        self.shared.leaves.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            eprintln!("the group's thread has failed");
        }
        self.shared.partitions.close_all();
    }
}

//! Who of several instances has a sink: the one to which Kafka gives the only partition of the topic of orders. It reads them, too.

use std::sync::mpsc as commands;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};

use crate::effect::order::Order;
use crate::error::{Result, misconfigured};
use crate::kafka::client::Silent;
use crate::kafka::closing_consumer::ClosingConsumer;
use crate::kafka::reader::report;

const POLL: Duration = Duration::from_millis(100);
/// An instance that says nothing for so long has lost the sink.
const SESSION_TIMEOUT_MS: &str = "10000";

/// An order, and where it stands in its topic.
pub(crate) struct OrderRecord {
    /// None where it cannot be read.
    pub(crate) order: Option<Order>,
    pub(crate) offset: i64,
}

/// The wish to have a sink. Dropping it gives the sink up.
pub(crate) struct Lock {
    /// Whether this instance has the sink.
    held: watch::Receiver<bool>,
    orders: mpsc::UnboundedReceiver<OrderRecord>,
    done: Option<commands::Sender<i64>>,
    thread: Option<JoinHandle<()>>,
}

impl Lock {
    /// Asks for the sink of which `topic` has the orders; `group` is the name of those who ask.
    pub(crate) fn ask(client: &ClientConfig, topic: &str, group: &str) -> Result<Lock> {
        let mut client = client.clone();
        client
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            // Who has it keeps it when others come.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", SESSION_TIMEOUT_MS)
            // A topic that was just made may not be known everywhere yet.
            .set("topic.metadata.refresh.interval.ms", "5000")
            .set("statistics.interval.ms", "0");
        let consumer = ClosingConsumer::start(&client, Silent)?;
        let subscribed = consumer.subscribe(&[topic]);
        subscribed.map_err(|error| {
            let hint = "Report this with the log.";
            misconfigured(format!("kafka: {topic}: {error}"), hint)
        })?;
        let (holds, held) = watch::channel(false);
        let (sender, orders) = mpsc::unbounded_channel();
        let (done, commands) = commands::channel();
        let reading = Reading {
            consumer,
            topic: topic.to_owned(),
            holds,
            orders: sender,
            commands,
        };
        let thread = thread::Builder::new()
            .name("effects lock".into())
            .spawn(move || reading.run())
            .map_err(|error| misconfigured(error.to_string(), "Raise the limit of threads."))?;
        Ok(Lock {
            held,
            orders,
            done: Some(done),
            thread: Some(thread),
        })
    }

    /// Waits until this instance has the sink.
    pub(crate) async fn held(&mut self) {
        if self.held.wait_for(|held| *held).await.is_err() {
            // The thread is gone, and nobody will ever say so.
            std::future::pending::<()>().await;
        }
    }

    /// The next order of a person; none when another instance has the sink.
    pub(crate) async fn next(&mut self) -> Option<OrderRecord> {
        tokio::select! {
            _ = self.held.wait_for(|held| !*held) => None,
            order = self.orders.recv() => order,
        }
    }

    /// All orders before `offset` are carried out.
    pub(crate) fn done_before(&self, offset: i64) {
        if let Some(done) = &self.done {
            // A thread that is gone has lost the sink, which is told otherwise.
            let _ = done.send(offset);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.done = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that holds a sink panicked");
        }
    }
}

struct Reading {
    consumer: ClosingConsumer<Silent>,
    topic: String,
    holds: watch::Sender<bool>,
    orders: mpsc::UnboundedSender<OrderRecord>,
    commands: commands::Receiver<i64>,
}

impl Reading {
    /// Until nobody wants the sink any more.
    fn run(self) {
        loop {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Err(error)) => report(&error),
                Some(Ok(message)) => {
                    let json = message.payload().unwrap_or_default();
                    let order = serde_json::from_slice(json).ok();
                    let offset = message.offset();
                    // Whoever wanted them is gone then, and the lock with it.
                    let _ = self.orders.send(OrderRecord { order, offset });
                }
            }
            let is_held = self.is_held();
            self.holds
                .send_if_modified(|held| std::mem::replace(held, is_held) != is_held);
            loop {
                match self.commands.try_recv() {
                    Ok(offset) => self.commit(offset),
                    Err(commands::TryRecvError::Empty) => break,
                    Err(commands::TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    fn is_held(&self) -> bool {
        let assigned = self.consumer.assignment();
        let has_one = assigned.is_ok_and(|assigned| assigned.count() > 0);
        has_one && !self.consumer.assignment_lost()
    }

    fn commit(&self, offset: i64) {
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(&self.topic, 0, Offset::Offset(offset));
        let committed = added.and_then(|()| self.consumer.commit(&list, CommitMode::Async));
        // An order that comes once more finds its event gone, or has it tried once more.
        if let Err(error) = committed {
            tracing::debug!(%error, "the offset of the orders was not kept");
        }
    }
}

//! Notes when row changes arrive in a topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pg_cdc_tests::kafka::Kafka;
use pg_cdc_tests::topic;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

/// A consumer of a topic from its beginning, in a thread of its own until it is dropped.
pub(crate) struct Tail {
    arrivals: Receiver<Instant>,
    count: u64,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Tail {
    /// Starts to read. The topic need not be there yet.
    pub(crate) fn of(kafka: &'static Kafka, topic: &str) -> Tail {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, arrivals) = channel();
        let stopped = stop.clone();
        let topic = topic.to_owned();
        let reader = thread::spawn(move || {
            let consumer = consumer(kafka);
            while !stopped.load(Ordering::Relaxed) {
                if consumer.assignment().is_ok_and(|a| a.count() == 0) {
                    assign(&consumer, kafka, &topic);
                }
                let record = consumer.poll(Duration::from_millis(50));
                if record.is_some_and(|record| record.is_ok_and(|record| is_row_change(&record))) {
                    // Nobody listens any more when the demo is being stopped.
                    let _ = sender.send(Instant::now());
                }
            }
        });
        Tail {
            arrivals,
            count: 0,
            stop,
            reader: Some(reader),
        }
    }

    /// Waits until `count` row changes have arrived since the beginning of the topic; says when the last one did.
    ///
    /// # Panics
    /// After `timeout`.
    pub(crate) fn wait_for_count(&mut self, count: u64, timeout: Duration) -> Instant {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let arrival = self.arrivals.recv_timeout(left);
            let arrival = arrival.unwrap_or_else(|_| {
                panic!(
                    "waited {} s for change {count} in Kafka; {} came",
                    timeout.as_secs(),
                    self.count
                )
            });
            self.count += 1;
            if self.count >= count {
                return arrival;
            }
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // A panic in it was printed already.
            let _ = reader.join();
        }
    }
}

fn is_row_change(record: &impl Message) -> bool {
    let headers = record.headers().map(|headers| headers.iter());
    let mut op = headers
        .into_iter()
        .flatten()
        .filter(|header| header.key == "cdc.op");
    op.any(|header| matches!(header.value, Some(b"c" | b"u" | b"d")))
}

fn consumer(kafka: &Kafka) -> BaseConsumer {
    kafka
        .client_config()
        .set("group.id", "pg_cdc_demo")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .create()
        .expect("a consumer")
}

fn assign(consumer: &BaseConsumer, kafka: &Kafka, topic: &str) {
    let Some(offsets) = topic::offsets(kafka, topic) else {
        return;
    };
    let mut partitions = TopicPartitionList::new();
    for partition in offsets.keys() {
        partitions
            .add_partition_offset(topic, *partition, Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&partitions).expect("assign");
}

//! The log of a partition, as its owner has it: nobody else can write it, and all of it is known.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::store::{Step, Store};
use crate::topics::{Result, Silent, TIMEOUT, Topic, Topics};

/// Bytes that this process has read from the topics.
pub(crate) static BYTES_READ: AtomicU64 = AtomicU64::new(0);

/// So many records are one step of the store while the topics are read.
const STEP: usize = 5000;

/// A record to be written.
pub(crate) struct Record {
    pub(crate) topic: Topic,
    pub(crate) key: String,
    /// None of a tombstone.
    pub(crate) value: Option<Vec<u8>>,
}

/// A log that this instance owns, until another one opens it.
pub(crate) struct Log<'a> {
    topics: &'a Topics,
    partition: i32,
    producer: BaseProducer<Offsets>,
    /// The offset that comes next: accounts, events.
    next: [u64; 2],
    /// What was added and is not written, and how many of each topic that is.
    records: Vec<Record>,
    added: [u64; 2],
}

/// Why records were not written.
pub(crate) enum Failed {
    /// They are not there, and never will be.
    NotWritten(String),
    /// They may be there.
    NotKnown(String),
}

/// Whether records came to stand elsewhere than where they had to.
struct Offsets(AtomicBool);

impl ClientContext for Offsets {
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Offsets {
    /// The offset that the record must get.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, expected: usize) {
        // A failure is the transaction's.
        if let Ok(message) = result
            && usize::try_from(message.offset()) != Ok(expected)
        {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl<'a> Log<'a> {
    /// Becomes the only writer of a partition: what its last one had under way is undone, and that one can write no more.
    pub(crate) fn open(topics: &'a Topics, group: &str, partition: i32) -> Result<Log<'a>> {
        let mut client = topics.client.clone();
        client
            .set("transactional.id", format!("{group}-{partition}"))
            .set("transaction.timeout.ms", "30000")
            .set("linger.ms", "1");
        let producer: BaseProducer<Offsets> =
            client.create_with_context(Offsets(AtomicBool::new(false)))?;
        producer.init_transactions(TIMEOUT)?;
        Ok(Log {
            next: [
                topics.ends(Topic::Account, partition)?.1,
                topics.ends(Topic::Event, partition)?.1,
            ],
            topics,
            partition,
            producer,
            records: Vec::new(),
            added: [0; 2],
        })
    }

    /// The offset that comes next.
    pub(crate) fn next(&self, topic: Topic) -> u64 {
        self.next[topic as usize]
    }

    /// Reads what a store does not have, and says how far it is: records read, and to be read.
    pub(crate) fn read_into(&self, store: &Store, say: impl Fn(u64, u64)) -> Result<()> {
        let mut ranges = Vec::new();
        for topic in Topic::ALL {
            let first = self.topics.ends(topic, self.partition)?.0;
            let from = store.begin()?.next(topic)?.unwrap_or(0).max(first);
            ranges.push((topic, from, self.next(topic)));
        }
        let total = ranges.iter().map(|(_, from, to)| to - from).sum();
        let mut done = 0;
        for (topic, from, to) in ranges {
            if from < to {
                self.read(topic, from, store, |offset| {
                    say(done + offset - from, total)
                })?;
            }
            store_position(store, topic, to)?;
            done += to - from;
        }
        say(total, total);
        Ok(())
    }

    fn read(&self, topic: Topic, from: u64, store: &Store, say: impl Fn(u64)) -> Result<()> {
        let mut client = self.topics.client.clone();
        client
            .set("group.id", "account-service-reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            // The end is to be seen at once.
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384");
        let consumer: BaseConsumer<Silent> = client.create_with_context(Silent)?;
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(
            topic.name(),
            self.partition,
            Offset::Offset(from.try_into()?),
        )?;
        consumer.assign(&place)?;
        let mut heard = Instant::now();
        loop {
            let step = store.begin()?;
            for _ in 0..STEP {
                match consumer.poll(TIMEOUT / 20) {
                    Some(Ok(message)) => {
                        heard = Instant::now();
                        let offset = message.offset().try_into()?;
                        let key = message.key().unwrap_or_default();
                        let bytes = key.len() + message.payload_len();
                        BYTES_READ.fetch_add(bytes as u64, Ordering::Relaxed);
                        step.fold(
                            topic,
                            offset,
                            &String::from_utf8_lossy(key),
                            message.payload(),
                        )?;
                        say(offset);
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => return Ok(step.commit(false)?),
                    Some(Err(error)) if heard.elapsed() > TIMEOUT => return Err(error.into()),
                    None if heard.elapsed() > TIMEOUT => return Err("Kafka sends nothing".into()),
                    Some(Err(_)) | None => {}
                }
            }
            step.commit(false)?;
        }
    }

    /// Fails when there is something that this log does not know of: another instance owns it. The first event that is there.
    pub(crate) fn check_newest(&self) -> Result<u64> {
        let mut first_event = 0;
        for topic in Topic::ALL {
            let (first, next) = self.topics.ends(topic, self.partition)?;
            if next > self.next(topic) {
                return Err("another instance has written".into());
            }
            first_event = first;
        }
        Ok(first_event)
    }

    /// Adds a record to what is written next, and to the store. Its offset is known, for nobody else writes.
    pub(crate) fn add(&mut self, record: Record, step: &Step) -> Result<()> {
        let added = &mut self.added[record.topic as usize];
        let offset = self.next[record.topic as usize] + *added;
        *added += 1;
        step.fold(record.topic, offset, &record.key, record.value.as_deref())?;
        self.records.push(record);
        Ok(())
    }

    /// Writes what was added, as one transaction. After an error the log is to be opened again.
    pub(crate) fn write(&mut self) -> std::result::Result<(), Failed> {
        let records = std::mem::take(&mut self.records);
        if records.is_empty() {
            return Ok(());
        }
        let added = std::mem::take(&mut self.added);
        let not_written = |error: KafkaError| Failed::NotWritten(error.to_string());
        self.producer.begin_transaction().map_err(not_written)?;
        let mut offsets = self.next;
        for record in &records {
            let offset = &mut offsets[record.topic as usize];
            self.send(record, *offset).map_err(not_written)?;
            *offset += 1;
        }
        // Looked at often: flush() looks ten times a second.
        let until = Instant::now() + TIMEOUT;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() > until {
                return Err(Failed::NotWritten("Kafka takes nothing".to_owned()));
            }
            self.producer.poll(Duration::from_millis(1));
        }
        if self.producer.context().0.load(Ordering::Relaxed) {
            return Err(Failed::NotWritten("another program has written".to_owned()));
        }
        let not_known = |error: KafkaError| Failed::NotKnown(error.to_string());
        self.producer
            .commit_transaction(TIMEOUT)
            .map_err(not_known)?;
        for (next, added) in self.next.iter_mut().zip(added) {
            // The transaction's end has an offset, too.
            *next += if added > 0 { added + 1 } else { 0 };
        }
        Ok(())
    }

    fn send(&self, record: &Record, offset: u64) -> std::result::Result<(), KafkaError> {
        let expected = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut message =
            BaseRecord::<str, [u8], usize>::with_opaque_to(record.topic.name(), expected)
                .partition(self.partition)
                .key(record.key.as_str());
        message.payload = record.value.as_deref();
        while let Err((error, back)) = self.producer.send(message) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            message = back;
            self.producer.poll(TIMEOUT / 100);
        }
        Ok(())
    }
}

fn store_position(store: &Store, topic: Topic, next: u64) -> Result<()> {
    let step = store.begin()?;
    step.set_next(topic, next)?;
    Ok(step.commit(true)?)
}

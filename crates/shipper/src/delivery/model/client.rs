//! One producer's client, as librdkafka is: it sends the records of a partition in order, a few at once, and again until
//! they are acknowledged; after a failure nothing of it is sent any more.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use change::code::Code;
use change::event::record::Event;
use change::trouble::Trouble;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::chance::Chance;
use super::cluster::{Answer, Cluster, Late};
use super::source::{PartitionId, Version};
use crate::delivery::broker::Broker;
use crate::delivery::failed_delivery::FailedDelivery;
use crate::delivery::in_flight::deliveries::{SharedDeliveries, lock};
use crate::delivery::in_flight::tag::DeliveryTag;
use crate::kafka::topics::describe::{Described, Limits};
use crate::kafka::topics::design::{Design, TopicError};
use crate::position::record::Prepared;
use crate::position::write_error::WriteError;
use crate::session::Session;
use crate::trouble::Failure;

/// Requests of a partition that are on their way at once.
const MOST_REQUESTS: usize = 5;

struct ModelRecord {
    sequence: u32,
    version: Version,
    word: usize,
    bytes: usize,
    value_bytes: usize,
}

#[derive(Default)]
struct Queue {
    next: u32,
    records: VecDeque<ModelRecord>,
}

/// Of one record: the offset, or none where it has failed.
struct Report {
    record: ModelRecord,
    partition: i32,
    offset: Option<i64>,
}

pub(super) struct Client {
    pub(super) producer: u64,
    cluster: Rc<RefCell<Cluster>>,
    chance: Chance,
    session: Arc<Session>,
    deliveries: SharedDeliveries,
    partitions: i32,
    topics: Vec<String>,
    queues: BTreeMap<(usize, i32), Queue>,
    reports: Vec<Report>,
    has_failed: bool,
    began: Instant,
    /// Time that went by since.
    passed: Duration,
}

/// What an error is called that says no more.
pub(super) fn trouble(message: &str) -> Trouble {
    Trouble::new(Code::BrokersUnreachable, message.to_owned(), String::new())
}

impl Client {
    pub(super) fn new(
        session: &Arc<Session>,
        cluster: &Rc<RefCell<Cluster>>,
        chance: &Chance,
        deliveries: &SharedDeliveries,
        partitions: i32,
    ) -> Client {
        let is_transactional = session.settings.exactly_once;
        Client {
            producer: cluster.borrow_mut().add_producer(is_transactional),
            cluster: Rc::clone(cluster),
            chance: chance.clone(),
            session: Arc::clone(session),
            deliveries: Arc::clone(deliveries),
            partitions,
            topics: Vec::new(),
            queues: BTreeMap::new(),
            reports: Vec::new(),
            has_failed: false,
            began: Instant::now(),
            passed: Duration::ZERO,
        }
    }

    fn is_gone(&self) -> bool {
        self.session.board.stopping()
    }

    fn id_of(&self, (topic, partition): (usize, i32)) -> PartitionId {
        (self.topics[topic].clone(), partition)
    }

    /// Something happens on the way to the brokers or back.
    pub(super) fn step(&mut self) {
        if self.is_gone() || self.has_failed {
            return;
        }
        match self.chance.below(32) {
            29 => self.land_late(),
            30 => self.fail(),
            31 => self.crash(),
            _ => self.send_some(),
        }
    }

    /// Requests of one partition reach its broker in order; each is taken or refused, and answers may be lost.
    fn send_some(&mut self) {
        let waiting = self.queues.iter();
        let waiting = waiting.filter(|(_, queue)| !queue.records.is_empty());
        let waiting: Vec<(usize, i32)> = waiting.map(|(key, _)| *key).collect();
        if waiting.is_empty() {
            return;
        }
        let key = waiting[self.chance.below(waiting.len())];
        let id = self.id_of(key);
        let queue = self.queues.get_mut(&key).expect("a queue");
        let requests = MOST_REQUESTS - self.chance.below(MOST_REQUESTS);
        let sent: Vec<ModelRecord> = queue
            .records
            .drain(..requests.min(queue.records.len()))
            .collect();
        let mut again = VecDeque::new();
        for record in sent {
            let outcome = self.chance.below(4);
            let answer = match outcome {
                // The leader has just changed.
                3 => Answer::Refused,
                _ => self.cluster.borrow_mut().append(
                    &id,
                    self.producer,
                    record.sequence,
                    record.version,
                ),
            };
            let offset = match answer {
                Answer::At(_) | Answer::Duplicate if outcome == 2 => None,
                Answer::At(offset) => Some(offset),
                Answer::Duplicate => Some(-1),
                Answer::Refused => None,
            };
            match offset {
                Some(_) => self.reports.push(Report {
                    record,
                    partition: key.1,
                    offset,
                }),
                None => again.push_back(record),
            }
        }
        let queue = self.queues.get_mut(&key).expect("a queue");
        again.append(&mut queue.records);
        queue.records = again;
    }

    /// What an earlier producer had sent arrives only now.
    fn land_late(&mut self) {
        let mut cluster = self.cluster.borrow_mut();
        let Some(late) = cluster.late.pop() else {
            return;
        };
        let count = self.chance.below(late.records.len() + 1);
        for (sequence, version) in late.records.into_iter().take(count) {
            cluster.append(&late.partition, late.producer, sequence, version);
        }
    }

    /// Nothing happens for so long that brokers forget the producer.
    pub(super) fn let_time_pass(&mut self) {
        self.passed += Duration::from_secs(24 * 3600);
        self.cluster.borrow_mut().forget(self.producer);
    }

    /// Any failed delivery ends the producer: what is not acknowledged fails with it.
    fn fail(&mut self) {
        if self.queues.values().all(|queue| queue.records.is_empty()) {
            return;
        }
        self.has_failed = true;
        self.leave_late();
        for ((_, partition), queue) in &mut self.queues {
            let failed = queue.records.drain(..).map(|record| Report {
                record,
                partition: *partition,
                offset: None,
            });
            self.reports.extend(failed);
        }
    }

    fn crash(&mut self) {
        self.leave_late();
        self.session.board.stop();
    }

    /// What is on its way when the client is gone may still arrive.
    pub(super) fn leave_late(&mut self) {
        let late = self.queues.iter().map(|(key, queue)| {
            let records = queue.records.iter().take(MOST_REQUESTS);
            let records = records.map(|record| (record.sequence, record.version));
            Late {
                producer: self.producer,
                partition: self.id_of(*key),
                records: records.collect(),
            }
        });
        let late: Vec<Late> = late.collect();
        self.cluster.borrow_mut().late.extend(late);
    }
}

impl Broker for Client {
    fn serve(&mut self) {
        if self.is_gone() {
            return;
        }
        for report in self.reports.drain(..) {
            let record = report.record;
            let tag = DeliveryTag::of_word(record.word);
            let mut deliveries = lock(&self.deliveries);
            match report.offset {
                Some(offset) => {
                    let bytes = (record.bytes, record.value_bytes);
                    deliveries.acknowledged(tag, report.partition, offset, bytes);
                }
                None => deliveries.failed(tag, record.bytes, |_| FailedDelivery {
                    code: RDKafkaErrorCode::MessageTimedOut,
                    message: "failed".to_owned(),
                    id: String::new(),
                    value_bytes: record.value_bytes,
                    topic: tag.topic,
                    commit_lsn: 0,
                    database: 0,
                }),
            }
        }
    }

    fn now(&self) -> Instant {
        self.began + self.passed
    }

    fn wait(&mut self, _timeout_ms: i32) {
        self.step();
    }

    fn ensure_topic(&self, name: &str, _design: &Design) -> Result<Described, TopicError> {
        Ok(Described {
            topic_id: format!("id of {name}"),
            partitions: self.partitions,
            replicas: 3,
        })
    }

    fn limits(&self, _name: &str) -> Result<Limits, TopicError> {
        Ok(Limits {
            max_message_bytes: 1_000_000,
            min_in_sync: 2,
            is_compacted: false,
        })
    }

    fn end_of(&self, name: &str, partition: i32) -> Result<i64, KafkaError> {
        let id = (name.to_owned(), partition);
        Ok(self.cluster.borrow().end_of(&id))
    }

    fn open_topic(&mut self, name: &str) {
        self.topics.push(name.to_owned());
    }

    fn produce(
        &mut self,
        event: &Event<'_>,
        topic: usize,
        partition: i32,
        word: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        if self.has_failed {
            return Err(RDKafkaErrorCode::GaplessGuarantee);
        }
        let value = event.value.expect("a value");
        let (lsn, sequence) = value.split_at(8);
        let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        let queue = self.queues.entry((topic, partition)).or_default();
        queue.records.push_back(ModelRecord {
            sequence: queue.next,
            version: (number(lsn), number(sequence)),
            word,
            bytes: value.len() + event.key.map_or(0, <[u8]>::len),
            value_bytes: value.len(),
        });
        queue.next += 1;
        if self.chance.below(3) == 1 {
            self.step();
        }
        Ok(())
    }

    fn in_flight_count(&self) -> i32 {
        let queues = self.queues.values();
        queues.map(|queue| queue.records.len() as i32).sum()
    }

    fn fatal_error(&self) -> Option<RDKafkaErrorCode> {
        None
    }

    fn why_stalled(&self, _name: &str) -> Option<Trouble> {
        None
    }

    fn begin_transaction(&mut self) -> Result<(), WriteError> {
        Ok(())
    }

    fn commit_transaction(&mut self, position: &Prepared) -> Result<(), WriteError> {
        if self.is_gone() || self.has_failed {
            return Err(WriteError::Again(trouble("the producer has failed")));
        }
        let outcome = self.chance.below(8);
        let is_committed = outcome < 6
            && self
                .cluster
                .borrow_mut()
                .commit(&self.session, self.producer, position);
        match outcome {
            0..5 if is_committed => Ok(()),
            7 => {
                self.crash();
                Err(WriteError::Again(trouble("crashed")))
            }
            // Nobody knows.
            _ => Err(WriteError::Again(trouble("no answer"))),
        }
    }

    fn abort_transaction(&mut self) {}

    fn failure_of(&self, error: WriteError, _epoch: u64) -> Failure {
        error.into_failure()
    }
}

//! When is a transaction done? Records are counted in before they are produced, and out when they are acknowledged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use change::event::commit::Commit;
use change::event::snapshot_chunk::Judged;

use super::tag::DeliveryTag;
use crate::delivery::failed_delivery::FailedDelivery;
use crate::host::topic_counters::TopicCounter;
use crate::work::Beginning;

/// With so many records of a partition on their way, librdkafka sends it nothing more until an answer came
/// (RD_KAFKA_IDEMP_MAX_INFLIGHT, compared with the number of records in rdkafka_broker.c), and burns a core meanwhile.
const BUSY_RECORDS: u32 = 5;
/// Brokers forget a producer that sends nothing to a partition for a day (`producer.id.expiration.ms`), or for less where
/// somebody has set less.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// A transaction that is produced and not yet acknowledged.
#[derive(Debug, Clone, Copy)]
pub(in crate::delivery) struct InFlight {
    unacknowledged: u64,
    complete: bool,
    /// The snapshot's chunk that it is, and what was decided about it.
    judged: Option<Judged>,
    pub(in crate::delivery) commit: Commit,
    pub(in crate::delivery) end_lsn: u64,
    pub(in crate::delivery) restart_lsn: u64,
}

/// A broker that has no state of a producer for a partition takes whatever sequence comes first. Were the first request
/// refused (a new partition has no leader yet) and the second one taken, the retried first one would pass for a
/// duplicate and be lost. So the first record goes alone, until it is acknowledged; and again after a rest in which a broker
/// may have forgotten the producer (`docs/decisions/0013`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstRecord {
    NotSent,
    Sent,
    Acknowledged,
}

#[derive(Debug, Clone)]
struct PartitionDeliveries {
    /// Last acknowledged offset + 1.
    end: i64,
    /// Records on their way.
    unacknowledged: u32,
    first_record: FirstRecord,
    /// When a record was last acknowledged.
    acknowledged_at: Instant,
}

/// Transactions that are acknowledged, with everything before them.
pub(in crate::delivery) struct Finished {
    /// Since the session began.
    pub(in crate::delivery) count: u64,
    pub(in crate::delivery) newest: InFlight,
    /// What was decided about chunks of snapshots among them.
    pub(in crate::delivery) judged: Vec<Judged>,
    /// Topics with new ends.
    pub(in crate::delivery) changed: Vec<usize>,
}

/// A transaction has other events than its manifest says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::delivery) struct Incomplete {
    pub(in crate::delivery) xid8: u64,
    pub(in crate::delivery) found: u64,
    pub(in crate::delivery) expected: u64,
}

/// Delivery reports end here, on the thread that polls.
pub(in crate::delivery) struct Deliveries {
    /// The time when reports were last served.
    now: Instant,
    /// Number of the first transaction in `in_flight`, counted since the session began.
    first: u64,
    in_flight: VecDeque<InFlight>,
    unacknowledged: u64,
    /// Acknowledged so far.
    delivered: u64,
    /// Keys and values of these records.
    unacknowledged_bytes: usize,
    failure: Option<FailedDelivery>,
    /// By topic and number.
    partitions: Vec<Vec<PartitionDeliveries>>,
    /// Topics with acknowledgements of which no progress tells yet, and by topic whether it is one of them.
    changed: Vec<usize>,
    is_changed: Vec<bool>,
    /// By topic, in shared memory.
    counters: Vec<Option<&'static TopicCounter>>,
    /// How many partitions have [`BUSY_RECORDS`] or more on their way.
    busy_partitions: u32,
    /// Partitions whose record was acknowledged without an offset (a duplicate that the broker had already).
    offset_unknown: Vec<(usize, i32)>,
}

/// The deliveries of one producer: its delivery reports come while it is polled, on the thread that has the rest.
pub(in crate::delivery) type SharedDeliveries = Arc<Mutex<Deliveries>>;

/// For a moment, for no report comes meanwhile.
#[inline]
pub(in crate::delivery) fn lock(deliveries: &Mutex<Deliveries>) -> MutexGuard<'_, Deliveries> {
    deliveries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deliveries {
    pub(in crate::delivery) fn new(now: Instant) -> Deliveries {
        Deliveries {
            now,
            first: 0,
            in_flight: VecDeque::new(),
            unacknowledged: 0,
            delivered: 0,
            unacknowledged_bytes: 0,
            failure: None,
            partitions: Vec::new(),
            changed: Vec::new(),
            is_changed: Vec::new(),
            counters: Vec::new(),
            busy_partitions: 0,
            offset_unknown: Vec::new(),
        }
    }

    /// Reports are about to be served.
    pub(in crate::delivery) fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// A transaction begins.
    pub(in crate::delivery) fn begin(&mut self, beginning: &Beginning) {
        self.in_flight.push_back(InFlight {
            unacknowledged: 0,
            complete: false,
            judged: None,
            commit: beginning.commit,
            end_lsn: beginning.end_lsn,
            restart_lsn: beginning.restart_lsn,
        });
    }

    /// The newest transaction has no further records; `found` events were made of it.
    pub(in crate::delivery) fn end(
        &mut self,
        found: u64,
        judged: Option<Judged>,
    ) -> Result<(), Incomplete> {
        let Some(last) = self.in_flight.back_mut() else {
            return Ok(());
        };
        if last.commit.event_count != found {
            return Err(Incomplete {
                xid8: last.commit.xid8,
                found,
                expected: last.commit.event_count,
            });
        }
        last.complete = true;
        last.judged = judged;
        Ok(())
    }

    /// A topic was opened, with the next number.
    pub(in crate::delivery) fn add_topic(
        &mut self,
        partitions: i32,
        counter: Option<&'static TopicCounter>,
    ) {
        let new = PartitionDeliveries {
            end: 0,
            unacknowledged: 0,
            first_record: FirstRecord::NotSent,
            acknowledged_at: self.now,
        };
        let count = usize::try_from(partitions).unwrap_or(0);
        self.partitions.push(vec![new; count]);
        self.is_changed.push(false);
        self.counters.push(counter);
    }

    /// Counts a record as on its way; not while the partition's first one is, nor while more than `limit_bytes` are: one
    /// record that is larger may be alone.
    #[inline]
    pub(in crate::delivery) fn count_in(
        &mut self,
        topic: usize,
        number: i32,
        bytes: usize,
        limit_bytes: usize,
    ) -> bool {
        if self.unacknowledged_bytes > 0 && self.unacknowledged_bytes + bytes > limit_bytes {
            return false;
        }
        let partition = &mut self.partitions[topic][number as usize];
        match partition.first_record {
            FirstRecord::Sent => return false,
            FirstRecord::NotSent => partition.first_record = FirstRecord::Sent,
            FirstRecord::Acknowledged => {
                let rested = self
                    .now
                    .saturating_duration_since(partition.acknowledged_at);
                if partition.unacknowledged == 0 && rested >= FORGOTTEN {
                    partition.first_record = FirstRecord::Sent;
                }
            }
        }
        partition.unacknowledged += 1;
        if partition.unacknowledged == BUSY_RECORDS {
            self.busy_partitions += 1;
        }
        self.unacknowledged += 1;
        self.unacknowledged_bytes += bytes;
        if let Some(last) = self.in_flight.back_mut() {
            last.unacknowledged += 1;
        }
        true
    }

    /// A record is in Kafka, at `offset` where the broker says so; its value has `value_bytes` of its `bytes`.
    #[inline]
    pub(in crate::delivery) fn acknowledged(
        &mut self,
        tag: DeliveryTag,
        number: i32,
        offset: i64,
        (bytes, value_bytes): (usize, usize),
    ) {
        self.count_out(bytes);
        self.delivered += 1;
        if let Some(in_flight) = self.in_flight.get_mut(tag.index_after(self.first)) {
            in_flight.unacknowledged -= 1;
            if tag.counts
                && let Some(Some(counter)) = self.counters.get(tag.topic)
            {
                counter.count(value_bytes, in_flight.commit.commit_us);
            }
        }
        let partitions = self.partitions.get_mut(tag.topic);
        let Some(partition) = partitions.and_then(|partitions| partitions.get_mut(number as usize))
        else {
            return;
        };
        partition.first_record = FirstRecord::Acknowledged;
        partition.acknowledged_at = self.now;
        partition.unacknowledged -= 1;
        if partition.unacknowledged == BUSY_RECORDS - 1 {
            self.busy_partitions -= 1;
        }
        if offset >= 0 {
            partition.end = partition.end.max(offset + 1);
        } else {
            self.offset_unknown.push((tag.topic, number));
        }
        self.mark_changed(tag.topic);
    }

    /// A record is not in Kafka, or nobody knows; the first one says why.
    pub(in crate::delivery) fn failed(
        &mut self,
        tag: DeliveryTag,
        bytes: usize,
        why: impl FnOnce(Option<Commit>) -> FailedDelivery,
    ) {
        self.count_out(bytes);
        if self.failure.is_none() {
            let of = self.in_flight.get(tag.index_after(self.first));
            self.failure = Some(why(of.map(|of| of.commit)));
        }
    }

    #[inline]
    fn count_out(&mut self, bytes: usize) {
        self.unacknowledged -= 1;
        self.unacknowledged_bytes -= bytes;
    }

    /// The next progress tells of this topic.
    #[inline]
    pub(in crate::delivery) fn mark_changed(&mut self, topic: usize) {
        if !std::mem::replace(&mut self.is_changed[topic], true) {
            self.changed.push(topic);
        }
    }

    /// The failure that was reported, once.
    pub(in crate::delivery) fn take_failure(&mut self) -> Option<FailedDelivery> {
        self.failure.take()
    }

    /// The transactions that are done since the last time: whole, and all before them too.
    pub(in crate::delivery) fn take_finished(&mut self) -> Option<Finished> {
        let mut newest = None;
        let mut judged = Vec::new();
        while let Some(done) = self
            .in_flight
            .pop_front_if(|front| front.complete && front.unacknowledged == 0)
        {
            self.first += 1;
            judged.extend(done.judged);
            newest = Some(done);
        }
        Some(Finished {
            count: self.first,
            newest: newest?,
            judged,
            changed: self.take_changed(),
        })
    }

    /// The transaction that is there in part, and topics with new ends, where everything that was sent is acknowledged.
    pub(in crate::delivery) fn take_part(&mut self) -> Option<(InFlight, Vec<usize>)> {
        let oldest = *self.in_flight.front()?;
        Some((oldest, self.take_changed()))
    }

    /// The topics with new ends, of which a progress is to tell.
    fn take_changed(&mut self) -> Vec<usize> {
        let changed = std::mem::take(&mut self.changed);
        for topic in &changed {
            self.is_changed[*topic] = false;
        }
        changed
    }

    /// Partitions whose ends are to be asked for.
    pub(in crate::delivery) fn take_unknown_offsets(&mut self) -> Vec<(usize, i32)> {
        std::mem::take(&mut self.offset_unknown)
    }

    /// The broker has told where a partition ends.
    pub(in crate::delivery) fn learn_end(&mut self, topic: usize, number: i32, end: i64) {
        let partition = &mut self.partitions[topic][number as usize];
        partition.end = partition.end.max(end);
        self.mark_changed(topic);
    }

    /// Where a topic's partitions end.
    pub(super) fn ends(&self, topic: usize) -> Vec<i64> {
        let partitions = self.partitions.get(topic);
        let partitions = partitions.map_or(&[][..], |partitions| partitions);
        partitions.iter().map(|partition| partition.end).collect()
    }

    /// A topic of which records are on their way.
    pub(in crate::delivery) fn topic_on_its_way(&self) -> Option<usize> {
        self.partitions.iter().position(|partitions| {
            let mut partitions = partitions.iter();
            partitions.any(|partition| partition.unacknowledged > 0)
        })
    }

    #[inline]
    pub(in crate::delivery) fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    #[inline]
    pub(in crate::delivery) fn is_busy(&self) -> bool {
        self.busy_partitions > 0
    }

    pub(in crate::delivery) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Transactions that are begun and not done.
    pub(in crate::delivery) fn has_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Commit time of the oldest of them, 0 for none.
    pub(in crate::delivery) fn oldest_us(&self) -> i64 {
        let front = self.in_flight.front();
        front.map_or(0, |front| front.commit.commit_us)
    }
}

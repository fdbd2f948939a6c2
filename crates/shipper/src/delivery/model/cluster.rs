//! Brokers: partitions with sequence numbers of producers, one transactional id, and the position topic.

use std::collections::{BTreeMap, HashMap};

use change::position::{Parts, Position};

use super::promises::Promises;
use super::source::{PartitionId, Version};
use crate::position::record::Prepared;
use crate::position::take_over::Found;
use crate::session::Session;

/// Whether readers see a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visibility {
    Committed,
    Open,
    Aborted,
}

/// What a broker says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    At(i64),
    /// It has this sequence number.
    Duplicate,
    /// An earlier sequence number is missing, or the producer is fenced.
    Refused,
}

#[derive(Default)]
struct Partition {
    records: Vec<(Version, Visibility)>,
    /// By producer: the sequence number that comes next. None is known of a producer whose records never came.
    next: HashMap<u64, u32>,
}

/// A producer's requests that are on their way when it is gone.
pub(super) struct Late {
    pub(super) producer: u64,
    pub(super) partition: PartitionId,
    pub(super) records: Vec<(u32, Version)>,
}

/// All of Kafka.
pub(super) struct Cluster {
    partitions: BTreeMap<PartitionId, Partition>,
    positions: Vec<Position>,
    newest_producer: u64,
    /// The newest producer of the transactional id, where events go through it.
    transactional: Option<u64>,
    pub(super) late: Vec<Late>,
    promises: Promises,
}

impl Cluster {
    pub(super) fn new(promises: Promises) -> Cluster {
        Cluster {
            partitions: BTreeMap::new(),
            positions: Vec::new(),
            newest_producer: 0,
            transactional: None,
            late: Vec::new(),
            promises,
        }
    }

    /// A new producer. A transactional one fences the one before it, whose transaction is aborted.
    pub(super) fn add_producer(&mut self, is_transactional: bool) -> u64 {
        self.newest_producer += 1;
        if is_transactional {
            self.set_open(Visibility::Aborted);
            self.transactional = Some(self.newest_producer);
        }
        self.newest_producer
    }

    fn is_fenced(&self, producer: u64) -> bool {
        self.transactional.is_some_and(|newest| newest != producer)
    }

    fn set_open(&mut self, visibility: Visibility) {
        let partitions = self.partitions.values_mut();
        for (_, seen) in partitions.flat_map(|partition| &mut partition.records) {
            if *seen == Visibility::Open {
                *seen = visibility;
            }
        }
    }

    /// Takes a record: a broker that knows nothing of its producer takes whatever sequence number comes first.
    pub(super) fn append(
        &mut self,
        id: &PartitionId,
        producer: u64,
        sequence: u32,
        version: Version,
    ) -> Answer {
        if self.is_fenced(producer) {
            return Answer::Refused;
        }
        let visibility = match self.transactional {
            Some(_) => Visibility::Open,
            None => Visibility::Committed,
        };
        let partition = self.partitions.entry(id.clone()).or_default();
        let next = *partition.next.get(&producer).unwrap_or(&sequence);
        if sequence < next {
            return Answer::Duplicate;
        }
        if sequence > next {
            return Answer::Refused;
        }
        partition.next.insert(producer, sequence + 1);
        partition.records.push((version, visibility));
        let offset = partition.records.len() as i64 - 1;
        self.check_partitions();
        Answer::At(offset)
    }

    /// Nothing is known of a producer any more.
    pub(super) fn forget(&mut self, producer: u64) {
        for partition in self.partitions.values_mut() {
            partition.next.remove(&producer);
        }
    }

    /// The end of a partition.
    pub(super) fn end_of(&self, id: &PartitionId) -> i64 {
        let partition = self.partitions.get(id);
        partition.map_or(0, |partition| partition.records.len() as i64)
    }

    /// Commits a position, and the events in its transaction; whether the producer is still the newest.
    pub(super) fn commit(&mut self, session: &Session, producer: u64, prepared: &Prepared) -> bool {
        if self.is_fenced(producer) {
            return false;
        }
        let mut parts = Parts::default();
        for (_, value) in prepared.records() {
            let record = Position::open(value, &session.key).expect("a sealed position");
            self.positions.extend(parts.take(record));
        }
        assert!(parts.is_empty(), "a position is whole");
        self.set_open(Visibility::Committed);
        self.check_partitions();
        let found = self.found();
        let visible = |id: &PartitionId, end: i64| self.versions_before(id, end);
        self.promises.check_position(&found.own, visible);
        true
    }

    /// What a reader of the positions finds.
    pub(super) fn found(&self) -> Found {
        Found {
            own: self.positions.clone(),
            stranger: None,
        }
    }

    fn check_partitions(&self) {
        for id in self.partitions.keys() {
            let seen = self.versions_before(id, i64::MAX);
            self.promises.check_partition(id, &seen);
        }
    }

    /// Everything that is owed is there.
    pub(super) fn check_end(&self) {
        self.promises
            .check_end(|id| self.versions_before(id, i64::MAX));
    }

    /// What readers see of a partition before an offset.
    fn versions_before(&self, id: &PartitionId, end: i64) -> Vec<Version> {
        let Some(partition) = self.partitions.get(id) else {
            return Vec::new();
        };
        let records = (0..).zip(&partition.records);
        let visible = records
            .filter(|(offset, (_, seen))| *offset < end && *seen == Visibility::Committed)
            .map(|(_, (version, _))| *version);
        visible.collect()
    }
}

//! What the source committed, and so what is owed to each partition.

use std::collections::BTreeMap;

use change::event::commit::Commit;
use change::partition::partition_of;

use crate::work::Beginning;

/// An event of a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) topic: u8,
    pub(super) key: u8,
}

/// Commit record and sequence: the order of events.
pub(super) type Version = (u64, u64);
/// Topic and number.
pub(super) type PartitionId = (String, i32);

pub(super) const LSN_STEP: u64 = 100;

/// Transactions in the order of their commits.
pub(super) struct ModelSource {
    transactions: Vec<Vec<Change>>,
    pub(super) partitions: i32,
}

pub(super) fn topic_name(topic: u8) -> String {
    format!("t{topic}")
}

impl ModelSource {
    pub(super) fn new(transactions: &[Vec<Change>], partitions: i32) -> ModelSource {
        ModelSource {
            transactions: transactions.to_vec(),
            partitions,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.transactions.len()
    }

    pub(super) fn changes(&self, index: usize) -> &[Change] {
        &self.transactions[index]
    }

    /// Where its commit record begins.
    pub(super) fn commit_lsn(&self, index: usize) -> u64 {
        (index as u64 + 1) * LSN_STEP
    }

    /// Where its first chunk is: every third transaction was open while the one before it committed.
    pub(super) fn first_lsn(&self, index: usize) -> u64 {
        let own = self.commit_lsn(index) - LSN_STEP / 2;
        match index % 3 {
            2 => own - LSN_STEP,
            _ => own,
        }
    }

    /// Where reading has to begin after a commit: the first chunk of what was open then.
    fn restart_lsn(&self, index: usize) -> u64 {
        let lsn = self.commit_lsn(index);
        let open = (index + 1..self.count()).map(|later| self.first_lsn(later));
        open.filter(|first| *first < lsn).min().unwrap_or(lsn)
    }

    pub(super) fn end_lsn(&self) -> u64 {
        (self.count() as u64 + 1) * LSN_STEP
    }

    pub(super) fn beginning(&self, index: usize) -> Beginning {
        let lsn = self.commit_lsn(index);
        let commit = Commit {
            nonce: [index as u8; 16],
            xid8: index as u64,
            database_oid: 1,
            generation: 1,
            timeline: 1,
            lsn,
            previous_lsn: None,
            commit_us: lsn as i64,
            event_count: self.changes(index).len() as u64,
        };
        Beginning {
            commit,
            end_lsn: lsn + 10,
            restart_lsn: self.restart_lsn(index),
        }
    }

    /// What each partition is owed, in order.
    pub(super) fn owed(&self) -> BTreeMap<PartitionId, Vec<Version>> {
        let mut owed: BTreeMap<PartitionId, Vec<Version>> = BTreeMap::new();
        for index in 0..self.count() {
            for (sequence, change) in (1..).zip(self.changes(index)) {
                let partition = partition_of(Some(&[change.key]), self.partitions);
                let id = (topic_name(change.topic), partition);
                let version = (self.commit_lsn(index), sequence);
                owed.entry(id).or_default().push(version);
            }
        }
        owed
    }
}

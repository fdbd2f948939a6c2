//! A record of a topic and its time.

use change::event::op::Op;

use crate::event::{commit_time_us, is_version};
use crate::kafka::record::Record;

/// A record as it stands in a topic.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    /// When it was sent, as Kafka has it, milliseconds since 1970.
    pub(crate) sent_ms: Option<i64>,
}

impl Entry {
    /// When what it tells of was committed, else when it was sent; microseconds since 1970.
    pub(crate) fn time_us(&self) -> Option<i64> {
        commit_time_us(&self.record).or(self.sent_ms.map(|ms| ms.saturating_mul(1000)))
    }

    /// What happened; of a record that does not say so and has no value, as compaction knows it.
    pub(crate) fn op(&self) -> Option<Op> {
        let bare = self.record.op_text().is_none() && self.record.value().is_none();
        self.record.op().or(bare.then_some(Op::Tombstone))
    }

    /// Whether pg_cdc sent it, or says so.
    pub(crate) fn is_ours(&self) -> bool {
        self.record.op_text().is_some()
    }

    /// Its place in the order of commits.
    pub(crate) fn version(&self) -> Option<&str> {
        self.record.version().filter(|version| is_version(version))
    }
}

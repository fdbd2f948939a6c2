//! How events reach a sink: what runs it, in which order the partitions come, and what is held until all have reached it.

pub(crate) mod by_partition;
pub(crate) mod control_topics;
pub(crate) mod copied_offsets;
pub(crate) mod doubt;
pub(crate) mod endless_copies;
pub(crate) mod in_commit_order;
pub(crate) mod opening;
pub(crate) mod progress;
pub(crate) mod runner;
#[cfg(test)]
mod strange_records;
pub(crate) mod watermark;

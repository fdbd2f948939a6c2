//! How events reach a sink: what runs it, in which order the partitions come, and what is held until all have reached it.

pub mod by_partition;
pub mod doubt;
pub mod endless_copies;
pub mod progress;
pub mod runner;
#[cfg(test)]
pub mod strange_records;
pub mod watermark;

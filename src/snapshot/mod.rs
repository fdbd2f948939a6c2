//! Snapshots of rows that were there before: a worker in the table's database reads them in chunks, in the order of the
//! key, each under a PostgreSQL snapshot of its own, and writes rows and snapshot into the WAL like captured ones. The
//! sender leaves out what is older than events before it (`change::event::snapshot_window`).
//!
//! A chunk is done when Kafka has acknowledged it; then the worker goes on. What it did stands in the table
//! `cdc_snapshot_jobs`, in the transactions of the chunks, so that it goes on there after whatever happens.

pub(crate) mod attempts;
pub(crate) mod chunk;
pub(crate) mod job;
pub(crate) mod key_order;
pub(crate) mod launcher;
pub(crate) mod repair;
pub(crate) mod request;
pub(crate) mod worker;

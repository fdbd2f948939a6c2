//! The sender: one background worker for the whole server, without a database connection.
//!
//! Main thread (`worker`): reads the WAL (`wal_reader`), puts transactions together (`change::wal::assembly`), holds the slot
//! (`slot`). It alone calls PostgreSQL. The other threads are those of the crate `shipper`: they have all signals blocked,
//! get their work over a bounded channel and answer on the board.

pub(crate) mod abort;
mod kafka_settings;
mod main_thread;
pub(crate) mod orders;
pub(crate) mod rejections;
pub(crate) mod session;
pub(crate) mod sleep;
pub(crate) mod slot;
pub(crate) mod source;
pub(crate) mod standby;
mod threads;
pub(crate) mod wal_bound;
mod wal_event;
pub(crate) mod wal_reader;
pub(crate) mod worker;

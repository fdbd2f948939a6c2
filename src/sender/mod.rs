//! The sender: one background worker for the whole server, without a database connection.
//!
//! Main thread (`worker`): reads the WAL (`wal_reader`), puts transactions together (`change::wal::assembly`), holds the slot
//! (`slot`). It alone calls PostgreSQL. The other threads are those of the crate `shipper`: they have all signals blocked,
//! get their work over a bounded channel and answer on the board.

pub mod abort;
mod kafka_settings;
mod main_thread;
pub mod orders;
pub mod rejections;
pub mod session;
pub mod sleep;
pub mod slot;
pub mod source;
pub mod standby;
mod threads;
pub mod wal_bound;
mod wal_event;
pub mod wal_reader;
pub mod worker;

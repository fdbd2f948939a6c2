//! The sender: one background worker for the whole server, without a database connection.
//!
//! Main thread (`worker`, `session`): reads the WAL (`wal::reader`), puts transactions together (`change::wal::assembly`), holds
//! the slot (`wal::slot`). It alone calls PostgreSQL. The other threads are those of the crate `shipper`: they have all signals blocked,
//! get their work over a bounded channel and answer on the board.

pub(crate) mod abort;
mod kafka_settings;
mod main_thread;
pub(crate) mod orders;
pub(crate) mod rejections;
pub(crate) mod session;
pub(crate) mod sleep;
pub(crate) mod source;
pub(crate) mod wal;
pub(crate) mod worker;

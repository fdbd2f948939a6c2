//! The sender: one background worker for the whole server, without a database connection.
//!
//! Main thread (`worker`): reads the WAL (`wal_reader`), puts transactions together (`change::wal::assembly`), holds the slot
//! (`slot`). Kafka thread (`kafka`): renders and produces. Position thread (`position_thread`): writes how far that is,
//! through a fenced producer; with `exactly_once` the Kafka thread does that itself. Only the main thread calls PostgreSQL; the others have all signals blocked, get their work over a
//! bounded channel and answer on the `board`.

pub mod abort;
pub mod aside;
pub mod board;
pub mod client;
pub mod durable_file;
pub mod exactly_once;
pub mod kafka;
pub mod local_position;
pub mod orders;
pub mod position;
pub mod position_thread;
pub mod progress;
pub mod queue_wake;
pub mod rejections;
pub mod session;
pub mod sleep;
pub mod slot;
pub mod source;
pub mod stall;
pub mod standby;
mod token;
pub mod topics;
pub mod wal_bound;
mod wal_event;
pub mod wal_reader;
pub mod worker;

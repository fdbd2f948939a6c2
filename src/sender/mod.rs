//! The sender: one background worker for the whole server, without a database connection.
//!
//! Main thread (`worker`): reads the WAL (`wal_reader`), puts transactions together (`assembly`), holds the slot
//! (`slot`). Kafka thread (`kafka`): renders and produces. Position thread (`position`): writes how far that is, through
//! a fenced producer. Only the main thread calls PostgreSQL; the others have all signals blocked, get their work over a
//! bounded channel and answer on the `board`.

pub mod assembly;
pub mod board;
pub mod client;
pub mod durable_file;
pub mod kafka;
pub mod local_position;
pub mod orders;
pub mod position;
pub mod session;
pub mod sleep;
pub mod slot;
pub mod source;
pub mod stall;
pub mod standby;
mod token;
pub mod topics;
pub mod wal_bound;
pub mod wal_reader;
pub mod worker;

//! The delivery core: transactions in commit order go in, events in Kafka and the position that says how far they are come
//! out. No PostgreSQL: the threads that run here cannot call it.
//!
//! The extension's main thread makes a [`board::Board`] and two threads, [`kafka::run`] and [`position_thread::run`], and
//! gives the first its [`kafka::Work`].

pub mod aside;
pub mod board;
pub mod client;
pub mod durable_file;
pub mod exactly_once;
pub mod host;
pub mod kafka;
pub mod local_position;
pub mod orders;
pub mod position;
pub mod position_thread;
pub mod progress;
pub mod queue_wake;
pub mod secret_file;
pub mod session;
pub mod slots;
pub mod source;
pub mod stall;
mod token;
pub mod topic_counters;
pub mod topics;

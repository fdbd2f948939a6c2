//! The delivery core: transactions in commit order go in, events in Kafka and the position that says how far they are come
//! out. No PostgreSQL: the threads that run here cannot call it.
//!
//! The extension's main thread finds where to begin ([`starting_point`]), makes a [`session::Session`] and two threads:
//! [`delivery::run`], which gets [`work::Work`] over a channel, and [`position::thread::run`] ([`threads`]). Both answer on the
//! [`board::Board`].

#![deny(unreachable_pub)]

pub mod aside;
pub mod board;
mod clock;
pub mod delivery;
pub mod facts;
pub mod files;
pub mod host;
pub mod kafka;
pub mod position;
pub mod progress;
pub mod restarts;
pub mod session;
pub mod starting_point;
pub mod threads;
pub mod trouble;
pub mod wake;
pub mod work;

//! The position in Kafka: who takes it over, what is found there, and the records that say how far events are
//! acknowledged.
//!
//! It lives beside the events, in a compacted topic of the source's own, and is written through a transactional producer:
//! a sender that was replaced is fenced, and stays down. Any unclear result of a transactional call ends the producer; a
//! new one fences what may still be on its way.

pub(crate) mod cause;
mod reader;
pub(crate) mod record;
pub(crate) mod take_over;
pub mod thread;
pub(crate) mod transaction;
pub(crate) mod write_error;
pub(crate) mod writer;

//! Sinks whose events have an effect elsewhere: a request (`webhook`), a mail (`mail`). An event has it at least once, with the same
//! id each time, and those of a key one after the other.
//!
//! `sink` takes batches, and has `worker` keep what is to be done in Kafka (`state`) before anything is tried. `queue`
//! says what is tried when, `target` tries it, and `lock` sees to it that one instance does so, and brings it the orders of people.

mod beginning;
mod choice;
pub(crate) mod listing;
mod lock;
pub(crate) mod order;
mod pause;
mod pending;
mod queue;
pub(crate) mod sink;
mod state;
pub(crate) mod target;
mod worker;

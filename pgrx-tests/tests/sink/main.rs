//! companion-sink alone: most of these tests send it events that they made by hand.

mod dlq;
mod effects;
mod key_spellings;
mod rules;
mod shared_partitions;
mod sink_bad_input;
mod sink_forged;
mod sink_http;
mod sink_restart;
mod sink_snapshot;
mod sink_types;
mod statistics;
mod tables;
mod topics;

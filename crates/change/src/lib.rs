//! What a change is, from the writer's WAL message to the event in Kafka. Pure Rust: no PostgreSQL, no Kafka.
//!
//! A row passes through these folders in this order: [`wal`] (as capture writes it, sealed, and in the true order inside its
//! transaction), [`value`] (a value as JSON) and [`event`] (the event, its key and its headers). [`options`] is what a table's
//! trigger says of it; [`version`], [`topic_name`], [`partition`] and [`position`] hold the rules that order, names and restart
//! rest on.

pub mod backoff;
pub mod code;
pub mod event;
pub mod hex;
pub mod mac_key;
pub mod memory;
pub mod options;
pub mod partition;
pub mod position;
pub mod topic_name;
pub mod trouble;
pub mod value;
pub mod version;
pub mod wal;
pub mod wire;

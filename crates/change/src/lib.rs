//! What a change is, from the writer's WAL chunk to the event in Kafka. Pure Rust: no PostgreSQL, no Kafka.
//!
//! A row passes through these files in this order: [`body`] (rows as capture writes them), [`chunk`] (the sealed
//! WAL message around them), [`order`] (the true order inside a transaction), [`value`] (a value as JSON) and
//! [`envelope`] (the event, its key and its headers). [`options`] is what a table's trigger says of it, [`snapshot`] are rows that were there before;
//! [`version`], [`topic_name`], [`partition`] and [`position`]
//! hold the rules that order, names and restart rest on (DESIGN section 7).

pub mod body;
pub mod chunk;
pub mod datetime;
pub mod envelope;
pub mod float;
pub mod hex;
pub mod hstore;
pub mod json;
pub mod kind;
pub mod memory;
pub mod numeric;
pub mod options;
pub mod order;
pub mod partition;
pub mod position;
pub mod snapshot;
pub mod topic_name;
pub mod value;
pub mod version;
pub mod wire;

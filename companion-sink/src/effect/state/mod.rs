//! What a sink of effects keeps in Kafka: what it consists of (`content`), its topics, and how it is written (`journal`).

pub(crate) mod content;
pub(crate) mod event_place;
pub(crate) mod journal;
pub(crate) mod topics;
pub(crate) mod unfinished;

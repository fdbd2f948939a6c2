//! Kafka's clients: how they are set up, what they say, and what is asked of topics.

pub(crate) mod context;
pub mod produce;
pub mod properties;
pub(crate) mod queue_wake;
mod reporter;
pub mod settings;
pub(crate) mod stall;
mod token;
pub mod topics;
pub(crate) mod trouble_of;

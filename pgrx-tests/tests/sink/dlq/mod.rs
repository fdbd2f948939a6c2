//! Events that a sink refuses: they are parked, and people decide about them.

mod history_dlq;
mod history_dlq_kills;
mod http_dlq;
mod replica_dlq;

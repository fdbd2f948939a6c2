//! The sender and what may happen to it: kills, brokers that fail, lost WAL, standbys, orders, rights, memory.

mod crashes;
mod exactly_once;
mod gap;
mod incomplete;
mod kafka;
mod lost_topics;
mod memory;
mod operate;
mod panics;
mod positions;
mod security;
mod sender;
mod standby;
mod tenants;

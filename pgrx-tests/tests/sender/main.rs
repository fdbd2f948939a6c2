//! The sender and what may happen to it: kills, brokers that fail, lost WAL, standbys, orders, rights, memory.

mod broker;
mod crashes;
mod exactly_once;
mod gap;
mod incomplete;
mod memory;
mod operate;
mod outage;
mod panics;
mod security;
mod sender;
mod standby;
mod tenants;

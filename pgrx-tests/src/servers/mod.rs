//! The servers of a bed, and what they need.

pub mod browser;
pub mod companion_sink;
pub mod connect_worker;
pub mod debezium;
pub mod debezium_sink;
pub mod ferretdb;
pub mod kafka;
pub mod parts;
pub mod port;
pub mod postgres;
pub mod process;
pub mod receivers;
pub mod security;

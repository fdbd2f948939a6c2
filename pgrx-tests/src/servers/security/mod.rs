//! TLS, passwords and tokens for the servers of a bed.

pub mod certificates;
pub mod secure_listeners;
pub mod token_issuer;

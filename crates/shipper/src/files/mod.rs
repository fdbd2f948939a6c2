//! Files: small ones of the data directory that are replaced whole, and those with secrets.

pub mod durable;
pub mod local_position;
pub mod orders;
pub mod secret;
pub mod source;

//! What capture writes into the WAL, and how the sender reads it.
//!
//! A transaction's rows lie in sealed messages ([`message`]), each with a [`body`]. [`order`] finds the true order of the
//! rows where capture has not seen it.

pub mod assembly;
pub mod body;
pub mod context;
pub mod emission;
pub mod image;
pub mod message;
pub mod order;
pub mod record;
pub mod relation;
pub mod snapshot_chunk;

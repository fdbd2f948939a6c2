//! Refused events in the state of the history, and what was decided about them.

pub mod actions;
pub mod keys;
pub mod parking;
pub mod pending_actions;
pub mod store;

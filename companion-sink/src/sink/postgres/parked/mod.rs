//! Refused events in the state of the target, and what was decided about them.

pub mod park;
pub mod pending_actions;
pub mod store;

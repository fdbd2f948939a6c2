//! Refused events in the state of the target, and what was decided about them.

pub(crate) mod decisions;
pub(crate) mod park;
pub(crate) mod pending_actions;
pub(crate) mod store;

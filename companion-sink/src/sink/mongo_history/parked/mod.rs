//! Refused events in the state of the history, and what was decided about them.

pub(crate) mod actions;
pub(crate) mod keys;
pub(crate) mod parking;
pub(crate) mod pending_actions;
pub(crate) mod store;

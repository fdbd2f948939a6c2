//! Views of an application's own events.

pub(super) mod event;
pub(crate) mod root;

//! Events that are refused: why, where they go, and what people may decide about them.

pub(crate) mod failure;

pub(crate) mod dead_letter;
pub(crate) mod guarded;
pub(crate) mod origin;
pub(crate) mod page;
pub(crate) mod parked_event;
pub(crate) mod refusal_limit;

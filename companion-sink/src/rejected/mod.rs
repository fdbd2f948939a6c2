//! Events that are refused: why, where they go, and what people may decide about them.

pub(crate) mod failure;

pub mod dead_letter;
pub mod guarded;
pub mod origin;
pub mod page;
pub mod parked_event;
pub mod refusal_limit;

//! Topics: made by the sender before the first record, never by the broker on its own, and then known by id and count.

mod admin_call;
pub(crate) mod create;
pub(crate) mod describe;
pub mod design;
mod name;

pub use name::TopicName;

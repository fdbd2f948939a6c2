//! One queue for all who write: what one owner's table brings along stops nobody else, and is told.

mod aside;
mod limits;
mod orders;
mod owners;
mod snapshots;
mod topics;

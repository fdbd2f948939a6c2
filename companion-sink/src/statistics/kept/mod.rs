//! Where everything is kept: one file, in the order of its keys.

pub(crate) mod cell;
pub(crate) mod changes;
pub(crate) mod codec;
pub(crate) mod keys;
pub(crate) mod shelf;
pub(crate) mod store;

//! What a view keeps in its database.

pub(crate) mod state;
pub(crate) mod statement;
pub(crate) mod store;

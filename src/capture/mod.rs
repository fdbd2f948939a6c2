//! The writer's side: row trigger -> plan of the table -> encoded row -> buffer -> message in the WAL, just before commit.

pub(crate) mod buffer;
pub(crate) mod context;
pub(crate) mod datum;
pub(crate) mod filter;
pub(crate) mod image;
pub(crate) mod nonce;
pub(crate) mod plan;
pub(crate) mod state;
pub(crate) mod trigger;

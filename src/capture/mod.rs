//! The writer's side: row trigger -> plan of the table -> encoded row -> buffer -> chunk in the WAL, just before commit.

pub(crate) mod buffer;
pub(crate) mod context;
pub(crate) mod datum;
pub(crate) mod dropping;
pub(crate) mod filter_names;
pub(crate) mod filter_text;
pub(crate) mod image;
pub(crate) mod mask;
pub(crate) mod nonce;
pub(crate) mod relation_plan;
pub(crate) mod row_expression;
pub(crate) mod row_filter;
pub(crate) mod state;
pub(crate) mod trigger;

//! The writer's side: row trigger -> plan of the table -> encoded row -> buffer -> chunk in the WAL, just before commit.

pub mod buffer;
pub mod context;
pub mod datum;
pub mod dropping;
pub mod filter_names;
pub mod filter_text;
pub mod image;
pub mod mask;
pub mod nonce;
pub mod relation_plan;
pub mod row_expression;
pub mod row_filter;
pub mod state;
pub mod trigger;

//! Conditions on rows of a tracked table: what is allowed in them, how they are evaluated, and how their text follows names.

pub(crate) mod names;
pub(crate) mod row_expression;
pub(crate) mod row_filter;
pub(crate) mod text;

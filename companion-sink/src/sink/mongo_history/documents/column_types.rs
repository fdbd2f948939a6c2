//! The types of columns, as the definition of their table tells them.

use crate::event::pg_type::PgType;
use std::borrow::Cow;
use std::collections::HashMap;

/// Type names by column.
pub(crate) type ColumnTypes = HashMap<String, String>;

/// What is known of a column's type.
pub(crate) fn type_of<'t>(types: Option<&ColumnTypes>, column: &str) -> Cow<'t, PgType> {
    let name = types.and_then(|types| types.get(column));
    Cow::Owned(name.map_or(PgType::Plain, |name| PgType::of_name(name)))
}

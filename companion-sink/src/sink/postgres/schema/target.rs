//! Where a table of the source lives on the target.

/// Where a table of the source lives on the target, not quoted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// The schema.
    pub(crate) schema: String,
    /// The table.
    pub(crate) table: String,
}

impl Target {
    /// In quotes, with the schema.
    pub(crate) fn quoted(&self) -> String {
        qualified(&self.schema, &self.table)
    }
}

/// A table in quotes, with its schema.
pub(crate) fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// An identifier in quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

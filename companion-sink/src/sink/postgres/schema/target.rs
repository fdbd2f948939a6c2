//! Where a table of the source lives on the target.

/// Where a table of the source lives on the target, not quoted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Target {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

impl Target {
    /// In quotes, with the schema.
    pub fn quoted(&self) -> String {
        qualified(&self.schema, &self.table)
    }
}

/// A table in quotes, with its schema.
pub fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quoted(schema), quoted(table))
}

/// An identifier in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

//! What the source's table is.

use serde::Deserialize;
use serde::Serialize;

/// What the source's table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// The columns that identify a row; none where nothing does.
    #[serde(default)]
    pub primary_key_column_names: Vec<String>,
    /// The columns that are shipped, in their order.
    pub columns: Vec<ColumnDefinition>,
}

/// A column of the source's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnDefinition {
    /// Its name.
    pub name: String,
    /// Its type as SQL has it, with its modifier.
    pub type_expression: String,
    /// Whether it may be null.
    pub optional: bool,
}

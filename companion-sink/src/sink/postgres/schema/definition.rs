//! What the source's table is.

use serde::Deserialize;
use serde::Serialize;

/// What the source's table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Definition {
    /// The columns that identify a row; none where nothing does.
    #[serde(default)]
    pub(crate) primary_key_column_names: Vec<String>,
    /// The columns that are shipped, in their order.
    pub(crate) columns: Vec<ColumnDefinition>,
}

/// A column of the source's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ColumnDefinition {
    /// Its name.
    pub(crate) name: String,
    /// Its type as SQL has it, with its modifier.
    pub(crate) type_expression: String,
    /// Whether it may be null.
    pub(crate) optional: bool,
}

//! A change of a table's definition, as an event has it.

use crate::event::TableName;
use crate::event::json::Malformed;
use crate::event::parse_body;
use crate::kafka::record::Record;
use crate::sink::postgres::schema::definition::Definition;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A schema event.
#[derive(Deserialize)]
pub(crate) struct SchemaBody<'a> {
    /// The table's name after the change.
    #[serde(borrow)]
    pub(crate) source: TableName<'a>,
    #[serde(flatten)]
    pub(super) change: SchemaChange,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SchemaChange {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default, rename = "contents_changed")]
    pub(super) contents_changed: bool,
    /// New names of columns, by the old ones.
    #[serde(default)]
    pub(super) renames: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) table_changes: Vec<TableChange>,
}

#[derive(Deserialize)]
pub(crate) struct TableChange {
    pub(super) table: Option<Definition>,
}

impl<'a> SchemaBody<'a> {
    /// Parses a schema event.
    pub(crate) fn parse(record: &'a Record) -> std::result::Result<Self, Malformed> {
        parse_body(record)
    }

    /// Whether the source no longer sends the table.
    pub(crate) fn is_farewell(&self) -> bool {
        matches!(self.change.kind.as_str(), "UNTRACK" | "DROP")
    }

    /// Whether the source has dropped the table.
    pub(crate) fn is_drop(&self) -> bool {
        self.change.kind == "DROP"
    }

    /// Whether the table, or its schema, has another name.
    pub(crate) fn is_rename(&self) -> bool {
        self.change.kind == "RENAME"
    }

    /// Whether the source begins to send the table.
    pub(crate) fn is_first(&self) -> bool {
        self.change.kind == "CREATE"
    }

    /// Whether rows came, went or changed without events, and a snapshot follows.
    pub(crate) fn awaits_snapshot(&self) -> bool {
        self.change.contents_changed
            && self
                .definition()
                .is_some_and(|definition| !definition.primary_key_column_names.is_empty())
    }

    /// The table's definition after the change.
    pub(crate) fn definition(&self) -> Option<&Definition> {
        let changes = &self.change.table_changes;
        changes.iter().find_map(|change| change.table.as_ref())
    }
}

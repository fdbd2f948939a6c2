//! The event that describes a table: how it is made, and how it gets into the transaction.

use std::collections::BTreeMap;

use change::code::Code;
use change::options::{Mask, Options};
use change::trouble::Trouble;
use serde_json::{Value, json};

use crate::capture::trigger::capture_schema_change;
use crate::catalog::database_name;
use crate::report::Raise;
use crate::snapshot::chunk::has_key;
use crate::snapshot::repair;
use crate::tracked::table::{ColumnDefinition, Table};

/// A statement's text is told up to this length, in bytes: an event must stay one that a topic takes.
const MAX_DDL_BYTES: usize = 8 * 1024;

/// What happened to a table's definition.
#[derive(Debug, Clone)]
pub(crate) struct SchemaChange {
    /// CREATE (tracked), ALTER, RENAME, DROP, UNTRACK.
    pub kind: &'static str,
    /// The statement, where it is one alone.
    pub ddl: Option<String>,
    /// Rows changed, or came and went, without events.
    pub contents_changed: bool,
    /// New names of columns, by the old ones.
    pub renames: BTreeMap<String, String>,
}

impl SchemaChange {
    /// Rows came or went without row events.
    pub(crate) fn of_contents(kind: &'static str, ddl: Option<String>) -> SchemaChange {
        SchemaChange {
            ddl,
            contents_changed: true,
            ..SchemaChange::new(kind)
        }
    }

    /// The kind of a table's first event. Its rows come by a snapshot only if somebody asked for one.
    pub(crate) const TRACKED: &str = "CREATE";

    pub(crate) fn new(kind: &'static str) -> SchemaChange {
        SchemaChange {
            kind,
            ddl: None,
            contents_changed: false,
            renames: BTreeMap::new(),
        }
    }

    /// Captures the event in the running transaction; nothing if the table is not tracked.
    pub(crate) fn capture(&self, table: &Table) {
        if let Some(options) = table.options() {
            capture_schema_change(table, &self.json(table, &options));
            if self.contents_changed && self.kind != Self::TRACKED {
                if !has_key(table, &options) {
                    not_repaired(table).log();
                }
                repair::note(table.oid);
            }
        }
    }

    /// The `schema_change` object, as Debezium's schema change topic has it.
    pub(crate) fn json(&self, table: &Table, options: &Options) -> String {
        let shipped = |name: &String| {
            options.ships(name)
                && !matches!(
                    options.mask.get(name),
                    Some(Mask::Redact | Mask::Truncate(_))
                )
        };
        let ddl = self.ddl.as_ref().filter(|ddl| ddl.len() <= MAX_DDL_BYTES);
        // What identifies a row must be in the images.
        let identity = Some(table.identity(false)).filter(|names| names.iter().all(shipped));
        let columns: Vec<Value> = table
            .columns()
            .into_iter()
            .filter(|column| options.ships(&column.name))
            .map(|column| masked(column, options))
            .enumerate()
            .map(|(index, column)| {
                json!({
                    "name": column.name, "position": index + 1, "typeName": column.type_name, "typeExpression": column.type_expression,
                    "optional": !column.not_null, "generated": column.generated, "defaultValueExpression": null,
                })
            })
            .collect();
        json!({
            "type": self.kind, "ddl": ddl, "contents_changed": self.contents_changed, "renames": self.renames,
            // The same whatever the table is called.
            "table_oid": table.oid.to_u32(),
            "tableChanges": [{
                "type": self.kind, "id": format!("\"{}\".\"{}\".\"{}\"", database_name(), table.schema, table.name),
                "table": { "primaryKeyColumnNames": identity.unwrap_or_default(), "columns": columns },
            }],
        })
        .to_string()
    }
}

/// CDC0208: without a key no snapshot brings what changed without row events.
fn not_repaired(table: &Table) -> Trouble {
    Trouble::new(
        Code::RowsNotRepaired,
        format!(
            "rows of tracked table \"{}.{}\" changed without events, and no snapshot can follow",
            table.schema, table.name
        ),
        "Write the rows once more (UPDATE … SET a = a), or add a primary key and call cdc_snapshot.",
    )
    .detail("The table has no key to snapshot by.")
}

/// A digest or the beginning of a text is text, whatever the column is.
fn masked(column: ColumnDefinition, options: &Options) -> ColumnDefinition {
    match options.mask.get(&column.name) {
        None => column,
        Some(mask) => ColumnDefinition {
            type_name: "text".to_owned(),
            type_expression: "text".to_owned(),
            not_null: column.not_null && *mask != Mask::Redact,
            ..column
        },
    }
}

//! The end of a table's tracking.

use super::schema_change::SchemaChange;
use crate::tracked::table::Table;
use crate::tracked::triggers::drop_own_triggers;

/// Ends the tracking of a locked table: says it to those who read, and drops its own triggers.
pub(crate) fn untrack(table: &Table) {
    SchemaChange::new("UNTRACK").capture(table);
    drop_own_triggers(table);
}

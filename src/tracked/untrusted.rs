//! Triggers with our name that capture nothing, and what is said of them.

use change::code::Code;
use change::trouble::Trouble;

use super::table::Table;

/// CDC0107: the trigger was made in another database or on another server.
pub(crate) fn copied_table(table: &Table) -> Trouble {
    Trouble::new(
        Code::TableIsCopy,
        format!("table \"{}\" is a copy and not captured", table.name),
        format!("To capture it here, call cdc_track({}) again.", table.argument()),
    )
    .detail("Its trigger was made in another database or on another server: by CREATE DATABASE … TEMPLATE, or by restoring a dump.")
}

/// CDC0114: the trigger was not made by `cdc_track`, or was changed since.
pub(crate) fn unsealed_table(table: &Table, trigger: &str) -> Trouble {
    Trouble::new(
        Code::TriggerUnsealed,
        format!("trigger \"{trigger}\" of table \"{}\" was not made by cdc_track() and captures nothing", table.name),
        format!("To capture the table's changes, call cdc_track({}); else drop the trigger.", table.argument()),
    )
    .detail("The seal in the trigger's arguments does not hold: it was made by hand, by restoring a dump, or for a trigger that is gone.")
}

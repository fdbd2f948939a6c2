//! The trigger function `cdc_capture_truncate()`, for the table.

use change::options::{Operation, Options};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::schema_change::SchemaChange;
use crate::capture::buffer::captured::Captured;
use crate::capture::state::with_capture;
use crate::capture::trigger::{capture_table_event, not_a_trigger, trigger_data, warn_not_covered};
use crate::ffi;
use crate::shared;
use crate::tracked::own_trigger::Own;
use crate::tracked::partitions::root_of;
use crate::tracked::table::Table;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn pg_finfo_cdc_capture_truncate() -> &'static pg_sys::Pg_finfo_record {
    &ffi::VERSION_1
}

/// The statement trigger for TRUNCATE.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn cdc_capture_truncate(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as in cdc_capture.
    unsafe {
        let Some(trigger) = trigger_data(fcinfo) else {
            not_a_trigger("cdc_capture_truncate")
        };
        if trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK != pg_sys::TRIGGER_EVENT_TRUNCATE {
            not_a_trigger("cdc_capture_truncate");
        }
        if shared::shared().is_none() {
            warn_not_covered();
            return pg_sys::Datum::from(0);
        }
        truncated(trigger);
    }
    // The result of an AFTER trigger is not looked at.
    pg_sys::Datum::from(0)
}

/// Captures a TRUNCATE. Of a partition alone it empties only a part of the table, and no event says which rows: so one
/// about the table's contents goes out. With the root, PostgreSQL tells of the root first and of every partition after.
unsafe fn truncated(trigger: &pg_sys::TriggerData) {
    // SAFETY: as in cdc_capture.
    unsafe {
        // Whether it is shipped, and where to, the row trigger says: this one has no say of its own.
        if !Own::Truncate.is(&*trigger.tg_trigger) {
            return;
        }
        let relation = (*trigger.tg_relation).rd_id;
        let root = root_of(relation);
        if root == relation {
            let table = Table::at(relation);
            let ships = |options: &Options| options.operations.contains(Operation::Truncate);
            if !table
                .tracked()
                .is_some_and(|tracked| ships(&tracked.options))
            {
                return;
            }
            table.with_trigger(|trigger| capture_table_event(trigger, &Captured::Truncated));
            with_capture(|capture| capture.buffer.truncated = Some(root));
        } else if !with_capture(|capture| capture.buffer.has_truncated(root)) {
            partition_truncated(root, relation);
        }
    }
}

/// A partition was emptied, and the rest of the table was not.
fn partition_truncated(root: pg_sys::Oid, partition: pg_sys::Oid) {
    let statement = format!("TRUNCATE {}", Table::at(partition).sql_name());
    SchemaChange::of_contents("ALTER", Some(statement)).capture(&Table::at(root));
}

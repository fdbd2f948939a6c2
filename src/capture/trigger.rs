//! The trigger functions: `cdc_capture()` for rows, `cdc_capture_truncate()` for the table.

use change::code::Code;
use change::trouble::Trouble;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::buffer;
use super::buffer::captured::Captured;
use crate::capture::state::with_capture;
use crate::ffi;
use crate::report;
use crate::report::Raise;
use crate::shared;
use crate::tracked::table::Table;

/// Combo command ids stand for two command ids in one field (access/htup_details.h).
const HEAP_COMBOCID: u16 = 0x0020;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn pg_finfo_cdc_capture() -> &'static pg_sys::Pg_finfo_record {
    &ffi::VERSION_1
}

/// The row trigger. Bound in `sql/triggers.sql`; the shortest way from the executor to the buffer.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn cdc_capture(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL passes trigger data to a function that a trigger calls; anything else is refused.
    unsafe {
        let Some(trigger) = trigger_data(fcinfo) else {
            not_a_trigger("cdc_capture")
        };
        let row_after = pg_sys::TRIGGER_EVENT_ROW;
        if trigger.tg_event & row_after == 0
            || trigger.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK != pg_sys::TRIGGER_EVENT_AFTER
        {
            not_a_trigger("cdc_capture");
        }
        if shared::shared().is_none() {
            warn_not_covered();
            return pg_sys::Datum::from(0);
        }
        with_capture(|capture| {
            let plan = capture.plans.plan(trigger);
            if plan.silent {
                buffer::count_uncovered(1);
                return;
            }
            if plan.local_only && is_applied() {
                return;
            }
            let old = trigger.tg_trigtuple;
            let new = trigger.tg_newtuple;
            // A row that leaves the filter is a delete for those who read, one that enters it an insert.
            let (command, row) = match trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
                pg_sys::TRIGGER_EVENT_INSERT if plan.passes(old) => {
                    (inserted_by(old), Captured::Inserted(old))
                }
                pg_sys::TRIGGER_EVENT_DELETE if plan.passes(old) => {
                    (deleted_by(old), Captured::Deleted(old))
                }
                pg_sys::TRIGGER_EVENT_UPDATE => match (plan.passes(old), plan.passes(new)) {
                    (true, true) => (inserted_by(new), Captured::Updated { old, new }),
                    (true, false) => (inserted_by(new), Captured::LeftFilter(old)),
                    (false, true) => (inserted_by(new), Captured::EnteredFilter(new)),
                    (false, false) => return,
                },
                _ => return,
            };
            capture
                .buffer
                .capture(plan, (*trigger.tg_relation).rd_att, command, &row);
        });
    }
    // The result of an AFTER trigger is not looked at.
    pg_sys::Datum::from(0)
}

/// Captures a change of a table's definition, as an event of this transaction.
pub(crate) fn capture_schema_change(table: &Table, change: &str) {
    table.with_trigger(|data| {
        // SAFETY: relation and trigger are open while they are read.
        unsafe { capture_table_event(data, &Captured::SchemaChanged(change)) };
    });
}

/// Captures an event about the table as a whole, after everything that the transaction did before.
///
/// # Safety
/// `trigger` names an open relation and one of our triggers on it; the backend is in a transaction.
pub(crate) unsafe fn capture_table_event(trigger: &pg_sys::TriggerData, event: &Captured<'_>) {
    // SAFETY: as the caller promises. The command id is marked as used, so that what comes later has a higher one.
    unsafe {
        let command = pg_sys::GetCurrentCommandId(true);
        with_capture(|capture| {
            let plan = capture.plans.plan(trigger);
            if !plan.silent {
                capture
                    .buffer
                    .capture(plan, (*trigger.tg_relation).rd_att, command, event);
            }
        });
    }
}

/// What PostgreSQL passes to a function that a trigger calls.
///
/// # Safety
/// `fcinfo` is a running call's.
pub(crate) unsafe fn trigger_data<'a>(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<&'a pg_sys::TriggerData> {
    // SAFETY: the context of a call is null or a node; its tag says which.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return None;
        }
        Some(&*context.cast::<pg_sys::TriggerData>())
    }
}

/// A trigger function was called as something else.
pub(crate) fn not_a_trigger(function: &str) -> ! {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        format!("{function}() must be called by the trigger that cdc_track() makes"),
        "pg_cdc",
    )
    .report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Whether the running transaction applies what another server did.
pub(crate) fn is_applied() -> bool {
    // SAFETY: a plain read of this backend's own variable.
    unsafe { u32::from(pg_sys::replorigin_session_origin) != pg_sys::InvalidRepOriginId }
}

/// The command that made this version of a row.
unsafe fn inserted_by(tuple: pg_sys::HeapTuple) -> u32 {
    // SAFETY: the tuple was written by the running transaction, so its command id resolves.
    unsafe {
        let header = (*tuple).t_data;
        if (*header).t_infomask & HEAP_COMBOCID == 0 {
            raw_command(header)
        } else {
            pg_sys::HeapTupleHeaderGetCmin(header)
        }
    }
}

/// The command that deleted this version of a row.
unsafe fn deleted_by(tuple: pg_sys::HeapTuple) -> u32 {
    // SAFETY: the tuple was deleted by the running transaction, so its command id resolves.
    unsafe {
        let header = (*tuple).t_data;
        if (*header).t_infomask & HEAP_COMBOCID == 0 {
            raw_command(header)
        } else {
            pg_sys::HeapTupleHeaderGetCmax(header)
        }
    }
}

unsafe fn raw_command(header: pg_sys::HeapTupleHeader) -> u32 {
    // SAFETY: a tuple from a table has the heap's fields.
    unsafe { (*header).t_choice.t_heap.t_field3.t_cid }
}

/// CDC0202: the library is not loaded, so rows of tracked tables go by. Once per backend.
pub(crate) fn warn_not_covered() {
    use std::sync::atomic::{AtomicBool, Ordering};
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        Trouble {
            code: Code::NothingCaptured,
            message: "changes of tracked tables are not captured".into(),
            ..report::not_loaded()
        }
        .warn();
    }
}

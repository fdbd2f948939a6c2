//! Dropped tables and dropped triggers, by whatever command: DROP TABLE, SCHEMA, OWNED, EXTENSION … CASCADE, TRIGGER.
//!
//! PostgreSQL tells of every object just before it goes, what depends on a table before the table itself. So our trigger
//! is told first, while the table can still be read: no more events come. Then the table, if it goes too.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::partitions;
use super::schema_change::SchemaChange;
use crate::capture::buffer::captured::Captured;
use crate::capture::plan::dropping::Dropping;
use crate::capture::state::with_capture;
use crate::tracked::own_trigger::IS_ROW_TRIGGER;
use crate::tracked::quiet::is_quiet;
use crate::tracked::statement;
use crate::tracked::table::Table;
use crate::{ffi, shared};

static mut PREVIOUS_HOOK: pg_sys::object_access_hook_type = None;

thread_local! {
    /// The transaction in which triggers were dropped, and the events for their tables, should these go as well.
    static DROPPED: RefCell<(u32, HashMap<pg_sys::Oid, Dropped>)> = RefCell::default();
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// A trigger that went, and the event for its table should that go as well.
struct Dropped {
    trigger: pg_sys::Oid,
    event: String,
}

/// Installs the hook; only at server start.
pub(crate) fn install() {
    // SAFETY: _PG_init runs once, on the only thread of the postmaster.
    unsafe {
        PREVIOUS_HOOK = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    // SAFETY: the previous hook gets what PostgreSQL gave us.
    unsafe {
        if let Some(previous) = PREVIOUS_HOOK {
            previous(access, class, object, part, argument);
        }
    }
    if access != pg_sys::ObjectAccessType::OAT_DROP || part != 0 || shared::shared().is_none() {
        return;
    }
    if class == pg_sys::TriggerRelationId {
        trigger_goes(object);
    } else if class == pg_sys::RelationRelationId {
        table_goes(object);
    }
}

/// UNTRACK, if the trigger is our row trigger.
fn trigger_goes(trigger: pg_sys::Oid) {
    if is_quiet() {
        return;
    }
    let found = statement::pinned(|| {
        Spi::get_one_with_args::<pg_sys::Oid>(
            &format!(
                "SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE t.oid = $1 AND {IS_ROW_TRIGGER} AND t.tgparentid = 0"
            ),
            &[trigger.into()],
        )
    });
    let Ok(Some(relation)) = found else {
        return;
    };
    let table = Table::at(relation);
    let Some(options) = table.options() else {
        return;
    };
    let goes = Dropped {
        trigger,
        event: SchemaChange::new("DROP").json(&table, &options),
    };
    {
        let _dropping = Dropping::begin();
        SchemaChange::new("UNTRACK").capture(&table);
    }
    DROPPED.with_borrow_mut(|(transaction, tables)| {
        let now = ffi::local_transaction_id();
        if *transaction != now {
            *transaction = now;
            tables.clear();
        }
        tables.insert(relation, goes);
    });
}

/// DROP, if the table's trigger went in this transaction; of a partition, an event about the table it belongs to.
fn table_goes(relation: pg_sys::Oid) {
    partitions::dropped(relation);
    let goes = DROPPED.with_borrow_mut(|(transaction, tables)| {
        (*transaction == ffi::local_transaction_id())
            .then(|| tables.remove(&relation))
            .flatten()
    });
    let Some(goes) = goes else {
        return;
    };
    // SAFETY: inside a transaction; the command id is marked as used, so that what comes later has a higher one. An
    // event about the definition has no image, and so no descriptor.
    unsafe {
        let command = pg_sys::GetCurrentCommandId(true);
        with_capture(|capture| {
            if let Some(plan) = capture
                .plans
                .known(goes.trigger)
                .filter(|plan| !plan.silent)
            {
                let event = Captured::SchemaChanged(&goes.event);
                capture
                    .buffer
                    .capture(plan, std::ptr::null_mut(), command, &event);
            }
        });
    }
}
